"""The arrays of an .npz file, read with limits: sizes are checked before memory is allocated."""

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

# Bytes of all arrays of a file. An evaluation, or a unit of the tables, has 50 MB at most.
MOST = 2**29
LONGEST_HEADER = 1000  # bytes
# Arrays of numbers or text alone: an array of Python objects would be a pickle.
HEADER = re.compile(
    rb"\{'descr': '([<|][biufcU][0-9]{1,6})', 'fortran_order': (True|False), "
    rb"'shape': \(([0-9, ]*)\), \}\s*"
)
# What zipfile and numpy raise for bytes that are not an .npz file.
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
)


def read(
    path: Path, wanted: Iterable[str] | None = None, *, error: type[ScemaeError], remedy: str
) -> dict[str, np.ndarray]:
    """The arrays of `path` by name: the wanted ones, or all.

    Raises `error` where an array is missing, too large, or not of plain numbers or text. `remedy`
    ends its message.
    """
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
            return {name: _array(archive, name, sizes[name]) for name in names}
    except DAMAGES as problem:
        what = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise error(f"{path}: cannot be read as arrays ({what}); {remedy}") from problem


def _header(member: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and type.

    numpy parses this text as Python, and nested brackets can exhaust the parser's memory.
    """
    start = member.read(10)
    # Version 1 of the format has 2 bytes for the header's size, later ones 4.
    more = b"" if start[6:7] == b"\1" else member.read(2)
    size = int.from_bytes(start[8:10] + more, "little")
    found = None
    if start[:6] == b"\x93NUMPY" and size <= LONGEST_HEADER:
        found = HEADER.fullmatch(member.read(size))
    if found is None:
        raise ValueError(f"{name} is no array of plain numbers or text")
    kind, order, shape = (part.decode() for part in found.groups())
    sides = tuple(int(side) for side in shape.replace(" ", "").split(",") if side)
    return sides, order == "True", np.dtype(kind)


def _array(archive: zipfile.ZipFile, name: str, size: int) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        shape, is_column_first, kind = _header(member, name)
        if is_column_first and len(shape) > 1:
            raise ValueError(f"{name} is stored column by column")
        needed = math.prod(shape) * kind.itemsize
        if needed != size - member.tell():
            raise ValueError(f"{name} has the shape {shape} in {size} bytes")
        data = member.read(needed + 1)
    if len(data) != needed:
        raise ValueError(f"{name} ends after {len(data)} of {needed} bytes")
    return np.frombuffer(bytearray(data), kind).reshape(shape)
