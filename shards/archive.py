"""Zips and tars from outside: which files they hold; no size or offset in them is trusted.

Tars are walked here, and not by webdataset, because webdataset walks them with tarfile, which in
Python 3.11 never ends on a pax header whose size is negative.
"""

import functools
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scemae.data.picture import MOST_BYTES, UnusablePicture
from scemae.data.storage.tar_headers import BLOCK, in_blocks
from scemae.errors import DataError, FileError
from scemae.files import disk

MOST_HEADER = disk.MIB  # bytes of a pax header or a long name
MOST_EXPANSION = 100  # times: pictures are compressed already
# Types of members: regular files; links, folders and devices, which have no content.
REGULAR, BODILESS = (b"0", b"\0", b"7"), (b"1", b"2", b"3", b"4", b"5", b"6")


@dataclass(frozen=True)
class Member:
    """A regular file in an archive: name, size in bytes, and in a tar where its bytes start."""

    name: str
    size: int
    offset: int = -1


class _BadTar(Exception):
    """Why a tar cannot be walked."""


def tar_members(path: Path) -> list[Member]:
    """The regular files of an uncompressed tar, in its order. Raises DataError."""
    try:
        with disk.open_regular(path) as file:
            return list(_walk(file.fileno(), os.fstat(file.fileno()).st_size))
    except (_BadTar, FileError, OSError) as error:
        if path.is_dir():
            raise DataError(f"{path}: a folder, where a tar was needed; rename it") from error
        raise DataError(f"{path}: not a whole tar file ({error}); copy it again") from error


def zip_members(path: Path) -> list[Member]:
    """The files of a zip, by its directory. Raises DataError."""
    try:
        with disk.open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return [
                Member(info.filename, info.file_size)
                for info in archive.infolist()
                if not info.filename.endswith("/")
            ]
    except Exception as error:  # zipfile raises struct.error, zlib.error, RuntimeError, ...
        raise DataError(f"{path}: not a whole zip file ({error}); download it again") from error


def read_zip_member(path: str, name: str, stamp: tuple[int, ...] = ()) -> bytes:
    """One file of a zip. The zip stays open for the next call with the same path and `stamp`.

    Raises UnusablePicture where it would expand to far more bytes than a picture has, DataError
    where the zip is damaged.
    """
    try:
        archive = _open_zip(path, stamp)
        info = archive.getinfo(name)
        if info.file_size > min(MOST_BYTES, MOST_EXPANSION * info.compress_size + disk.MIB):
            raise UnusablePicture(
                f"expands from {info.compress_size:,} bytes to {info.file_size:,}, which no "
                "picture does"
            )
        with archive.open(info) as file:
            return file.read(info.file_size)
    except UnusablePicture:
        raise
    except Exception as error:  # as above
        raise DataError(
            f"{path}:{name}: cannot be read ({error}); check the disk, or copy the source again, "
            "then run the same command"
        ) from error


@functools.lru_cache(maxsize=2)
def _open_zip(path: str, stamp: tuple[int, ...]) -> zipfile.ZipFile:
    # Opened once in each worker: to read the list of 202,599 members takes a second.
    return zipfile.ZipFile(disk.open_regular(path))


def _walk(file: int, end: int) -> Iterator[Member]:
    """The regular files. Each step moves forward by at least a block, and stays within the file."""
    at = 0
    extended: dict[str, str] = {}  # from a pax header or a long name, for the next member
    while at < end:
        header = os.pread(file, BLOCK, at)
        if len(header) == BLOCK and not any(header):
            return
        name, size, kind = _parse(header)
        if kind in BODILESS:
            size = 0
        elif kind in REGULAR:
            size = int(extended.get("size", size))
        body = at + BLOCK
        if body + size > end:
            raise _BadTar(f"it ends in the middle of {name!r}")
        if kind in (b"x", b"L"):
            if size > MOST_HEADER:
                raise _BadTar(f"its header {name!r} is {size:,} bytes long")
            extended |= _extended(kind, os.pread(file, size, body))
        else:
            name = extended.get("path", name)
            if kind in REGULAR and not name.endswith("/"):
                yield Member(name, size, body)
            if kind not in (b"K", b"g"):  # a long link and a global header say nothing of names
                extended = {}
        at = body + in_blocks(size)


def _parse(header: bytes) -> tuple[str, int, bytes]:
    """Name, size and type of a member by its block of 512 bytes."""
    if len(header) < BLOCK:
        raise _BadTar("it ends in the middle of a header")
    checked = header[:148] + b" " * 8 + header[156:]
    # Some old programs summed signed bytes.
    signed = sum(checked) - 256 * sum(byte > 127 for byte in checked)
    if _number(header[148:156]) not in (sum(checked), signed):
        raise _BadTar("a header's checksum is wrong")
    if (kind := header[156:157]) == b"S":
        raise _BadTar("it has a sparse member, which is not read")
    name, prefix = (_text(part.split(b"\0")[0]) for part in (header[:100], header[345:500]))
    return (
        f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name,
        _number(header[124:136]),
        kind,
    )


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or GNU's binary form. Raises _BadTar if negative."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip()
    if not re.fullmatch(rb"[0-7]*", digits):
        raise _BadTar("a header holds no number, or a negative one, where a size was needed")
    return int(digits or b"0", 8)


def _extended(kind: bytes, body: bytes) -> dict[str, str]:
    """The name, and the size where it is given, of the member that follows."""
    if kind == b"L":
        return {"path": _text(body.rstrip(b"\0"))}
    records = dict(_records(body))
    if any(key.startswith("GNU.sparse") for key in records):
        raise _BadTar("it has a sparse member, which is not read")
    if not re.fullmatch(r"[0-9]{1,18}", records.get("size", "0")):
        raise _BadTar(f"a header says a size of {records['size'][:40]!r}")
    return {key: records[key] for key in ("path", "size") if key in records}


def _records(body: bytes) -> Iterator[tuple[str, str]]:
    """Key and value of each `LENGTH KEY=VALUE` line of a pax header."""
    at = 0
    while at < len(body) and body[at]:
        digits = body[at : at + 8].partition(b" ")[0]
        length = int(digits) if re.fullmatch(rb"[0-9]{1,7}", digits) else 0
        key, equals, value = body[at + len(digits) + 1 : at + length - 1].partition(b"=")
        # Each step must move forward.
        if not equals or length <= len(digits) or at + length > len(body):
            raise _BadTar("a pax header is damaged")
        yield _text(key), _text(value)
        at += length


def _text(data: bytes) -> str:
    return data.decode("utf8", "surrogateescape")
