"""The arrays of an .npz file, read with limits: what its members say of themselves is checked before memory is taken."""

import math
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from scemae import files
from scemae.errors import FileError, ScemaeError

MOST = 2**32  # bytes of all arrays of a file
KINDS = "biufcU"  # numbers and text: what is pickled is never read
DAMAGES = (OSError, FileError, zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError,
           OverflowError, SyntaxError, TypeError)  # what zipfile and numpy raise for bytes that are no .npz


def read(path: Path, wanted: Iterable[str] | None = None, *, error: type[ScemaeError], remedy: str) -> dict[str, np.ndarray]:
    """The wanted (or all) arrays of `path` by name. Raises `error` where they are not there, too large or no plain arrays."""
    try:
        with files.open_regular(path) as file, zipfile.ZipFile(file) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
            names = list(sizes if wanted is None else wanted)
            if missing := [name for name in names if name not in sizes]:
                raise KeyError(f"no array {missing[0]!r}")
            if sum(sizes[name] for name in names) > MOST:
                raise ValueError(f"arrays of more than {MOST:,} bytes")
            return {name: _member(archive, name, sizes[name]) for name in names}
    except DAMAGES as problem:
        what = " ".join(str(problem).split())[:200]
        raise error(f"{path}: cannot be read as arrays ({what or type(problem).__name__}); {remedy}") from problem


def _member(archive: zipfile.ZipFile, name: str, size: int) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, kind = read_header(member)
        if kind.kind not in KINDS or kind.hasobject or is_fortran and len(shape) > 1:
            raise ValueError(f"{name} is of the type {kind}")
        needed = math.prod(shape) * kind.itemsize
        if needed != size - member.tell():
            raise ValueError(f"{name} has the shape {shape} in {size} bytes")
        data = member.read(needed + 1)
    if len(data) != needed:
        raise ValueError(f"{name} ends after {len(data)} of {needed} bytes")
    return np.frombuffer(bytearray(data), kind).reshape(shape)
