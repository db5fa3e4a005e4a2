"""The figures of a sweep's page: trials in, a picture out, or the reason why there is none.

The paper's setting is an orange star, or a bold orange line. A score far above the others stands at the upper edge, and a
figure of thousands of trials shows a part of them; both are said in its note.
"""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from scemae.sweep.page.axes import Axis, say
from scemae.sweep.page.canvas import (
    BLUE,
    INK,
    MAP,
    PALE,
    RED,
    SKY,
    Picture,
    beyond,
    blank,
    legend,
    picture,
    sheet,
    spread,
    star,
    thin,
    upright,
    window,
)
from scemae.sweep.page.importance import Importance
from scemae.sweep.ranking import best, pareto_front, ranked, score
from scemae.sweep.trials import FAILED, FINISHED, PAPER, RUNNING, STOPPED, TrialRecord

LINES, POINTS = 300, 3000  # drawn at most, of curves and of points
CELLS = 8  # of a heat map, along a setting with more values
WORDS = {FINISHED: "finished", STOPPED: "stopped early", RUNNING: "running", FAILED: "failed"}
FEW = "found {} finished with a score, needed two trials at least"


def history(records: list[TrialRecord], objective: str) -> Picture | str:
    """The last score of each trial by its number, and the best so far; a reason where no trial has a score."""
    scored = [one for one in records if not math.isnan(score(one, objective))]
    if not scored:
        return "no trial has a score yet"
    low, high = span(scored, objective)
    figure, axes = blank(10.2, 3.5)
    marks = {
        FINISHED: ("o", BLUE, 0.75, 18, 0.0),
        STOPPED: ("x", PALE, 0.7, 16, 0.9),
        RUNNING: ("^", SKY, 0.9, 18, 0.0),
        FAILED: ("|", RED, 0.9, 30, 1.2),
    }
    for outcome, (mark, colour, alpha, size, width) in marks.items():
        chosen = thin(
            [one for one in scored if one.outcome == outcome and one.origin != PAPER], POINTS
        )
        if chosen:
            axes.scatter(
                [one.number for one in chosen],
                capped(chosen, objective, high),
                marker=mark,
                color=colour,
                alpha=alpha,
                s=size,
                linewidths=width,
                label=WORDS[outcome],
            )
    last, best_so_far = max(one.number for one in records), []
    for one in sorted(ranked(records, objective), key=lambda one: one.number):
        if not best_so_far or score(one, objective) < best_so_far[-1][1]:
            best_so_far.append((one.number, score(one, objective)))
    if best_so_far:
        x, y = zip(*best_so_far, (last, best_so_far[-1][1]))
        axes.plot(x, y, color=INK, linewidth=1.4, drawstyle="steps-post", label="best so far")
    star(axes, [(one.number, score(one, objective)) for one in scored if one.origin == PAPER])
    axes.set(
        xlabel="trial",
        ylabel=f"{objective} (px)",
        xlim=(-0.5 - 0.01 * last, last + 0.5 + 0.01 * last),
        ylim=(low, high + 0.02 * (high - low)),
    )
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    legend(axes)
    above = sum(score(one, objective) > high for one in scored)
    trend = (
        f"; the best falls from {best_so_far[0][1]:.2f} to {best_so_far[-1][1]:.2f} px"
        if best_so_far
        else ""
    )
    return picture(
        figure, f"The score of {len(scored)} trials by number{trend}", beyond(above, high)
    )


def parallel(records: list[TrialRecord], objective: str, axes_of: list[Axis]) -> Picture | str:
    """A line for each finished trial through its values and its score; a reason where there are fewer than two."""
    order = ranked(records, objective)
    if len(order) < 2:
        return FEW.format(len(order))
    shown = [*order[: LINES // 3], *thin(order[LINES // 3 :], LINES - LINES // 3)]
    paper = [one for one in order if one.origin == PAPER]
    last = Axis(objective, f"{objective}\n(px)", *span(order, objective))
    figure, axes = blank(10.2, 4.3)
    drawn = [one for one in reversed(shown) if one.origin != PAPER] + paper  # the good over the bad
    heights = np.stack(
        [
            *(axis.places(drawn) + spread(axis, drawn) for axis in axes_of),
            np.array([last.place(value) for value in capped(drawn, objective, last.high)]),
        ],
        axis=1,
    )
    share = np.linspace(0, 1, len(drawn))  # of the way from the worst to the best
    colours = MAP(0.95 * heights[:, -1])
    lines = [np.column_stack([np.arange(heights.shape[1]), row])[~np.isnan(row)] for row in heights]
    count = len(drawn) - len(paper)
    axes.add_collection(
        LineCollection(
            lines[:count],
            colors=colours[:count],
            linewidths=0.7 + 0.9 * share[:count] ** 6,
            alpha=0.75,
        )
    )
    for line in lines[count:]:
        axes.plot(*line.T, color="white", linewidth=5)
        axes.plot(*line.T, color=RED, linewidth=2.6)
    for x, axis in enumerate([*axes_of, last]):
        upright(axes, x, axis)
    raised = len(axes_of) > 8  # names of many axes stand on two levels
    for x, axis in enumerate([*axes_of, last]):
        axes.text(
            x,
            1.05 + 0.07 * (raised and x % 2),
            axis.label,
            ha="center",
            va="bottom",
            fontsize=9,
            color=INK,
        )
    axes.set(xlim=(-0.25, len(axes_of) + 0.3), ylim=(-0.03, 1.03 + 0.07 * raised))
    axes.axis("off")
    part = (
        f"{len(shown)} of {len(order)} finished trials are drawn: the best {LINES // 3}, and others evenly by rank."
        if len(shown) < len(order)
        else ""
    )
    values = ", ".join(f"{axis.label} {say(order[0].values.get(axis.name))}" for axis in axes_of)
    return picture(
        figure,
        f"{len(shown)} finished trials as lines over {len(axes_of)} settings; the best is {values}",
        part,
    )


def slices(records: list[TrialRecord], objective: str, axes_of: list[Axis]) -> Picture | str:
    """The score by each setting alone, and its median; a reason where fewer than two finished trials have a score."""
    order = ranked(records, objective)
    if len(order) < 2 or not axes_of:
        return FEW.format(len(order)) if axes_of else "no setting was searched"
    scores = [score(one, objective) for one in order]
    low, high = span(order, objective)
    figure, frames = sheet(10.2, 2.25, len(axes_of), max(min(len(axes_of), 5), 2))
    shown = thin(order, POINTS)
    for axes, axis in zip(frames, axes_of):
        places = axis.places(shown)
        axes.scatter(
            places + spread(axis, shown),
            capped(shown, objective, high),
            s=7,
            color=BLUE,
            alpha=0.45,
            linewidths=0,
        )
        for left, right, middle in medians(axis.places(order), np.array(scores)):
            axes.plot([left, right], [middle] * 2, color=INK, linewidth=1.8, solid_capstyle="butt")
        star(
            axes,
            [
                (axis.place(one.values.get(axis.name)), score(one, objective))
                for one in order
                if one.origin == PAPER
            ],
        )
        axes.set(xlim=(-0.06, 1.06), ylim=(low, high + 0.02 * (high - low)))
        axes.set_xticks(
            *zip(*axis.ticks(0.19)), rotation=30 if sum(map(len, axis.words)) > 22 else 0
        )
        axes.set_title(axis.label, loc="left", fontsize=9, color=INK)
    frames[0].set_ylabel(f"{objective} (px)", fontsize=8.5)
    return picture(
        figure,
        f"{objective} of {len(order)} finished trials by each of {len(axes_of)} settings",
        beyond(sum(value > high for value in scores), high),
    )


def span(records: list[TrialRecord], objective: str) -> tuple[float, float]:
    """The window of their scores; the paper's setting stands in it, whatever its score."""
    return window(
        [score(one, objective) for one in records],
        [score(one, objective) for one in records if one.origin == PAPER],
    )


def capped(records: list[TrialRecord], objective: str, high: float) -> list[float]:
    """Their scores, those above `high` put there."""
    return [min(score(one, objective), high) for one in records]


def medians(places: np.ndarray, scores: np.ndarray) -> list[tuple[float, float, float]]:
    """(left, right, median score) at each place of up to nine, else in each eighth of the axis, where three trials stand."""
    different = np.unique(places[~np.isnan(places)])
    if len(different) <= 9:
        gap = np.diff(different).min() if len(different) > 1 else 0.5
        edges = [
            (at - min(gap / 3, 0.06), at + min(gap / 3, 0.06), places == at) for at in different
        ]
    else:
        edges = [
            (i / 8, (i + 1) / 8, np.floor(np.clip(places, 0, 0.999) * 8) == i) for i in range(8)
        ]
    return [
        (left, right, float(np.median(scores[chosen])))
        for left, right, chosen in edges
        if chosen.sum() >= 3
    ]


def bars(found: Importance, axes_of: list[Axis]) -> Picture | str:
    """The importance of each setting with its interval; a reason where none was computed."""
    if found.missing:
        return found.missing
    labels = {axis.name: axis.label for axis in axes_of}
    figure, axes = blank(7.2, 0.55 + 0.3 * len(found.shares))
    for row, (name, share) in enumerate(found.shares.items()):
        axes.barh(row, share, height=0.62, color=BLUE, alpha=0.85)
        if found.low:
            axes.plot([found.low[name], found.high[name]], [row] * 2, color=INK, linewidth=1.4)
        axes.text(
            max(share, found.high.get(name, 0)) + 0.012,
            row,
            f"{share:.2f}",
            va="center",
            fontsize=8.5,
            color=INK,
        )
    axes.set_yticks(
        range(len(found.shares)), [labels[name] for name in found.shares], fontsize=9, color=INK
    )
    axes.invert_yaxis()
    axes.set(
        xlim=(0, 1.08 * max([*found.shares.values(), *found.high.values()]) + 0.04),
        xlabel="importance",
    )
    axes.grid(axis="y", visible=False)
    return picture(
        figure,
        "Importance: "
        + ", ".join(f"{labels[name]} {share:.2f}" for name, share in found.shares.items()),
    )


def heat(records: list[TrialRecord], objective: str, across: Axis, up: Axis) -> Picture | str:
    """The mean score and the count of finished trials in each cell of two settings; a reason where no trial has both."""
    order = [
        one
        for one in ranked(records, objective)
        if not np.isnan(
            [across.place(one.values.get(across.name)), up.place(one.values.get(up.name))]
        ).any()
    ]
    if not order:
        return "no finished trial has a score"
    (columns, at), (rows, level) = bins(across, order), bins(up, order)
    scores = np.array([score(one, objective) for one in order])
    total, count = np.zeros((2, len(rows), len(columns)))
    np.add.at(total, (level, at), scores)
    np.add.at(count, (level, at), 1)
    mean = total / np.where(count > 0, count, np.nan)
    norm = Normalize(*window(mean[count > 0], []))
    figure, axes = blank(min(1.6 + 0.95 * len(columns), 10.2), 0.9 + 0.5 * len(rows))
    for i, j in np.argwhere(count > 0):
        colour = MAP(0.95 * min(float(norm(mean[i, j])), 1.0))
        axes.add_patch(Rectangle((j - 0.48, i - 0.46), 0.96, 0.92, color=colour, linewidth=0))
        ink = INK if np.dot(colour[:3], (0.3, 0.59, 0.11)) > 0.55 else "white"
        axes.text(j, i + 0.1, f"{mean[i, j]:.2f}", ha="center", va="center", fontsize=9, color=ink)
        axes.text(
            j, i - 0.24, f"n = {count[i, j]:.0f}", ha="center", va="center", fontsize=7, color=ink
        )
    for k in [k for k, one in enumerate(order) if one.origin == PAPER]:
        axes.add_patch(
            Rectangle(
                (at[k] - 0.48, level[k] - 0.46),
                0.96,
                0.92,
                fill=False,
                edgecolor=RED,
                linewidth=2.4,
            )
        )
    axes.set(
        xlim=(-0.55, len(columns) - 0.45),
        ylim=(-0.55, len(rows) - 0.45),
        xlabel=across.label,
        ylabel=up.label,
    )
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    i, j = np.unravel_index(np.nanargmin(mean), mean.shape)
    return picture(
        figure,
        f"Mean {objective} by {across.name} and {up.name}; the lowest, {mean[i, j]:.2f} px of "
        f"{count[i, j]:.0f} trials, at {columns[j]} and {rows[i]}",
    )


def bins(axis: Axis, records: list[TrialRecord]) -> tuple[list[str], np.ndarray]:
    """The names of cells along an axis, and the cell of each trial: one for each word or known number, else up to `CELLS`
    of the same width, named by the lowest and highest value in it; those without a trial are left out."""
    places = axis.places(records)
    if axis.words:
        return axis.words, np.round(places * len(axis.words) - 0.5).astype(int)
    if axis.known:
        known = np.array([axis.place(value) for value in axis.known])
        return [say(value) for value in axis.known], np.abs(places[:, None] - known).argmin(axis=1)
    filled, cells = np.unique(
        np.clip(np.floor(places * CELLS + 1e-9), 0, CELLS - 1), return_inverse=True
    )
    values = np.array([float(one.values[axis.name]) for one in records])
    ends = [
        (f"{values[cells == i].min():.3g}", f"{values[cells == i].max():.3g}")
        for i in range(len(filled))
    ]
    return [low if low == high else f"{low}–{high}" for low, high in ends], cells


def learning(records: list[TrialRecord], objective: str) -> Picture | str:
    """The score of each trial by its share of training; a reason where none was looked at twice."""
    curves = {one.number: curve for one in records if len(curve := curve_of(one, objective)) > 1}
    if not curves:
        return "no trial was looked at twice yet"
    first, paper = best(records, objective), [one.number for one in records if one.origin == PAPER]
    bold = [
        *([(first.number, INK, "best")] if first else []),
        *((number, RED, "the paper's setting") for number in paper),
    ]
    marked = {number for number, _, _ in bold}
    low, high = window([value for curve in curves.values() for value in curve[:, 1]], [])
    figure, axes = blank(10.2, 3.7)
    others = [one for one in records if one.number in curves and one.number not in marked]
    plain = thin(others, LINES)
    styles = {
        FINISHED: (BLUE, 0.35),
        STOPPED: (PALE, 0.45),
        RUNNING: (SKY, 0.8),
        FAILED: (RED, 0.4),
    }
    for outcome, (colour, alpha) in styles.items():
        chosen = [curves[one.number] for one in plain if one.outcome == outcome]
        axes.add_collection(
            LineCollection(
                chosen,
                colors=colour,
                linewidths=0.9,
                alpha=alpha,
                label=WORDS[outcome] if chosen else None,
            )
        )
        if outcome == STOPPED and chosen:
            ends = np.array([curve[-1] for curve in chosen])
            axes.scatter(
                ends[:, 0],
                np.minimum(ends[:, 1], high),
                marker="x",
                s=14,
                color=PALE,
                linewidths=0.9,
            )
    for number, colour, words in bold:
        if number in curves:
            axes.plot(
                *curves[number].T,
                color=colour,
                linewidth=2.2,
                marker="o",
                markersize=3,
                label=words,
            )
    axes.set(
        xlabel="share of training (%)",
        ylabel=f"{objective} (px)",
        xlim=(0, 102),
        ylim=(low, high + 0.02 * (high - low)),
    )
    legend(axes)
    part = (
        f"{len(plain)} of {len(curves)} curves are drawn, evenly by number."
        if len(others) > LINES
        else ""
    )
    return picture(
        figure, f"{objective} of {len(curves)} trials by the share of their training", part
    )


def curve_of(record: TrialRecord, objective: str) -> np.ndarray:
    """A trial's looks that gave a number, (looks, 2): share of training in per cent, score."""
    points = [
        (100 * step / record.total, scores[objective])
        for step, scores in record.curve
        if record.total and math.isfinite(scores.get(objective, math.nan))
    ]
    return np.array(points, float).reshape(-1, 2)


def front(records: list[TrialRecord], objectives: list[str]) -> Picture | str:
    """The finished trials by their first two scores, and those that no other beats; a reason where there are none."""
    found = pareto_front(records, objectives[:2])
    if not found:
        return f"no finished trial has scores of both {objectives[0]} and {objectives[1]}"
    points = thin(
        [
            one
            for one in ranked(records, objectives[0])
            if not math.isnan(score(one, objectives[1]))
        ],
        POINTS,
    )
    figure, axes = pairs_of(points, objectives[0], objectives[1])
    edge = np.array([[score(one, name) for name in objectives[:2]] for one in found])
    axes.plot(
        *edge.T,
        color=INK,
        linewidth=1.2,
        drawstyle="steps-post",
        marker="o",
        markersize=4.5,
        label="front",
        zorder=3,
    )
    for one, point in list(zip(found, edge))[:: -(-len(found) // 15)]:
        axes.annotate(
            str(one.number), point, (4, 4), textcoords="offset points", fontsize=8, color=INK
        )
    legend(axes)
    return picture(
        figure,
        f"{' and '.join(objectives[:2])} of the finished trials; {len(found)} are on the Pareto front",
    )


def proxy(records: list[TrialRecord], first: str, second: str) -> Picture:
    """The finished trials by two scores, each of which may stand for the other."""
    points = [one for one in ranked(records, first) if not math.isnan(score(one, second))]
    figure, axes = pairs_of(thin(points, POINTS), first, second)
    legend(axes)
    return picture(figure, f"{second} against {first} of {len(points)} finished trials")


def pairs_of(points: list[TrialRecord], first: str, second: str) -> tuple[Figure, Axes]:
    """Trials as dots, one score to the right, another up; those far out stand at the edge."""
    (left, right), (low, high) = span(points, first), span(points, second)
    figure, axes = blank(6.6, 4.2)
    place = list(zip(capped(points, first, right), capped(points, second, high)))
    axes.scatter(*zip(*place), s=16, color=BLUE, alpha=0.55, linewidths=0, label="finished")
    star(axes, [at for one, at in zip(points, place) if one.origin == PAPER])
    axes.set(
        xlabel=f"{first} (px)",
        ylabel=f"{second} (px)",
        xlim=(left, right + 0.03 * (right - left)),
        ylim=(low, high + 0.03 * (high - low)),
    )
    return figure, axes
