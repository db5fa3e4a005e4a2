"""The digests of steps, as the ledger has them, computed again from the order and the shards.

A digest is a sum over the samples of a step, so the samples may be read in any order. They are
taken a window of the order at a time (data/lanes.py), and sorted by their place in the shards. So a
block of streamed shards is downloaded once in a window, however small the cache is; what is read
later stays in the cache if it has room. Threads read and decode. Memory is that of one window's
numbers, about 150 bytes for each sample at most, and of PIECE frames in each thread.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Semaphore

import numpy as np

from scemae.data.decode import digests
from scemae.data.frame_sources import StreamedFrames, consumed_frames
from scemae.data.order import Order, Slice
from scemae.data.read_ahead import Stream, streams_of
from scemae.data.storage.streamed_tars import StreamedTars
from scemae.process.cores import cores
from scemae.runs.ledger import LIMBS, sample_digest, to_text

PIECE = 256  # samples that a thread takes at a time,
PIECE_BYTES = 2**27  # and their frames, at most
LOCAL_SAMPLES, MOST_SAMPLES = 2**14, 2**24  # sorted together: of a folder, and of streamed shards
DOWNLOADS = 8  # blocks that are downloaded before a thread decodes them


@dataclass
class Wanted:
    """Samples to read: for each its step, and its row in a `Slice`; five arrays (n,)."""

    steps: np.ndarray
    samples: np.ndarray
    epochs: np.ndarray
    places: np.ndarray
    blocks: np.ndarray  # of streamed shards, counted over all streams; -1 for those of a folder

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, rows: np.ndarray | slice) -> "Wanted":
        """Some of its rows."""
        return Wanted(*(array[rows] for array in vars(self).values()))

    @classmethod
    def joined(cls, parts: "list[Wanted]") -> "Wanted":
        """The rows of several."""
        return cls(*map(np.concatenate, zip(*(vars(part).values() for part in parts))))


class StepDigests:
    """Computes digests of steps; use it in a `with` block."""

    def __init__(
        self,
        order: Order,
        source: StreamedFrames,
        *,
        views: int | None,
        noisy_jpeg: bool,
        hashes_jpeg: bool,
        workers: int | None,
        owner: str,
    ) -> None:
        """views: fixed views of each image. workers: threads, None for one of each core.

        hashes_jpeg: hash files, not pixels. owner: for the cache of streamed shards, see
        `BlockCache.claim`.
        """
        self.order, self.source, self.views = order, source, views
        self.noisy_jpeg, self.hashes_jpeg, self.owner = noisy_jpeg, hashes_jpeg, owner
        self.streams = streams_of(source.shards, order)
        workers = workers or cores()
        self._decoding = Semaphore(workers)
        threads = workers
        if self.streams:
            threads = max(min([workers + DOWNLOADS, *map(_blocks_in_use, self.streams)]), 1)
        self._most_waiting = threads if self.streams else 2 * workers
        self._threads = ThreadPoolExecutor(threads, "verify")
        self._stack = ExitStack()
        nothing = np.empty(0, np.int64)
        # of each stream, the blocks that threads read now, and those that are read after them
        self._read = [(nothing, nothing) for _ in self.streams]

    def __enter__(self) -> "StepDigests":
        """Take the caches. Raises ConfigError where a run is at work in one."""
        for number, (tars, _, _) in enumerate(self.streams):
            self._stack.enter_context(tars.cache.claim(self.owner))
            tars.next_windows = self._removed_by(number)
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._stack.close()

    def compute(
        self, steps: list[int], seen: Callable[[int], object] = lambda count: None
    ) -> Iterator[tuple[int, str]]:
        """(step, digest) for ascending steps. `seen` is told how many samples were read."""
        sums: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(LIMBS, np.int64))
        left: dict[int, int] = defaultdict(lambda: self.order.global_batch_size)
        for group in self._groups(steps):
            for numbers, counts, limbs in self._summed(group):
                for step, count, sum_of_step in zip(numbers.tolist(), counts.tolist(), limbs):
                    sums[step] += sum_of_step
                    left[step] -= count
                seen(int(counts.sum()))
            for step in sorted(step for step in left if not left[step]):
                del left[step]
                yield step, to_text(sums.pop(step))

    def _groups(self, steps: list[int]) -> Iterator[Wanted]:
        """The samples of the steps, a window at a time, in the order of the shards."""
        most = MOST_SAMPLES if self.streams else LOCAL_SAMPLES
        held: list[Wanted] = []
        delayed = 0  # how many of them, the first, are of steps that began in the window before
        windows: list[int] = []
        for step in steps:
            now = [order.window_of(step - 1) for _, order, _ in self.streams]
            if held and (now != windows or sum(map(len, held)) >= most):
                yield self._taken(held, delayed, windows)
                delayed = len(held[0])
            windows = now
            held.append(self._wanted(step))
        if held:
            yield self._taken(held, sum(map(len, held)), windows)

    def _taken(self, held: list[Wanted], delayed: int, windows: list[int]) -> Wanted:
        """What is read in the windows, taken out of `held` and sorted; what is read later stays."""
        for (tars, _, _), now in zip(self.streams, windows):
            tars.now = now
        found = Wanted.joined(held)
        later = self._is_later(found, windows)
        later[:delayed] = False
        held[:] = [found[later]]
        here = np.flatnonzero(~later)
        return found[here[found.samples[here].argsort(kind="stable")]]

    def _wanted(self, step: int) -> Wanted:
        part = self.order.slices(step - 1, 0, 1, 1)[0]
        blocks, offset = np.full(len(part), -1), 0
        for tars, order, first in self.streams:
            here = (first <= part.samples) & (part.samples < first + order.samples)
            blocks[here] = offset + (part.samples[here] - first) // tars.block
            offset += _blocks(tars, order)
        steps = np.full(len(part), step)
        return Wanted(steps, part.samples, part.epochs, part.places, blocks)

    def _is_later(self, group: Wanted, windows: list[int]) -> np.ndarray:
        """Which samples are in a block that a later window reads: its step spans two windows."""
        later, offset = np.zeros(len(group), bool), 0
        for (tars, order, _), now in zip(self.streams, windows):
            end = offset + _blocks(tars, order)
            here = (offset <= group.blocks) & (group.blocks < end)
            later[here] = order.line.next_windows(group.blocks[here] - offset, now) > now
            offset = end
        return later

    def _removed_by(self, number: int) -> Callable[[np.ndarray, int], np.ndarray]:
        """When the blocks of a stream are needed next: now, soon, or as the order says."""
        line = self.streams[number].order.line

        def next_windows(blocks: np.ndarray, now: int) -> np.ndarray:
            reading, coming = self._read[number]
            found = line.next_windows(blocks, now + 1)
            found = np.where(np.isin(blocks, coming), now + 1, found)
            return np.where(np.isin(blocks, reading), now, found)

        return next_windows

    def _summed(self, group: Wanted) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each piece of a group its steps, how many samples each has in it, and their sums."""
        blocks = np.unique(group.blocks)
        waiting: deque[tuple[int, Future]] = deque()
        for first, stop in _pieces(group.blocks, min(PIECE, self._most_frames)):
            if len(waiting) == self._most_waiting:
                yield waiting.popleft()[1].result()
            oldest = waiting[0][0] if waiting else first
            self._note_blocks(blocks, group.blocks[oldest], group.blocks[first])
            waiting.append((first, self._threads.submit(self._sum, group[first:stop])))
        while waiting:
            yield waiting.popleft()[1].result()

    @property
    def _most_frames(self) -> int:
        return max(PIECE_BYTES // (3 * self.source.size**2), 1)

    def _note_blocks(self, blocks: np.ndarray, first: int, last: int) -> None:
        """Note that blocks first .. last of a group are read now; blocks (n,): the group's."""
        begin, end = np.searchsorted(blocks, [first, last + 1])
        offset = 0
        for number, (tars, order, _) in enumerate(self.streams):
            edges = np.searchsorted(blocks, [offset, offset + _blocks(tars, order)])
            low, high = np.clip([begin, end], *edges)
            self._read[number] = blocks[low:high] - offset, blocks[high : edges[1]] - offset
            offset += _blocks(tars, order)

    def _sum(self, wanted: Wanted) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self._download(int(wanted.blocks[0]))
        epochs = wanted.epochs if self.views is None else wanted.epochs % self.views
        weights = np.ones(len(wanted), np.float32)
        part = Slice(0, wanted.samples, epochs, weights, wanted.places)
        shards = self.source.shards
        with self._decoding:
            samples, pixels = consumed_frames(self.source, part, self.order.seed, self.noisy_jpeg)
            hashed = (
                [np.frombuffer(shards.jpeg(sample), np.uint8) for sample in samples.tolist()]
                if self.hashes_jpeg
                else pixels
            )
            found = digests(hashed)
        steps, inverse, counts = np.unique(wanted.steps, return_inverse=True, return_counts=True)
        limbs = np.zeros((len(steps), LIMBS), np.int64)
        for row, sample in enumerate(samples.tolist()):
            step, place = int(wanted.steps[row]), int(wanted.places[row])
            limbs[inverse[row]] += sample_digest(step, place, shards.keys[sample], found[row])
        return steps, counts, limbs

    def _download(self, block: int) -> None:
        for tars, order, _ in self.streams:
            if 0 <= block < _blocks(tars, order):
                tars.load(block, only_before=tars.now)
                return
            block -= _blocks(tars, order)


def _blocks(tars: StreamedTars, order: Order) -> int:
    return -(-order.samples // tars.block)


def _blocks_in_use(stream: Stream) -> int:
    """How many blocks may be in use at once: half of what the cache holds."""
    block = stream.tars.total_bytes * stream.tars.block // stream.order.samples
    return stream.tars.cache.limit // (2 * max(block, 1))


def _pieces(blocks: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """First row and end of pieces: rows of one block, at most `most`. blocks (n,): sorted."""
    edges = np.flatnonzero(np.diff(blocks)) + 1
    for begin, end in zip([0, *edges.tolist()], [*edges.tolist(), len(blocks)]):
        for first in range(begin, end, most):
            yield first, min(first + most, end)
