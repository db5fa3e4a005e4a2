"""The facts of each benchmark, read from data files, and the conversion of stored images to
evaluation frames.

Paper section 4: resize to 136x136 (`FRAME`), centre crop 96x96 (`INPUT`), so 20 px (`CROP`) are cut
off each side. What happens before the resize is DVE's and differs per data set (PROTOCOL 3.1, 3.2
[F]). All resizes are PIL bilinear.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scemae.config.load import configs_dir
from scemae.data.framing import frame_of, square_box
from scemae.data.geometry import CELEBA_SIZE, CELEBA_TOP, CROP, FRAME, INPUT, celeba_box
from scemae.data.picture import open_picture
from scemae.data.storage.manifest import Annotation, Manifest
from scemae.data.storage.shard_set import ShardSet
from scemae.errors import ConfigError, ShardError
from scemae.files import documents

BOX, WINDOW = 52, 100  # 300W: the box becomes 52 px wide, the window around it is 100x100
RAISED = 2  # 300W: the window's centre lies 2 px above the centre of the box
LARGEST = 2**13  # 300W: allowed side of an image whose box has been scaled

SPLITS = {"train", "test"}  # of each benchmark
BENCHMARK = "benchmark.yaml"  # in a folder of shards with points of its own


@dataclass(frozen=True)
class Benchmark:
    """The facts of one data set, each with its source in configs/benchmark/NAME.yaml.

    A new data set whose frame rule is one of `RULES` needs such a file and no code.
    """

    name: str  # the argument of `find_benchmark`
    title: str  # as the paper's Table 2 calls it
    landmarks: int  # points per face
    eyes: tuple[int, int]  # the two points whose distance is the inter-ocular distance (IOD)
    frame: str  # name in `RULES` of the rule from stored image to 136 frame
    official: dict[str, int]  # images of "train" and "test"
    splits: dict[str, str]  # the folders of shards of "train" and "test"
    offset: float = 0.0  # added to raw landmarks: -1 where the files count pixels from 1 (Matlab)
    points: tuple[str, ...] = ()  # names of the landmarks, in their order
    pairs: tuple[tuple[int, int], ...] = ()  # points that change places in a mirrored picture
    margin: float = 1.0  # only for frame: photograph. The side of the frame, in sides of the box
    missing: bool = False  # whether a picture may lack some of the points
    # the paper's detection error, %IOD, by DeiT size
    targets: dict[str, float] = field(default_factory=dict)
    column: int | None = None  # of the paper's Table 2, from 1


# The paper's matching error on MAFL, (same, different) identity in 70-px units, by DeiT size and
# projected width.
MATCHING_TARGETS = {
    "T-64": (0.47, 1.99),
    "S-128": (0.31, 1.69),
    "S-256": (0.33, 1.72),
    "B-256": (0.27, 1.61),
}


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


def benchmark_names() -> list[str]:
    """All benchmarks, in the order of the paper's Table 2, then by name. Raises ConfigError."""
    found = [find_benchmark(path.stem) for path in sorted(_folder().glob("*.yaml"))]
    found.sort(key=lambda one: (one.column or len(found) + 1, one.name))
    return [one.name for one in found]


@cache
def find_benchmark(name: str) -> Benchmark:
    """The benchmark of configs/benchmark/`name`.yaml, or of the file `name` where that ends in
    .yaml.

    Each is read once. Raises ConfigError for an unknown name and for a missing, unknown or wrong
    field.
    """
    if name.endswith(".yaml"):
        return _read_benchmark(Path(name), name)
    if not (_folder() / f"{name}.yaml").is_file():
        raise ConfigError(
            f"benchmark: found {name!r}, needed one of {', '.join(benchmark_names())}, or a file "
            "that ends in .yaml"
        )
    return _read_benchmark(_folder() / f"{name}.yaml", name)


def check_counts(manifest: Manifest, benchmark: Benchmark, split: str) -> str | None:
    """None where the shards are the whole official `split` ("train" or "test"), else what they are
    instead.

    Raises ShardError where their manifest claims the whole set with another number of samples, or
    names another split.
    """
    where, official = f"{manifest.dataset}/{manifest.split}", benchmark.official[split]
    said = manifest.options.get("official_samples")
    if said is not None and (manifest.split, said) != (benchmark.splits[split], official):
        raise ShardError(
            f"{where}: found shards of a split of {said:,} images, {benchmark.title}'s {split} "
            f"set is {benchmark.splits[split]}, of {official:,}; give the shards of that one"
        )
    if manifest.options.get("subset") is not False:
        if manifest.samples == official:
            return f"{official:,} images, not the official ones"
        return f"subset: {manifest.samples:,} of {official:,}"
    if manifest.samples != official:
        raise ShardError(
            f"{where}: found {manifest.samples:,} samples, its manifest says that it is the whole "
            f"{split} set of {benchmark.title}, {official:,} ({len(manifest.left_out):,} were left "
            "out as unusable); repair the source and build it again"
        )
    return None


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


Framed = tuple[Image.Image, np.ndarray]


def _celeba_frame(
    image: Image.Image, landmarks: np.ndarray, offset: float, cropped: bool
) -> Framed:
    side = CELEBA_SIZE[0]
    if cropped:  # `scemae shards build celeba --resize N` stored the landmarks in this frame
        return _resized(image), landmarks * (FRAME / image.width)
    if image.size != CELEBA_SIZE:
        raise ValueError(f"found an image of {image.size}, needed aligned CelebA's {CELEBA_SIZE}")
    image = image.crop(celeba_box())
    return _resized(image), (landmarks + offset - (0, CELEBA_TOP)) * (FRAME / side)


def _stretched(image: Image.Image, landmarks: np.ndarray, offset: float, _: object) -> Framed:
    return _resized(image), (landmarks + offset) * (FRAME / np.array(image.size))


def _box_frame(
    image: Image.Image, landmarks: np.ndarray, offset: float, box: list[float] | None
) -> Framed:
    """300W (PROTOCOL 3.2 [F]), in Matlab's counting: pixels from 1, widths max - min + 1.

    DVE leaves the filter of the first resize to PIL's default, which has changed with PIL's
    versions: bilinear here [U].
    """
    if box is None or len(box) != 4 or not (box[2] > box[0] and box[3] > box[1]):
        raise ValueError(f"found the box {box}, needed [x0, y0, x1, y1]")
    low, high = np.array(box[:2], float), np.array(box[2:], float)
    size = high - low + 1
    scale = BOX / size[0]  # the width alone sets the scale: aspect is kept
    centre = np.floor(scale * (low + (size + 1) / 2))
    left, top = (int(edge) for edge in centre - WINDOW // 2 - (0, RAISED))
    if scale * max(image.size) > LARGEST:
        raise ValueError(
            f"found the box {box} in an image of {image.size}, which would be enlarged to more "
            f"than {LARGEST} px"
        )
    scaled = image.resize(
        (max(1, int(image.width * scale)), max(1, int(image.height * scale))),
        Image.Resampling.BILINEAR,
    )
    window = scaled.crop((left, top, left + WINDOW, top + WINDOW))  # PIL pads with zeros
    return _resized(window), (landmarks * scale - (left, top) + offset) * (FRAME / WINDOW)


def _photograph_frame(
    image: Image.Image,
    landmarks: np.ndarray,
    offset: float,
    extra: tuple[list[float] | None, float],
) -> Framed:
    """The square around an object's box, or of the whole picture (data/framing.py)."""
    corners, margin = extra
    try:
        square = square_box(image, corners, Path("box"), margin=margin)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    frame = Image.fromarray(frame_of(image, square).permute(1, 2, 0).numpy())
    return frame, square.to_frame(landmarks + offset)


def _resized(image: Image.Image) -> Image.Image:
    return image.resize((FRAME, FRAME), Image.Resampling.BILINEAR)


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


RULES: dict[str, Callable] = {
    "celeba": _celeba_frame,
    "stretch": _stretched,
    "box": _box_frame,
    "photograph": _photograph_frame,
}


def _folder() -> Path:
    return configs_dir() / "benchmark"


def _read_benchmark(path: Path, name: str) -> Benchmark:
    remedy = f"give a file like {_folder() / 'mafl.yaml'}"
    try:
        found: Any = documents.read_yaml(path, Any, error=ConfigError, remedy=remedy)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error}); {remedy}") from error
    raw: dict = found if isinstance(found, dict) else {}
    _check_fields(path, raw)
    for key, (is_right, needed) in CHECKS.items():
        if key in raw and not is_right(raw[key], raw):
            raise ConfigError(f"{path}: {key}: found {raw[key]!r}, {needed} was needed")
    tuples: dict = {key: tuple(raw[key]) for key in ("eyes", "points") if key in raw}
    if "pairs" in raw:
        tuples["pairs"] = tuple(map(tuple, raw["pairs"]))
    return Benchmark(name, **raw | tuples)


def _check_fields(path: Path, raw: dict) -> None:
    """Raise ConfigError for the first field that is missing or unknown."""
    known = [part for part in fields(Benchmark) if part.name != "name"]
    has_default = [
        part.default is not MISSING or part.default_factory is not MISSING for part in known
    ]
    needed = [part.name for part, has in zip(known, has_default, strict=True) if not has]
    optional = [part.name for part, has in zip(known, has_default, strict=True) if has]
    missing = [key for key in needed if key not in raw]
    unknown = sorted(raw.keys() - {*needed, *optional}, key=str)
    if not missing and not unknown:
        return
    what = f"found no field {missing[0]}" if missing else f"found the unknown field {unknown[0]}"
    raise ConfigError(
        f"{path}: {what}; a benchmark has {', '.join(needed)}, and may have {', '.join(optional)}"
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= 10**6


def _is_number(value: Any) -> bool:
    # not NaN, nor an int too large for a float
    return type(value) in (int, float) and abs(value) <= 1e300


def _has_parts(value: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and value.keys() == SPLITS and all(map(is_right, value.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_eyes(value: Any, landmarks: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and value[0] != value[1]
        and all(type(point) is int and 0 <= point < landmarks for point in value)
    )


# Of each field, in this order: a check of (value, all fields), and what is needed where it fails.
CHECKS: dict[str, tuple[Callable[[Any, dict], bool], str]] = {
    "title": (lambda value, raw: _is_text(value), "a name"),
    "landmarks": (lambda value, raw: _is_count(value), "a number of points above 0"),
    "eyes": (
        lambda value, raw: _are_eyes(value, raw["landmarks"]),
        "a list of two different points, counted from 0,",
    ),
    "frame": (
        lambda value, raw: isinstance(value, str) and value in RULES,
        f"one of {', '.join(RULES)}",
    ),
    "official": (
        lambda value, raw: _has_parts(value, lambda one: one == 0 or _is_count(one)),
        "a number of images each for train and test",
    ),
    "splits": (lambda value, raw: _has_parts(value, _is_text), "a folder each for train and test"),
    "offset": (lambda value, raw: _is_number(value), "a number of pixels"),
    "points": (
        lambda value, raw: (
            isinstance(value, list) and len(value) == raw["landmarks"] and all(map(_is_text, value))
        ),
        "a list of one name for each landmark",
    ),
    "pairs": (
        lambda value, raw: (
            isinstance(value, list) and all(_are_eyes(pair, raw["landmarks"]) for pair in value)
        ),
        "a list of pairs of points, counted from 0,",
    ),
    "margin": (lambda value, raw: _is_number(value) and 0.1 <= value <= 10, "0.1 to 10"),
    "missing": (lambda value, raw: isinstance(value, bool), "true or false"),
    "targets": (
        lambda value, raw: isinstance(value, dict) and all(map(_is_number, value.values())),
        "numbers by DeiT size",
    ),
    "column": (lambda value, raw: _is_count(value), "a number above 0"),
}
