"""Progress bars: for somebody who watches, and never in a log."""

import io
import sys

import pytest

from scemae.process.progress import progress_bar, say


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
def test_a_bar_leaves_nothing_in_a_log(stream, settings, monkeypatch):
    assert not drawn(stream, monkeypatch, **settings)


def test_a_line_is_said_at_once_and_to_nobody_where_the_stream_is_closed():
    log = io.StringIO()
    say("left out", log)
    say("left out", None)
    assert log.getvalue() == "left out\n"
