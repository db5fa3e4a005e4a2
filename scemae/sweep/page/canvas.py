"""What every figure of a sweep's page uses: style, frames, marks, limits of scores, PNG output.

Colours are Okabe and Ito's, which stay apart under every common colour blindness; the map is
viridis, dark for good scores. Optuna's own plots were tried instead: they do not mark the paper's
setting or show trials that stopped early, interpolate scores where nothing was tried, name every
trial in a legend, and need optuna, which a job array does without.
"""

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from scemae.sweep.page.setting_axes import SettingAxis
from scemae.sweep.ranking import score
from scemae.sweep.trials import PAPER, TrialRecord

Style = dict[str, Any]  # keyword arguments of matplotlib
BLUE, SKY, RED, INK, PALE, RULE = "#0072b2", "#56b4e9", "#d55e00", "#1d2430", "#8a93a3", "#c9ced6"
MAP = colormaps["viridis"]
DOTS = 160  # per inch; the page shows 100 of them, print and fine screens all
POINTS = 3000  # drawn at most
OUTLIER_RANGES = 3.0  # interquartile ranges above the upper quartile: a score is clipped (ours)
TICKS: Style = {"color": PALE, "labelcolor": "#5b6575", "labelsize": 8, "major.size": 2.5}
# matplotlib's settings while the figures of a page are drawn
STYLE: Any = {
    **{f"{axis}tick.{name}": value for axis in "xy" for name, value in TICKS.items()},
    "figure.dpi": DOTS,
    "figure.constrained_layout.use": True,
    "font.size": 8.5,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": RULE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "grid.color": "#eceef2",
    "legend.frameon": False,
}


@dataclass
class Picture:
    """A PNG as a data URI, with its alternative text and what its caption must add."""

    uri: str
    width: int  # in CSS pixels
    alt: str
    note: str = ""


def to_picture(figure: Figure, alt: str, note: str = "") -> Picture:
    """Render a figure to a PNG of 256 colours, which has a quarter of the bytes of a full one."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    file = io.BytesIO()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    # MAXCOVERAGE keeps the colours of few pixels, such as those of the paper's star.
    few = pixels.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(file, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return Picture(uri, round(100 * figure.get_figwidth()), alt, note)


def one_frame(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one frame; sizes in inches."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def frame_rows(width: float, height: float, count: int, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure of `count` frames in rows of `columns`, which share the y axis.

    `width` is of the figure and `height` of each row, in inches.
    """
    rows = -(-count // columns)
    figure = Figure(figsize=(width, height * rows))
    frames = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flatten())
    for axes in frames[count:]:
        axes.axis("off")
    return figure, frames[:count]


def legend(axes: Axes) -> None:
    """Put the legend above the frame, if anything in it has a label."""
    if axes.get_legend_handles_labels()[0]:
        place: Style = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
        spacing: Style = {"handletextpad": 0.4, "columnspacing": 1.4}
        for mark in axes.legend(ncols=6, **place, **spacing).legend_handles:
            if mark is not None:
                mark.set_alpha(1)  # many pale lines together are visible, a single one is not


def mark_paper(axes: Axes, points: list[tuple[float, float]]) -> None:
    """An orange star at each point (x, y): the paper's setting."""
    if points:
        style: Style = {"marker": "*", "s": 150, "color": RED, "edgecolors": "white"}
        x, y = zip(*points)
        axes.scatter(x, y, **style, linewidths=0.9, zorder=5, label="the paper's setting")


def score_limits(scores: list[float], always: list[float]) -> tuple[float, float]:
    """The range of the score axis: all `scores` but outliers far above the rest, and all `always`.

    One number alone gets room on both sides.
    """
    values = np.asarray(scores, float)
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    farthest = high + OUTLIER_RANGES * max(high - low, 0.02 * abs(middle))
    top = max([float(values[values <= farthest].max()), *always])
    bottom = float(values.min())
    margin = 0.05 * (top - bottom) or 0.05 * abs(top) or 1.0
    return bottom - margin, top + margin


def limits_of(records: list[TrialRecord], objective: str) -> tuple[float, float]:
    """The range of the axis of an objective; the paper's setting is always in it."""
    paper = [score(one, objective) for one in records if one.origin == PAPER]
    return score_limits([score(one, objective) for one in records], paper)


def clipped(records: list[TrialRecord], objective: str, high: float) -> list[float]:
    """Their scores, at most `high`."""
    return [min(score(one, objective), high) for one in records]


def clipped_note(scores: list[float], high: float) -> str:
    """The sentence of a caption on how many scores are clipped to `high`, the upper edge."""
    if not (count := sum(value > high for value in scores)):
        return ""
    noun, verb = ("score", "is") if count == 1 else ("scores", "are")
    return f"{count} {noun} above {high:.3g} px {verb} drawn at the upper edge."


def thinned(records: list[TrialRecord], most: int = POINTS) -> list[TrialRecord]:
    """At most `most` of the trials, evenly spaced in the list."""
    if len(records) <= most:
        return records
    return [records[i] for i in np.linspace(0, len(records) - 1, most).round().astype(int)]


def jitter(axis: SettingAxis, records: list[TrialRecord]) -> np.ndarray:
    """Offsets (trials,) along an axis of few values, so that equal ones do not hide each other.

    Multiples of the golden ratio move trials of neighbouring numbers apart. The offset depends on
    the trial's number alone, so it is the same in every figure.
    """
    turns = np.array([one.number for one in records]) * 0.618034 % 1 - 0.5
    return turns * (0.3 / len(axis.categories) if axis.categories else 0.03) * axis.is_discrete
