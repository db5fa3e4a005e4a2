"""Writing a safetensors file in one pass that also hashes it and checks that it holds only numbers; reading is
safetensors' own."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scemae import faults

BLOCK = 8 << 20
TYPES = {"float32": "F32", "int64": "I64"}  # safetensors' names


@dataclass
class Written:
    """One file of a checkpoint, as it was meant to be on disk."""

    file: str
    bytes: int
    sha256: str


def write_tensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str], **here: int) -> Written:
    """Write float32 and int64 arrays as a safetensors file, to disk (fsync). Lets go of the GIL while it writes and hashes.

    Raises OSError, or ValueError naming the first array that holds something that is no finite number. `here` is for
    faults on purpose.
    """
    header, offset = {"__metadata__": metadata}, 0
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].itemsize))  # so that each begins at its own multiple
    for name, array in tensors.items():
        header[name] = {"dtype": TYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with open(path, "wb", buffering=0) as file:
        _write(file, digest, len(text).to_bytes(8, "little") + text)
        faults.at("write", **here)
        for name, array in tensors.items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds numbers that are not finite")
            _write(file, digest, memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
        faults.at("fsync", **here)
        os.fsync(file.fileno())
    return Written(path.name, 8 + len(text) + offset, digest.hexdigest())


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a file's own fsync says nothing of its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make what was written to a file so far durable, if it is there."""
    if path.exists():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def _write(file, digest, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while len(view):
        done = file.write(view[:BLOCK])  # may be short on a nearly full disk
        digest.update(view[:done])
        view = view[done:]
