"""Frames that several processes read and decode, for runs of many images.

Threads of one process take the interpreter from each other for each image, so that two are hardly
faster than one, and from the thread that trains. A process reads, checks and decodes the images of
a batch into memory that it shares with its parent. What it cannot read, whatever the reason, the
parent reads as StreamedFrames does: it downloads blocks, takes the next sample, names the error.
"""

import os
import subprocess
import sys
import weakref
from multiprocessing import Pipe
from queue import SimpleQueue

import numpy as np

from scemae.data import decoder
from scemae.data.decoder import ROWS, mapped
from scemae.data.frame_sources import StreamedFrames
from scemae.data.storage.members import Members
from scemae.data.storage.shard_set import ShardSet
from scemae.errors import ShardError

MANY = 50_000  # images from which on processes are worth the half second that they take to start
# Not by multiprocessing, which would import the user's own script again.
START = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve{arguments}"
# numpy would start threads for each core, which decoders do not need
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def streamed_frames(shards: ShardSet, size: int, images: int, workers: int) -> StreamedFrames:
    """Frames of which `images` will be asked for: decoded by processes if they are MANY."""
    return ProcessFrames(shards, size, workers) if images >= MANY else StreamedFrames(shards, size)


class ProcessFrames(StreamedFrames):
    """As StreamedFrames, decoded by `workers` processes. Threads may call `frames` at once."""

    def __init__(self, shards: ShardSet, size: int, workers: int) -> None:
        super().__init__(shards, size)
        self._free: SimpleQueue[_Decoder] = SimpleQueue()
        decoders = [_Decoder(size) for _ in range(workers)]
        process = _start(decoders, size)
        for one in decoders:
            self._free.put(one)
        weakref.finalize(self, _end, process, decoders)

    def frames(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As StreamedFrames.frames. Raises ShardError."""
        found = samples.copy()
        frames = np.empty((len(samples), self.size, self.size, 3), np.uint8)
        for row in range(0, len(samples), ROWS):
            here = slice(row, row + ROWS)
            for bad in row + np.flatnonzero(~self._decoded(samples[here], frames[here])):
                found[bad] = self._read(int(samples[bad]), frames[bad])
        return found, frames

    def _decoded(self, samples: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """Fill the frames (b, s, s, 3) of samples (b,); returns which succeeded, (b,) bool."""
        members, one = self.shards.members(samples), self._free.get()
        try:
            return one.decode(members, frames)
        except (EOFError, OSError) as error:
            raise ShardError(
                f"{self.shards.folder}: a process that decodes images was killed, perhaps for want "
                "of memory; give the job more, or fewer runtime.workers, and start again: the run "
                "resumes"
            ) from error
        finally:
            self._free.put(one)


class _Decoder:
    """The pipe to a process, and the memory (ROWS, size, size, 3) that is shared with it."""

    def __init__(self, size: int) -> None:
        self.memory = os.memfd_create("scemae-decoded")
        os.ftruncate(self.memory, ROWS * size * size * 3)
        self._frames = mapped(self.memory, size)
        self.connection, self.theirs = Pipe()

    def decode(self, members: Members, frames: np.ndarray) -> np.ndarray:
        """Fill frames (b, s, s, 3) with b images; returns which succeeded, (b,) bool."""
        self.connection.send(members)
        good = np.frombuffer(self.connection.recv_bytes(), bool)
        frames[:] = self._frames[: len(frames)]
        return good


def _start(decoders: list[_Decoder], size: int) -> subprocess.Popen:
    """Start the processes at the other ends; returns the first, the parent of the others."""
    files = [(one.theirs.fileno(), one.memory) for one in decoders]
    code = START.format(path=sys.path, module=decoder.__name__, arguments=(files, size))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        pass_fds=[number for pair in files for number in pair],
        env=os.environ | ONE_THREAD,
    )
    for one in decoders:
        one.theirs.close()
        os.close(one.memory)
    return process


def _end(process: subprocess.Popen, decoders: list[_Decoder]) -> None:
    """Close the pipes, at which all processes end."""
    for one in decoders:
        one.connection.close()
    process.wait()
