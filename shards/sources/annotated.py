"""A folder of pictures of one's own, some of them with points: train, annotated-train and
annotated-test.

    scemae shards build folder PICTURES OUT --landmarks points.json --test 0.2

Points are in pixels of the upright picture, as programs show it, with the centres of pixels at
whole numbers. Each object is a sample of its own, with its box where the file has one. Pictures
without points are the split train, for pretraining. OUT/benchmark.yaml says what the points are:
`scemae fit`, `evaluate` and `tables` read it.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from scemae.data.framing import square_of
from scemae.data.picture import UnusablePicture, upright_size
from scemae.errors import ConfigError, DataError
from scemae.shards.annotations.benchmark import benchmark_text, choose_pairs, choose_scale
from scemae.shards.annotations.labels import LabelledObject, Labels, Place
from scemae.shards.annotations.read import read_labels
from scemae.shards.image import ENCODING
from scemae.shards.listing import Listing, unique_keys
from scemae.shards.sources import folder
from scemae.shards.splits import Sample, Split, read_bytes, read_lines

TRAIN, TEST = "annotated-train", "annotated-test"
MARGIN = 1.5  # around a box: networks see the middle 0.71 of a frame
OUTSIDE = 1.0  # pixels by which a point may lie outside: programs round differently at the edge
UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before a file's name


@dataclass(frozen=True)
class Wishes:
    """What the user says of the annotation files; None: found out from them."""

    landmarks: list[Path]
    category: str | None = None
    test: str = "0"  # a share of the annotated pictures, or a file with a name on each line
    scale: tuple[str, str] | None = None
    pairs: list[tuple[str, str]] | None = None
    margin: float | None = None
    title: str = "own"  # of the category in tables
    seed: int = 0  # of the choice of test pictures


@dataclass
class Annotated:
    """The splits, the text of benchmark.yaml, and sentences for the user."""

    splits: list[Split]
    benchmark: str
    notes: list[str]


def splits(root: Path, wishes: Wishes) -> Annotated:
    """The pictures below `root` as splits. Raises DataError, ConfigError."""
    labels = read_labels(wishes.landmarks, wishes.category)
    plain = folder.splits(root)[0]
    pictures = list(plain.samples)
    objects = objects_of(labels, [one.annotation["file"] for one in pictures], root)
    by_name = {one.annotation["file"]: one for one in pictures}
    sizes = {name: _check(by_name[name], objects[name], labels) for name in objects}
    scale = choose_scale(labels, wishes.scale)
    margin = wishes.margin or (MARGIN if any(one.box for one in labels.objects) else 1.0)
    tested = _tested(objects, wishes, [labels.names.index(name) for name in scale])
    made = [
        _split(plain, TRAIN, by_name, {k: v for k, v in objects.items() if k not in tested}),
        _split(plain, TEST, by_name, {k: v for k, v in objects.items() if k in tested}),
    ]
    rows = np.array([i for i, one in enumerate(pictures) if one.annotation["file"] not in objects])
    unlabelled = replace(plain, samples=Listing(plain.samples.__getitem__, rows.astype(np.int64)))
    pairs = choose_pairs(labels, wishes.pairs)
    counts = [len(split.samples) for split in made]
    text = benchmark_text(
        wishes.title,
        labels,
        scale=scale,
        pairs=pairs,
        margin=margin,
        counts=counts,
        splits=(TRAIN, TEST),
    )
    found = [split for split in (unlabelled, *made) if len(split.samples)]
    return Annotated(found, text, _notes(labels, objects, sizes, margin))


def objects_of(labels: Labels, files: list[str], root: Path) -> dict[str, list[LabelledObject]]:
    """The objects of each picture, by its path below `root`. Raises DataError for a name without a
    picture.
    """
    match = _Names(files)
    found: dict[str, list[LabelledObject]] = {}
    lost = []
    for one in labels.objects:
        file = match.find(one.picture, labels.source)
        if file is None:
            lost.append(one.picture)
        else:
            found.setdefault(file, []).append(one)
    if lost:
        raise DataError(
            f"{labels.source}: found points for {len(set(lost))} pictures that are not in {root}, "
            f"the first {lost[0]}; give the folder that the points belong to, or take the names out"
        )
    return {file: found[file] for file in files if file in found}


class _Names:
    """Finds the picture that an annotation file means, whose folders may have other names."""

    def __init__(self, files: list[str]) -> None:
        self._files = set(files)
        self._by_name: dict[str, list[str]] = {}
        for file in files:
            self._by_name.setdefault(PurePosixPath(file).name, []).append(file)

    def find(self, picture: str, source: str) -> str | None:
        """The path of a picture; None where there is none. Raises DataError for several."""
        if picture in self._files:
            return picture
        name = PurePosixPath(picture.replace("\\", "/")).name
        there = self._by_name.get(name) or self._by_name.get(UPLOAD.sub("", name)) or []
        parts = PurePosixPath(picture.replace("\\", "/")).parts
        for length in range(len(parts), 0, -1):
            near = [
                file for file in there if PurePosixPath(file).parts[-length:] == parts[-length:]
            ]
            if near:
                there = near
                break
        if len(there) > 1:
            raise DataError(
                f"{source}: found points for {picture}, which may be {there[0]} or {there[1]}; "
                "write its path below the folder of pictures"
            )
        return there[0] if there else None


def _check(sample: Sample, objects: list[LabelledObject], labels: Labels) -> tuple[int, int]:
    """The (width, height) of the upright picture. Raises DataError for a point outside of it."""
    try:
        size, is_turned = upright_size(read_bytes(sample.place))
    except UnusablePicture as error:
        raise DataError(
            f"{sample.place.path}: {error}, and {labels.source} has points for it; repair it, or "
            "take its points out"
        ) from error
    check_inside(sample.annotation["file"], objects, labels, size, is_turned)
    return size


def check_inside(
    name: str,
    objects: list[LabelledObject],
    labels: Labels,
    size: tuple[int, int],
    is_turned: bool = False,
) -> None:
    """Raise DataError for a point, or a box, of the objects outside of the picture `name`.

    size: (width, height) of the upright picture.
    """
    for one in objects:
        for label, point in zip(labels.names, one.points, strict=True):
            if point is not None and not _is_inside(point, size):
                turned = (
                    "; its EXIF turns it, and points count pixels of the upright picture"
                    if is_turned and _all_inside(objects, size[::-1])
                    else ""
                )
                raise DataError(
                    f"{labels.source}: found the point {label!r} of {name} at ({point[0]:g}, "
                    f"{point[1]:g}), outside of its {size[0]}x{size[1]} pixels{turned}; "
                    "correct it, or leave it out where it is not seen"
                )
        if one.box is not None:
            try:
                square_of(size, one.box, name)
            except ConfigError as error:
                raise DataError(f"{labels.source}: {error}; correct it") from error


def _is_inside(point: Place, size: tuple[int, int]) -> bool:
    return all(-OUTSIDE <= value <= side - 1 + OUTSIDE for value, side in zip(point, size))


def _all_inside(objects: list[LabelledObject], size: tuple[int, int]) -> bool:
    return all(_is_inside(point, size) for one in objects for point in one.points if point)


def _tested(objects: dict[str, list[LabelledObject]], wishes: Wishes, scale: list[int]) -> set[str]:
    """The pictures of the test split: a share of them, or those of a list.

    A picture without a point that scales errors is never one.
    """
    able = [
        file
        for file, found in objects.items()
        if all(one.points[i] is not None for one in found for i in scale)
    ]
    try:
        share = float(wishes.test)
    except ValueError:
        path = Path(wishes.test)
        match, listed = _Names(list(objects)), [text for _, text in read_lines(path)]
        found = {text: match.find(text, str(path)) for text in listed}
        if lost := [text for text, file in found.items() if file not in able]:
            raise DataError(
                f"--test {path}: found {lost[0]}, which is no annotated picture with both points "
                "that scale errors; take it out of the list"
            ) from None
        return {file for file in found.values() if file is not None}
    if not 0 <= share < 1:
        raise ConfigError(
            f"--test: found {wishes.test}, needed a share from 0 to less than 1, or a file of names"
        )
    order = np.random.Generator(np.random.Philox(key=[wishes.seed, len(able)])).permutation(
        len(able)
    )
    return {able[i] for i in order[: round(share * len(objects))]}


def _split(
    plain: Split, name: str, by_name: dict[str, Sample], objects: dict[str, list[LabelledObject]]
) -> Split:
    """One sample for each object; `official_samples` are all that benchmark.yaml counts."""
    entries = [(file, one) for file, found in objects.items() for one in found]
    keys = unique_keys([file for file, _ in entries])
    samples = [
        Sample(
            key,
            {
                "file": file,
                "landmarks": [None if point is None else [*point] for point in one.points],
                "box": one.box,
            },
            by_name[file].place,
        )
        for key, (file, one) in zip(keys, entries, strict=True)
    ]
    options = {"other_formats": ENCODING, "subset": False, "official_samples": len(samples)}
    return replace(plain, name=name, samples=samples, excluded={}, options=options)


def _notes(
    labels: Labels,
    objects: dict[str, list[LabelledObject]],
    sizes: dict[str, tuple[int, int]],
    margin: float,
) -> list[str]:
    """What the user should know: points that no network sees, pictures without an object."""
    hidden = total = 0
    for file, found in objects.items():
        for one in found:
            points = np.array([point for point in one.points if point is not None], float)
            square = square_of(sizes[file], one.box, file, margin=margin)
            hidden += int((~square.are_seen(points)).sum())
            total += len(points)
    notes = []
    if hidden:
        notes.append(
            f"{hidden} of {total} points lie outside of the middle 0.71 of their square, which is "
            f"what networks see (margin {margin:g}); give boxes, or a larger --margin"
        )
    if labels.empty:
        notes.append(
            f"{len(labels.empty)} pictures are in {labels.source} without a point, the first "
            f"{labels.empty[0]}: they count as pictures without annotations"
        )
    return notes
