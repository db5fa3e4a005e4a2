"""The paper's figures 1, 4 and 5 for several methods: arrays in; a PNG data URI and the facts
behind it out.

What they show is chosen by rule. Methods stand in the order given, ours last. Faces have the five
landmarks of MAFL and AFLW.
"""

import io
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from scemae.data.geometry import CROP, INPUT, UNIT
from scemae.errors import ConfigError, DataError
from scemae.evaluation import drawing
from scemae.evaluation.drawing import FIVE, GAP, INK, Sheet
from scemae.evaluation.landmarks.benchmarks import find_benchmark
from scemae.evaluation.landmarks.embedding import Embeddings, spread
from scemae.evaluation.landmarks.matching import MatchingErrors
from scemae.evaluation.landmarks.pairs import DIFFERENT, SOURCE, Pairs

PARTS = {"eyes": [0, 1], "nose": [2], "lip corners": [3, 4]}  # the groups of the paper's figure 4
FAILURES = "failures"
EACH = 3  # columns of a group, as in the paper
QUERIES = (0, 2, 3)  # landmarks of figure 1: left eye, nose, left corner of the mouth
ACROSS = 4  # panels of figure 5 beside each other
LETTER = 7.2  # pixels of a letter under figure 4, on average and a little more
HEADING = 24  # letters per line above a face


@dataclass
class Group:
    """Couples of figure 4 that stand together, and the landmarks they were chosen by."""

    title: str
    landmarks: list[int]
    couples: list[int]


def median_couple(errors: dict[str, MatchingErrors]) -> int:
    """The couple of different persons with our median error, for figure 1: typical for us."""
    mean = list(errors.values())[-1].different.mean(axis=1)
    return int(np.argsort(mean, kind="stable")[(len(mean) - 1) // 2])


def figure1(
    pairs: Pairs, maps: dict[str, Tensor], couple: int, *, landmarks: tuple[int, ...] = QUERIES
) -> tuple[str, dict[str, Any]]:
    """How similar a landmark of the reference is to each place of another person's face.

    Rows are landmarks, columns methods. maps (q, 96, 96) by method: cosines with the q landmarks,
    as `embedding.similarity_maps` gives them for `couple`. Facts per method, a number per landmark:
    the error of the peak (70-px units) and two measures of sharpness of our choice: the share of
    area above the middle of the map's range (smaller is sharper), and the height of the peak over
    the mean in standard deviations. Raises ConfigError for maps of another shape or of no method.
    """
    _check_five(pairs)
    _check_maps(maps, (len(landmarks), INPUT, INPUT))
    rows = list(landmarks)
    query, truth = (
        (pairs.landmarks[couple, view, rows] - CROP).numpy() for view in (SOURCE, DIFFERENT)
    )
    shares = {name: spread(found) for name, found in maps.items()}
    headed = {fill(name, HEADING): name for name in maps}
    image = drawing.similarity(
        _crop(pairs, couple, SOURCE),
        _crop(pairs, couple, DIFFERENT),
        query,
        truth,
        {head: maps[name] for head, name in headed.items()},
        {head: shares[name] for head, name in headed.items()},
    )
    return image, {
        "couple": couple,
        "keys": pairs.keys[2 * couple : 2 * couple + 2],
        "pairs_hash": pairs.hash,
        "landmarks": [_names()[i] for i in rows],
        "methods": {
            name: {
                "peak_error": _peak_errors(found, truth),
                "share_above_middle": shares[name],
                "peak_over_mean_in_sd": _heights(found),
            }
            for name, found in maps.items()
        },
    }


def _check_maps(maps: dict[str, Tensor], shape: tuple[int, int, int]) -> None:
    if not maps:
        raise ConfigError("figure 1: found no maps, needed those of one method at least")
    for name, found in maps.items():
        if found.shape != shape:
            raise ConfigError(
                f"figure 1: found maps {tuple(found.shape)} of {name}, needed {shape}: one of the "
                "96-px crop for each landmark asked for"
            )


def _peak_errors(maps: Tensor, truth: np.ndarray) -> list[float]:
    best = maps.flatten(1).argmax(1).numpy()
    peaks = np.stack([best % INPUT, best // INPUT], 1)
    return (np.linalg.norm(peaks - truth, axis=1) * UNIT / INPUT).tolist()


def _heights(maps: Tensor) -> list[float]:
    flat = maps.double().flatten(1)
    return ((flat.amax(1) - flat.mean(1)) / flat.std(1).clamp_min(1e-12)).tolist()


def choose_couples(errors: dict[str, MatchingErrors], each: int = EACH) -> list[Group]:
    """The couples of figure 4, of different persons: `each` per group, fewer where there are few
    couples.

    First the failures, which are our largest errors of all; then for each of `PARTS` the couples in
    which the best rival's error is largest, whatever ours is. No couple is chosen twice. Without
    rivals there are only the failures. Raises ConfigError without a method.
    """
    if not errors:
        raise ConfigError("figure 4: found no method, needed one at least; measure matching first")
    *rivals, ours = (found.different for found in errors.values())
    each = max(1, min(each, len(ours) // (1 + len(PARTS))))
    everything = list(range(ours.shape[1]))
    groups = [Group(FAILURES, everything, _worst(ours.mean(axis=1), each))]
    free = np.ones(len(ours), bool)
    for title, landmarks in PARTS.items() if rivals else ():
        free[groups[-1].couples] = False
        best = np.min([found[:, landmarks].mean(axis=1) for found in rivals], axis=0)
        chosen = _worst(np.where(free, best, -1), min(each, int(free.sum())))
        groups.append(Group(title, landmarks, chosen))
    return [group for group in [*groups[1:], groups[0]] if group.couples]


def _worst(errors: np.ndarray, count: int) -> list[int]:
    return np.argsort(-errors, kind="stable")[:count].tolist()


def figure4(pairs: Pairs, errors: dict[str, MatchingErrors]) -> tuple[str, dict[str, Any]]:
    """Matches of each method on different persons: rows as in the paper, couples as columns.

    The groups of `choose_couples` stand two beside each other, the next two below; the rule of
    choice stands under the picture. Each number is the mean error in 70-px units over the group's
    landmarks (failures: over all five). Raises DataError where a method has matched other pairs,
    ConfigError without a method or with another number of landmarks.
    """
    _check_five(pairs)
    for name, found in errors.items():
        if found.pairs_hash != pairs.hash or len(found.different) != len(pairs):
            raise DataError(
                f"figure 4: {name} has matched {len(found.different)} couples of hash "
                f"{found.pairs_hash[:12]}, needed {len(pairs)} of {pairs.hash[:12]}; measure all "
                "methods on the same pairs"
            )
    groups, names = choose_couples(errors), list(errors)
    rule = _rule(groups, names)
    bands = [_band(pairs, errors, groups[i : i + 2]) for i in range(0, len(groups), 2)]
    facts = {
        group.title: {
            "couples": group.couples,
            "errors": {name: _means(found, group).tolist() for name, found in errors.items()},
        }
        for group in groups
    }
    return _stack(bands, rule), {
        "rule": rule,
        "pairs_hash": pairs.hash,
        "ours": names[-1],
        "rivals": names[:-1],
        "groups": facts,
    }


def _means(found: MatchingErrors, group: Group) -> np.ndarray:
    return found.different[np.ix_(group.couples, group.landmarks)].mean(axis=1)


def _rule(groups: list[Group], names: list[str]) -> str:
    """The rule of `choose_couples` as text for the reader."""
    ours, count, shown = names[-1], len(groups[-1].couples), [group.title for group in groups[:-1]]
    words = f"Failures: the {count} couples of different persons with the largest mean error of "
    words += f"{ours}. "
    if shown:
        words += (
            f"Then, for {', '.join(shown)} in turn, the {len(groups[0].couples)} of the rest in "
            f"which the best of the rivals ({', '.join(names[:-1])}) errs most there, however "
            f"well {ours} does. "
        )
    return words + (
        "Ring: true place; dot: match. Numbers: mean error in pixels of a 70-px frame, of the "
        "group's landmarks, or of all five at the failures."
    )


def _band(pairs: Pairs, errors: dict[str, MatchingErrors], groups: list[Group]) -> Sheet:
    """Groups as columns of a sheet: the reference, each method's matches, the truth."""
    chosen = [couple for group in groups for couple in group.couples]
    titles = []
    for group in groups:
        titles += [_heading(group, list(errors)), *[""] * (len(group.couples) - 1)]
    references = [_crop(pairs, couple, SOURCE) for couple in chosen]
    targets = [_crop(pairs, couple, DIFFERENT) for couple in chosen]
    names = ["reference", *(fill(name, 12) for name in errors), "truth"]
    sheet = Sheet([references, *([targets] * (len(errors) + 1))], titles, names, left=104)
    points = (pairs.landmarks - CROP).numpy()
    for j, couple in enumerate(chosen):
        sheet.dots(0, j, points[couple, SOURCE])
        sheet.dots(len(errors) + 1, j, points[couple, DIFFERENT])
    for row, found in enumerate(errors.values(), start=1):
        means = [float(mean) for group in groups for mean in _means(found, group)]
        for j, (couple, mean) in enumerate(zip(chosen, means, strict=True)):
            sheet.errors(row, j, found.different_predicted[couple], points[couple, DIFFERENT])
            sheet.note(row, j, f"{mean:.1f} px")
    if len(groups) == 2:
        x, y = sheet.origin(0, len(groups[0].couples))
        bottom = y + (len(errors) + 2) * (sheet.side + GAP) - GAP
        sheet.axes.plot([x - GAP / 2] * 2, [y, bottom], color=INK, linewidth=1.5)
    return sheet


def _heading(group: Group, names: list[str]) -> str:
    if group.title == FAILURES:
        return f"failures of {names[-1]}"
    return f"rivals err at the {group.title}"


def _stack(sheets: list[Sheet], words: str) -> str:
    """Sheets below each other, with the text under them, as a PNG data URI."""
    parts = [_pixels(sheet.figure) for sheet in sheets]
    width = max(part.shape[1] for part in parts)
    lines = fill(words, int(width / LETTER))
    beneath = 17 * (lines.count("\n") + 1) + 10
    height = top = sum(map(len, parts)) + beneath
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    for part in parts:
        top -= len(part)
        figure.figimage(part, 0, top, origin="upper")
    place = 2 / width, (beneath - 4) / height
    figure.text(*place, lines, fontsize=9.5, color=INK, va="top", linespacing=1.25)
    return drawing.png(figure)


def _pixels(figure: Figure) -> np.ndarray:
    """A figure as (h, w, 4) uint8."""
    file = io.BytesIO()
    figure.savefig(file, format="rgba")
    width, height = figure.canvas.get_width_height()
    return np.frombuffer(file.getvalue(), np.uint8).reshape(height, width, 4)


def figure5(found: dict[str, Embeddings]) -> tuple[str, dict[str, Any]]:
    """The landmarks of test faces in the plane, a panel per method with its Silhouette Coefficient.

    Facts per method: the coefficient's mean, standard deviation (over repeats, n - 1; None for
    one), lowest and highest, and that of the vectors themselves. Raises ConfigError without a
    method, or for more than five landmarks.
    """
    if not found:
        raise ConfigError(
            "figure 5: found no method, needed one at least; embed the landmarks of one first"
        )
    for name, one in found.items():
        if one.labels.max() >= len(FIVE):
            raise ConfigError(
                f"figure 5: found {one.labels.max() + 1} landmarks of {name}, needed five; embed "
                "MAFL's or AFLW's faces"
            )
    facts = {name: _coefficient(one) for name, one in found.items()}
    titles = {name: f"{fill(name, 38)}\n{_sc_text(facts[name])}" for name in found}
    return _scatters(found, titles), {"methods": facts, "landmarks": list(_names())}


def _coefficient(one: Embeddings) -> dict[str, Any]:
    values = np.asarray(one.coefficients, float)
    return {
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
        "lowest": float(values.min()),
        "highest": float(values.max()),
        "repeats": len(values),
        "of_vectors": float(one.of_vectors),
        "points": len(one.points),
    }


def _sc_text(facts: dict[str, Any]) -> str:
    around = "" if facts["sd"] is None else f" ± {facts['sd']:.3f}"
    return f"SC {facts['mean']:.3f}{around}, {facts['repeats']} run{'s' * (facts['repeats'] > 1)}"


def _scatters(found: dict[str, Embeddings], titles: dict[str, str]) -> str:
    across = min(len(found), ACROSS)
    down = -(-len(found) // across)
    size = max(3.2 * across, 6.6), 3.7 * down + 0.4
    figure = Figure(figsize=size, dpi=100, layout="compressed")
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes, (name, one) in zip(grid, found.items(), strict=False):  # panels may stay empty
        # In random order, so that where kinds mix none covers the others.
        order = np.random.default_rng(0).permutation(len(one.labels))
        colours = np.array(FIVE)[one.labels[order]]
        axes.scatter(*one.points[order].T, c=colours, s=9, linewidths=0.25, edgecolors=INK)
        axes.set_title(titles[name], loc="left", fontsize=10, color=INK)
        axes.set(xticks=[], yticks=[], box_aspect=1)
        axes.spines[:].set_color("#c9ced6")
    for axes in grid[len(found) :]:
        axes.axis("off")
    _add_legend(figure)
    return drawing.png(figure)


def _add_legend(figure: Figure) -> None:
    edge: dict[str, Any] = {"markeredgecolor": INK, "markeredgewidth": 0.5}
    marks = [
        Line2D([], [], linestyle="", marker="o", markersize=7, color=colour, **edge)
        for colour in FIVE
    ]
    figure.legend(
        marks,
        _names(),
        loc="outside lower left",
        ncols=len(FIVE),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handletextpad=0,
        columnspacing=0.8,
    )


def _names() -> tuple[str, ...]:
    return find_benchmark("mafl").points


def _crop(pairs: Pairs, couple: int, view: int) -> Tensor:
    """The central 96 pixels of one view, (3, 96, 96) in [0, 1]."""
    return pairs.views[couple, view, :, CROP:-CROP, CROP:-CROP].float() / 255


def _check_five(pairs: Pairs) -> None:
    if pairs.landmarks.shape[2] != len(FIVE):
        raise ConfigError(
            f"figures: found faces with {pairs.landmarks.shape[2]} landmarks, needed five; give "
            "pairs of MAFL's or AFLW's faces"
        )
