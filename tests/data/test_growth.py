"""A set that grows: parts join at the edge of an epoch, exactly, for any number of ranks."""

from collections import Counter

import numpy as np
import pytest

from scemae.data.growth import Growing, next_edge
from scemae.data.lanes import Lanes
from scemae.data.line import NEVER
from scemae.data.order import Order, Whole

BATCH = 7


def growing():
    """20 samples for two epochs, 32 for one, then 53; whole, lanes, lanes."""
    lines = [Whole(20, 3), Lanes(32, 3, 2, 4, 2), Lanes(53, 3, 4, 4, 2)]
    return Growing(lines, [0, 40, 72])


def slow_sequence(epochs):
    """(epoch, sample) at each position, line by line."""
    lines = [Whole(20, 3)] * 2 + [Lanes(32, 3, 2, 4, 2)] + [Lanes(53, 3, 4, 4, 2)] * epochs
    return [
        (epoch, sample)
        for epoch, line in enumerate(lines[:epochs])
        for sample in line.at(epoch, np.arange(line.samples)).tolist()
    ]


def test_what_was_seen_stays_and_every_epoch_has_each_sample_once():
    order, sequence = Order(53, 3, BATCH, growing()), slow_sequence(6)
    for step in range(len(sequence) // BATCH):
        samples, epochs = order.global_batch(step)
        found = [*zip(epochs.tolist(), samples.tolist())]
        assert found == sequence[step * BATCH : (step + 1) * BATCH]
    assert Counter(epoch for epoch, _ in sequence) == {0: 20, 1: 20, 2: 32, 3: 53, 4: 53, 5: 53}
    before = Order(20, 3, BATCH)
    for step in range(5):  # steps that end before the first part joins
        assert (before.global_batch(step)[0] == order.global_batch(step)[0]).all()


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_ranks_share_batches_out_exactly_across_an_edge(ranks):
    order = Order(53, 3, BATCH, growing())
    for step in range(16):
        parts = [part for rank in range(ranks) for part in order.slices(step, rank, ranks, 1)]
        real = [part.weights > 0 for part in parts]
        places = np.concatenate([part.places[here] for part, here in zip(parts, real)])
        samples = np.concatenate([part.samples[here] for part, here in zip(parts, real)])
        assert sorted(places.tolist()) == list(range(BATCH))
        assert (samples[places.argsort()] == order.global_batch(step)[0]).all()


def test_what_is_drawn_is_what_the_batches_hold():
    order = Order(53, 3, BATCH, growing())
    drawn = Counter((e, s) for e, samples in order.drawn(3, 25) for s in samples.tolist())
    walked = Counter()
    for step in range(3, 25):
        walked.update(zip(*(array.tolist() for array in order.global_batch(step)[::-1])))
    assert drawn == walked


def test_next_windows_are_those_of_a_walk():
    line, sequence = growing(), slow_sequence(8)
    windows = [line.window_at(position) for position in range(len(sequence))]
    assert windows == sorted(windows)
    blocks = np.arange(14)  # of 4 samples
    for now in range(line.window_at(40), line.window_at(200)):
        epoch = line.epoch_of_window(now)
        end = sum(line.size(e) for e in range(epoch + 2))
        uses = {}
        for position, (_, sample) in enumerate(sequence[:end]):
            if windows[position] >= now:
                uses.setdefault(sample // 4, windows[position])
        found = line.next_windows(blocks, now).tolist()
        for block in blocks.tolist():
            if block in uses:
                assert found[block] == uses[block], (now, block)
            else:
                assert found[block] == NEVER


def test_images_of_epochs_count_each_epoch_as_it_was():
    order = Order(53, 3, BATCH, growing())
    assert [order.images(e) for e in (0, 1, 2, 2.5, 3, 4)] == [0, 20, 40, 56, 72, 125]

    assert [order.epochs(steps) for steps in (0, 1, 8)] == [0, 7 / 20, 2 + 16 / 32]


def test_edges():
    assert next_edge([20, 12], [0], 0) == 0
    assert next_edge([20, 12], [0], 1) == 20
    assert next_edge([20, 12], [0], 20) == 20
    assert next_edge([20, 12, 5], [0, 40], 41) == 72
    assert next_edge([20, 12, 5], [0, 40], 3) == 40
    with pytest.raises(ValueError, match="no edge"):
        Growing([Whole(20, 3), Whole(30, 3)], [0, 21])
