"""The matching test's pairs: 500 of the same and 500 of different identity, deterministic (PROTOCOL
3.4 [F]).

Consecutive images in file order make disjoint couples (A, B). View 2 of an image is warped by W1;
view 1 is view 2 warped by W2. In each couple v1(A) is the source, v2(A) the "same" target and v2(B)
the "different" one. DVE takes couples in file order, so both images may show one person:
`same_identity` counts such couples, and they stay in the test.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scemae.data import tps_warps
from scemae.errors import ConfigError, DataError
from scemae.evaluation.landmarks.benchmark_frames import Frames
from scemae.files import arrays, disk

SOURCE, SAME, DIFFERENT = 0, 1, 2  # the views of a couple: v1(A), v2(A), v2(B)
KINDS = ("same", "different")  # the pairs of a couple: source with same, source with different
GIVE = "give a pairs.npz that `scemae evaluate` wrote"
CHUNK = 64  # images warped at a time


@dataclass
class Pairs:
    """The views and key-points of `c` couples: 2c pairs."""

    seed: int
    keys: list[str]  # of the 2c images: A and B of the first couple, A and B of the second, ...
    warps: Tensor  # (2c, 2, 103, 2) float64: W1 and W2 of each image
    views: Tensor  # (c, 3, 3, 136, 136) uint8: source, same, different
    landmarks: Tensor  # (c, 3, l, 2) float32, whole pixels of the 136 frame, of the same views
    same_identity: int  # couples of which both images are known to show one person

    def __len__(self) -> int:
        return len(self.views)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of keys, warps and key-points: equal hashes mean that methods were given equal
        pairs.
        """
        digest = hashlib.sha256("\n".join(self.keys).encode())
        digest.update(self.warps.numpy().astype("<f8").tobytes())
        digest.update(self.landmarks.numpy().astype("<f4").tobytes())
        return digest.hexdigest()


def build_pairs(frames: Frames, seed: int = 0, couples: int | None = 500) -> Pairs:
    """Warp the first `couples` couples of `frames` in the order of their keys (None: all couples).

    Raises ConfigError if there are too few images.
    """
    wanted = len(frames) // 2 if couples is None else couples
    if wanted < 1 or 2 * wanted > len(frames):
        raise ConfigError(
            f"pairs: found {len(frames)} images, {max(wanted, 1)} couples need "
            f"{2 * max(wanted, 1)}; ask for fewer couples or give more images"
        )
    chosen = sorted(range(len(frames)), key=frames.keys.__getitem__)[: 2 * wanted]
    warps = tps_warps.draw_warps(4 * wanted, seed).reshape(2 * wanted, 2, tps_warps.COEFFICIENTS, 2)
    return render_pairs(frames, chosen, warps, seed)


def save_pairs(path: Path, pairs: Pairs) -> None:
    """Write the manifest of `pairs` (.npz): seed, keys, warps, key-points and hash; no image."""
    with disk.replacing(path) as file:
        np.savez_compressed(
            file,
            seed=pairs.seed,
            keys=np.array(pairs.keys),
            warps=pairs.warps.numpy(),
            landmarks=pairs.landmarks.numpy(),
            hash=pairs.hash,
        )


def load_pairs(path: Path, frames: Frames) -> Pairs:
    """Make the pairs of a manifest again from `frames`. Raises DataError if it was made from other
    frames.
    """
    saved = arrays.read(path, ["keys", "hash", "seed", "warps"], error=DataError, remedy=GIVE)
    images = 2 * (len(saved["keys"]) // 2 if saved["keys"].ndim == 1 else 0)
    shape = (images, 2, tps_warps.COEFFICIENTS, 2)
    is_seed = not saved["seed"].shape and saved["seed"].dtype.kind in "iu"
    if saved["warps"].shape != shape or not images or not is_seed:
        raise DataError(
            f"{path}: found warps of shape {saved['warps'].shape}, {shape} were needed for its "
            f"keys; {GIVE}"
        )
    keys, wanted = saved["keys"].tolist(), str(saved["hash"])
    seed, warps = int(saved["seed"]), torch.from_numpy(saved["warps"])
    where = {key: i for i, key in enumerate(frames.keys)}
    if missing := [key for key in keys if key not in where]:
        raise DataError(
            f"{path}: {len(missing)} of its {len(keys)} images are not in these shards "
            f"({missing[0]} is the first); give the shards that it was made from"
        )
    pairs = render_pairs(frames, [where[key] for key in keys], warps, seed)
    if pairs.hash != wanted:
        raise DataError(
            f"{path}: its pairs have hash {wanted[:12]}, the same warps on these shards "
            f"{pairs.hash[:12]}; the landmarks differ, give the shards that it was made from"
        )
    return pairs


def render_pairs(frames: Frames, chosen: list[int], warps: Tensor, seed: int) -> Pairs:
    """The pairs of the images `chosen` (2c, A and B of each couple) under warps (2c, 2, 103, 2)."""
    images, landmarks = frames.images[chosen], frames.landmarks[chosen]
    identities = frames.identities[chosen]
    parts = [
        warp_views(*part)
        for part in zip(
            images.split(CHUNK), landmarks.split(CHUNK), warps.split(CHUNK), strict=True
        )
    ]
    columns = zip(*parts, strict=True)
    view_1, view_2, points_1, points_2 = (torch.cat(column) for column in columns)
    same = int(((identities[0::2] == identities[1::2]) & (identities[0::2] >= 0)).sum())
    return Pairs(
        seed,
        [frames.keys[i] for i in chosen],
        warps,
        torch.stack([view_1[0::2], view_2[0::2], view_2[1::2]], dim=1),
        torch.stack([points_1[0::2], points_2[0::2], points_2[1::2]], dim=1),
        same,
    )


def warp_views(
    images: Tensor, landmarks: Tensor, warps: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both views of images (b, 3, 136, 136) uint8 under warps (b, 2, 103, 2), and landmarks (b, l,
    2) in them.

    Returns view 1, view 2, points 1, points 2. As in DVE, points 1 are the *whole-pixel* points 2
    warped by W2: a matcher goes from view 1 to view 2, so the answer must be a pixel of view 2.
    Warping the original points by W2 after W1 would round twice independently and give a perfect
    matcher an error of half a pixel. View 1 is made from view 2 before view 2 is rounded to bytes.
    """
    grid_1, grid_2 = tps_warps.warp_grid(warps[:, 0]), tps_warps.warp_grid(warps[:, 1])
    view_2 = tps_warps.resample(images.float(), grid_1)
    points_2 = tps_warps.warp_landmarks(landmarks, grid_1)
    view_1 = tps_warps.resample(view_2, grid_2)
    return (
        tps_warps.to_bytes(view_1),
        tps_warps.to_bytes(view_2),
        tps_warps.warp_landmarks(points_2, grid_2),
        points_2,
    )
