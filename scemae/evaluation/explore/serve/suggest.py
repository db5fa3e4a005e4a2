"""Where the points of the next picture may be: those of annotated pictures, matched into it.

The matcher is that of `scemae match`. Several annotated pictures vote: of a point's matches, the
half counts whose own matches come back nearest to where they started, and of these the median. On
20 drawn butterflies with the demo's encoder that was 18 pixels from the point, the one match that
comes back nearest 23 (docs/results/own-category.md).
"""

from collections import OrderedDict
from threading import Lock

import numpy as np
import torch

from scemae.evaluation.explore.serve.annotation import Notebook
from scemae.evaluation.photographs.photograph_features import BoxedPhotograph, TrainedFeatures

SOURCES = 5  # annotated pictures that are matched: the nearest ones in the folder's order
KEPT = 64  # maps kept: 2 to 20 MB each

Match = tuple[np.ndarray, float]  # the place x, y, and how far the way back ends from the point


class Suggester:
    """Matches annotated pictures into another one, and keeps the features of what it has seen."""

    def __init__(self, notebook: Notebook, trained: TrainedFeatures) -> None:
        """trained: the features that match."""
        self._notebook, self._trained = notebook, trained
        self._maps: OrderedDict[tuple, tuple[BoxedPhotograph, torch.Tensor]] = OrderedDict()
        self._lock = Lock()

    def suggest(self, name: str) -> dict[str, dict]:
        """By the point's name: `place` (x, y) in pixels of the picture `name`; `returns`: from the
        point to the match of its match, in pixels of the 96-pixel crop; `pictures`: how many voted.

        Points that no annotated picture shows have none. Raises DataError.
        """
        notebook = self._notebook
        others = [one for one in notebook.done() if one != name]
        order = {one: number for number, one in enumerate(notebook.pictures.names)}
        others.sort(key=lambda one: abs(order[one] - order[name]))
        found: dict[str, list[Match]] = {}
        with self._lock:  # one after the other: each uses all cores
            for other in others[:SOURCES]:
                for point, match in self._matched(other, name).items():
                    found.setdefault(point, []).append(match)
        return {point: _vote(matches) for point, matches in found.items()}

    def _matched(self, source: str, target: str) -> dict[str, Match]:
        first, second = self._map(source), self._map(target)
        marks = self._notebook.now.marks.get(source, {})
        shown = {point: mark for point, mark in marks.items() if mark is not None}
        places = np.array(list(shown.values()), float).reshape(-1, 2)
        seen = first[0].box.are_seen(places)
        points = [point for point, is_seen in zip(shown, seen, strict=True) if is_seen]
        if not points:
            return {}
        with torch.no_grad():
            matched = self._trained.match_maps(first, second, places[seen])
        width, height = self._notebook.pictures.size(target)
        inside = np.clip(matched.matches, 0, (width - 1, height - 1))
        return dict(zip(points, zip(inside, matched.returns, strict=True), strict=True))

    def _map(self, name: str) -> tuple[BoxedPhotograph, torch.Tensor]:
        notebook = self._notebook
        box, margin = notebook.now.boxes.get(name), notebook.margin
        key = (name, tuple(box or ()), margin)
        if key not in self._maps:
            photograph = notebook.pictures.photograph(name, box, margin)
            self._maps[key] = (photograph, self._trained.matching_map(photograph))
        self._maps.move_to_end(key)
        while len(self._maps) > KEPT:
            self._maps.popitem(last=False)
        return self._maps[key]


def _vote(matches: list[Match]) -> dict:
    returns = np.array([far for _, far in matches])
    is_kept = returns <= np.median(returns)
    places = np.array([place for place, _ in matches])[is_kept]
    return {
        "place": np.median(places, axis=0).round(2).tolist(),
        "returns": round(float(np.median(returns[is_kept])), 2),
        "pictures": len(places),
    }
