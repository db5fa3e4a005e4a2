"""MATLAB's .mat files, read by read_mat.py: a process that may crash, with limited memory."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scemae.errors import DataError, FileError
from scemae.files import disk, documents

MOST_BYTES = 64 * disk.MIB
SECONDS = 120  # wall time: more than the CPU time that read_mat.py may use
HDF5 = b"\x89HDF\r\n\x1a\n"
READER = Path(__file__).with_name("read_mat.py")


@dataclass
class _Answer:
    value: Any = None
    error: str | None = None


def read_mat(path: Path, what: Literal["points", "boxes"], kind: Any, needed: str) -> Any:
    """What read_mat.py finds in a .mat file, checked as a `kind`.

    needed: the complaint where the file does not hold it. Raises DataError in one sentence,
    FileNotFoundError where there is no such file.
    """
    try:
        data = disk.read_bytes(path, MOST_BYTES)
    except FileNotFoundError:
        raise
    except (OSError, FileError) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy it again") from error
    if data.startswith(b"MATLAB 7.3") or HDF5 in (data[:8], data[512:520]):
        raise DataError(
            f"{path}: is a MATLAB 7.3 file (HDF5), an older form was needed; load it in MATLAB and "
            "save it again with save(..., '-v7')"
        )
    answer = documents.parse_json(
        _ask(data, what, path, needed), _Answer, path, remedy="copy it again"
    )
    if answer.error is not None:
        raise DataError(f"{path}: {needed} ({answer.error}); copy it again")
    return documents.convert(answer.value, kind, path, remedy="copy it again")


def _ask(data: bytes, what: str, path: Path, needed: str) -> bytes:
    command = [sys.executable, "-P", str(READER), what]  # -P: no module of the current folder
    try:
        done = subprocess.run(
            command,
            input=data,
            capture_output=True,
            timeout=SECONDS,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{path}: {needed} (reading it takes too long); copy it again") from error
    if done.returncode:
        raise DataError(
            f"{path}: {needed} (it makes the reader of such files crash); copy it again"
        )
    return done.stdout
