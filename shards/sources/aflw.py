"""AFLW in the two forms of the benchmark, five landmarks each (PROTOCOL 3.2).

AFLW_M, splits `aflw-train` and `aflw-test`:

    ROOT/**/facedata_cropped.csv           training crops, 150x150: rows with set == 1,
                                           columns 4-13 = x y interleaved
    ROOT/MTFL/testing.txt                  test crops, 150x150: columns 1-10 = x1...x5 y1...y5
    ROOT/MTFL/AFLW/*.jpg                   (MTFL may be ROOT itself)

AFLW_R, splits `aflwr-train` and `aflwr-test`, in the layout of lmdis-rep:

    ROOT/aflw_{train,test}_images.txt      names below ROOT/output
    ROOT/aflw_{train,test}_keypoints.mat   gt (n, 5, 2), y before x; hw (n, 2), height and width

AFLW_RC, split `aflwrc-test`, from labels of AFLW_R's test images that you supply: the paper's
corrected ones are not public (PROTOCOL 1.6 [U]), so this format is ours. A CSV in UTF-8, pixels of
the crop counted from 0 as in AFLW_R, one row for each name in aflw_test_images.txt, written as
there (a name that is repeated there has one row here), after this first line:

    file,lefteye_x,lefteye_y,righteye_x,righteye_y,nose_x,nose_y,
    leftmouth_x,leftmouth_y,rightmouth_x,rightmouth_y                (these two lines as one)
"""

import csv
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scemae.errors import DataError
from scemae.files.documents import Finite, Point
from scemae.shards.image import ENCODING
from scemae.shards.listing import unique_keys
from scemae.shards.sources.mat import read_mat
from scemae.shards.splits import Sample, Split, file_place, needed_folder, read_lines

OFFICIAL = {
    "aflw-train": 10_122,
    "aflw-test": 2_995,
    "aflwr-train": 10_122,
    "aflwr-test": 2_991,
    "aflwrc-test": 2_991,
}  # PROTOCOL 3.2; configs/benchmark/aflw_*.yaml say so too


@dataclass
class Keypoints:
    """aflw_*_keypoints.mat: points (n, 5, 2), y before x, and sizes (n, 2), height and width."""

    gt: list[list[Point]]
    hw: list[list[Finite]]


CORRECTED = [
    "file",
    *(
        f"{point}_{axis}"
        for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
        for axis in "xy"
    ),
]


def splits_m(root: Path) -> list[Split]:
    """AFLW_M's samples: both splits, or the one whose list is there.

    Landmarks are as stored: Matlab's, from 1. Raises DataError, also if a training photograph is
    among the test photographs.
    """
    needed_folder(root)
    tables = sorted(root.rglob("facedata_cropped.csv"))
    if len(tables) > 1:
        raise DataError(
            f"{root}: found {len(tables)} tables facedata_cropped.csv ({tables[0]}, {tables[1]}), "
            "needed one; take the others away"
        )
    table = tables[0] if tables else None
    folder = next(
        (folder for folder in (root / "MTFL", root) if (folder / "testing.txt").is_file()), None
    )
    if table is None and folder is None:
        raise DataError(
            f"{root}: found neither facedata_cropped.csv nor MTFL/testing.txt; give the folder "
            "that holds AFLW's training crops, MTFL, or both"
        )
    result = []
    if table:
        result.append(_training_crops(table))
    if folder:
        result.append(_mtfl(folder))
    if table and folder:
        _check_disjoint(table, result[1])
    return result


def splits_r(root: Path, *, corrected: Path | None = None) -> list[Split]:
    """AFLW_R's samples of both splits, landmarks as (x, y); `size` is [width, height] from `hw`.

    The official test list repeats 132 images; repetitions stay. With the labels `corrected` there
    is a third split, `aflwrc-test`: the test images again, with these labels. Raises DataError.
    """
    needed_folder(root)
    result = [_recropped(root, part) for part in ("train", "test")]
    return [*result, _relabelled(result[1], corrected)] if corrected else result


def read_corrected(path: Path, files: list[str]) -> dict[str, list[list[float]]]:
    """Five points (x, y) of each of `files`, in a table of corrected labels. Raises DataError."""
    rows = _table(path)
    if not rows or [name.strip() for name in rows[0]] != CORRECTED:
        raise DataError(
            f"{path}: found the columns {','.join(rows[0]) if rows else '(none)'}, needed "
            f"{','.join(CORRECTED)}; put this line first"
        )
    result: dict[str, list[list[float]]] = {}
    for row in rows[1:]:
        file = row[0].strip().replace("\\", "/")
        if file in result:
            raise DataError(f"{path}: found two rows for {file}, needed one; take one out")
        result[file] = _corrected_points(path, file, row[1:])
    strangers, absent = sorted(result.keys() - set(files)), sorted(set(files) - result.keys())
    for names, what in (
        (strangers, "rows name no test image"),
        (absent, "test images have no row"),
    ):
        if names:
            raise DataError(
                f"{path}: {len(names):,} {what} (first {names[0]}); give one row for each name in "
                "aflw_test_images.txt"
            )
    return result


def _training_crops(table: Path) -> Split:
    rows = _table(table)
    header = [name.strip() for name in rows[0]] if rows else []
    if not {"set", "crop_file"} <= set(header) or len(header) < 14:
        raise DataError(
            f"{table}: found the columns {', '.join(header[:6]) or '(none)'} ..., needed set, "
            "crop_file and five points in columns 4-13; copy it again from the data set"
        )
    if short := next(
        (number for number, row in enumerate(rows, start=1) if len(row) != len(header)), None
    ):
        raise DataError(
            f"{table}, row {short}: found {len(rows[short - 1])} columns, the header has "
            f"{len(header)}; copy it again from the data set"
        )
    chosen = [row for row in rows[1:] if row[header.index("set")].strip() == "1"]
    names = [row[header.index("crop_file")].strip().replace("\\", "/") for row in chosen]
    points = _numbers(table, [row[4:14] for row in chosen]).reshape(-1, 5, 2)
    excluded = {"set is not 1": len(rows) - 1 - len(chosen)}
    return _split("aflw_m", "aflw-train", table.parent, names, points, excluded=excluded)


def _mtfl(folder: Path) -> Split:
    rows = _mtfl_rows(folder / "testing.txt")
    aflw = [row for row in rows if row[0].startswith("AFLW/")]
    excluded = Counter({"in MTFL's test list, not AFLW": len(rows) - len(aflw)})
    if (folder / "training.txt").is_file():
        excluded["in MTFL's training list (LFW and web images)"] = len(
            _mtfl_rows(folder / "training.txt")
        )
    points = (
        _numbers(folder / "testing.txt", [row[1:11] for row in aflw])
        .reshape(-1, 2, 5)
        .transpose(0, 2, 1)
    )
    return _split(
        "aflw_m", "aflw-test", folder, [row[0] for row in aflw], points, excluded=excluded
    )


def _mtfl_rows(path: Path) -> list[list[str]]:
    rows = []
    for line, text in read_lines(path):
        fields = text.split()
        if len(fields) < 11:
            raise DataError(
                f"{path}, line {line}: found {len(fields)} columns, needed a name and ten numbers; "
                "copy it again from MTFL"
            )
        rows.append([fields[0].replace("\\", "/"), *fields[1:]])
    return rows


def _check_disjoint(table: Path, test: Split) -> None:
    """DVE's check: no training photograph is a test photograph. Raises DataError.

    MTFL calls AFLW's photograph image20752.jpg `0008-image20752.jpg`.
    """
    header, *rows = ([text.strip() for text in row] for row in _table(table))
    column, part = (
        header.index("image_file") if "image_file" in header else None,
        header.index("set"),
    )
    trained = {
        row[column] for row in rows if column is not None and row[column] and row[part] == "1"
    }
    if both := sorted(
        trained & {sample.annotation["file"].split("-")[-1] for sample in test.samples}
    ):
        raise DataError(
            f"{table}: {len(both):,} of its training photographs (first {both[0]}) are in MTFL's "
            "test list; use the official lists"
        )


def _recropped(root: Path, part: str) -> Split:
    listing, mat = root / f"aflw_{part}_images.txt", root / f"aflw_{part}_keypoints.mat"
    names = [text.replace("\\", "/") for _, text in read_lines(listing)]
    try:
        stored = read_mat(mat, "points", Keypoints, "found no `gt` and `hw`")
        points, sizes = np.array(stored.gt, float), np.array(stored.hw)
    except (FileNotFoundError, ValueError) as error:
        raise DataError(
            f"{mat}: found no `gt` and `hw` ({error}); copy it again from lmdis-rep's data"
        ) from error
    if points.shape != (len(names), 5, 2) or sizes.shape != (len(names), 2):
        raise DataError(
            f"{mat}: found gt {points.shape} and hw {sizes.shape}, {listing.name} has "
            f"{len(names):,} names, so (n, 5, 2) and (n, 2) were needed; use files of the same "
            "release"
        )
    split = _split(
        "aflw_r", f"aflwr-{part}", root / "output", names, points[:, :, ::-1], sizes=sizes[:, ::-1]
    )
    split.options["repeated_images"] = len(names) - len(set(names))
    return split


def _relabelled(test: Split, path: Path) -> Split:
    labels = read_corrected(path, [sample.annotation["file"] for sample in test.samples])
    samples = [
        Sample(
            sample.key,
            sample.annotation | {"landmarks": labels[sample.annotation["file"]]},
            sample.place,
        )
        for sample in test.samples
    ]
    return replace(
        test, name="aflwrc-test", samples=samples, options=test.options | {"labels": "corrected"}
    )


def _corrected_points(path: Path, file: str, row: list[str]) -> list[list[float]]:
    if len(row) != 10:
        raise DataError(
            f"{path}: found {len(row)} numbers for {file}, needed the 10 that its first line names"
        )
    try:
        numbers = [float(text) for text in row]
    except ValueError as error:
        raise DataError(
            f"{path}: found no number for {file} ({error}); give pixels of the crop, such as 41.25"
        ) from error
    if not np.isfinite(numbers).all():
        raise DataError(
            f"{path}: found {', '.join(row)} for {file}, needed numbers that are finite; every "
            "point of every image is needed"
        )
    return [numbers[i : i + 2] for i in range(0, 10, 2)]


def _split(
    dataset: str,
    name: str,
    folder: Path,
    files: list[str],
    points: np.ndarray,
    *,
    sizes: np.ndarray | None = None,
    excluded: dict[str, int] | None = None,
) -> Split:
    samples = []
    for i, (key, file) in enumerate(zip(unique_keys(files), files)):
        annotation = {"file": file, "landmarks": points[i].tolist()}
        if sizes is not None:
            annotation["size"] = [int(side) for side in sizes[i]]
        samples.append(Sample(key, annotation, file_place(folder, file)))
    if dataset == "aflw_m":
        _check_repeated(folder, samples)
    options = {
        "subset": len(samples) != OFFICIAL[name],
        "official_samples": OFFICIAL[name],
        "other_formats": ENCODING,
    }
    kept = {reason: count for reason, count in (excluded or {}).items() if count}
    return Split(dataset, name, samples, kept, options, accept_other_formats=True)


def _check_repeated(folder: Path, samples: list[Sample]) -> None:
    """Raises DataError where two rows of AFLW_M give one image different landmarks.

    AFLW_R's official list does so, and is not checked.
    """
    first: dict[str, dict] = {}
    for sample in samples:
        file = sample.annotation["file"]
        if first.setdefault(file, sample.annotation) != sample.annotation:
            raise DataError(
                f"{folder / file}: found two annotations of this image that contradict each other; "
                "take the wrong row out of the list"
            )


def _table(path: Path) -> list[list[str]]:
    """The rows of a CSV. Raises DataError."""
    try:
        return list(csv.reader(text for _, text in read_lines(path)))
    except csv.Error as error:
        raise DataError(
            f"{path}: not a table of comma-separated values ({error}); copy it again"
        ) from error


def _numbers(path: Path, rows: list[list[str]]) -> np.ndarray:
    try:
        found = np.array(rows, dtype=np.float64).reshape(-1, 10)
        if not np.isfinite(found).all():
            raise ValueError("found one that is not finite")
        return found
    except ValueError as error:
        raise DataError(
            f"{path}: a coordinate is not a number ({error}); copy it again from the data set"
        ) from error
