"""Numbers that belong to a sample."""

import numpy as np
import pytest

from scemae.data import randomness


def test_numbers_do_not_depend_on_the_batch_they_come_in():
    epochs, samples = np.array([0, 0, 3, 3]), np.array([5, 9, 5, 2])
    together = randomness.uniform(7, epochs, samples, randomness.CROP, 10)
    alone = randomness.uniform(7, epochs[2:3], samples[2:3], randomness.CROP, 10)
    assert (together[2] == alone[0]).all()
    assert len(np.unique(together)) == together.size


def test_numbers_are_uniform_and_uncorrelated_between_neighbours():
    samples = np.arange(2000)
    u = randomness.uniform(0, np.zeros(2000, int), samples, randomness.MASK, 144)
    assert 0 <= u.min() and u.max() < 1
    assert u.mean() == pytest.approx(0.5, abs=0.003) and u.var() == pytest.approx(1 / 12, abs=0.001)
    assert abs(np.corrcoef(u[:-1].ravel(), u[1:].ravel())[0, 1]) < 0.006
    assert abs(np.corrcoef(u[:, :-1].ravel(), u[:, 1:].ravel())[0, 1]) < 0.006


def test_purposes_seeds_and_epochs_are_independent():
    one, base = np.array([4]), None
    for seed, epoch, purpose in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        u = randomness.uniform(seed, np.array([epoch]), one, purpose, 1000)[0]
        assert base is None or abs(np.corrcoef(u, base)[0, 1]) < 0.15
        base = u if base is None else base


def test_normal_numbers_have_mean_zero_and_variance_one():
    z = randomness.normal(0, np.zeros(500, int), np.arange(500), randomness.COLOUR, 200)
    assert z.mean() == pytest.approx(0, abs=0.01) and z.std() == pytest.approx(1, abs=0.01)
