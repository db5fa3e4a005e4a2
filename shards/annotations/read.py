"""Which format an annotation file has, and its points: `read_labels(paths)`."""

import json
from pathlib import Path

from scemae.errors import DataError, FileError
from scemae.files import disk
from scemae.shards.annotations import coco, cvat, label_studio, own, table
from scemae.shards.annotations.labels import Labels, merge

MOST = 256 * disk.MIB  # bytes of one file
FORMATS = (
    "COCO's key points, Label Studio's JSON, CVAT's XML for images, DeepLabCut's or another CSV, "
    "or our own JSON"
)


def read_labels(paths: list[Path], category: str | None = None) -> Labels:
    """The points of one or several annotation files of one category. Raises DataError."""
    return merge([_read(path, category) for path in paths])


def _read(path: Path, category: str | None) -> Labels:
    text = _text(path)
    try:
        found = _parse(text, path, category)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}: found what does not belong there ({why}), needed {FORMATS}; export it again"
        ) from error
    if not found.objects:
        raise DataError(
            f"{path}: found no picture with a point; annotate some pictures, then export again"
        )
    return found


def _parse(text: str, path: Path, category: str | None) -> Labels:
    start, source = text.lstrip()[:1], str(path)
    if start == "<":
        return cvat.read(text, source)
    if start not in ("{", "["):
        return table.read(text, source)
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if coco.is_coco(found):
        return coco.read(found, source, category)
    if label_studio.is_label_studio(found):
        return label_studio.read(found, source)
    if own.is_own(found):
        return own.read(found, source)
    raise DataError(f"{path}: found JSON of another kind, needed {FORMATS}; export it again")


def _once(pairs: list) -> dict:
    """A JSON object whose keys are all different. Raises ValueError."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} twice")
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"{word}, which is no number")


def _text(path: Path) -> str:
    try:
        return disk.read_bytes(path, MOST).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; give an annotation file") from error
    except (OSError, FileError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); export it again") from error
