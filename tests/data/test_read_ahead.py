"""Reading ahead of training: for which window each block is downloaded."""

import threading
import time

import pytest

from scemae.data.lanes import Lanes
from scemae.data.order import Order
from scemae.data.read_ahead import Stream, cache_needed, read_ahead
from scemae.data.storage.shard_set import stream_shards
from tests.object_server import serve
from tests.support import write_shards

SAMPLES, BLOCK = 160, 4


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("ahead")
    write_shards(root / "bucket" / "train", SAMPLES, shards=4)
    with serve(root) as state:
        yield state


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("first", [0, 16])
def test_a_block_makes_room_as_its_own_window_demands(server, tmp_path, first, window):
    """`first`: the step to begin with; 16 is in the second epoch. 12 is no part of a window."""
    order = Order(SAMPLES, 3, 12, Lanes(SAMPLES, 3, lanes=4, block=BLOCK, window=window))
    size = sum(path.stat().st_size for path in (server.folder / "bucket/train").glob("*.tar"))
    urls = [f"{server.url}/bucket/train"]
    (shards,) = stream_shards(urls, str(tmp_path / "cache"), 1, BLOCK)
    stream = Stream(tars := shards.streams[0], order, 0)
    tars.cache.limit = cache_needed(stream, 1, 1) + size // 10  # and indexes
    steps = [(step, order.global_batch(step)[0]) for step in range(first, first + 13)]
    reads: dict[int, set[int]] = {}  # the windows that read each block, position by position
    for step, samples in steps:
        for place, sample in enumerate(samples.tolist()):
            window = order.line.window_at(step * 12 + place)
            reads.setdefault(sample // BLOCK, set()).add(window)
    loads, ensure = [], tars.cache.ensure

    def noted(name, *rest, only_before, **more):
        if threading.current_thread().name.startswith("download") and "block" in name:
            loads.append((int(name.removeprefix("block-")), only_before))
        return ensure(name, *rest, only_before=only_before, **more)

    tars.cache.ensure = noted
    with read_ahead([stream], lambda: steps, first, "a run") as at:
        for step, samples in steps:
            at(step)
            time.sleep(0.05)  # as training takes its time
            for sample in samples.tolist():
                shards.jpeg(sample)
    assert len({block for block, _ in loads}) == len(reads)
    for block, window in loads:  # what is needed sooner than the block makes no room for it
        assert window in reads[block]


def test_the_next_window_waits_until_the_first_is_there(server, tmp_path):
    order = Order(SAMPLES, 3, 8, Lanes(SAMPLES, 3, lanes=4, block=BLOCK, window=1))
    urls = [f"{server.url}/bucket/train"]
    (shards,) = stream_shards(urls, str(tmp_path / "cache"), 1, BLOCK)
    stream = Stream(tars := shards.streams[0], order, 0)
    steps = [(step, order.global_batch(step)[0]) for step in range(6)]
    loads, ensure = [], tars.cache.ensure

    def noted(name, *rest, only_before, **more):
        is_ahead = threading.current_thread().name.startswith("download") and "block" in name
        if is_ahead:
            loads.append(("begin", only_before))
            time.sleep(0.05)  # as from far away
        found = ensure(name, *rest, only_before=only_before, **more)
        if is_ahead:
            loads.append(("end", only_before))
        return found

    tars.cache.ensure = noted
    with read_ahead([stream], lambda: steps, 0, "a run"):
        end = time.monotonic() + 60
        while sum(word == "end" for word, _ in loads) < 8 and time.monotonic() < end:
            time.sleep(0.01)
    begun = loads.index(("begin", 1))
    assert loads[:begun].count(("end", 0)) == loads.count(("begin", 0)) == 4
