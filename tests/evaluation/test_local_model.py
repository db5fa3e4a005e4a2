"""The constrained local model: its parts against slow versions, and what it finds."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from scemae.data.geometry import FRAME
from scemae.errors import CheckpointError
from scemae.evaluation.landmarks import local_evidence, local_model
from scemae.evaluation.landmarks.benchmark_frames import Frames, normalise_landmarks
from scemae.evaluation.landmarks.cross_validation import mean_shape_errors
from scemae.evaluation.landmarks.local_model import LocalModel, expected, respond
from scemae.evaluation.landmarks.regression import image_means, iod_errors


def squares(n, seed=0):
    """Frames with a red square at the first of two landmarks and a green one at the second."""
    random = np.random.default_rng(seed)
    landmarks = random.uniform((45, 45), (60, 90), (n, 2, 2)) + np.array([[0, 0], [30, 0]])
    images = torch.from_numpy(random.integers(0, 40, (n, 3, FRAME, FRAME), dtype=np.uint8))
    for i, points in enumerate(landmarks.round().astype(int)):
        for colour, (x, y) in enumerate(points):
            images[i, colour, y - 5 : y + 6, x - 5 : x + 6] = 255
    keys = [f"{i:03d}" for i in range(n)]
    return Frames(images, torch.from_numpy(landmarks).float(), keys, torch.full((n,), -1))


def colours(frames):
    """The colours of places, a feature that finds the squares: (b, 3, 24, 24) of the crop."""
    return functional.avg_pool2d(frames[:, :, 20:-20, 20:-20], 4)


def collect(frames, fold=None, picture=None, views=4, extract=colours):
    rows = np.arange(len(frames))
    fold, picture = (rows if one is None else np.array(one) for one in (fold, picture))
    return local_evidence.collect(extract, frames, fold, picture, views, device=torch.device("cpu"))


def errors_of(predicted, frames):
    return iod_errors(predicted, normalise_landmarks(frames.landmarks), (0, 1))


def test_held_out_images_are_predicted_far_better_than_by_the_mean_shape():
    frames = squares(8)
    found = image_means(errors_of(local_model.hold_out(collect(frames)), frames))
    assert found.mean() < 0.3 * mean_shape_errors(frames.landmarks, np.arange(8), (0, 1)).mean()


def test_features_that_know_nothing_give_the_mean_shape():
    frames = squares(12)
    generator = torch.Generator().manual_seed(0)

    def noise(images):
        return torch.randn(len(images), 3, 24, 24, generator=generator)

    found = image_means(errors_of(local_model.hold_out(collect(frames, extract=noise)), frames))
    floor = mean_shape_errors(frames.landmarks, np.arange(12), (0, 1))
    assert found.mean() < 1.1 * floor.mean()


def test_an_image_changes_nothing_in_the_model_without_its_fold():
    frames, changed = squares(4), squares(4)
    changed.landmarks[0] += 20
    changed.images[0] = 255 - changed.images[0]
    fold = [0, 1, 0, 1]
    before, after = (local_model.fit(collect(one, fold), without=0) for one in (frames, changed))
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name])
    whole, other = (local_model.fit(collect(one, fold)) for one in (frames, changed))
    assert not torch.equal(whole.weight, other.weight)


def test_missing_points_are_neither_learnt_nor_scored():
    frames = squares(6)
    frames.landmarks[::2, 1] = torch.nan
    found = local_model.hold_out(collect(frames))
    assert torch.isfinite(found).all()
    errors = errors_of(found, frames)
    assert np.isnan(errors[::2]).all() and np.isfinite(errors[1::2]).all()


def test_one_image_is_enough_for_a_model():
    frames = squares(1)
    found = local_model.fit(collect(frames))(colours(frames.images.float() / 255))
    assert errors_of(found, frames).mean() < 10


def test_the_classifier_is_lda_of_a_landmark_s_features_against_all_places():
    frames = squares(3)
    evidence = collect(frames, views=0)
    model = local_model.fit(evidence)
    tokens, seen = [], []
    for image, points in zip(frames.images, normalise_landmarks(frames.landmarks)):
        features = functional.normalize(colours(image[None].float() / 255), dim=1)
        tokens += features[0].flatten(1).T
        there = functional.grid_sample(features, points[None, None], align_corners=False)
        seen.append(there[0, :, 0].T)
    tokens, centre = torch.stack(tokens).double(), torch.stack(seen).double().mean(0)
    mean, scatter = tokens.mean(0), torch.cov(tokens.T, correction=0)
    scatter += local_model.SHRINKAGE * scatter.trace() / 3 * torch.eye(3)
    weight = (centre - mean) @ scatter.inverse()
    assert torch.allclose(model.weight.double(), weight, rtol=1e-3, atol=1e-2)
    # half way between both means the odds are even
    odds = (weight * (centre + mean) / 2).sum(1) + model.bias
    assert odds.abs().max() < 1e-2 * model.bias.abs().max()


def test_responses_and_expected_places_are_those_of_loops():
    torch.manual_seed(0)
    features, weight, bias = torch.randn(2, 5, 3, 4), torch.randn(2, 5), torch.randn(2)
    near, window = torch.rand(2, 2, 2) - 0.5, torch.tensor([0.1, 0.5])
    found = expected(respond(features, weight, bias), near, window)
    for b in range(2):
        for k in range(2):
            total, place = 0.0, torch.zeros(2)
            for y in range(3):
                for x in range(4):
                    at = torch.tensor([(2 * x + 1) / 4 - 1, (2 * y + 1) / 3 - 1])
                    odds = features[b, :, y, x] @ weight[k] + bias[k]
                    odds = odds - (at - near[b, k]).square().sum() / (2 * window[k])
                    total, place = total + odds.exp(), place + odds.exp() * at
            assert torch.allclose(found[b, k], place / total, atol=1e-4)


def test_the_shape_follows_the_exact_points_where_others_are_hidden():
    """Two landmarks that always move together: the one that is seen tells the other."""
    frames = squares(12)
    frames.landmarks[:, 1] = frames.landmarks[:, 0] + torch.tensor([30.0, 0])
    frames.images[:, 1] = 0  # and no green square
    found = image_means(errors_of(local_model.hold_out(collect(frames)), frames))
    assert found.mean() < 0.4 * mean_shape_errors(frames.landmarks, np.arange(12), (0, 1)).mean()


def test_views_of_one_picture_do_not_vouch_for_each_other():
    """How exact a response is, is measured without all images of the same picture."""
    frames = squares(3)
    twice = Frames(
        frames.images.repeat(2, 1, 1, 1),
        frames.landmarks.repeat(2, 1, 1),
        frames.keys * 2,
        frames.identities.repeat(2),
    )
    copies = local_model.fit(collect(twice, picture=[0, 1, 2] * 2, views=0))
    strangers = local_model.fit(collect(twice, views=0))
    assert copies.gain.diagonal().mean() < strangers.gain.diagonal().mean()


def test_features_that_are_not_finite_are_one_sentence():
    with pytest.raises(CheckpointError, match="the features are not finite; .* earlier one"):
        collect(squares(2), extract=lambda frames: colours(frames) * torch.inf)


def test_a_model_from_its_tensors_finds_the_same():
    frames = squares(3)
    model = local_model.fit(collect(frames))
    again = LocalModel(3, 2)
    again.load_state_dict(model.state_dict())
    features = colours(frames.images.float() / 255)
    assert torch.equal(again(features), model(features))
