"""What every source gives: splits of samples, each with its annotation and the place where its bytes lie."""

import functools
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scemae.errors import DataError
from scemae.shards.image import Frame


@dataclass(frozen=True)
class Place:
    """Where an image of `size` bytes lies: a file, the member `member` of a zip, or from `offset` on in a tar."""

    path: str
    size: int
    member: str = ""
    offset: int = -1


@dataclass(frozen=True)
class Sample:
    """One image to be written: `key` names it in the tar, `annotation` becomes KEY.json as it is."""

    key: str
    annotation: dict
    place: Place


@dataclass
class Split:
    """All samples of one split in their final order, and what the manifest is to say about them.

    `excluded` counts images left out on purpose, by reason. `frame` cuts and scales each image (None: bytes stay
    untouched). `accept_other_formats` lets PNG, WebP and so on in, encoded as JPEG. `upright` turns images as their EXIF
    says; images with landmarks stay as stored, which is how the landmarks were counted and how DVE reads them.
    """

    dataset: str
    name: str
    samples: list[Sample]
    excluded: dict[str, int] = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    frame: Frame | None = None
    accept_other_formats: bool = False
    upright: bool = False


def read_bytes(place: Place) -> bytes:
    """Read one image. Raises DataError if the source cannot be read (which is no fault of the image)."""
    try:
        if place.member:
            return _open_zip(place.path).read(place.member)
        with open(place.path, "rb") as file:
            file.seek(max(0, place.offset))
            return file.read(place.size if place.offset >= 0 else -1)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{place.path}{':' * bool(place.member)}{place.member}: cannot be read ({error}); check the "
                        "disk, or copy the source again, then run the same command") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Give (line number, text) of each line that is not blank, without spaces and CR at its ends. Raises DataError."""
    try:
        text = path.read_text(encoding="utf8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; complete the data set with it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); copy it again from the data set") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def file_place(path: Path) -> Place:
    """The place of an image that is a file of its own. Raises DataError if there is none."""
    try:
        return Place(str(path), path.stat().st_size)
    except OSError as error:
        raise DataError(f"{path}: the data set's list names this image, and it cannot be opened ({error.strerror}); "
                        "complete the images, or give the list that belongs to them") from error


def needed_folder(path: Path) -> Path:
    """Return `path` if it is a folder with something in it. Raises DataError otherwise."""
    if not path.is_dir():
        raise DataError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}; "
                        "give the folder that holds the raw data set")
    if not any(path.iterdir()):
        raise DataError(f"{path}: the folder is empty; give the folder that holds the raw data set")
    return path


def unique_keys(names: Iterable[str]) -> list[str]:
    """Make one tar key of each file name: letters, digits, - and _ only, at most 80 long, none twice.

    A dot would end the key for webdataset, and a slash would make a folder; a repeated name gets -2, -3, ...
    """
    keys: dict[str, None] = {}
    for name in names:
        stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", name)
        key = base = re.sub(r"[^A-Za-z0-9-]+", "_", stem).strip("_")[-80:] or "image"
        number = 1
        while key in keys:
            number += 1
            key = f"{base}-{number}"
        keys[key] = None
    return list(keys)


@functools.lru_cache(maxsize=2)
def _open_zip(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)  # once in each worker: the directory of 202,599 members takes a second to read
