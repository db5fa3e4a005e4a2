"""The arrays of an .npz file, read with limits: what its members say of themselves is checked before memory is taken."""

import math
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from scemae.errors import FileError, ScemaeError
from scemae.files import disk

MOST = (
    2**29
)  # bytes of all arrays of a file: those of an evaluation or a table's unit have 50 MB at most
LONGEST = 1000  # bytes of a header
HEADER = re.compile(
    rb"\{'descr': '([<|][biufcU][0-9]{1,6})', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), \}\s*"
)  # no pickles
DAMAGES = (
    OSError,
    FileError,
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    KeyError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    SyntaxError,
    TypeError,
)  # what zipfile and numpy raise for bytes that are no .npz


def read(
    path: Path, wanted: Iterable[str] | None = None, *, error: type[ScemaeError], remedy: str
) -> dict[str, np.ndarray]:
    """The wanted (or all) arrays of `path` by name. Raises `error` where they are not there, too large or no plain arrays."""
    try:
        with disk.open_regular(path) as file, zipfile.ZipFile(file) as archive:
            sizes = {
                info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()
            }
            names = list(sizes if wanted is None else wanted)
            if missing := [name for name in names if name not in sizes]:
                raise KeyError(f"no array {missing[0]!r}")
            if sum(sizes[name] for name in names) > MOST:
                raise ValueError(f"arrays of more than {MOST:,} bytes")
            return {name: _member(archive, name, sizes[name]) for name in names}
    except DAMAGES as problem:
        what = " ".join(str(problem).split())[:200]
        raise error(
            f"{path}: cannot be read as arrays ({what or type(problem).__name__}); {remedy}"
        ) from problem


def _header(member: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type. The text is not parsed as Python, which numpy does: nested brackets can take its parser's memory."""
    start = member.read(10)
    size = int.from_bytes(start[8:10] + (member.read(2) if start[6:7] != b"\1" else b""), "little")
    found = (
        HEADER.fullmatch(member.read(size))
        if start[:6] == b"\x93NUMPY" and size <= LONGEST
        else None
    )
    if found is None:
        raise ValueError(f"{name} is no array of plain numbers or text")
    kind, order, shape = (part.decode() for part in found.groups())
    return (
        tuple(int(side) for side in shape.replace(" ", "").split(",") if side),
        order == "True",
        np.dtype(kind),
    )


def _member(archive: zipfile.ZipFile, name: str, size: int) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        shape, is_fortran, kind = _header(member, name)
        if is_fortran and len(shape) > 1:
            raise ValueError(f"{name} has its columns first")
        needed = math.prod(shape) * kind.itemsize
        if needed != size - member.tell():
            raise ValueError(f"{name} has the shape {shape} in {size} bytes")
        data = member.read(needed + 1)
    if len(data) != needed:
        raise ValueError(f"{name} ends after {len(data)} of {needed} bytes")
    return np.frombuffer(bytearray(data), kind).reshape(shape)
