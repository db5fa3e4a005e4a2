"""Position share, content and position of features, against slow sums and cases known by heart."""

import numpy as np
import pytest
import torch

from scemae.evaluation.landmarks.matching import match
from scemae.evaluation.landmarks.position import PlaceMeans, split_features


def summed(features, batch=3):
    found = PlaceMeans()
    for part in features.split(batch):
        found.add(part)
    return found


def slow_share(features):
    """The variance between places over the whole, token by token."""
    tokens = features.double().permute(0, 2, 3, 1).reshape(-1, features.shape[1]).numpy()
    places = np.tile(np.arange(features.shape[2] * features.shape[3]), len(features))
    whole = tokens.mean(axis=0)
    total = sum(((token - whole) ** 2).sum() for token in tokens)
    between = sum(
        ((tokens[places == places[i]].mean(axis=0) - whole) ** 2).sum() for i in range(len(tokens))
    )
    return between / total


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_the_share_is_the_variance_between_places_over_the_whole(weight):
    random = torch.Generator().manual_seed(0)
    place = torch.randn(1, 5, 4, 4, generator=random)
    features = torch.randn(7, 5, 4, 4, generator=random) + weight * place + 2
    found = summed(features)
    assert found.share == pytest.approx(slow_share(features), rel=1e-6)
    torch.testing.assert_close(found.means.float(), features.mean(0))
    assert found.images == 7


def test_features_of_the_place_alone_have_share_1_and_no_content():
    place = torch.randn(1, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    features = place.expand(6, -1, -1, -1)
    found = summed(features)
    assert found.share == pytest.approx(1)
    assert split_features(features, found.means, "content").abs().max() < 1e-6


def test_features_that_are_all_equal_have_share_0():
    assert summed(torch.ones(4, 3, 2, 2)).share == 0


def test_content_and_position_add_up_to_the_features():
    features = torch.randn(6, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    means = summed(features).means
    parts = [split_features(features, means, part) for part in ("content", "position")]
    torch.testing.assert_close(sum(parts), features)
    assert torch.equal(parts[1][0], parts[1][5])


def test_by_position_each_point_is_found_at_its_own_place_and_by_content_where_it_moved():
    """A place code that outweighs a pattern, which is shifted by one cell in the target."""
    random = torch.Generator().manual_seed(0)
    place, pattern = torch.randn(2, 1, 32, 12, 12, generator=random)
    source, target = place * 3 + pattern, place * 3 + pattern.roll(1, dims=3)
    # other faces, whose patterns average out
    others = place * 3 + torch.randn(400, 32, 12, 12, generator=random)
    means = summed(others, 100).means
    point = torch.tensor([[[43.0, 51.0]]])
    assert (match(source, target, point) - point).abs().max() <= 4  # half a cell
    position = [split_features(one, means, "position") for one in (source, target)]
    assert (match(*position, point) - point).abs().max() <= 4
    content = [split_features(one, means, "content") for one in (source, target)]
    assert (match(*content, point) - point - torch.tensor([8.0, 0.0])).abs().max() <= 4
