"""Writing a safetensors file in one pass that also hashes it and checks that it holds only numbers; reading is
safetensors' own."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scemae.files import disk
from scemae.runs import faults

BLOCK = 8 << 20
TYPES = {"float32": "F32", "int64": "I64"}  # safetensors' names


@dataclass
class Written:
    """One file of a checkpoint, as it was meant to be on disk."""

    file: str
    bytes: int
    sha256: str


def write_tensors(
    path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str], **here: int
) -> Written:
    """Write float32 and int64 arrays as a new safetensors file, to disk (fsync). Lets go of the GIL while it writes and hashes.

    Raises OSError (FileExistsError where the name is taken), or ValueError naming the first array that holds something that
    is no finite number. `here` is for faults on purpose.
    """
    with disk.create(path, buffering=0) as file:
        size, sha256 = fill(file, tensors, metadata, **here)
    return Written(path.name, size, sha256)


def fill(
    file: BinaryIO, tensors: dict[str, np.ndarray], metadata: dict[str, str], **here: int
) -> tuple[int, str]:
    """Write them to an open file and sync it; its size in bytes and its SHA-256."""
    header, offset = {"__metadata__": metadata}, 0
    tensors = dict(
        sorted(tensors.items(), key=lambda item: -item[1].itemsize)
    )  # so that each begins at its own multiple
    for name, array in tensors.items():
        header[name] = {
            "dtype": TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    _write(file, digest, len(text).to_bytes(8, "little") + text)
    faults.at("write", **here)
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds numbers that are not finite")
        _write(file, digest, memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
    faults.at("fsync", **here)
    file.flush()
    os.fsync(file.fileno())
    return 8 + len(text) + offset, digest.hexdigest()


def _write(file, digest, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while len(view):
        done = file.write(view[:BLOCK])  # may be short on a nearly full disk
        digest.update(view[:done])
        view = view[done:]
