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

from scemae.data.order import Order
from scemae.data.storage.streamed_tars import AHEAD, StreamedTars
from scemae.errors import ConfigError, ShardError

DOWNLOADS = 8  # at a time, of each rank
LAG = 4  # steps by which a rank may train behind the slices that are taken


def check_cache(tars: StreamedTars, order: Order, nodes: int) -> None:
    """Raise ConfigError where the cache is too small for a run on so many nodes.

    Order version 1 needs all shards, version 2 two windows of the lanes of a node.
    """
    limit, span = tars.cache.limit / 1e9, order.span
    needed = min(2 * span / order.samples / nodes, 1) * tars.total_bytes / 1e9
    if needed <= limit:
        return
    if span >= order.samples:
        raise ConfigError(
            f"data.cache_gb={limit:g}: an epoch in whole order needs all {needed:.3g} GB of the "
            "shards; give data.order=lanes, which needs two windows, or more cache"
        )
    raise ConfigError(
        f"data.cache_gb={limit:g}: two windows of the order need {needed:.3g} GB on each node; "
        "give more, or a smaller data.window or data.lanes"
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
