"""Where images lie on the disk, as arrays: enough for a process without the index to read them."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import xxhash

from scemae.data.storage.tar_headers import BLOCK, is_header
from scemae.files.disk import MOST_OPEN


@dataclass
class Members:
    """The places of b images. Each lies in a file, behind the header that it has in its tar.

    files: paths. file: the number of the path that each image is in, (b,) int64. offset, size: in
    bytes, header included, (b,) int64. names: in their tars. xxh3: XXH3-64 of the bytes without the
    header, (b,) uint64, known where `hashed` (b,) bool. foreign: the tar is of another program,
    (b,) bool.
    """

    files: list[str]
    file: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    names: list[str]
    xxh3: np.ndarray
    hashed: np.ndarray
    foreign: np.ndarray

    def __len__(self) -> int:
        return len(self.file)


def together(count: int, parts: Iterable[tuple[np.ndarray, Members]]) -> Members:
    """The places of `count` images, put together from parts; each part comes with its rows."""
    found = Members(
        [],
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
        [""] * count,
        np.zeros(count, np.uint64),
        np.zeros(count, bool),
        np.zeros(count, bool),
    )
    for rows, part in parts:
        found.file[rows] = part.file + len(found.files)
        found.files += part.files
        for row, name in zip(rows.tolist(), part.names):
            found.names[row] = name
        for name in ("offset", "size", "xxh3", "hashed", "foreign"):
            getattr(found, name)[rows] = getattr(part, name)
    return found


@dataclass
class Reader:
    """Reads members, and keeps files open."""

    _open: dict[str, int] = field(default_factory=dict)

    def read(self, members: Members, row: int) -> bytes | None:
        """The bytes of image number `row`; None where something else, or nothing, is there."""
        name, size = members.files[members.file[row]], int(members.size[row])
        try:
            data = os.pread(self._descriptor(name), size, int(members.offset[row]))
        except OSError:
            data = b""
        is_right = is_header(data, members.names[row], size - BLOCK, bool(members.foreign[row]))
        if len(data) < size or not is_right:
            self._close(name)  # it may have been removed, and another one may have its name
            return None
        image = data[BLOCK:]
        if members.hashed[row] and xxhash.xxh3_64_intdigest(image) != members.xxh3[row]:
            return None
        return image

    def _descriptor(self, name: str) -> int:
        if name not in self._open:
            if len(self._open) == MOST_OPEN:
                self._close(next(iter(self._open)))
            self._open[name] = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        return self._open[name]

    def _close(self, name: str) -> None:
        if (descriptor := self._open.pop(name, None)) is not None:
            os.close(descriptor)
