"""What runs in each process of decode_processes.py; few imports, so that it starts quickly."""

import mmap
import os
import signal
from multiprocessing.connection import Connection

import numpy as np

from scemae.data.decode import decode_into
from scemae.data.storage.members import Members, Reader

ROWS = 256  # the most frames that a process decodes for one request


def mapped(memory: int, size: int) -> np.ndarray:
    """Shared memory as frames (ROWS, size, size, 3)."""
    return np.frombuffer(mmap.mmap(memory, 0), np.uint8).reshape(ROWS, size, size, 3)


def serve(files: list[tuple[int, int]], size: int) -> None:
    """Decode what comes through pipes, a process for each, until they close or the parent is dead.

    files: of each process its pipe and its memory, as numbers of open files. size: of a frame, in
    pixels. This process serves the first; the others are forks of it, which need not import again
    what it has. Signals are ignored: they ask the run to stop, and the parent decides when.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    while len(files) > 1:
        *files, last = files
        mine, theirs = (last, files) if os.fork() == 0 else (None, [last])
        for file in (one for pair in theirs for one in pair):
            os.close(file)
        if mine:
            files = [mine]
    _serve(*files[0], size)
    try:
        while True:
            os.wait()
    except ChildProcessError:  # there is none left
        pass


def _serve(connection: int, memory: int, size: int) -> None:
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
