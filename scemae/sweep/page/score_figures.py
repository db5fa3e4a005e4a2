"""Figures of a sweep's scores: by trial, by training time, and one score against another.

Each function returns a picture, or why there is none. The paper's setting is orange. Outliers are
drawn at the upper edge and many trials are thinned out; the note of the picture says so.
"""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scemae.sweep.page.canvas import (
    BLUE,
    INK,
    PALE,
    RED,
    SKY,
    Picture,
    Style,
    clipped,
    clipped_note,
    legend,
    limits_of,
    mark_paper,
    one_frame,
    score_limits,
    thinned,
    to_picture,
)
from scemae.sweep.ranking import best, pareto_front, ranked, score
from scemae.sweep.trials import FAILED, FINISHED, PAPER, RUNNING, STOPPED, TrialRecord

CURVES = 300  # drawn at most
LABELS = 15  # trial numbers written along the Pareto front, about
WORDS = {FINISHED: "finished", STOPPED: "stopped early", RUNNING: "running", FAILED: "failed"}
MARKS: dict[str, Style] = {
    FINISHED: {"marker": "o", "color": BLUE, "alpha": 0.75, "s": 18, "linewidths": 0},
    STOPPED: {"marker": "x", "color": PALE, "alpha": 0.7, "s": 16, "linewidths": 0.9},
    RUNNING: {"marker": "^", "color": SKY, "alpha": 0.9, "s": 18, "linewidths": 0},
    FAILED: {"marker": "|", "color": RED, "alpha": 0.9, "s": 30, "linewidths": 1.2},
}
LINES = {FINISHED: (BLUE, 0.35), STOPPED: (PALE, 0.45), RUNNING: (SKY, 0.8), FAILED: (RED, 0.4)}


def history(records: list[TrialRecord], objective: str) -> Picture | str:
    """The last score of each trial by its number, and the best so far."""
    scored = [one for one in records if not math.isnan(score(one, objective))]
    if not scored:
        return "no trial has a score yet"
    low, high = limits_of(scored, objective)
    figure, axes = one_frame(10.2, 3.5)
    for outcome, style in MARKS.items():
        found = [one for one in scored if one.outcome == outcome and one.origin != PAPER]
        if chosen := thinned(found):
            numbers = [one.number for one in chosen]
            axes.scatter(numbers, clipped(chosen, objective, high), label=WORDS[outcome], **style)
    last, records_set = max(one.number for one in records), best_so_far(records, objective)
    trend = ""
    if records_set:
        x, y = zip(*records_set, (last, records_set[-1][1]))
        axes.plot(x, y, color=INK, linewidth=1.4, drawstyle="steps-post", label="best so far")
        trend = f"; the best falls from {y[0]:.2f} to {y[-1]:.2f} px"
    mark_paper(axes, [(one.number, score(one, objective)) for one in scored if one.origin == PAPER])
    margin = 0.5 + 0.01 * last
    axes.set(xlabel="trial", ylabel=f"{objective} (px)", xlim=(-margin, last + margin))
    axes.set_ylim(low, high + 0.02 * (high - low))
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    legend(axes)
    note = clipped_note([score(one, objective) for one in scored], high)
    return to_picture(figure, f"The score of {len(scored)} trials by number{trend}", note)


def best_so_far(records: list[TrialRecord], objective: str) -> list[tuple[int, float]]:
    """(number, score) of each finished trial that is better than all with lower numbers."""
    found: list[tuple[int, float]] = []
    for one in sorted(ranked(records, objective), key=lambda one: one.number):
        if not found or score(one, objective) < found[-1][1]:
            found.append((one.number, score(one, objective)))
    return found


def learning(records: list[TrialRecord], objective: str) -> Picture | str:
    """The score of each trial by the share of its training, if any was evaluated twice."""
    curves = {one.number: curve for one in records if len(curve := curve_of(one, objective)) > 1}
    if not curves:
        return "no trial was evaluated twice yet"
    first, paper = best(records, objective), [one.number for one in records if one.origin == PAPER]
    bold = [(first.number, INK, "best")] if first else []
    bold += [(number, RED, "the paper's setting") for number in paper]
    marked = {number for number, _, _ in bold}
    low, high = score_limits([value for curve in curves.values() for value in curve[:, 1]], [])
    others = [one for one in records if one.number in curves and one.number not in marked]
    plain = thinned(others, CURVES)
    figure, axes = one_frame(10.2, 3.7)
    for outcome, (colour, alpha) in LINES.items():
        chosen = [curves[one.number] for one in plain if one.outcome == outcome]
        label = WORDS[outcome] if chosen else None
        style: Style = {"colors": colour, "linewidths": 0.9, "alpha": alpha, "label": label}
        axes.add_collection(LineCollection(chosen, **style))
        if outcome == STOPPED and chosen:
            x, y = np.array([curve[-1] for curve in chosen]).T
            axes.scatter(x, np.minimum(y, high), marker="x", s=14, color=PALE, linewidths=0.9)
    for number, colour, label in bold:
        if number in curves:
            line: Style = {"color": colour, "linewidth": 2.2, "marker": "o", "markersize": 3}
            axes.plot(*curves[number].T, **line, label=label)
    axes.set(xlabel="share of training (%)", ylabel=f"{objective} (px)", xlim=(0, 102))
    axes.set_ylim(low, high + 0.02 * (high - low))
    legend(axes)
    part = f"{len(plain)} of {len(curves)} curves are drawn, evenly by number."
    alt = f"{objective} of {len(curves)} trials by the share of their training"
    return to_picture(figure, alt, part if len(others) > CURVES else "")


def curve_of(record: TrialRecord, objective: str) -> np.ndarray:
    """A trial's finite scores (evaluations, 2): share of its training in per cent, score."""
    points = []
    for step, scores in record.curve:
        if record.total and math.isfinite(scores.get(objective, math.nan)):
            points.append((100 * step / record.total, scores[objective]))
    return np.array(points, float).reshape(-1, 2)


def front(records: list[TrialRecord], objectives: list[str]) -> Picture | str:
    """The finished trials by their first two objectives, with the Pareto front as a line."""
    first, second = objectives[:2]
    found = pareto_front(records, [first, second])
    if not found:
        return f"no finished trial has scores of both {first} and {second}"
    points = [one for one in ranked(records, first) if not math.isnan(score(one, second))]
    figure, axes = scatter(thinned(points), first, second)
    edge = np.array([[score(one, first), score(one, second)] for one in found])
    style: Style = {"color": INK, "linewidth": 1.2, "marker": "o", "markersize": 4.5}
    axes.plot(*edge.T, **style, drawstyle="steps-post", label="front", zorder=3)
    for i in range(0, len(found), -(-len(found) // LABELS)):
        place = (float(edge[i, 0]), float(edge[i, 1]))
        axes.annotate(str(found[i].number), place, (4, 4), textcoords="offset points", fontsize=8)
    legend(axes)
    alt = f"{first} and {second} of the finished trials; {len(found)} are on the Pareto front"
    return to_picture(figure, alt)


def proxy(records: list[TrialRecord], first: str, second: str) -> Picture:
    """The finished trials by two scores, of which `first` may stand in for `second`."""
    points = [one for one in ranked(records, first) if not math.isnan(score(one, second))]
    figure, axes = scatter(thinned(points), first, second)
    legend(axes)
    return to_picture(figure, f"{second} against {first} of {len(points)} finished trials")


def scatter(points: list[TrialRecord], first: str, second: str) -> tuple[Figure, Axes]:
    """Trials as dots by two scores, `first` to the right."""
    (left, right), (low, high) = limits_of(points, first), limits_of(points, second)
    figure, axes = one_frame(6.6, 4.2)
    places = list(zip(clipped(points, first, right), clipped(points, second, high)))
    x, y = zip(*places)
    axes.scatter(x, y, s=16, color=BLUE, alpha=0.55, linewidths=0, label="finished")
    mark_paper(axes, [at for one, at in zip(points, places) if one.origin == PAPER])
    axes.set(xlabel=f"{first} (px)", ylabel=f"{second} (px)")
    axes.set(xlim=(left, right + 0.03 * (right - left)), ylim=(low, high + 0.03 * (high - low)))
    return figure, axes
