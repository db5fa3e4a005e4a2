"""The matcher against a slow loop, and the floors set by the test's geometry (PROTOCOL 3.4)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scemae.data import tps_warps
from scemae.data.geometry import CROP, UNIT
from scemae.errors import CheckpointError, ConfigError
from scemae.evaluation.landmarks import matching
from scemae.evaluation.landmarks.matching import match, matching_errors, no_motion, patches, pixels
from scemae.evaluation.landmarks.pairs import build_pairs
from scemae.evaluation.scores import compare_matching, score_matching
from tests.data.test_tps_warps import smooth_frames


def slow_match(source, target, points):
    """One point at a time, everything upsampled."""
    source, target = (
        F.interpolate(maps.double(), size=(96, 96), mode="bilinear", align_corners=False)
        for maps in (source, target)
    )
    answers = torch.empty_like(points)
    for i in range(len(points)):
        for j, (x, y) in enumerate(points[i].round().long().clamp(0, 95).tolist()):
            cosine = F.cosine_similarity(source[i, :, y, x][:, None, None], target[i], dim=0)
            answers[i, j] = torch.tensor([int(cosine.argmax()) % 96, int(cosine.argmax()) // 96])
    return answers


@pytest.mark.parametrize("side", [12, 24, 48, 96])
def test_matches_equal_the_slow_loop(side, monkeypatch):
    monkeypatch.setattr(matching, "BUDGET", 4 * 20 * 96 * 96 * 2)  # two images at a time
    random = torch.Generator().manual_seed(side)
    source, target = torch.randn(2, 3, 20, side, side, generator=random)
    points = torch.rand(3, 4, 2, generator=random) * 100 - 2  # some outside the crop
    assert torch.equal(match(source, target, points), slow_match(source, target, points))


def test_features_of_any_length_match_by_angle_alone():
    random = torch.Generator().manual_seed(0)
    source, target = torch.randn(2, 1, 16, 24, 24, generator=random)
    lengths = 0.1 + 10 * torch.rand(1, 1, 96, 96, generator=random)
    target = F.interpolate(target, size=(96, 96), mode="bilinear", align_corners=False)
    points = torch.randint(0, 96, (1, 9, 2), generator=random).float()
    assert torch.equal(match(source, target, points), match(source * 7, target * lengths, points))


@pytest.mark.parametrize("prior", [1e-4, 1e-3, 1.0])
def test_a_prior_subtracts_from_the_cosine_the_squared_distance_to_the_query(prior):
    random = torch.Generator().manual_seed(0)
    source, target = torch.randn(2, 2, 8, 24, 24, generator=random)
    points = torch.rand(2, 4, 2, generator=random) * 100 - 2
    large = [
        F.interpolate(maps.double(), size=(96, 96), mode="bilinear", align_corners=False)
        for maps in (source, target)
    ]
    rows, columns = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    for i, found in enumerate(match(source, target, points, prior)):
        for (x, y), answer in zip(points[i].round().clamp(0, 95).long(), found, strict=True):
            cosine = F.cosine_similarity(large[0][i, :, y, x][:, None, None], large[1][i], dim=0)
            scores = cosine - prior * ((rows - y) ** 2 + (columns - x) ** 2)
            assert int(scores.argmax()) == int(answer[1] * 96 + answer[0])


def warped_places(frames, pairs, view: int):
    """The place in the original of each pixel of view 1 or 2: a perfect matcher's features."""
    line = torch.linspace(-0.5, 0.5, 136, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack([x, y]).expand(len(pairs), 2, 136, 136)
    for w in range(3 - view):
        places = tps_warps.resample(places, tps_warps.warp_grid(pairs.warps[0::2, w]))
    x, y = places[..., CROP:-CROP, CROP:-CROP].unbind(1)
    return torch.stack(
        [x, y, (1 - x**2 - y**2).sqrt()], dim=1
    )  # on a sphere: nearest = highest cosine


def test_perfect_pixel_matcher_is_near_the_floor():
    frames = smooth_frames(80)
    pairs = build_pairs(frames, couples=None)
    views = warped_places(frames, pairs, 1), warped_places(frames, pairs, 2)
    found = match(*views, pairs.landmarks[:, 0] - CROP)
    error = (found + CROP - pairs.landmarks[:, 1]).norm(dim=2).mean() * UNIT / 96
    assert error < 0.12  # simulated elsewhere: 0.039


def test_no_motion_is_near_three_and_a_half():
    errors = no_motion(build_pairs(smooth_frames(160), couples=None))
    assert errors.same.mean() == pytest.approx(3.5, abs=0.4)
    assert np.allclose(errors.same_96, errors.same * 96 / 70)


def test_patches_find_the_same_image_and_pixels_do_not():
    pairs = build_pairs(smooth_frames(8), couples=None)
    by_patch, by_pixel = (
        matching_errors(extract, pairs)["features"] for extract in (patches, pixels)
    )
    assert by_patch.same.mean() < 1.5 < by_pixel.same.mean()
    assert by_patch.different.mean() > 10
    assert compare_matching(by_patch, by_pixel)["same"].first == pytest.approx(by_patch.same.mean())


def test_patches_are_the_squares_around_each_pixel():
    frames = torch.rand(1, 3, 136, 136)
    square = frames[0, :, 20 + 7 - 4 : 20 + 7 + 5, 20 + 90 - 4 : 20 + 90 + 5].flatten()
    assert torch.allclose(patches(frames)[0, :, 7, 90], square - square.mean(), atol=1e-6)


def test_errors_do_not_depend_on_the_batch_and_each_batch_is_reported():
    pairs, reported = build_pairs(smooth_frames(10), couples=None), []
    one = matching_errors(pixels, pairs, batch=2, advance=reported.append)["features"]
    other = matching_errors(pixels, pairs, batch=5)["features"]
    assert np.array_equal(one.same, other.same) and np.array_equal(
        one.different_predicted, other.different_predicted
    )
    assert reported == [2, 2, 1]


def test_each_view_is_extracted_once_for_all_heads():
    pairs, seen = build_pairs(smooth_frames(8), couples=None), []
    found = matching_errors(
        lambda frames: seen.append(len(frames)) or patches(frames),
        pairs,
        batch=3,
        heads={"all": lambda maps: maps, "red": lambda maps: maps[:, :81]},
    )
    assert seen == [9, 3]
    red = matching_errors(lambda frames: patches(frames)[:, :81], pairs)["features"]
    assert np.array_equal(found["red"].different, red.different)
    assert not np.array_equal(found["all"].different, red.different)


def test_broken_features_are_refused():
    pairs = build_pairs(smooth_frames(2), couples=1)
    with pytest.raises(ConfigError, match=r"needed \(3, d, h, w\)"):
        matching_errors(lambda frames: frames.flatten(2), pairs)
    with pytest.raises(CheckpointError, match="not finite"):
        matching_errors(lambda frames: pixels(frames) / 0, pairs)


def test_matching_scores_are_means_over_pairs():
    errors = no_motion(build_pairs(smooth_frames(20), couples=None))
    score = score_matching(errors, draws=200)
    assert score.same.mean == pytest.approx(errors.same.mean()) and score.same.n == 10
    assert score.different_96 == pytest.approx(errors.different.mean() * 96 / 70)
    assert score.pairs_hash == errors.pairs_hash and len(score.same_per_landmark) == 5
