"""Batches mixed from several sets: exact shares, each set's epochs whole, any number of ranks."""

from collections import Counter

import numpy as np
import pytest

from scemae.data.lanes import Lanes
from scemae.data.mixture import MixedOrder, parse_mixture
from scemae.data.order import Order
from scemae.errors import ConfigError
from tests.support import TINY, scemae, write_shards


def mixture():
    """21 samples by 5 of a batch, 8 by 2 in lanes, and 40 by 1."""
    second = Order(8, 4, 2, Lanes(8, 4, 2, 2, 1))
    return MixedOrder([Order(21, 3, 5), second, Order(40, 5, 1)])


def test_every_batch_has_the_shares_and_every_set_whole_epochs():
    order, seen = mixture(), [Counter(), Counter(), Counter()]
    for step in range(84):
        samples, epochs = order.global_batch(step)
        sets = np.digitize(samples, [21, 29])
        assert np.bincount(sets).tolist() == [5, 2, 1]
        for one, sample, epoch in zip(sets, samples.tolist(), epochs.tolist()):
            seen[one][epoch, sample] += 1
    for one, size in zip(seen, (21, 8, 40)):
        assert set(one.values()) == {1}
        whole = {epoch for epoch, count in Counter(e for e, _ in one).items() if count == size}
        assert whole == set(range(len(one) // size))


@pytest.mark.parametrize(("ranks", "micro"), [(1, 8), (2, 4), (3, 1), (5, 2), (8, 1)])
def test_ranks_share_a_mixed_batch_out_exactly(ranks, micro):
    steps = -(-8 // (ranks * micro))
    for step in (0, 3, 17):
        parts = [part for r in range(ranks) for part in mixture().slices(step, r, ranks, steps)]
        real = [part.weights > 0 for part in parts]
        places = np.concatenate([part.places[here] for part, here in zip(parts, real)])
        together = np.concatenate([part.samples[here] for part, here in zip(parts, real)])
        assert sorted(places.tolist()) == list(range(8))
        assert (together[places.argsort()] == mixture().global_batch(step)[0]).all()


def test_what_is_drawn_is_what_the_batches_hold():
    order = mixture()
    drawn = Counter((e, s) for e, samples in order.drawn(2, 30) for s in samples.tolist())
    walked = Counter()
    for step in range(2, 30):
        walked.update(zip(*(array.tolist() for array in order.global_batch(step)[::-1])))
    assert drawn == walked


def test_shares_are_exact():
    assert parse_mixture(["s3://b/a:0.75", "dir:1/4"], 64) == [("s3://b/a", 48), ("dir", 16)]


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        (["a:0.7", "b:0.2"], "add up to 0.9, 1 was needed"),
        (["a:0.7", "b:0.3"], "0.7 of a batch of 64 is no whole number of images; give 45/64"),
        (["a", "b:0.5"], "LOCATION:SHARE"),
        (["a:1.5", "b:-0.5"], "between 0 and 1"),
    ],
)
def test_shares_that_do_not_fit_are_refused(entries, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse_mixture(entries, 64)


def test_a_mixed_run_goes_on_with_other_ranks_and_is_verified(tmp_path):
    one, two = (write_shards(tmp_path / name, count) for name, count in (("one", 12), ("two", 5)))
    words = ["pretrain", *TINY, "optim.global_batch_size=4", "optim.epochs=2", "loop.log_every=1"]
    words += ["loop.save_every=2", "loop.keep=9", "runtime.device=cpu", "loop.max_skips=3"]
    words += [f"data.mix=[{one}:0.75,{two}:0.25]", f"run_dir={tmp_path / 'run'}"]
    first = scemae(*words, "optim.epochs=1")
    assert f"17 images in {one}:0.75 + {two}:0.25; 4 steps of 4" in first.stdout
    assert "steps 1 to 4" in scemae("verify-resume", tmp_path / "run", "--all").stdout
    other = scemae(*words, "optim.epochs=1", f"data.mix=[{one}:0.5,{two}:0.5]", check=False)
    assert other.returncode == 1 and "data mixture" in other.stderr
    words[words.index(f"run_dir={tmp_path / 'run'}")] = f"run_dir={tmp_path / 'two'}"
    scemae(*words, ranks=2)
    done = scemae("verify-resume", tmp_path / "two", "--all")
    assert "steps 1 to 8" in done.stdout
    both = scemae(*words, f"data.subset={tmp_path}/x", f"run_dir={tmp_path}/3", check=False)
    assert "data.mix and data.subset: only one of them" in both.stderr
