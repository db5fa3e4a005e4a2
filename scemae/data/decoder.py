"""What runs in each process of decode_processes.py; few imports, so that it starts quickly."""

import mmap
import signal
from multiprocessing.connection import Connection

import numpy as np

from scemae.data.decode import decode_into
from scemae.data.storage.members import Members, Reader

ROWS = 256  # the most frames that a process decodes for one request


def mapped(memory: int, size: int) -> np.ndarray:
    """Shared memory as frames (ROWS, size, size, 3)."""
    return np.frombuffer(mmap.mmap(memory, 0), np.uint8).reshape(ROWS, size, size, 3)


def serve(connection: int, memory: int, size: int) -> None:
    """Decode what the parent sends, until it closes its end of the pipe or is dead.

    connection, memory: numbers of open files. size: of a frame, in pixels. Signals are ignored:
    they ask the run to stop, and the parent decides when.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    pipe, frames, reader = Connection(connection), mapped(memory, size), Reader()
    try:
        while True:
            pipe.send_bytes(_decode(pipe.recv(), frames, reader).tobytes())
    except (EOFError, OSError):
        pass


def _decode(members: Members, frames: np.ndarray, reader: Reader) -> np.ndarray:
    """Decode b images into frames (ROWS, s, s, 3); returns which of them succeeded, (b,) bool."""
    good = np.zeros(len(members), bool)
    for row in range(len(members)):
        image = reader.read(members, row)
        if image is not None:
            try:
                decode_into(frames[row], image)
                good[row] = True
            except ValueError:  # the parent finds out why
                pass
    return good
