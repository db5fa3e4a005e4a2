"""Blocks of streamed shards, downloaded by threads before training reads them.

Ahead are the blocks of the window that is trained on and of the next one, or of more where windows
are shorter than LAG steps (`Stream.ahead`); these wait until the former are there. What was trained
on makes room for them, the block first that the order needs last.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from scemae.data.lanes import Lanes
from scemae.data.line import Line
from scemae.data.order import Order
from scemae.data.storage.shard_set import ShardSet
from scemae.data.storage.streamed_tars import StreamedTars
from scemae.errors import ConfigError, ShardError

DOWNLOADS = 16  # at a time, of each rank
LAG = 4  # steps by which a rank may train behind the slices that are taken


class Stream(NamedTuple):
    """Tars that are streamed, and the order of their samples, which are numbered from `first`."""

    tars: StreamedTars
    order: Order
    first: int

    @property
    def ahead(self) -> int:
        """Windows that are downloaded before they are read: at least as many as LAG steps span."""
        return self.ahead_if(None)

    def ahead_if(self, window: int | None) -> int:
        """As `ahead`, if windows had so many blocks of a lane."""
        spans = [_span(line, window) for line in self.order.line.lines if isinstance(line, Lanes)]
        return max(-(-LAG * self.order.global_batch_size // span) for span in spans or [2**62])


def streams_of(shards: ShardSet, order: Order) -> list[Stream]:
    """What is streamed of a set, part by part of its order."""
    firsts = np.cumsum([0, *(part.samples for part in order.parts[:-1])]).tolist()
    found = zip(shards.streams, order.parts, firsts, strict=True)
    return [Stream(tars, part, first) for tars, part, first in found if tars is not None]


def _span(line: Lanes, window: int | None) -> int:
    """Images of a window of a line, if it had so many blocks of a lane."""
    return line.span if window is None else line.span // line.window * min(window, line.window)


def cache_needed(stream: Stream, ranks: int, local: int, window: int | None = None) -> int:
    """Bytes that the cache of a node needs, with `local` of the `ranks` on each node.

    Order version 1 needs all tars. Version 2 needs one window and those ahead, of every lane that
    the ranks of the node read; where the lanes are no multiple of the nodes, two nodes read some.
    window: another one than the order's, in blocks of a lane.
    """
    order, total = stream.order, stream.tars.total_bytes
    images = [_images_of(line, stream, ranks, local, window) for line in order.line.lines]
    return min(max(images) * total // order.samples, total)


def _images_of(line: Line, stream: Stream, ranks: int, local: int, window: int | None) -> int:
    """Images that a node keeps while it trains in this line."""
    if not isinstance(line, Lanes):
        return line.samples
    together = min(
        line.lanes, stream.order.global_batch_size
    )  # lanes that a batch takes images from
    most = max(
        -(-min(first + local, ranks) * together // ranks) - first * together // ranks
        for first in range(0, ranks, local)
    )
    return (1 + stream.ahead_if(window)) * _span(line, window) * most // together


def check_cache(streams: list[Stream], ranks: int, local: int) -> None:
    """Share the cache out among the streams, by what each needs.

    Raises ConfigError where it, or the disk that it is on, is too small for a run.
    """
    needs = [cache_needed(stream, ranks, local) for stream in streams]
    needed, cache = sum(needs), streams[0].tars.cache
    limit, windows = cache.limit, 1 + max(stream.ahead for stream in streams)
    whole = any(not isinstance(line, Lanes) for one in streams for line in one.order.line.lines)
    if needed > limit and whole:
        raise ConfigError(
            f"data.cache_gb={limit / 1e9:g}: an epoch in whole order needs all "
            f"{needed / 1e9:.3g} GB of the shards; give data.order=lanes, which needs a few "
            "windows, or more cache"
        )
    if needed > limit:
        raise ConfigError(
            f"data.cache_gb={limit / 1e9:g}: {windows} windows of the order need "
            f"{needed / 1e9:.3g} GB on a node of {local} of {ranks} ranks; give more, or "
            f"{_smaller(streams, ranks, local)}"
        )
    if (room := min(stream.tars.cache.room() for stream in streams)) < needed:
        raise ConfigError(
            f"{cache.folder}: found room for {room / 1e9:.3g} GB on this disk, {windows} windows "
            f"of the order need {needed / 1e9:.3g} GB; make room, or give another data.cache_dir"
        )
    for stream, need in zip(streams, needs):
        stream.tars.cache.limit = limit * need // needed


def _smaller(streams: list[Stream], ranks: int, local: int) -> str:
    """Settings that need no more cache than there is, as advice."""
    lines = [line for stream in streams for line in stream.order.line.lines]
    window = max(line.window for line in lines if isinstance(line, Lanes))
    while (window := window // 2) >= 1:
        needs = [cache_needed(stream, ranks, local, window) for stream in streams]
        if sum(needs) <= streams[0].tars.cache.limit:
            return f"data.window={window}"
    return "a smaller data.lanes or data.block"


class ReadAhead:
    """Threads that download the blocks of coming steps; `at` tells them the step."""

    def __init__(self, stream: Stream, samples: Iterable[tuple[int, np.ndarray]]):
        """samples: of each coming step, its number and the samples (b,) that this rank reads."""
        self._stream, self._tars, self._order = stream, stream.tars, stream.order
        self._samples = samples
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="read ahead", daemon=True)

    def start(self) -> None:
        """Begin to download."""
        self._thread.start()

    def stop(self) -> None:
        """End the threads."""
        self._stop.set()
        self._thread.join()

    def at(self, step: int) -> None:
        """The slices of `step` are taken now."""
        self._tars.now = self._order.window_of(max(step - LAG, 0))

    def _run(self) -> None:
        asked: dict[int, int] = {}  # the window that a block was last asked for in
        here: list[Future] = []  # downloads of the window that is trained on
        with ThreadPoolExecutor(DOWNLOADS, "download") as threads:
            for step, samples in self._samples:
                for block, window in self._reads(step, samples):
                    while window > self._tars.now + self._tars.ahead and not self._stop.wait(0.05):
                        pass
                    if window > self._tars.now:
                        wait(here)
                        here.clear()
                    if self._stop.is_set():
                        return
                    if asked.get(block) != window:
                        asked[block] = window
                        loading = threads.submit(self._load, block, window)
                        if window <= self._tars.now:
                            here.append(loading)
                if len(asked) > 2**16:
                    asked = {b: w for b, w in asked.items() if w >= self._tars.now}

    def _reads(self, step: int, samples: np.ndarray) -> list[tuple[int, int]]:
        """The blocks of a step that are of this stream, each with its window, by window.

        A batch may end in another window than it begins in.
        """
        mine = samples - self._stream.first
        mine = mine[(0 <= mine) & (mine < self._order.samples)]
        blocks = np.unique(mine // self._tars.block)
        windows = self._order.line.next_windows(blocks, self._order.window_of(step))
        return sorted(zip(blocks.tolist(), windows.tolist()), key=itemgetter(1))

    def _load(self, block: int, window: int) -> None:
        """Download a block; wait while nothing may be removed for it."""
        while not self._stop.is_set() and window >= self._tars.now:
            try:
                if self._tars.load(block, only_before=window):
                    return
            except ShardError:
                return  # the thread that needs the block will raise it
            time.sleep(0.1)


@contextmanager
def read_ahead(
    streams: list[Stream],
    samples: Callable[[], Iterable[tuple[int, np.ndarray]]],
    step: int,
    owner: str,
) -> Iterator[Callable[[int], None]]:
    """Inside the block, blocks of `samples` are downloaded ahead and removed by the order.

    samples: see ReadAhead; called once for each stream. step: the first. The function that is
    yielded is to be told the step whose slices are taken. owner: the run; raises ConfigError where
    another one uses the cache.
    """
    found: list[ReadAhead] = []

    def at(step: int) -> None:
        for one in found:
            one.at(step)

    with ExitStack() as stack:
        for stream in streams:
            stack.enter_context(stream.tars.cache.claim(owner))
            stream.tars.next_windows = stream.order.line.next_windows
            stream.tars.ahead = stream.ahead
            found.append(ReadAhead(stream, samples()))
            found[-1].at(step)
            found[-1].start()
            stack.callback(found[-1].stop)
        yield at
