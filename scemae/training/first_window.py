"""The blocks that a streamed run reads first, downloaded while its process imports torch.

Nothing depends on it: it takes only free room of the cache, and what fails here fails again, with
its sentence, where the run opens its data.
"""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from scemae.config.schema.training import CorrespondConfig, Data, PretrainConfig
from scemae.data.read_ahead import DOWNLOADS, Stream, check_cache, streams_of
from scemae.data.training_set import make_order, open_set
from scemae.distributed.launchers import Launch, ranks_of_node

REMOVE_NONE = 2**62  # a window that is later than all others
CHECKPOINT = re.compile(r"step-(\d+)\.g\d+")


def begin(config: PretrainConfig | CorrespondConfig) -> None:
    """Download in a thread, if the data are streamed. Raises LaunchError."""
    launch, steps = Launch.read(), [0]
    for path in (Path(config.run_dir) / "checkpoints").glob("step-*"):
        if found := CHECKPOINT.fullmatch(path.name):
            steps.append(int(found[1]))
    rank, ranks = (launch.rank, launch.world_size) if launch else (0, 1)
    batch = config.optim.global_batch_size
    start(config.data, batch, seed=config.seed, step=max(steps), rank=rank, ranks=ranks)


def start(data: Data, batch: int, **where: Any) -> None:
    """As begin; where: the arguments of `download`."""
    if data.cache_gb is not None and not data.append:  # where parts join is not known yet
        threading.Thread(
            target=download, args=(data, batch), kwargs=where, name="first window", daemon=True
        ).start()


def download(data: Data, batch: int, *, seed: int, step: int, rank: int, ranks: int) -> None:
    """Download what a rank reads of the window that a step (0 for the first) begins in."""
    with suppress(Exception):
        shards = open_set(data, batch)
        streams = streams_of(shards, make_order(shards, seed, batch, data))
        check_cache(streams, ranks, ranks_of_node(ranks))
        for stream in streams:
            _download(stream, step, rank, ranks)


def _download(stream: Stream, step: int, rank: int, ranks: int) -> None:
    tars, order = stream.tars, stream.order
    tars.next_windows, tars.now = order.line.next_windows, order.window_of(step)
    asked: set[int] = set()
    with ThreadPoolExecutor(DOWNLOADS, "download") as threads:
        while order.window_of(step) == tars.now:
            for part in order.slices(step, rank, ranks, 1):
                blocks = np.unique(part.samples // tars.block).tolist()
                for block in blocks:
                    if block not in asked:
                        threads.submit(tars.load, block, only_before=REMOVE_NONE)
                asked.update(blocks)
            step += 1
