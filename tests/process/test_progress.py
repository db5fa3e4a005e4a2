"""Progress: a bar for somebody who watches, and lines that a log can carry."""

import io
import pickle
import sys

import pytest

from scemae.process.progress import LoggedProgress, progress_bar, say


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawn(stream, monkeypatch, **settings):
    """What a bar over three items writes to stderr, and that it gives them all."""
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress_bar([1, 2, 3], mininterval=0, **settings)) == [1, 2, 3]
    return stream and stream.getvalue()


def test_a_bar_is_drawn_on_a_terminal(monkeypatch):
    assert "3/3" in drawn(Terminal(), monkeypatch)


@pytest.mark.parametrize(
    ("stream", "settings"),
    [(io.StringIO(), {}), (Terminal(), {"show": False}), (None, {})],
    ids=["log", "not shown", "closed"],
)
def test_nothing_is_left_in_a_log_of_what_takes_seconds(stream, settings, monkeypatch):
    assert not drawn(stream, monkeypatch, **settings)


def test_a_line_is_said_at_once_and_to_nobody_where_the_stream_is_closed():
    log = io.StringIO()
    say("left out", log)
    say("left out", None)
    assert log.getvalue() == "left out\n"


class Clock:
    """A clock that a test moves."""

    now = 1000.0

    def __call__(self):
        return self.now


def logged(monkeypatch, **settings):
    """A progress whose stderr is a log, with its clock."""
    log, clock = io.StringIO(), Clock()
    monkeypatch.setattr(sys, "stderr", log)
    return progress_bar(clock=clock, **settings), clock, log


def test_a_log_gets_a_line_a_minute_with_rate_and_what_remains(monkeypatch):
    bar, clock, log = logged(monkeypatch, total=4000, unit="image", desc="decoding")
    for _ in range(30):  # a batch of 100 each 10 seconds, for 5 minutes
        clock.now += 10
        bar.update(100)
    lines = log.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[0] == "decoding: 600 of 4,000 images (15%), 10 images/s, about 05:40 left"
    assert lines[-1] == "decoding: 3,000 of 4,000 images (75%), 10 images/s, about 01:40 left"
    bar.close()
    bar.close()
    last = log.getvalue().splitlines()[5:]
    assert last == ["decoding: 3,000 of 4,000 images (75%), ended after 05:00"]


def test_what_was_done_before_counts_in_the_share_but_not_in_the_rate(monkeypatch):
    bar, clock, log = logged(monkeypatch, total=100, initial=90, unit="trial")
    bar.set_postfix(loss=0.5)
    clock.now += 120
    bar.update()
    assert log.getvalue() == "91 of 100 trials (91%), 120.0 s each, about 18:00 left, loss 0.5\n"


def test_bytes_are_scaled_and_an_unknown_total_is_left_out(monkeypatch):
    bar, clock, log = logged(monkeypatch, unit="B", unit_scale=True, desc="copying")
    clock.now += 60
    bar.update(6e9)
    assert log.getvalue() == "copying: 6.00GB, 100MB/s\n"


def test_items_are_given_and_counted_in_a_log(monkeypatch):
    bar, clock, log = logged(monkeypatch, items=[1, 2, 3], unit="tar")
    assert isinstance(bar, LoggedProgress)
    for _ in bar:
        clock.now += 61
    assert log.getvalue().splitlines()[0] == "1 of 3 tars (33%), 61.0 s each, about 02:02 left"
    assert log.getvalue().splitlines()[-1] == "3 of 3 tars (100%), ended after 03:03"


def test_progress_inside_of_progress_says_each_in_its_own_lines(monkeypatch):
    outer, clock, log = logged(monkeypatch, total=2, unit="unit", desc="measured")
    with progress_bar(total=10, unit="image", desc="features", clock=clock) as inner:
        clock.now += 60
        inner.update(5)
    outer.update()
    assert [line.split(":")[0] for line in log.getvalue().splitlines()] == [
        "features",
        "features",
        "measured",
    ]


def test_what_stands_for_a_bar_can_be_pickled(monkeypatch):
    """Ray pickles a sweep with its bar."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    bar = pickle.loads(pickle.dumps(progress_bar(total=3)))
    bar.update(2)
    assert bar.n == 2
