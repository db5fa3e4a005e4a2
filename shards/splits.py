"""What every source returns: splits of samples, each with its annotation and its image's place."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

from scemae.data.picture import MOST_BYTES, UnusablePicture
from scemae.errors import DataError, FileError
from scemae.files import disk
from scemae.shards.archive import read_zip_member
from scemae.shards.image import Frame

MOST_LIST = 256 * disk.MIB  # bytes of a list of names or numbers: CelebA's largest has 12 MB

T = TypeVar("T")


@dataclass(frozen=True)
class ImagePlace:
    """Where an image of `size` bytes lies: a file, a `member` of a zip, or at `offset` in a tar.

    `stamp` holds the file's times and its number on the disk: while they stay, the bytes do.
    """

    path: str
    size: int
    member: str = ""
    offset: int = -1
    stamp: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One image to write: `key` names it in the tar, `annotation` becomes KEY.json unchanged."""

    key: str
    annotation: dict
    place: ImagePlace


@dataclass
class Split:
    """All samples of one split in their final order, and what the manifest will say about them.

    `excluded` counts images left out on purpose, by reason. `frame` cuts and scales each image
    (None: the bytes are stored as they are). `accept_other_formats`: PNG, WebP and so on are
    encoded as JPEG instead of refused. `upright` turns images as their EXIF says; images with
    landmarks stay as stored, because landmarks count pixels as stored, and DVE reads them so.
    """

    dataset: str
    name: str
    samples: Sequence[Sample]
    excluded: dict[str, int] = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    frame: Frame | None = None
    accept_other_formats: bool = False
    upright: bool = False


def read_bytes(place: ImagePlace) -> bytes:
    """Read one image.

    Raises UnusablePicture where it is no regular file or far too large, DataError where the source
    cannot be read, which is not the image's fault.
    """
    if place.size > MOST_BYTES:
        raise UnusablePicture(f"{place.size:,} bytes, which no picture has")
    try:
        if place.member:
            return read_zip_member(place.path, place.member, place.stamp)
        if place.offset < 0:
            return disk.read_bytes(place.path, MOST_BYTES)
        with disk.open_regular(place.path) as file:
            file.seek(place.offset)
            return file.read(place.size)
    except FileError as error:
        raise UnusablePicture("no regular file, or larger than any picture") from error
    except OSError as error:
        raise DataError(
            f"{place.path}: cannot be read ({error}); check the disk, or copy the source again, "
            "then run the same command"
        ) from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, text) of each line that is not blank. Raises DataError.

    Without spaces and CR at its ends, and without the mark (BOM) that Windows puts before a text.
    """
    try:
        text = disk.read_bytes(path, MOST_LIST).decode("utf8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; complete the data set with it") from error
    except (OSError, FileError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as text ({error}); copy it again from the data set"
        ) from error
    for number, line in enumerate(text.splitlines(), start=1):
        if stripped := line.lstrip("\ufeff").strip():
            yield number, stripped


def only_once(path: Path, rows: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Rows of a list by their name. Raises DataError for a name with two rows."""
    result: dict[str, T] = {}
    for name, row in rows:
        if name in result:
            raise DataError(
                f"{path}: found {name} twice, needed each name once; take one out, or copy the "
                "list again"
            )
        result[name] = row
    return result


def file_place(folder: Path, name: str) -> ImagePlace:
    """The place of the image `name` of a list, a file in `folder`.

    Raises DataError if there is none, or it lies outside of `folder`.
    """
    path = folder / name
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise DataError(
            f"{path}: the data set's list names this image, which lies outside of {folder}; give "
            "the list that belongs to these images"
        )
    try:
        return stamped(str(path), path.stat())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", error)
        raise DataError(
            f"{path}: the data set's list names this image, and it cannot be opened ({why}); "
            "complete the images, or give the list that belongs to them"
        ) from error


def stamped(path: str, found: os.stat_result) -> ImagePlace:
    """The place of a file, by its os.stat."""
    return ImagePlace(
        path, found.st_size, stamp=(found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    )


def needed_folder(path: Path) -> Path:
    """Return `path` if it is a folder with something in it. Raises DataError otherwise."""
    if not path.is_dir():
        what = "not a folder" if path.exists() else "no such folder"
        raise DataError(f"{path}: {what}; give the folder that holds the raw data set")
    if not any(path.iterdir()):
        raise DataError(f"{path}: the folder is empty; give the folder that holds the raw data set")
    return path
