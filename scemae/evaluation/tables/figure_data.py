"""The arrays of figures 1, 4 and 5: which methods they show, and maps computed for a few faces.

figures.py draws them. Where a figure cannot be made the page says why; numbers never depend on one.
"""

from collections.abc import Callable, Iterator

import torch

from scemae.data.geometry import CROP
from scemae.errors import RunFolderError, ScemaeError
from scemae.evaluation.landmarks.embedding import Embeddings, similarity_maps
from scemae.evaluation.landmarks.matching import MatchingErrors
from scemae.evaluation.landmarks.pairs import DIFFERENT, SOURCE, Pairs
from scemae.evaluation.measuring.plan import MeasuredLine, MeasuringPlan
from scemae.evaluation.subject import EMBEDDING, FLOOR, MATCHING, OURS
from scemae.evaluation.tables import figures
from scemae.evaluation.tables.cells import Tables

NOT_MATCHED = (
    "no method was matched: give run folders, and the folder that holds mafl-test in shards"
)
NOT_EMBEDDED = (
    "no method's landmarks were embedded: give run folders, and the folder that holds mafl-test in "
    "shards"
)


def add_figures(tables: Tables, plan: MeasuringPlan, found: dict[str, list[MeasuredLine]]) -> None:
    """Draw every figure that can be drawn; `found`: the measured lines by test."""
    for name, draw in FIGURES.items():
        try:
            tables.figures[name], tables.figure_facts[name] = draw(plan, found)
        except ScemaeError as error:
            tables.missing_figures[name] = str(error)


def lines_to_show(found: list[MeasuredLine]) -> list[MeasuredLine]:
    """For each trained trunk, its line of the highest dimension; rivals first, ours last."""
    best: dict[str, MeasuredLine] = {}
    for one in sorted(found, key=lambda one: one.line.dim):
        if one.subject.role != FLOOR and one.line.table in (1, 5):
            best[one.subject.digest] = one
    return sorted(best.values(), key=lambda one: one.subject.role == OURS)


def _named(lines: list[MeasuredLine]) -> Iterator[tuple[str, MeasuredLine]]:
    for one in lines:
        yield f"{one.subject.title}, {one.line.dim}-d {one.line.variant}".strip(), one


def _pairs(plan: MeasuringPlan) -> Pairs:
    if plan.pairs is None:
        raise RunFolderError(NOT_MATCHED)
    return plan.pairs


def _errors(plan: MeasuringPlan, found: dict[str, list[MeasuredLine]]) -> dict[str, MatchingErrors]:
    lines = lines_to_show(found[MATCHING])
    if not lines:
        raise RunFolderError(NOT_MATCHED)
    return {name: one.matching_errors(_pairs(plan).hash) for name, one in _named(lines)}


@torch.no_grad()
def _figure1(plan: MeasuringPlan, found: dict[str, list[MeasuredLine]]) -> tuple[str, dict]:
    """Similarity maps of the couple with our median error."""
    couple, pairs = figures.median_couple(_errors(plan, found)), _pairs(plan)
    views = pairs.views[couple][[SOURCE, DIFFERENT]].to(plan.device).float() / 255
    points = (pairs.landmarks[couple, SOURCE] - CROP)[list(figures.QUERIES)]
    queries, maps = points[None].to(plan.device), {}
    for name, one in _named(lines_to_show(found[MATCHING])):
        one.subject.to(plan.device, plan.dtype)
        trunk, stride = one.subject.trunk, plan.config.stride
        features = one.line.head(trunk.maps(views, stride), trunk.side(stride, matching=True))
        maps[name] = similarity_maps(features[:1], features[1:], queries)[0].float().cpu()
    return figures.figure1(pairs, maps, couple)


def _figure4(plan: MeasuringPlan, found: dict[str, list[MeasuredLine]]) -> tuple[str, dict]:
    """Matches on different persons; figures.py states the rule of choice."""
    errors = _errors(plan, found)
    return figures.figure4(_pairs(plan), errors)


def _figure5(plan: MeasuringPlan, found: dict[str, list[MeasuredLine]]) -> tuple[str, dict]:
    """t-SNE of the landmarks' features."""
    embedded = {}
    for name, one in _named(lines_to_show(found[EMBEDDING])):
        if "points" in one.arrays:
            arrays, of_vectors = one.arrays, float(one.arrays["of_vectors"])
            embedded[name] = Embeddings(
                arrays["points"], arrays["labels"], arrays["coefficients"], of_vectors
            )
    if not embedded:
        raise RunFolderError(NOT_EMBEDDED)
    return figures.figure5(embedded)


FIGURES: dict[str, Callable[[MeasuringPlan, dict[str, list[MeasuredLine]]], tuple[str, dict]]] = {
    "figure1": _figure1,
    "figure4": _figure4,
    "figure5": _figure5,
}
