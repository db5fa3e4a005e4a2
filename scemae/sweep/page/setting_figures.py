"""Figures of the swept settings and their scores, over the finished trials.

Each function returns a picture, or why there is none. The paper's setting is orange.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from scemae.sweep.page.canvas import (
    BLUE,
    INK,
    MAP,
    RED,
    Picture,
    Style,
    clipped,
    clipped_note,
    frame_rows,
    jitter,
    limits_of,
    mark_paper,
    one_frame,
    score_limits,
    thinned,
    to_picture,
)
from scemae.sweep.page.importance import Importance
from scemae.sweep.page.setting_axes import SettingAxis, as_text
from scemae.sweep.ranking import ranked, score
from scemae.sweep.trials import PAPER, TrialRecord

LINES = 300  # of parallel coordinates, drawn at most: a third of them the best trials
CELLS = 8  # of a heat map along an axis of many values
TOO_FEW = "found {} finished with a score, needed two trials at least"


def parallel(
    records: list[TrialRecord], objective: str, axes_of: list[SettingAxis]
) -> Picture | str:
    """Parallel coordinates: a line for each trial through its values to its score."""
    order = ranked(records, objective)
    if len(order) < 2:
        return TOO_FEW.format(len(order))
    shown = [*order[: LINES // 3], *thinned(order[LINES // 3 :], LINES - LINES // 3)]
    paper = [one for one in order if one.origin == PAPER]
    drawn = [one for one in reversed(shown) if one.origin != PAPER] + paper  # good over bad ones
    last = SettingAxis(objective, f"{objective}\n(px)", *limits_of(order, objective))
    columns = [axis.places(drawn) + jitter(axis, drawn) for axis in axes_of]
    columns.append(np.array([last.place(one) for one in clipped(drawn, objective, last.high)]))
    heights = np.stack(columns, axis=1)  # trials, axes
    figure, axes = one_frame(10.2, 4.3)
    _draw_lines(axes, heights, len(drawn) - len(paper))
    many = len(axes_of) > 8  # then labels are on two levels
    for x, axis in enumerate([*axes_of, last]):
        _draw_axis(axes, x, axis)
        at = 1.05 + 0.07 * (many and x % 2)
        axes.text(x, at, axis.label, ha="center", va="bottom", fontsize=9)
    axes.set(xlim=(-0.25, len(axes_of) + 0.3), ylim=(-0.03, 1.03 + 0.07 * many))
    axes.axis("off")
    values = ", ".join(
        f"{axis.label} {as_text(order[0].values.get(axis.name))}" for axis in axes_of
    )
    alt = (
        f"{len(shown)} finished trials as lines over {len(axes_of)} settings; the best is {values}"
    )
    part = (
        f"{len(shown)} of {len(order)} finished trials are drawn: the best {LINES // 3}, "
        "and others evenly by rank."
    )
    return to_picture(figure, alt, part if len(shown) < len(order) else "")


def _draw_lines(axes: Axes, heights: np.ndarray, count: int) -> None:
    """One line per row of heights (trials, axes), worst first; those from `count` on are bold.

    The last column, the score, gives the colour. Lines pass over axes where a trial has no value.
    """
    colours = MAP(0.95 * heights[:, -1])
    share = np.linspace(0, 1, len(heights))
    lines = [np.column_stack([np.arange(len(row)), row])[~np.isnan(row)] for row in heights]
    style: Style = {"colors": colours[:count], "linewidths": 0.7 + 0.9 * share[:count] ** 6}
    axes.add_collection(LineCollection(lines[:count], **style, alpha=0.75))
    for line in lines[count:]:
        axes.plot(*line.T, color="white", linewidth=5)
        axes.plot(*line.T, color=RED, linewidth=2.6)


def _draw_axis(axes: Axes, x: float, axis: SettingAxis) -> None:
    """One vertical axis from 0 to 1 at `x`, with its values beside it."""
    line: Style = {"color": INK, "linewidth": 0.9, "zorder": 4}
    box: Style = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6}
    axes.plot([x, x], [0, 1], **line)
    for at, text in axis.ticks():
        axes.plot([x - 0.012, x + 0.012], [at, at], **line)
        axes.text(x + 0.025, at, text, fontsize=7.5, va="center", zorder=6, bbox=box)


def slices(records: list[TrialRecord], objective: str, axes_of: list[SettingAxis]) -> Picture | str:
    """The score by each setting alone, with medians."""
    order = ranked(records, objective)
    if not axes_of:
        return "no setting was searched"
    if len(order) < 2:
        return TOO_FEW.format(len(order))
    scores = [score(one, objective) for one in order]
    low, high = limits_of(order, objective)
    figure, frames = frame_rows(10.2, 2.25, len(axes_of), max(min(len(axes_of), 5), 2))
    shown = thinned(order)
    paper = [one for one in order if one.origin == PAPER]
    for axes, axis in zip(frames, axes_of):
        x, y = axis.places(shown) + jitter(axis, shown), clipped(shown, objective, high)
        axes.scatter(x, y, s=7, color=BLUE, alpha=0.45, linewidths=0)
        for left, right, middle in medians(axis.places(order), np.array(scores)):
            axes.plot([left, right], [middle] * 2, color=INK, linewidth=1.8, solid_capstyle="butt")
        mark_paper(axes, list(zip(axis.places(paper), clipped(paper, objective, high))))
        axes.set(xlim=(-0.06, 1.06), ylim=(low, high + 0.02 * (high - low)), title=axis.label)
        rotation = 30 if sum(map(len, axis.categories)) > 22 else 0
        places, labels = zip(*axis.ticks(0.19))
        axes.set_xticks(places, labels, rotation=rotation)
    frames[0].set_ylabel(f"{objective} (px)", fontsize=8.5)
    alt = f"{objective} of {len(order)} finished trials by each of {len(axes_of)} settings"
    return to_picture(figure, alt, clipped_note(scores, high))


def medians(places: np.ndarray, scores: np.ndarray) -> list[tuple[float, float, float]]:
    """(left, right, median score) wherever at least three trials share a part of an axis.

    places, scores (trials,). The parts are the values if there are up to nine, else eighths.
    """
    different = np.unique(places[~np.isnan(places)])
    if len(different) <= 9:
        gap = np.diff(different).min() if len(different) > 1 else 0.5
        half = min(gap / 3, 0.06)
        parts = [(at - half, at + half, places == at) for at in different]
    else:
        eighth = np.floor(np.clip(places, 0, 0.999) * 8)
        parts = [(i / 8, (i + 1) / 8, eighth == i) for i in range(8)]
    return [
        (left, right, float(np.median(scores[chosen])))
        for left, right, chosen in parts
        if chosen.sum() >= 3
    ]


def bars(found: Importance, axes_of: list[SettingAxis]) -> Picture | str:
    """The importance of each setting, with its interval."""
    if found.missing:
        return found.missing
    labels = {axis.name: axis.label for axis in axes_of}
    figure, axes = one_frame(7.2, 0.55 + 0.3 * len(found.shares))
    for row, (name, share) in enumerate(found.shares.items()):
        axes.barh(row, share, height=0.62, color=BLUE, alpha=0.85)
        if found.low:
            axes.plot([found.low[name], found.high[name]], [row] * 2, color=INK, linewidth=1.4)
        end = max(share, found.high.get(name, 0))
        axes.text(end + 0.012, row, f"{share:.2f}", va="center")
    names = [labels[name] for name in found.shares]
    axes.set_yticks(range(len(names)), names, fontsize=9, color=INK)
    axes.invert_yaxis()
    longest = max([*found.shares.values(), *found.high.values()])
    axes.set(xlim=(0, 1.08 * longest + 0.04), xlabel="importance")
    axes.grid(axis="y", visible=False)
    shares = (f"{labels[name]} {share:.2f}" for name, share in found.shares.items())
    return to_picture(figure, f"Importance: {', '.join(shares)}")


def heat(
    records: list[TrialRecord], objective: str, across: SettingAxis, up: SettingAxis
) -> Picture | str:
    """The mean score and the count of trials in each cell of two settings."""
    order = ranked(records, objective)
    has_both = ~np.isnan(across.places(order) + up.places(order))
    order = [one for one, both in zip(order, has_both) if both]
    if not order:
        return "no finished trial has a score"
    (columns, at), (rows, level) = cells(across, order), cells(up, order)
    total, count = np.zeros((2, len(rows), len(columns)))
    np.add.at(total, (level, at), [score(one, objective) for one in order])
    np.add.at(count, (level, at), 1)
    mean = total / np.where(count > 0, count, np.nan)
    figure, axes = one_frame(min(1.6 + 0.95 * len(columns), 10.2), 0.9 + 0.5 * len(rows))
    _draw_cells(axes, mean, count)
    for k in [k for k, one in enumerate(order) if one.origin == PAPER]:
        axes.add_patch(_cell(at[k], level[k], fill=False, edgecolor=RED, linewidth=2.4))
    axes.set(xlim=(-0.55, len(columns) - 0.45), ylim=(-0.55, len(rows) - 0.45))
    axes.set(xlabel=across.label, ylabel=up.label)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    i, j = np.unravel_index(np.nanargmin(mean), mean.shape)
    return to_picture(
        figure,
        f"Mean {objective} by {across.name} and {up.name}; the lowest, {mean[i, j]:.2f} px of "
        f"{count[i, j]:.0f} trials, at {columns[j]} and {rows[i]}",
    )


def _draw_cells(axes: Axes, mean: np.ndarray, count: np.ndarray) -> None:
    """Each cell that has trials, in the colour of its mean; both (rows, columns)."""
    norm = Normalize(*score_limits(mean[count > 0].tolist(), []))
    centred: Style = {"ha": "center", "va": "center"}
    for i, j in np.argwhere(count > 0):
        colour = MAP(0.95 * min(float(norm(mean[i, j])), 1.0))
        axes.add_patch(_cell(j, i, color=colour, linewidth=0))
        ink = INK if np.dot(colour[:3], (0.3, 0.59, 0.11)) > 0.55 else "white"
        axes.text(j, i + 0.1, f"{mean[i, j]:.2f}", **centred, fontsize=9, color=ink)
        axes.text(j, i - 0.24, f"n = {count[i, j]:.0f}", **centred, fontsize=7, color=ink)


def _cell(column: int, row: int, **style: Any) -> Rectangle:
    return Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, **style)


def cells(axis: SettingAxis, records: list[TrialRecord]) -> tuple[list[str], np.ndarray]:
    """The names of the cells along an axis, and the cell of each trial (trials,).

    One cell for each word or known number, else up to `CELLS` of the same width, named by the
    lowest and highest value in it; those without a trial are left out.
    """
    places = axis.places(records)
    if axis.categories:
        return axis.categories, np.round(places * len(axis.categories) - 0.5).astype(int)
    if axis.known:
        known = np.array([axis.place(value) for value in axis.known])
        names = [as_text(value) for value in axis.known]
        return names, np.abs(places[:, None] - known).argmin(axis=1)
    parts = np.clip(np.floor(places * CELLS + 1e-9), 0, CELLS - 1)
    filled, at = np.unique(parts, return_inverse=True)
    values = np.array([float(one.values[axis.name]) for one in records])
    names = []
    for i in range(len(filled)):
        low, high = f"{values[at == i].min():.3g}", f"{values[at == i].max():.3g}"
        names.append(low if low == high else f"{low}–{high}")
    return names, at
