"""Order version 2: complete in every epoch, in blocks, the same for any number of ranks."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from scemae.data.lanes import Lanes
from scemae.data.order import Order, accumulation_steps, permutation
from scemae.data.training_set import fitting_lanes


def shape_of(case: int) -> tuple[int, int, int, int]:
    """Samples, lanes, block and window of a random case."""
    draw = np.random.default_rng(case).integers
    return int(draw(1, 3000)), int(draw(1, 40)), int(draw(1, 300)), int(draw(1, 9))


BATCHES = ((1, 70), (1, 9), (1, 8), (0, 40))  # images, ranks, micro-batch, step: from, to


def slow_sample(line: Lanes, epoch: int, place: int) -> int:
    """The formula of lanes.py for one place, with every permutation drawn anew."""

    def draw(purpose: int, lane: int, window: int, size: int, key: int) -> np.ndarray:
        bits = np.random.Philox(key=[line.seed, key], counter=[0, lane, window, purpose])
        return np.random.Generator(bits).permutation(size)

    lane, turn = place % line.lanes, place // line.lanes
    whole = line.blocks * line.block
    if turn >= whole:
        rest = draw(3, 0, 0, line.samples - whole * line.lanes, epoch)
        return whole * line.lanes + int(rest[(turn - whole) * line.lanes + lane])
    window, turn = divmod(turn, line.window * line.block)
    left = whole - window * line.window * line.block
    u = int(draw(0, lane, window, min(left, line.window * line.block), epoch)[turn])
    mine = int(draw(1, lane, 0, line.blocks, epoch)[window * line.window + u // line.block])
    deal = draw(2, 0, 0, line.blocks * line.lanes, 0)
    return int(deal[mine * line.lanes + lane]) * line.block + u % line.block


@pytest.mark.parametrize("case", range(60))
def test_every_epoch_has_every_sample_once(case):
    samples, lanes, block, window = shape_of(case)
    line = Lanes(samples, case, lanes, block, window)
    for epoch in range(3):
        assert (np.sort(line.at(epoch, np.arange(samples))) == np.arange(samples)).all()


@pytest.mark.parametrize("shape", [(997, 5, 16, 4), (64, 4, 8, 2), (30, 7, 9, 3)])
def test_a_place_is_that_of_the_formula(shape):
    line = Lanes(shape[0], 3, *shape[1:])
    for epoch in (0, 2):
        found = line.at(epoch, np.arange(shape[0]))
        assert found.tolist() == [slow_sample(line, epoch, place) for place in range(shape[0])]


def test_one_lane_of_one_block_is_version_1():
    line = Lanes(500, 7, 1, 500, 1)
    assert all((line.at(e, np.arange(500)) == permutation(7, e, 500)).all() for e in range(4))


def test_a_lane_reads_its_blocks_window_after_window():
    line = Lanes(4096, 0, lanes=4, block=32, window=2)
    for lane in range(4):
        mine = line.at(1, np.arange(lane, 4096, 4))
        for start in range(0, len(mine), 64):
            assert len(np.unique(mine[start : start + 64] // 32)) == 2


@pytest.mark.parametrize("case", range(60))
def test_ranks_of_any_number_share_a_batch_out_exactly(case):
    samples, lanes, block, window = shape_of(case)
    draw = np.random.default_rng([case, 1]).integers
    batch, ranks, micro, step = (int(draw(low, high)) for low, high in BATCHES)
    accumulation = accumulation_steps(batch, ranks, micro)

    def order() -> Order:  # anew for each rank: nothing depends on what was asked before
        return Order(samples, 1, batch, Lanes(samples, 1, lanes, block, window))

    parts = [part for r in range(ranks) for part in order().slices(step, r, ranks, accumulation)]
    places = np.concatenate([part.places[part.weights > 0] for part in parts])
    shared = np.concatenate([part.samples[part.weights > 0] for part in parts])
    assert (np.sort(places) == np.arange(batch)).all()
    assert (shared[places.argsort()] == order().global_batch(step)[0]).all()


def test_a_rank_gets_neighbours():
    order = Order(2**16, 0, 512, Lanes(2**16, 0, lanes=64, block=64, window=4))
    touched = {
        rank: {
            int(sample) // 64
            for step in range(32)
            for sample in order.slices(step, rank, 8, 1)[0].samples
        }
        for rank in range(8)
    }
    every = set.union(*touched.values())
    assert sum(map(len, touched.values())) == len(every)  # no block is read by two ranks


def test_a_billion_samples_need_little_memory():
    program = (
        "import resource, numpy as np\n"
        "from scemae.data.lanes import Lanes\n"
        "from scemae.data.order import Order\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "order = Order(10**9, 0, 65536, Lanes(10**9, 0, 1024, 256, 64))\n"
        "for step in (0, 1, 110_000): order.slices(step, 5, 1024, 1)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    used = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    assert int(used) < 100_000  # KiB; the permutation itself would take 8 GB


@pytest.mark.parametrize("case", range(20))
def test_the_next_window_of_a_block_is_where_a_walk_finds_it(case):
    samples, lanes, block, window = shape_of(case)
    line = Lanes(samples, case, lanes, block, window)
    blocks = np.arange(-(-samples // line.block))
    read: dict[int, list[int]] = {int(each): [] for each in blocks}
    for position in range(3 * samples):
        epoch, place = divmod(position, samples)
        sample = int(line.at(epoch, np.array([place]))[0])
        read[sample // line.block].append(line.window_at(position))
    for now in {0, 1, line.windows // 2, line.windows - 1, line.windows, line.windows + 1}:
        slow = [min(w for w in read[int(each)] if w >= now) for each in blocks]
        assert line.next_windows(blocks, now).tolist() == slow


@pytest.mark.parametrize(
    ("most", "batch", "lanes"), [(1024, 512, 1024), (1024, 100, 1000), (1024, 65536, 1024),
                                 (1024, 1500, 750), (7, 12, 6), (3, 64, 2), (1, 9, 1)]
)  # fmt: skip
def test_lanes_fit_the_batch(most, batch, lanes):
    assert fitting_lanes(most, batch) == lanes


@pytest.mark.parametrize("batch", [100, 96, 500, 12])
def test_with_fitting_lanes_a_block_is_read_by_one_rank_in_an_epoch(batch):
    lanes = fitting_lanes(64, batch)
    samples = 32 * lanes * 6
    order = Order(samples, 0, batch, Lanes(samples, 0, lanes, block=32, window=2))
    readers: dict[int, set[int]] = {}
    for step in range(samples // batch):
        for rank in range(4):
            for sample in order.slices(step, rank, 4, 1)[0].samples:
                readers.setdefault(int(sample) // 32, set()).add(rank)
    shared = sum(len(ranks) > 1 for ranks in readers.values())
    assert shared <= 3 / min(lanes, batch) * len(readers)  # of lanes that ranks share evenly: none


def test_threads_may_ask_for_other_epochs_at_once():
    """Without the lock this fails: a thread removes the table that another is about to read."""
    places, blocks = np.arange(600), np.arange(60)
    wanted = [Lanes(600, 1, 3, 10, 2).at(epoch, places) for epoch in range(12)]
    shared, before = Lanes(600, 1, 3, 10, 2), sys.getswitchinterval()

    def ask(epoch):
        shared.next_windows(blocks, epoch * shared.windows)
        return (shared.at(epoch, places) == wanted[epoch]).all()

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(ask, [*range(12)] * 100))
    finally:
        sys.setswitchinterval(before)
