"""Thin-plate-spline warps and pairs made with them, against slow versions and known floors."""

import math

import numpy as np
import pytest
import torch

from scemae.data import tps_warps
from scemae.errors import ConfigError, DataError
from scemae.evaluation.landmarks.benchmark_frames import Frames
from scemae.evaluation.landmarks.pairs import build_pairs, load_pairs, save_pairs, warp_views


def smooth_frames(n: int, seed: int = 0) -> Frames:
    random = torch.Generator().manual_seed(seed)
    images = torch.nn.functional.interpolate(
        torch.rand(n, 3, 12, 12, generator=random), size=(136, 136), mode="bicubic"
    )
    landmarks = 45 + 46 * torch.rand(n, 5, 2, generator=random)
    return Frames(
        tps_warps.to_bytes(images * 255),
        landmarks,
        [f"{i:06d}" for i in range(n)],
        torch.arange(n) // 3,
    )


def identity_warp() -> torch.Tensor:
    warp = torch.zeros(1, tps_warps.COEFFICIENTS, 2, dtype=torch.float64)
    warp[0, -2, 0] = warp[0, -1, 1] = 1
    return warp


def test_grid_equals_the_formula_point_by_point():
    warp = tps_warps.draw_warps(1, seed=3)
    grid = tps_warps.warp_grid(warp)
    line = np.linspace(-1, 1, 10)
    for row, column in ((0, 0), (17, 90), (135, 135)):
        x, y = 2 * column / 135 - 1, 2 * row / 135 - 1
        terms = [
            d * math.log(d + 1e-5)
            for d in ((x - cx) ** 2 + (y - cy) ** 2 for cy in line for cx in line)
        ]
        slow = np.array([*terms, 1, x, y]) @ warp[0].numpy()
        assert np.allclose(grid[0, row, column], slow)


def test_the_identity_warp_changes_nothing():
    frames = smooth_frames(1)
    grid = tps_warps.warp_grid(identity_warp())
    assert torch.equal(tps_warps.warp_images(frames.images, grid), frames.images)
    assert torch.equal(tps_warps.warp_landmarks(frames.landmarks, grid), frames.landmarks.round())


def test_drawn_warps_have_the_protocol_scales_and_do_not_depend_on_their_number():
    warps = tps_warps.draw_warps(2000, seed=0)
    assert torch.equal(warps[:7], tps_warps.draw_warps(7, seed=0))
    control = warps[:, :100].flatten()
    assert control.std() == pytest.approx(math.sqrt((0.0005**2 + 0.005**2) / 2), rel=0.02)
    assert warps[:, 100].std() == pytest.approx(0.05, rel=0.05)
    zoom, angle = warps[:, 101].norm(dim=1), torch.atan2(warps[:, 102, 0], warps[:, 102, 1])
    assert zoom.mean() == pytest.approx(1, abs=0.005) and zoom.std() == pytest.approx(
        0.05, rel=0.05
    )
    assert torch.rad2deg(angle).std() == pytest.approx(2.5, rel=0.05)


def test_the_grid_maps_warped_landmarks_back_to_their_origin():
    frames, grid = smooth_frames(6), tps_warps.warp_grid(tps_warps.draw_warps(6, seed=1))
    forward = tps_warps.warp_landmarks(frames.landmarks, grid).long()
    back = torch.stack(
        [(grid[i, forward[i, :, 1], forward[i, :, 0]] + 1) / 2 * 135 for i in range(6)]
    )
    assert (back - frames.landmarks).norm(dim=2).max() < 0.9  # half a pixel's diagonal, stretched


def test_nearest_pixels_equal_a_search_one_by_one():
    points, grid = (
        torch.tensor([[[40.3, 77.8], [90.1, 30.2]]]),
        tps_warps.warp_grid(tps_warps.draw_warps(1, seed=5)),
    )
    pixels = ((grid[0] + 1) / 2 * 135).reshape(-1, 2).numpy()
    slow = [int(np.hypot(*(pixels - point.numpy()).T).argmin()) for point in points[0]]
    assert tps_warps.warp_landmarks(points, grid)[0].tolist() == [
        [float(i % 136), float(i // 136)] for i in slow
    ]


def test_a_bright_spot_moves_with_its_landmark_in_both_views():
    images = torch.zeros(4, 3, 136, 136, dtype=torch.uint8)
    images[:, :, 65:68, 79:82] = 255
    landmarks = torch.tensor([[[80.0, 66.0]]]).expand(4, 1, 2)
    view_1, view_2, points_1, points_2 = warp_views(
        images, landmarks, tps_warps.draw_warps(8, 2).unflatten(0, (4, 2))
    )
    bright = torch.cat([view_1, view_2])[:, 0].double()
    line = torch.arange(136.0)
    centres = torch.stack([(bright * line).sum((1, 2)), (bright * line[:, None]).sum((1, 2))], 1)
    centres = centres / bright.sum((1, 2))[:, None]
    assert (centres - torch.cat([points_1, points_2])[:, 0]).norm(dim=1).max() < 1.3


def test_pairs_are_deterministic_couples_in_key_order():
    frames = smooth_frames(7)
    pairs = build_pairs(frames, seed=4, couples=3)
    shuffled = Frames(
        frames.images.flip(0),
        frames.landmarks.flip(0),
        frames.keys[::-1],
        frames.identities.flip(0),
    )
    again = build_pairs(shuffled, seed=4, couples=3)
    assert pairs.keys == [f"{i:06d}" for i in range(6)] and pairs.views.shape == (3, 3, 3, 136, 136)
    assert again.hash == pairs.hash and torch.equal(again.views, pairs.views)
    assert build_pairs(frames, seed=5, couples=3).hash != pairs.hash
    assert build_pairs(frames, seed=4, couples=1).landmarks.equal(pairs.landmarks[:1])


def test_neighbours_of_one_identity_stay_and_are_counted():
    frames = smooth_frames(6)  # identities 0 0 | 0 1 | 1 1
    assert build_pairs(frames, couples=None).same_identity == 2
    frames.identities[:] = -1
    assert build_pairs(frames, couples=None).same_identity == 0


def test_too_few_images_for_the_couples_are_refused():
    with pytest.raises(ConfigError, match="500 couples need 1000"):
        build_pairs(smooth_frames(3))


def test_a_manifest_makes_the_same_pairs_again(tmp_path):
    frames = smooth_frames(4)
    pairs = build_pairs(frames, couples=2)
    save_pairs(tmp_path / "pairs.npz", pairs)
    again = load_pairs(tmp_path / "pairs.npz", frames)
    assert again.hash == pairs.hash and torch.equal(again.views, pairs.views)
    frames.landmarks[0] += 5
    with pytest.raises(DataError, match="landmarks differ"):
        load_pairs(tmp_path / "pairs.npz", frames)
    frames.keys[1] = "else"
    with pytest.raises(DataError, match="000001 is the first"):
        load_pairs(tmp_path / "pairs.npz", frames)
