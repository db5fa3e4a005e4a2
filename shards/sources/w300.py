"""300-W: 68 iBUG landmarks and a face box, as splits `w300-train` and `w300-test` (PROTOCOL 3.2).

ROOT/afw, ROOT/helen/trainset, ROOT/lfpw/trainset              train
ROOT/helen/testset, ROOT/lfpw/testset, ROOT/ibug               test; of ibug only names that begin
                                                               with "image"
each holding NAME.jpg or NAME.png beside NAME.pts
ROOT/Bounding Boxes/bounding_boxes_*.mat                       `bb_ground_truth` and the order of
                                                               the images
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scemae.errors import DataError
from scemae.files.documents import Finite
from scemae.shards.image import ENCODING
from scemae.shards.listing import unique_keys
from scemae.shards.sources.mat import read_mat
from scemae.shards.splits import Sample, Split, file_place, needed_folder, only_once, read_lines

FOLDERS = {
    "w300-train": ("afw", "helen/trainset", "lfpw/trainset"),
    "w300-test": ("helen/testset", "lfpw/testset", "ibug"),
}
OFFICIAL = {"w300-train": 3_148, "w300-test": 689}  # PROTOCOL 3.2
SUFFIXES = (".jpg", ".png", ".jpeg", ".JPG", ".PNG")


def splits(root: Path, *, boxes: str = "official") -> list[Split]:
    """The samples of each split that has a folder here; any number but 3,148 / 689 is a subset.

    `boxes`: "official" takes bounding_boxes_*.mat; "landmarks" takes the extent of the 68 points, a
    choice of ours for folders without those files. Numbers stay as stored (Matlab's, from 1).
    Raises DataError.
    """
    needed_folder(root)
    present = {
        name: [folder for folder in folders if (root / folder).is_dir()]
        for name, folders in FOLDERS.items()
    }
    if not any(present.values()):
        raise DataError(
            f"{root}: found none of {', '.join(sum(FOLDERS.values(), ()))}; "
            "give the folder that holds 300-W's parts"
        )
    return [_split(root, name, folders, boxes) for name, folders in present.items() if folders]


def read_points(path: Path) -> list[list[float]]:
    """Read the 68 points between the braces of a .pts file. Raises DataError."""
    lines = [text for _, text in read_lines(path)]
    try:
        rows = [
            [float(number) for number in text.split()]
            for text in lines[lines.index("{") + 1 : lines.index("}")]
        ]
    except ValueError as error:
        raise DataError(
            f"{path}: not a whole .pts file ({error}); copy it again from 300-W"
        ) from error
    if len(rows) != 68 or any(len(row) != 2 for row in rows):
        raise DataError(
            f"{path}: found {len(rows)} points, needed 68 of two numbers; copy it again from 300-W"
        )
    if not np.isfinite(rows).all():
        raise DataError(f"{path}: found a coordinate that is not finite; copy it again from 300-W")
    return rows


def read_boxes(path: Path) -> dict[str, list[float]]:
    """[x0, y0, x1, y1] (`bb_ground_truth`) of each image, in the file's order. Raises DataError."""
    kind, needed = list[tuple[str, list[Finite]]], "not a file of 300-W's bounding boxes"
    try:
        boxes = only_once(path, read_mat(path, "boxes", kind, needed))
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; add 300-W's bounding boxes, or build with `--boxes landmarks` "
            "to take the extent of the landmarks instead"
        ) from error
    for name, box in boxes.items():
        if "/" in name or "\0" in name or name in ("", ".", ".."):
            raise DataError(
                f"{path}: found {name[:80]!r} where the name of an image was needed; copy it again"
            )
        if len(box) != 4 or not (box[2] > box[0] and box[3] > box[1]):
            raise DataError(
                f"{path}: found the box {box} for {name}, needed [x0, y0, x1, y1]; copy it again"
            )
    return boxes


def _split(root: Path, name: str, folders: list[str], boxes: str) -> Split:
    excluded: Counter = Counter()
    found = [entry for folder in folders for entry in _entries(root, folder, boxes, excluded)]
    keys = unique_keys([file for file, _, _ in found])
    samples = [
        Sample(key, {"file": file, "landmarks": points, "box": box}, file_place(root, file))
        for key, (file, points, box) in zip(keys, found)
    ]
    options = {
        "subset": len(samples) != OFFICIAL[name],
        "official_samples": OFFICIAL[name],
        "boxes": boxes,
        "folders": folders,
        "absent_folders": [folder for folder in FOLDERS[name] if folder not in folders],
        "other_formats": ENCODING,
    }
    return Split("w300", name, samples, dict(excluded), options, accept_other_formats=True)


def _entries(
    root: Path, folder: str, boxes: str, excluded: Counter
) -> Iterator[tuple[str, list[list[float]], list[float]]]:
    """(file, points, box) of each image of one folder; counts the others in `excluded`."""
    pictures = {path.name for path in (root / folder).iterdir() if path.suffix in SUFFIXES}
    official = (
        read_boxes(root / "Bounding Boxes" / _box_file(folder)) if boxes == "official" else {}
    )
    for image in official or sorted(pictures):
        if folder == "ibug" and not image.startswith("image"):
            excluded['in ibug, name does not begin with "image"'] += 1
            continue
        points = read_points((root / folder / image).with_suffix(".pts"))
        yield f"{folder}/{image}", points, official.get(image) or _extent(points)
    if official and (unboxed := len(pictures - official.keys())):
        excluded[f"in {folder}, without an official box"] += unboxed


def _box_file(folder: str) -> str:
    return f"bounding_boxes_{folder.replace('/', '_')}.mat"


def _extent(points: list[list[float]]) -> list[float]:
    return [*np.min(points, axis=0).tolist(), *np.max(points, axis=0).tolist()]
