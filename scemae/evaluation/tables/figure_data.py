"""Figures 1, 4 and 5 of a tables run: which methods they show, and what of them must still be
computed for a few faces.

A figure that cannot be had says why; numbers never depend on one. What is drawn, figures.py knows.
"""

from collections.abc import Callable, Iterator

import torch

from scemae.data.geometry import CROP
from scemae.errors import RunFolderError, ScemaeError
from scemae.evaluation.landmarks.embedding import Embeddings, similarity_maps
from scemae.evaluation.landmarks.matching import MatchingErrors
from scemae.evaluation.landmarks.pairs import DIFFERENT, SOURCE
from scemae.evaluation.measuring.plan import Measured, MeasuringPlan
from scemae.evaluation.subjects import EMBEDDING, FLOOR, MATCHING, OURS
from scemae.evaluation.tables import figures
from scemae.evaluation.tables.cells import Tables

PARTS = ("same", "different", "same_predicted", "different_predicted")


def add(tables: Tables, plan: MeasuringPlan, found: dict[str, list[Measured]]) -> None:
    """Draw every figure that can be drawn; `found` are the measured lines by test (rows.py)."""
    for name, draw in FIGURES.items():
        try:
            tables.figures[name], tables.figure_facts[name] = draw(plan, found)
        except ScemaeError as error:
            tables.missing_figures[name] = str(error)


def shown(found: list[Measured]) -> list[Measured]:
    """The lines that figures show: of each trained trunk the one with most dimensions, rivals first
    and ours last.
    """
    best: dict[str, Measured] = {}
    for one in sorted(found, key=lambda one: one.line.dim):
        if one.subject.role != FLOOR and one.line.table in (1, 5):
            best[one.subject.digest] = one
    return sorted(best.values(), key=lambda one: one.subject.role == OURS)


def _named(lines: list[Measured]) -> Iterator[tuple[str, Measured]]:
    for one in lines:
        yield f"{one.subject.title}, {one.line.dim}-d {one.line.variant}".strip(), one


def _errors(plan: MeasuringPlan, found: dict[str, list[Measured]]) -> dict[str, MatchingErrors]:
    lines = shown(found[MATCHING])
    if not lines:
        raise RunFolderError(
            "no method was matched: give run folders, and the folder that holds mafl-test in shards"
        )
    return {
        name: MatchingErrors(plan.pairs.hash, *(one.arrays[part] for part in PARTS))
        for name, one in _named(lines)
    }


@torch.no_grad()
def _figure1(plan: MeasuringPlan, found: dict[str, list[Measured]]) -> tuple[str, dict]:
    """Similarity maps of the couple with our median error."""
    couple, pairs, stride = (
        figures.median_couple(_errors(plan, found)),
        plan.pairs,
        plan.config.stride,
    )
    views = pairs.views[couple][[SOURCE, DIFFERENT]].to(plan.device).float() / 255
    queries = (pairs.landmarks[couple, SOURCE] - CROP)[list(figures.QUERIES)][None].to(plan.device)
    maps = {}
    for name, one in _named(shown(found[MATCHING])):
        one.subject.to(plan.device, plan.dtype)
        trunk = one.subject.trunk
        features = one.line.head(trunk.maps(views, stride), trunk.side(stride, matching=True))
        maps[name] = similarity_maps(features[:1], features[1:], queries)[0].float().cpu()
    return figures.figure1(pairs, maps, couple)


def _figure4(plan: MeasuringPlan, found: dict[str, list[Measured]]) -> tuple[str, dict]:
    """Matches on different persons, by the rule that figures.py states."""
    return figures.figure4(plan.pairs, _errors(plan, found))


def _figure5(plan: MeasuringPlan, found: dict[str, list[Measured]]) -> tuple[str, dict]:
    """t-SNE of the landmarks' features."""
    lines = {
        name: one.arrays for name, one in _named(shown(found[EMBEDDING])) if "points" in one.arrays
    }
    if not lines:
        raise RunFolderError(
            "no method's landmarks were embedded: give run folders, and the folder that holds "
            "mafl-test in shards"
        )
    return figures.figure5(
        {
            name: Embeddings(
                arrays["points"],
                arrays["labels"],
                arrays["coefficients"],
                float(arrays["of_vectors"]),
            )
            for name, arrays in lines.items()
        }
    )


FIGURES: dict[str, Callable[[MeasuringPlan, dict[str, list[Measured]]], tuple[str, dict]]] = {
    "figure1": _figure1,
    "figure4": _figure4,
    "figure5": _figure5,
}
