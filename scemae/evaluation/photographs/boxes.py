"""Where the object of a photograph is: boxes by hand, from a file, or from the user's detector.

    --box 80,40,430,390                    by hand, once for each photograph
    --boxes boxes.csv                      file,left,top,right,bottom; or JSON with "boxes"
    --boxes-from my_detector:find_boxes    a function of a picture

JSON is as in our own annotations: {"boxes": {"a.jpg": [40, 10, 200, 170]}}. Where a picture has
several boxes, the largest is used. Without any of these the box is the centre.
"""

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from scemae.errors import ConfigError, DataError, FileError
from scemae.evaluation.photographs.photograph import parse_boxes
from scemae.files import disk
from scemae.process.progress import say

COLUMNS = ["file", "left", "top", "right", "bottom"]
MOST = 256 * disk.MIB  # bytes of a file of boxes
NEEDED = f'a CSV with the columns {",".join(COLUMNS)}, or JSON with "boxes"'

# A picture, upright and in RGB, to a box (x0, y0, x1, y1) in its pixels, or to several.
BoxFunction: TypeAlias = Callable[[Image.Image], Any]
# A box, a function that finds it, or None: the centre.
Where: TypeAlias = Sequence[float] | BoxFunction | None


def chosen(given: argparse.Namespace, photographs: list[Path]) -> list[Where]:
    """A box, or what finds it, for each photograph, from the options. Raises ConfigError,
    DataError.
    """
    options = {"--box": given.box, "--boxes": given.boxes, "--boxes-from": given.boxes_from}
    found = [name for name, value in options.items() if value]
    if len(found) > 1:
        raise ConfigError(f"found {' and '.join(found)}; give one of them")
    if given.boxes is not None:
        return [*of_file(given.boxes, photographs)]
    if given.boxes_from is not None:
        return [find_function(given.boxes_from)] * len(photographs)
    return [*parse_boxes(given.box, photographs)]


def option_of(given: argparse.Namespace) -> str:
    """The option that the boxes come from, for messages."""
    return "--boxes" if given.boxes else "--boxes-from" if given.boxes_from else "--box"


def corners_of(where: Where, image: Image.Image, name: Path) -> list[float] | None:
    """The box [x0, y0, x1, y1] of a picture, by asking a function for it; None for the centre.

    Raises DataError where the function fails or finds no box.
    """
    if callable(where):
        return _ask(where, image, name)
    return None if where is None else [float(one) for one in where]


def find_function(name: str) -> BoxFunction:
    """The function that "package.module:function" names. Raises ConfigError."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise ConfigError(
            f"--boxes-from: found {name!r}; give package.module:function, a function that takes a "
            "picture and returns its boxes"
        )
    try:
        found = import_module(module)
    except Exception as error:  # the module is the user's: anything may happen in it
        raise ConfigError(
            f"--boxes-from: {module} cannot be imported ({_short(error)}); install it, or name its "
            "folder in PYTHONPATH"
        ) from error
    one = getattr(found, function, None)
    if not callable(one):
        what = "no function" if one is None else f"a {type(one).__name__} instead of a function"
        raise ConfigError(f"--boxes-from: found {what} {function} in {module}; correct the name")
    return one


def _ask(function: BoxFunction, image: Image.Image, name: Path) -> list[float]:
    title = getattr(function, "__name__", type(function).__name__)
    needed = "boxes of four numbers, left, top, right, bottom, were needed"
    try:
        answer = function(image.copy())
    except Exception as error:  # the function is the user's
        raise DataError(
            f"{name}: the box function {title} failed ({_short(error)}); correct it, or give --box"
        ) from error
    try:
        found = np.asarray([] if answer is None else answer, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name}: the box function {title} returned {repr(answer)[:60]}; {needed}"
        ) from error
    if not found.size:
        raise DataError(
            f"{name}: the box function {title} found nothing; give the box with --box, or leave "
            "the picture out"
        )
    boxes = found[None] if found.ndim == 1 else found
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not all(map(_is_box, boxes.tolist())):
        raise DataError(f"{name}: the box function {title} returned {repr(answer)[:60]}; {needed}")
    return _largest(boxes.tolist(), name)


def of_file(path: Path, photographs: list[Path]) -> list[list[float]]:
    """The box of each photograph in a file of boxes.

    A line belongs to a photograph whose path ends with its `file`. Raises DataError for a file that
    cannot be read, ConfigError for a photograph without a box.
    """
    known = read_boxes(path)
    found = []
    for photograph in photographs:
        names = ["/".join(photograph.parts[-n:]) for n in range(1, len(photograph.parts) + 1)]
        name = next((one for one in reversed(names) if one in known), None)
        if name is None:
            raise ConfigError(
                f"{path}: found no box for {photograph}; add a line for {photograph.name}, or "
                "leave the photograph out"
            )
        found.append(_largest(known[name], photograph))
    return found


def read_boxes(path: Path) -> dict[str, list[list[float]]]:
    """The boxes of a file by the name of their picture. Raises DataError."""
    try:
        text = disk.read_bytes(path, MOST).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; give {NEEDED}") from error
    except (OSError, FileError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); give {NEEDED}") from error
    rows = _of_json(text, path) if text.lstrip().startswith(("{", "[")) else _of_csv(text, path)
    found: dict[str, list[list[float]]] = {}
    for where, name, box in rows:
        if not _is_box(box):
            raise DataError(
                f"{path}, {where}: found the box {box}, needed left, top, right, bottom with left "
                "< right and top < bottom; correct it"
            )
        found.setdefault(Path(name).as_posix(), []).append(box)
    return found


def _of_csv(text: str, path: Path) -> list[tuple[str, str, list[float]]]:
    try:
        lines = [row for row in csv.reader(io.StringIO(text, newline="")) if any(row)]
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}); give {NEEDED}") from error
    head = [cell.strip() for cell in lines[0]] if lines else []
    if sorted(head) != sorted(COLUMNS):
        raise DataError(f"{path}: found the columns {','.join(head) or 'none'}; give {NEEDED}")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        cells = dict(zip(head, (cell.strip() for cell in line)))
        try:
            box = [float(cells[name]) for name in COLUMNS[1:]]
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{path}, row {number}: found {','.join(line)!r}, a file and four numbers were "
                "needed; correct it"
            ) from error
        rows.append((f"row {number}", cells["file"], box))
    return rows


def _of_json(text: str, path: Path) -> list[tuple[str, str, list[float]]]:
    try:
        found = json.loads(text)["boxes"].items()
        rows = []
        for name, value in found:
            boxes = value if isinstance(value[0], list) else [value]
            rows += [(name, name, [float(edge) for edge in box]) for box in boxes]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise DataError(
            f'{path}: found JSON without "boxes" of four numbers for each picture '
            f"({_short(error)}); give {NEEDED}"
        ) from error
    return rows


def _largest(boxes: list[list[float]], name: Path) -> list[float]:
    """The largest of some boxes, which is said where there are several."""
    if len(boxes) > 1:
        say(f"{name}: {len(boxes)} boxes, the largest is used", sys.stderr)
    return max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))


def _is_box(box: list[float]) -> bool:
    is_whole = len(box) == 4 and all(map(math.isfinite, box))
    return is_whole and box[0] < box[2] and box[1] < box[3]


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
