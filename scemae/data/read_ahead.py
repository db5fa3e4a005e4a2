"""Blocks of streamed shards, downloaded by threads before training reads them.

Ahead are the blocks of the window that is trained on and of AHEAD more. What was trained on makes
room for them, the block first that the order needs last.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from scemae.data.order import Order, Whole
from scemae.data.storage.streamed_tars import AHEAD, StreamedTars
from scemae.errors import ConfigError, ShardError

DOWNLOADS = 8  # at a time, of each rank
LAG = 4  # steps by which a rank may train behind the slices that are taken


def cache_needed(tars: StreamedTars, order: Order, ranks: int, local: int) -> int:
    """Bytes that the cache of a node needs, with `local` of the `ranks` on each node.

    Order version 1 needs all tars. Version 2 needs two windows of every lane that the ranks of the
    node read; where the lanes are no multiple of the nodes, two nodes read some of them.
    """
    line = order.line
    if isinstance(line, Whole):
        return tars.total_bytes
    together = min(line.lanes, order.global_batch_size)  # lanes that a batch takes images from
    most = max(
        -(-min(first + local, ranks) * together // ranks) - first * together // ranks
        for first in range(0, ranks, local)
    )
    images = 2 * line.span * most // together
    return min(images * tars.total_bytes // order.samples, tars.total_bytes)


def check_cache(tars: StreamedTars, order: Order, ranks: int, local: int) -> None:
    """Raise ConfigError where the cache, or the disk that it is on, is too small for a run."""
    needed, limit = cache_needed(tars, order, ranks, local), tars.cache.limit
    if needed > limit and isinstance(order.line, Whole):
        raise ConfigError(
            f"data.cache_gb={limit / 1e9:g}: an epoch in whole order needs all "
            f"{needed / 1e9:.3g} GB of the shards; give data.order=lanes, which needs two windows, "
            "or more cache"
        )
    if needed > limit:
        raise ConfigError(
            f"data.cache_gb={limit / 1e9:g}: two windows of the order need {needed / 1e9:.3g} GB "
            f"on a node of {local} of {ranks} ranks; give more, or a smaller data.window or "
            "data.lanes"
        )
    if (room := tars.cache.room()) < needed:
        raise ConfigError(
            f"{tars.cache.folder}: found room for {room / 1e9:.3g} GB on this disk, two windows of "
            f"the order need {needed / 1e9:.3g} GB; make room, or give another data.cache_dir"
        )


class ReadAhead:
    """Threads that download the blocks of coming steps; `at` tells them the step."""

    def __init__(self, tars: StreamedTars, order: Order, samples: Iterable[tuple[int, np.ndarray]]):
        """samples: of each coming step, its number and the samples (b,) that this rank reads."""
        self._tars, self._order, self._samples = tars, order, samples
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
        with ThreadPoolExecutor(DOWNLOADS, "download") as threads:
            for step, samples in self._samples:
                window = self._order.window_of(step)
                while window > self._tars.now + AHEAD and not self._stop.wait(0.05):
                    pass
                for block in np.unique(samples // self._tars.block).tolist():
                    if self._stop.is_set():
                        return
                    if asked.get(block) != window:
                        asked[block] = window
                        threads.submit(self._load, block, window)
                if len(asked) > 2**16:
                    asked = {b: w for b, w in asked.items() if w >= self._tars.now}

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
    tars: StreamedTars, order: Order, samples: Iterable[tuple[int, np.ndarray]], owner: str
) -> Iterator[ReadAhead]:
    """Inside the block, blocks of `samples` are downloaded ahead and removed by `order`.

    owner: the run; raises ConfigError where another one uses the cache.
    """
    claim = tars.cache.claim(owner)
    tars.next_windows = order.next_windows
    ahead = ReadAhead(tars, order, samples)
    ahead.start()
    try:
        yield ahead
    finally:
        ahead.stop()
        claim.close()
