"""The trend of a run: the lines through its errors, and the tables and figures of its rows."""

import numpy as np
import pytest

from bench import trend


def rows(slope=-0.5, count=4):
    """Errors that fall as a power of the images seen."""
    found = []
    for i in range(count):
        images = 1000 * 2**i
        value = 100 * images**slope
        cell = [value, value * 0.9, value * 1.1]
        methods = {
            name: {**dict.fromkeys(trend.MEASURES, cell), "position_share": 0.5}
            for name in trend.COLOURS
        }
        methods[trend.FLOOR] = {"same": cell, "different": cell, "position_share": None}
        gap = dict.fromkeys(("same", "different", "content"), [-0.1, -0.2, 0.1])
        gaps = {trend.CARB: gap, trend.LDA: gap}
        found.append({"step": i, "images": images, "methods": methods, "difference": gaps})
    return found


def test_the_line_is_that_of_a_power_law():
    slope, offset = trend.fit_line(rows(-0.25), trend.MAE, "different")
    assert slope == pytest.approx(-0.25) and np.exp(offset) == pytest.approx(100)
    text = trend.as_markdown(rows(-1.0))
    assert "MAE, detection (% IOD): error times 0.10 for ten times the images" in text


def test_two_checkpoints_give_no_line():
    assert trend.fit_line(rows(count=2), trend.MAE, "same") is None
    assert "ten times" not in trend.as_markdown(rows(count=2))


def test_each_checkpoint_has_both_stages_and_their_difference():
    text = trend.as_markdown(rows())
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 5 * 4 and len({line.count("|") for line in lines}) == 1
    assert text.count("-0.10 [-0.20, +0.10]") == 2 * 3 * 4


def test_an_evaluation_without_content_leaves_that_panel_empty():
    found = rows()
    for row in found:
        for name in row["methods"]:
            row["methods"][name].pop("content", None)
    figure = trend.draw(found)
    assert [len(axes.containers) for axes in figure.axes] == [3, 3, 0, 3]
    assert "content only" in trend.as_markdown(found)
