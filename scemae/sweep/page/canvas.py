"""What all figures of a sweep's page are drawn on and with: sheets, marks, frames, and how a figure becomes a picture.

Colours are Okabe and Ito's, which people of every colour vision can tell apart; maps are viridis, dark for good.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from scemae.sweep.page.axes import Axis
from scemae.sweep.trials import TrialRecord

BLUE, SKY, RED, INK, PALE, RULE = "#0072b2", "#56b4e9", "#d55e00", "#1d2430", "#8a93a3", "#c9ced6"
MAP = colormaps["viridis"]
DOTS = 160  # per inch; the page shows a hundred of them, print and fine screens all
FAR = 3.0  # quartile ranges above the upper quartile from which a score stands at the edge (ours)


@dataclass
class Picture:
    """A PNG data URI, what it shows in words for those who do not see it, and what its caption must add."""

    uri: str
    width: int  # in pixels of the page
    alt: str
    note: str = ""


def picture(figure: Figure, alt: str, note: str = "") -> Picture:
    """A figure as a picture, in 256 colours: a quarter of the bytes, and maximum coverage keeps those of few pixels."""
    drawn = FigureCanvasAgg(figure)
    drawn.draw()
    file = io.BytesIO()
    pixels = Image.fromarray(np.asarray(drawn.buffer_rgba())[..., :3])
    pixels.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        file, "PNG", optimize=True
    )
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return Picture(uri, round(100 * figure.get_figwidth()), alt, note)


def blank(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one frame, in inches."""
    figure, frames = sheet(width, height, 1, 1)
    return figure, frames[0]


def sheet(width: float, height: float, count: int, across: int) -> tuple[Figure, list[Axes]]:
    """A figure of `count` frames in rows of `across`, which share the axis that goes up; each row is `height` inches."""
    down = -(-count // across)
    figure = Figure(figsize=(width, height * down), dpi=DOTS, layout="constrained")
    frames = list(figure.subplots(down, across, squeeze=False, sharey=True).flatten())
    for axes in frames[:count]:
        dress(axes)
    for axes in frames[count:]:
        axes.axis("off")
    return figure, frames[:count]


def dress(axes: Axes) -> None:
    """Give a frame the page's look."""
    axes.tick_params(colors=PALE, labelcolor="#5b6575", labelsize=8, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.grid(color="#eceef2", linewidth=0.8)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, fontsize=9)


def legend(axes: Axes) -> None:
    """Name the marks above the frame."""
    if axes.get_legend_handles_labels()[0]:
        names = axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=6,
            frameon=False,
            fontsize=8.5,
            labelcolor=INK,
            borderaxespad=0.2,
            handletextpad=0.4,
            columnspacing=1.4,
        )
        for mark in names.legend_handles:
            mark.set_alpha(1)  # thousands of pale lines are seen, one is not


def star(axes: Axes, places: list[tuple[float, float]]) -> None:
    """Mark the paper's setting, where it is to be seen."""
    if places:
        axes.scatter(
            *zip(*places),
            marker="*",
            s=150,
            color=RED,
            edgecolors="white",
            linewidths=0.9,
            zorder=5,
            label="the paper's setting",
        )


def upright(axes: Axes, x: float, axis: Axis) -> None:
    """One axis of parallel coordinates, from 0 to 1 at `x`, its values beside it."""
    axes.plot([x, x], [0, 1], color=INK, linewidth=0.9, zorder=4)
    for at, text in axis.ticks():
        axes.plot([x - 0.012, x + 0.012], [at, at], color=INK, linewidth=0.9, zorder=4)
        axes.text(
            x + 0.025,
            at,
            text,
            fontsize=7.5,
            va="center",
            color=INK,
            zorder=6,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6},
        )


def window(scores: list[float], always: list[float]) -> tuple[float, float]:
    """From a little below the lowest score to a little above the highest that is not far from the others, or in `always`.

    One number alone gets room on both sides.
    """
    values = np.asarray(scores, float)
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    top = max(
        [float(values[values <= high + FAR * max(high - low, 0.02 * abs(middle))].max()), *always]
    )
    bottom = float(values.min())
    margin = 0.05 * (top - bottom) or 0.05 * abs(top) or 1.0
    return bottom - margin, top + margin


def beyond(count: int, high: float) -> str:
    """How many scores stand at the edge because they are above it."""
    if not count:
        return ""
    return f"{count} score{'s' * (count > 1)} above {high:.3g} px stand{'s' * (count == 1)} at the upper edge."


def thin(records: list[TrialRecord], most: int) -> list[TrialRecord]:
    """At most `most` of the trials, at equal distances in the list."""
    if len(records) <= most:
        return records
    return [records[i] for i in np.linspace(0, len(records) - 1, most).round().astype(int)]


def spread(axis: Axis, records: list[TrialRecord]) -> np.ndarray:
    """How far to move each trial along an axis of few places, (trials,), so that equal values do not hide each other.

    The golden ratio moves trials of neighbouring numbers apart; a trial is moved alike in every figure.
    """
    turns = np.array([one.number for one in records]) * 0.618034 % 1 - 0.5
    return turns * (0.3 / len(axis.words) if axis.words else 0.03) * axis.is_discrete
