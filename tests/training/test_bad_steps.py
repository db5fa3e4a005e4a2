"""The judgement of an interval: which step was bad, on which rank, and what a spike is."""

from math import inf, nan

from scemae.training.bad_steps import LossHistory
from scemae.training.heartbeat import NO_NORM, Heartbeat


def beat(losses, norms=None, first=1, culprits=None):
    steps = list(range(first, first + len(losses)))
    return Heartbeat(
        steps,
        len(steps),
        losses,
        norms or [1.0] * len(losses),
        culprits or [None] * len(losses),
        [""] * len(losses),
        0,
        False,
        False,
        False,
        1.0,
        1.0,
        0.0,
        0.0,
    )


def test_good_steps_pass():
    assert LossHistory(10, []).judge(beat([3.0, 2.0, 4.0]), {}) is None


def test_the_first_bad_loss_is_named_with_its_rank():
    bad = LossHistory(10, []).judge(beat([1.0, nan, nan], culprits=[None, 3, 0], first=7), {})
    assert (bad.steps, bad.rank) == ([8], 3) and str(
        bad
    ) == "the loss became nan on rank 3 at step 8"


def test_gradients_that_are_no_numbers_are_bad_even_where_the_loss_is_one():
    assert LossHistory(10, []).judge(beat([1.0, 1.0], norms=[1.0, inf]), {}).steps == [2]


def test_without_norms_the_step_before_is_suspect_too():
    assert LossHistory(10, []).judge(
        beat([1.0, 1.0, nan], norms=[NO_NORM] * 3, culprits=[None, None, 0]), {}
    ).steps == [2, 3]


def test_the_suspect_may_be_the_last_step_of_the_interval_before():
    health = LossHistory(10, [])
    assert health.judge(beat([1.0, 1.0], norms=[NO_NORM] * 2), {}) is None
    assert health.judge(beat([nan], norms=[NO_NORM], culprits=[0], first=3), {}).steps == [2, 3]


def test_a_spike_is_far_above_the_median_of_the_steps_before():
    calm = [1.0, 1.1, 0.9] * 10
    assert LossHistory(10, calm).judge(beat([9.0]), {}) is None
    assert "spiked to 12, 12 times the median" in str(
        LossHistory(10, calm).judge(beat([1.0, 12.0]), {})
    )
    assert LossHistory(0, calm).judge(beat([1e6]), {}) is None, "0 switches it off"
    assert LossHistory(10, calm[:10]).judge(beat([1e6]), {}) is None, "too few to say"


def test_a_resumed_run_judges_as_the_uninterrupted_one():
    calm = [1.0] * 30
    whole, resumed = LossHistory(10, []), LossHistory(10, calm)
    assert whole.judge(beat(calm), {}) is None
    assert str(whole.judge(beat([11.0], first=31), {})) == str(
        resumed.judge(beat([11.0], first=31), {})
    )


def test_steps_that_were_left_out_are_not_judged_again():
    assert (
        LossHistory(10, []).judge(beat([1.0, 0.0], norms=[1.0, nan]), {"2": "the loss became nan"})
        is None
    )
