"""Facts of each benchmark as data, and the one way in which its stored images become 136x136 evaluation frames.

Paper section 4: resize to 136x136, centre crop 96x96 (`INPUT`), so 20 px (`CROP`) fall away on each side; what
happens before the resize is DVE's and differs per data set (PROTOCOL 3.1, 3.2 [F]). All resizes are PIL bilinear.
"""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scemae.data.manifest import Manifest
from scemae.data.reader import ShardSet
from scemae.errors import ConfigError, ShardError

FRAME = 136     # side of the evaluation frame in pixels
CROP = 20       # pixels cut off each side of the frame
INPUT = 96      # side of what the network and the scores see: FRAME - 2 * CROP
UNIT = 70       # matching errors are given in pixels of a frame of this side (PROTOCOL 3.4)

CELEBA_SIZE = (178, 218)    # aligned CelebA, width and height
CELEBA_TOP = 30             # rows 30..207 of it are the 178x178 frame
BOX, WINDOW = 52, 100       # 300W: the box becomes 52 px wide, the window around it is 100x100
RAISED = 2                  # ... and sits 2 px above the centre of the box


@dataclass(frozen=True)
class Benchmark:
    """What is fixed of one data set, by DVE (PROTOCOL 3.2 [F]) and by the paper's tables (PROTOCOL 1.2 [F])."""

    name: str
    landmarks: int                      # points per face
    eyes: tuple[int, int]               # the two points whose distance is the inter-ocular distance (IOD)
    frame: str                          # rule from stored image to 136 frame: "celeba", "stretch" or "box"
    offset: float = 0.0                 # added to raw landmarks: -1 where the files count pixels from 1 (Matlab)
    official: dict[str, int] = field(default_factory=dict)      # images per official split
    targets: dict[str, float] = field(default_factory=dict)     # paper's detection error, %IOD, by DeiT size


BENCHMARKS = {benchmark.name: benchmark for benchmark in (
    Benchmark("mafl", 5, (0, 1), "celeba", official={"train": 19_000, "test": 1_000},
              targets={"T": 2.20, "S": 2.08, "B": 2.07}),
    Benchmark("aflw_m", 5, (0, 1), "stretch", offset=-1.0, official={"train": 10_122, "test": 2_995},
              targets={"T": 5.89, "S": 5.33, "B": 5.23}),
    Benchmark("aflw_r", 5, (0, 1), "stretch", official={"train": 10_122, "test": 2_991},
              targets={"T": 5.54, "S": 5.40, "B": 5.33}),   # AFLW_RO; the labels of AFLW_RC are not public
    Benchmark("300w", 68, (36, 45), "box", offset=-1.0, official={"train": 3_148, "test": 689},
              targets={"T": 4.22, "S": 3.94, "B": 3.95}),   # eyes: the outer corners
)}

# Paper's matching error on MAFL, (same, different) identity in 70-px units, by DeiT size and projected width.
MATCHING_TARGETS = {"T-64": (0.47, 1.99), "S-128": (0.31, 1.69), "S-256": (0.33, 1.72), "B-256": (0.27, 1.61)}


@dataclass
class Frames:
    """Evaluation frames of one split, in the order of its shards."""

    images: Tensor          # (n, 3, 136, 136) uint8 RGB
    landmarks: Tensor       # (n, l, 2) float32, x then y, pixels of the 136 frame, pixel centres at whole numbers
    keys: list[str]         # of the n samples
    identities: Tensor      # (n,) int64, -1 where unknown

    def __len__(self) -> int:
        return len(self.keys)


def find_benchmark(name: str) -> Benchmark:
    """The benchmark called `name`. Raises ConfigError listing the names there are."""
    if name not in BENCHMARKS:
        raise ConfigError(f"benchmark: found {name!r}, needed one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def load_frames(shards: ShardSet, benchmark: Benchmark, *, limit: int | None = None, threads: int = 4) -> Frames:
    """Decode the first `limit` samples of `shards` (default: all) into 136x136 frames with their landmarks.

    Raises ShardError naming the first sample that is no image, or lacks landmarks or (300W) a box, and ConfigError
    where the shards hold another frame than the benchmark's.
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
            picture = Image.open(io.BytesIO(shards.jpeg(i))).convert("RGB")
            frame, landmarks[i] = to_frame(picture, raw, benchmark, box=annotation.get("box"), cropped=cropped)
        except (OSError, ValueError) as error:
            raise ShardError(f"{shards.folder}: sample {shards.keys[i]} cannot be evaluated ({error}); "
                             f"rebuild the shards from a complete {benchmark.name}") from error
        images[i] = np.asarray(frame).transpose(2, 0, 1)
        identities[i] = -1 if annotation.get("identity") is None else annotation["identity"]

    with ThreadPoolExecutor(threads) as pool:       # PIL decodes and resizes without the GIL
        list(pool.map(load, range(count)))
    return Frames(torch.from_numpy(images), torch.from_numpy(landmarks), shards.keys[:count],
                  torch.from_numpy(identities))


def to_frame(image: Image.Image, landmarks: np.ndarray, benchmark: Benchmark, *, box: list[float] | None = None,
             cropped: bool = False) -> tuple[Image.Image, np.ndarray]:
    """One stored RGB image and its raw landmarks (l, 2) to the 136x136 frame and pixels of that frame.

    box [x0, y0, x1, y1], counted from 1, is 300W's; `cropped` says that `image` already is CelebA's 178x178 frame,
    resized, and that the landmarks are in it. Raises ValueError if image or box cannot be used.
    """
    rule: Callable = {"celeba": _celeba_frame, "stretch": _stretched, "box": _box_frame}[benchmark.frame]
    extra = {"celeba": cropped, "stretch": None, "box": box}[benchmark.frame]
    return rule(image, landmarks, benchmark.offset, extra)


def normalise_landmarks(landmarks: Tensor) -> Tensor:
    """Pixels of the 136 frame to [-1, 1] over the 96-px crop: 2x/95 - 1 (PROTOCOL 3.1 [F])."""
    return 2 * (landmarks - CROP) / (INPUT - 1) - 1


def denormalise_landmarks(landmarks: Tensor) -> Tensor:
    """The inverse of `normalise_landmarks`."""
    return (landmarks + 1) / 2 * (INPUT - 1) + CROP


def _celeba_frame(image: Image.Image, landmarks: np.ndarray, offset: float, cropped: bool):
    side = CELEBA_SIZE[0]
    if cropped:  # `scemae shards build celeba --resize N` moved the landmarks along
        return _resized(image), landmarks * (FRAME / image.width)
    if image.size != CELEBA_SIZE:
        raise ValueError(f"found an image of {image.size}, needed aligned CelebA's {CELEBA_SIZE}")
    image = image.crop((0, CELEBA_TOP, side, CELEBA_TOP + side))
    return _resized(image), (landmarks + offset - (0, CELEBA_TOP)) * (FRAME / side)


def _stretched(image: Image.Image, landmarks: np.ndarray, offset: float, _):
    return _resized(image), (landmarks + offset) * (FRAME / np.array(image.size))


def _box_frame(image: Image.Image, landmarks: np.ndarray, offset: float, box: list[float] | None):
    """300W (PROTOCOL 3.2 [F]), in its Matlab counting: pixels from 1, widths max - min + 1.

    DVE leaves the filter of the first resize to PIL's default, which has changed over PIL's versions [U]: bilinear.
    """
    if box is None or len(box) != 4 or not (box[2] > box[0] and box[3] > box[1]):
        raise ValueError(f"found the box {box}, needed [x0, y0, x1, y1]")
    low, high = np.array(box[:2], float), np.array(box[2:], float)
    size = high - low + 1
    scale = BOX / size[0]                               # the width alone sets the scale: aspect is kept
    centre = np.floor(scale * (low + (size + 1) / 2))
    left, top = (int(edge) for edge in centre - WINDOW // 2 - (0, RAISED))
    scaled = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))), Image.BILINEAR)
    window = scaled.crop((left, top, left + WINDOW, top + WINDOW))      # PIL pads with zeros
    return _resized(window), (landmarks * scale - (left, top) + offset) * (FRAME / WINDOW)


def _resized(image: Image.Image) -> Image.Image:
    return image.resize((FRAME, FRAME), Image.BILINEAR)


def _landmarks(annotation: dict, benchmark: Benchmark) -> np.ndarray:
    found = np.array(annotation.get("landmarks") or [], dtype=np.float64)
    if found.shape != (benchmark.landmarks, 2) or not np.isfinite(found).all():
        raise ValueError(f"found landmarks of shape {found.shape}, needed {(benchmark.landmarks, 2)}, all finite")
    return found


def _stored_cropped(manifest: Manifest, benchmark: Benchmark) -> bool:
    stored = manifest.options.get("frame")
    if stored not in (None, "original", "celeba-178") or (stored == "celeba-178" and benchmark.frame != "celeba"):
        raise ConfigError(f"{manifest.dataset}/{manifest.split}: its images are stored as {stored!r}, {benchmark.name} "
                          "needs originals; build the shards without resizing")
    return stored == "celeba-178"
