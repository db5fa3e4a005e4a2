"""A file of arrays that is computed once and read by many processes through one memory map.

    16 bytes   XXH3-128 of all that follows
    8 bytes    length of the header
    header     JSON: all that the arrays depend on; type, shape and first byte of each array
    arrays     each at a multiple of 64

It is written aside and renamed, so a file under its name is whole unless the disk has damaged it;
the digest is checked on opening. Processes that compute the same file at once write the same bytes,
and the last one stays.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from scemae.errors import DataError, FileError
from scemae.files import disk, documents

DIGEST, PREAMBLE = 16, 24
ALIGN = 64

Arrays = dict[str, np.ndarray]


@dataclass
class _About:
    """An array of the file; its first byte counts from the end of the header."""

    type: Literal["<f2", "<f4", "<f8", "|u1", "|i1", "<i2", "<i4", "<i8"]  # numbers, no objects
    shape: list[documents.Count]
    first: documents.Count


@dataclass
class _Header:
    facts: dict[str, Any]
    arrays: dict[str, _About]


def path_of(folder: Path, kind: str, facts: dict[str, Any]) -> Path:
    """The file in `folder` named by `facts`: other facts give another file, never a stale one."""
    return folder / f"{kind}-{disk.json_digest(facts)[:16]}"


def write_arrays(path: Path, facts: dict[str, Any], arrays: Arrays) -> None:
    """Write `arrays`, whole or not at all. Raises OSError if the disk is full or read-only."""
    described, offset = {}, 0
    for name, array in arrays.items():
        described[name] = {"type": array.dtype.str, "shape": array.shape, "first": offset}
        offset += -(-array.nbytes // ALIGN) * ALIGN
    header = json.dumps({"facts": facts, "arrays": described}, sort_keys=True).encode()
    header += b" " * (-(PREAMBLE + len(header)) % ALIGN)
    parts: list[Any] = [len(header).to_bytes(8, "little"), header]
    for array in arrays.values():
        parts += [
            np.ascontiguousarray(array).reshape(-1).view(np.uint8),
            bytes(-array.nbytes % ALIGN),
        ]
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    disk.make_folders(path.parent, path.parent.parent)  # tokens/ of a run folder
    with disk.replacing(path) as file:
        for part in (digest.digest(), *parts):
            file.write(part)


def read_arrays(path: Path, facts: dict[str, Any]) -> Arrays | None:
    """The arrays of a file, on one memory map that all processes of a node share.

    None where there is no such file, or it is damaged, or cannot be read: the caller then makes it
    again, and what is wrong with the folder is reported when it is written.
    """
    try:
        whole = _map(path)
    except (OSError, FileError, ValueError):  # ValueError: an empty file
        return None
    if len(whole) <= PREAMBLE:
        return None
    stored: Any = whole[DIGEST:]  # a buffer, which its type does not say
    if xxhash.xxh3_128_digest(stored) != whole[:DIGEST].tobytes():
        return None
    first = PREAMBLE + int.from_bytes(whole[DIGEST:PREAMBLE].tobytes(), "little")
    if first > PREAMBLE + documents.MOST_JSON:
        return None
    try:
        header = documents.parse_json(whole[PREAMBLE:first].tobytes(), _Header, path)
        if header.facts != json.loads(json.dumps(facts)):
            return None
        return {name: _array(whole[first:], about) for name, about in header.arrays.items()}
    except (DataError, ValueError):  # a wrong header can have a right digest
        return None


def _map(path: Path) -> np.ndarray:
    """All bytes of a regular file, read from the disk when they are used."""
    with disk.open_regular(path) as file:
        return np.asarray(np.memmap(file, np.uint8, "c"))


def _array(stored: np.ndarray, about: _About) -> np.ndarray:
    """The array that `about` describes, without a copy; `stored` begins at the first array.

    Raises ValueError.
    """
    kind, size = np.dtype(about.type), math.prod(about.shape)
    part = stored[about.first : about.first + size * kind.itemsize]
    return part.view(kind).reshape(about.shape)
