"""The evaluation frames of a benchmark's images, with their landmarks.

Paper section 4: resize to 136x136 (`FRAME`), centre crop 96x96 (`INPUT`), so 20 px (`CROP`) are cut
off each side. What happens before the resize differs per data set (frame_rules.py).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scemae.data.geometry import CROP, FRAME, INPUT
from scemae.data.picture import open_picture
from scemae.data.storage.manifest import Annotation, Manifest
from scemae.data.storage.shard_set import ShardSet
from scemae.errors import ConfigError, ShardError
from scemae.evaluation.landmarks.benchmarks import Benchmark
from scemae.evaluation.landmarks.frame_rules import RULES


@dataclass
class Frames:
    """Evaluation frames of one split, in the order of its shards."""

    images: Tensor  # (n, 3, 136, 136) uint8 RGB
    # (n, l, 2) float32, x then y in pixels of the 136 frame, centres at integers; NaN where a
    # benchmark with `missing` lacks a point
    landmarks: Tensor
    keys: list[str]  # of the n samples
    identities: Tensor  # (n,) int64, -1 where unknown

    def __len__(self) -> int:
        return len(self.keys)


def load_frames(
    shards: ShardSet, benchmark: Benchmark, *, limit: int | None = None, threads: int = 4
) -> Frames:
    """Decode the first `limit` samples of `shards` (None: all) into 136x136 frames with their
    landmarks.

    Raises ShardError naming the first sample that is no image, or lacks landmarks or (300W) a box,
    and ConfigError where the shards store another frame than the benchmark needs.
    """
    count = len(shards) if limit is None else min(limit, len(shards))
    cropped = _stored_cropped(shards.manifest, benchmark)
    images = np.empty((count, 3, FRAME, FRAME), np.uint8)
    landmarks = np.empty((count, benchmark.landmarks, 2), np.float32)
    identities = np.empty(count, np.int64)

    def load(i: int) -> None:
        try:
            annotation = shards.annotation(i)
            raw = _landmarks(annotation, benchmark)
            picture = open_picture(shards.jpeg(i), upright=False)
            frame, landmarks[i] = to_frame(
                picture, raw, benchmark, box=annotation.get("box"), cropped=cropped
            )
        except (OSError, ValueError) as error:
            raise ShardError(
                f"{shards.folder}: sample {shards.keys[i]} cannot be evaluated ({error}); "
                f"rebuild the shards from a complete {benchmark.name}"
            ) from error
        images[i] = np.asarray(frame).transpose(2, 0, 1)
        identity = annotation.get("identity")
        identities[i] = -1 if identity is None else identity

    with ThreadPoolExecutor(threads) as pool:  # PIL decodes and resizes without the GIL
        list(pool.map(load, range(count)))
    return Frames(
        torch.from_numpy(images),
        torch.from_numpy(landmarks),
        [*islice(shards.keys, count)],
        torch.from_numpy(identities),
    )


def to_frame(
    image: Image.Image,
    landmarks: np.ndarray,
    benchmark: Benchmark,
    *,
    box: list[float] | None = None,
    cropped: bool = False,
) -> tuple[Image.Image, np.ndarray]:
    """One stored RGB image to its 136x136 frame, and its raw landmarks (l, 2) to pixels of that
    frame.

    box [x0, y0, x1, y1] is 300W's, counted from 1, or an object's in a photograph. cropped: `image`
    is already CelebA's 178x178 frame, resized, with the landmarks in it. Raises ValueError if the
    image or the box cannot be used.
    """
    extra = {"celeba": cropped, "box": box, "photograph": (box, benchmark.margin)}.get(
        benchmark.frame
    )
    return RULES[benchmark.frame](image, landmarks, benchmark.offset, extra)


def normalise_landmarks(landmarks: Tensor) -> Tensor:
    """Pixels of the 136 frame to [-1, 1] over the 96-px crop: 2x/95 - 1 (PROTOCOL 3.1 [F])."""
    return 2 * (landmarks - CROP) / (INPUT - 1) - 1


def denormalise_landmarks(landmarks: Tensor) -> Tensor:
    """The inverse of `normalise_landmarks`."""
    return (landmarks + 1) / 2 * (INPUT - 1) + CROP


def _landmarks(annotation: Annotation, benchmark: Benchmark) -> np.ndarray:
    points = annotation.get("landmarks") or []
    if benchmark.missing:
        points = [[np.nan, np.nan] if point is None else point for point in points]
    found = np.array(points, dtype=np.float64)
    is_whole = benchmark.missing or np.isfinite(found).all()
    if found.shape != (benchmark.landmarks, 2) or not is_whole:
        raise ValueError(
            f"found landmarks of shape {found.shape}, needed {(benchmark.landmarks, 2)}, all finite"
        )
    return found


def _stored_cropped(manifest: Manifest, benchmark: Benchmark) -> bool:
    stored = manifest.options.get("frame")
    if stored not in (None, "original", "celeba-178") or (
        stored == "celeba-178" and benchmark.frame != "celeba"
    ):
        raise ConfigError(
            f"{manifest.dataset}/{manifest.split}: its images are stored as {stored!r}, "
            f"{benchmark.name} needs originals; build the shards without resizing"
        )
    return stored == "celeba-178"
