"""The global order of samples: complete, gapless, and the same for any number of ranks."""

import numpy as np
import pytest

from scemae.data.order import Order, accumulation_steps, permutation


def test_batches_follow_each_other_without_gap_or_repeat():
    order = Order(samples=23, seed=5, global_batch_size=7)
    line = np.concatenate([order.global_batch(step)[0] for step in range(23)])  # 7 epochs exactly
    slow = np.concatenate([permutation(5, epoch, 23) for epoch in range(7)])
    assert (line == slow).all()
    for epoch in range(7):
        assert sorted(line[epoch * 23 : (epoch + 1) * 23]) == list(range(23))


def test_a_batch_follows_from_its_step_alone():
    walked, jumped = Order(50, 1, 16), Order(50, 1, 16)
    for step in range(9):
        batch = walked.global_batch(step)
    assert all((a == b).all() for a, b in zip(batch, jumped.global_batch(8)))


def test_a_batch_may_be_larger_than_several_epochs():
    samples, epochs = Order(4, 0, 13).global_batch(1)
    assert list(epochs) == [3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6] and len(samples) == 13


@pytest.mark.parametrize(
    ("batch", "ranks", "micro"), [(16, 1, 16), (16, 2, 4), (17, 3, 2), (3, 2, 1), (7, 5, 1)]
)
def test_slices_of_all_ranks_are_the_global_batch_with_equal_weights(batch, ranks, micro):
    order, steps = Order(40, 3, batch), accumulation_steps(batch, ranks, micro)
    parts = [part for rank in range(ranks) for part in order.slices(2, rank, ranks, steps)]
    real = [part.weights > 0 for part in parts]
    together = np.concatenate([part.samples[here] for part, here in zip(parts, real)])
    assert (together == order.global_batch(2)[0]).all()
    assert len({len(part.samples) for part in parts}) == 1 and len(parts[0].samples) <= micro
    # Averaged over ranks and micro-steps, each image weighs 1 / batch.
    assert np.concatenate([part.weights for part in parts]).sum() / (
        ranks * steps
    ) == pytest.approx(1)


def test_epochs_differ_and_seeds_differ():
    assert not (permutation(0, 0, 100) == permutation(0, 1, 100)).all()
    assert not (permutation(0, 0, 100) == permutation(1, 0, 100)).all()
