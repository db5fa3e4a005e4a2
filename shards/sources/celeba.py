"""CelebA and MAFL: `train` and `val` for pretraining, `mafl-train` and `mafl-test` to be tested on.

    ROOT/img_align_celeba/NNNNNN.jpg                 or img_align_celeba.zip, or tars of these names
    ROOT/Eval/list_eval_partition.txt                needed
    ROOT/Anno/list_landmarks_align_celeba.txt        without it: no landmarks and no MAFL splits
    ROOT/Anno/identity_CelebA.txt                    without it: no identities
    ROOT/MAFL/training.txt, ROOT/MAFL/testing.txt    without them: no MAFL splits

Images may also lie under ROOT/Img, and the lists directly under ROOT.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scemae.data.geometry import CELEBA_SIZE, celeba_box
from scemae.errors import DataError
from scemae.shards.image import QUALITY, Frame
from scemae.shards.listing import Listing
from scemae.shards.sources.celeba_images import Faces, find_images
from scemae.shards.splits import ImagePlace, Sample, Split, needed_folder, only_once, read_lines

FULL = 202_599  # images of the whole CelebA
FULL_TRAIN = 162_770  # of them in partition 0
# MAFL's training and test images (PROTOCOL 3.2); configs/benchmark/mafl.yaml says so too.
FULL_MAFL = (19_000, 1_000)
VAL_IMAGES = 2_000  # PROTOCOL 3.2: the first of partition 2 without MAFL


@dataclass(frozen=True)
class Mafl:
    """File names of MAFL's training and test images; empty sets if its lists are absent."""

    train: frozenset[str] = field(default_factory=frozenset)
    test: frozenset[str] = field(default_factory=frozenset)


def splits(
    root: Path,
    *,
    exclude_mafl_train: bool = True,
    resize: int | None = None,
    quality: int = QUALITY,
) -> list[Split]:
    """CelebA's samples by split, each in the order of the file names. Raises DataError.

    train is partition 0 without MAFL's test images (always) and without MAFL's training images (by
    default, which leaves 146,501 of 162,770: PROTOCOL 1.4 [D]); val is the first 2,000 of partition
    2 without MAFL (PROTOCOL 3.2). Landmarks are as the file has them. `resize` stores the square
    frame (rows 30..207) scaled to resize x resize as a JPEG of `quality`, with landmarks in its
    pixels: a choice of ours for small shards; it is lossy, and the manifest says so.
    """
    images = find_images(needed_folder(root))
    partition = read_partition(_needed_list(root, "Eval", "list_eval_partition.txt"), images)
    listed = _list(root, "Anno", "list_landmarks_align_celeba.txt")
    landmarks = read_landmarks(listed, images) if listed else {}
    listed = _list(root, "Anno", "identity_CelebA.txt")
    identities = read_identities(listed, images) if listed else {}
    mafl = read_mafl(root, partition)
    if len(images) == FULL:
        _check_official(partition, mafl)
    frame = Frame("celeba-178", CELEBA_SIZE, celeba_box(), resize, quality) if resize else None
    options: dict[str, Any] = {
        "subset": len(images) != FULL,
        "exclude_mafl_train": exclude_mafl_train,
    }
    if frame:
        options |= frame.options()
    if notes := _notes(landmarks, identities, mafl):
        options["notes"] = notes
    faces, result = Faces(images, landmarks, identities, frame), []
    rows = {image: row for row, image in enumerate(images)}
    for name, (chosen, excluded) in _choose(partition, mafl, exclude_mafl_train).items():
        if not name.startswith("mafl") or (landmarks and mafl.test):
            samples = Listing(faces.sample, np.array([rows[image] for image in chosen], np.int32))
            of_split = options | _official(name, images, samples)
            result.append(Split("celeba", name, samples, excluded, of_split, frame))
    return result


def read_partition(path: Path, images: Iterable[str]) -> dict[str, int]:
    """Read rows `000001.jpg 0`; 0, 1, 2 are CelebA's train, validation, test. Raises DataError."""
    rows = only_once(
        path, ((fields[0], _whole(path, line, fields[1])) for line, fields in _rows(path, 2))
    )
    if wrong := {name: value for name, value in rows.items() if value not in (0, 1, 2)}:
        name, value = next(iter(wrong.items()))
        raise DataError(
            f"{path}: found partition {value} for {name}, needed 0, 1 or 2; copy the list again"
        )
    return _agree(path, rows, images)


def read_landmarks(path: Path, images: Iterable[str]) -> dict[str, list[list[int]]]:
    """Read the count, the header and rows `000001.jpg x y x y ...` of five points.

    Raises DataError.
    """
    head = [text for _, text in zip(range(2), (text for _, text in read_lines(path)))]
    listed = (
        (fields[0], [_whole(path, line, text) for text in fields[1:]])
        for line, fields in _rows(path, 11, skip=2)
    )
    rows = {
        name: [row[i : i + 2] for i in range(0, 10, 2)]
        for name, row in only_once(path, listed).items()
    }
    count = head[0] if head else "nothing"
    if (count.lstrip("0") or "0") != str(len(rows)):
        raise DataError(
            f"{path}: its first line says {count[:40]}, but {len(rows):,} different images follow; "
            "copy the list again from the data set"
        )
    return _agree(path, rows, images)


def read_identities(path: Path, images: Iterable[str]) -> dict[str, int]:
    """Read rows `000001.jpg 2880`. Raises DataError."""
    rows = only_once(
        path, ((fields[0], _whole(path, line, fields[1])) for line, fields in _rows(path, 2))
    )
    return _agree(path, rows, images)


def read_mafl(root: Path, partition: dict[str, int]) -> Mafl:
    """Read MAFL's two lists of names; empty sets if both are absent. Raises DataError."""
    names = ("training.txt", "testing.txt")
    paths = [path for name in names if (path := _list(root, "MAFL", name))]
    if not paths:
        return Mafl()
    if len(paths) < len(names):
        raise DataError(
            f"{root}/MAFL: found only one of training.txt and testing.txt; give both or neither"
        )
    train, test = (
        frozenset(only_once(path, ((text, line) for line, text in read_lines(path))))
        for path in paths
    )
    if strangers := sorted((train | test) - partition.keys()):
        raise DataError(
            f"{root}/MAFL: {len(strangers):,} of its names (first {strangers[0]}) are not in "
            "CelebA's partition list; give the MAFL lists that belong to these images"
        )
    if both := sorted(train & test):
        raise DataError(
            f"{root}/MAFL: {len(both):,} names (first {both[0]}) are in training.txt and in "
            "testing.txt; copy the official lists again"
        )
    return Mafl(train, test)


def _choose(
    partition: dict[str, int], mafl: Mafl, exclude_mafl_train: bool
) -> dict[str, tuple[list[str], dict[str, int]]]:
    """For each split its names, and how many others were excluded for which reason."""

    def train(name: str) -> str:
        if partition[name] != 0:
            return "not in partition 0 (train)"
        if name in mafl.test:
            return "in MAFL's test list"
        return "in MAFL's training list" if exclude_mafl_train and name in mafl.train else ""

    def val(name: str) -> str:
        if partition[name] != 2:
            return "not in partition 2 (test)"
        return "in one of MAFL's lists" if name in mafl.train or name in mafl.test else ""

    chosen = {
        "train": _part(partition, train),
        "val": _part(partition, val),
        "mafl-train": _part(
            partition, lambda name: "" if name in mafl.train else "not in MAFL's training list"
        ),
        "mafl-test": _part(
            partition, lambda name: "" if name in mafl.test else "not in MAFL's test list"
        ),
    }
    names, excluded = chosen["val"]
    if len(names) > VAL_IMAGES:
        chosen["val"] = (
            names[:VAL_IMAGES],
            excluded | {f"after the first {VAL_IMAGES:,}": len(names) - VAL_IMAGES},
        )
    return chosen


def _part(names: Iterable[str], reason: Callable[[str], str]) -> tuple[list[str], dict[str, int]]:
    reasons = {name: reason(name) for name in sorted(names)}
    excluded = Counter(why for why in reasons.values() if why)
    return [name for name, why in reasons.items() if not why], dict(excluded)


def _official(name: str, images: dict[str, ImagePlace], samples: Sequence[Sample]) -> dict:
    """Options of MAFL's splits: the official number of images, and whether this set differs."""
    official = {"mafl-train": FULL_MAFL[0], "mafl-test": FULL_MAFL[1]}.get(name)
    if official is None:
        return {}
    return {"subset": len(images) != FULL or len(samples) != official, "official_samples": official}


def _notes(landmarks: dict, identities: dict, mafl: Mafl) -> list[str]:
    notes = {
        "no landmark list: no annotations and no MAFL splits": not landmarks,
        "no identity list": not identities,
        "no MAFL lists: no MAFL splits, and MAFL's images could not be taken out of train and "
        "val": not mafl.test,
    }
    return [note for note, applies in notes.items() if applies]


def _check_official(partition: dict[str, int], mafl: Mafl) -> None:
    found = sum(part == 0 for part in partition.values())
    if found != FULL_TRAIN:
        raise DataError(
            f"list_eval_partition.txt: found {found:,} images in partition 0, the full CelebA has "
            f"{FULL_TRAIN:,}; copy the official list again"
        )
    if mafl.test and (len(mafl.train), len(mafl.test)) != FULL_MAFL:
        raise DataError(
            f"MAFL: found {len(mafl.train):,} training and {len(mafl.test):,} test names, MAFL has "
            f"{FULL_MAFL[0]:,} and {FULL_MAFL[1]:,}; copy the official lists again"
        )


def _list(root: Path, folder: str, name: str) -> Path | None:
    return next((path for path in (root / folder / name, root / name) if path.is_file()), None)


def _needed_list(root: Path, folder: str, name: str) -> Path:
    path = _list(root, folder, name)
    if path is None:
        raise DataError(
            f"{root}: found no {folder}/{name}, which says what is train and test; put CelebA's "
            "list there, or use the source `folder` for images without lists"
        )
    return path


def _rows(path: Path, columns: int, skip: int = 0) -> Iterable[tuple[int, list[str]]]:
    for order, (line, text) in enumerate(read_lines(path)):
        fields = text.split()
        if order >= skip and len(fields) != columns:
            raise DataError(
                f"{path}, line {line}: found {len(fields)} columns, needed {columns}; "
                "copy the list again from the data set"
            )
        if order >= skip:
            yield line, fields


def _whole(path: Path, line: int, text: str) -> int:
    if not re.fullmatch(r"[-+]?[0-9]{1,9}", text):
        raise DataError(
            f"{path}, line {line}: found {text[:40]!r}, needed a whole number of up to nine "
            "digits; copy the list again from the data set"
        )
    return int(text)


def _agree(path: Path, rows: dict, images: Iterable[str]) -> dict:
    unlisted, absent = sorted(set(images) - rows.keys()), sorted(rows.keys() - set(images))
    if unlisted or absent:
        counts = [
            f"{len(names):,} {what} (first {names[0]})"
            for names, what in ((unlisted, "images are not in it"), (absent, "names have no image"))
            if names
        ]
        raise DataError(
            f"{path}: does not belong to these images: {' and '.join(counts)}; "
            "give the list of the same data set, and all of its images"
        )
    return rows
