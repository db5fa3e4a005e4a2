"""Where the points of the next picture may be: those of annotated pictures, matched into it.

The matcher is that of `scemae match`. Several annotated pictures vote: of a point's matches the one
counts whose own match comes back nearest to where it started.
"""

from collections import OrderedDict
from threading import Lock

import numpy as np
import torch

from scemae.evaluation.explore.serve.annotation import Notebook
from scemae.evaluation.photographs.photograph_features import BoxedPhotograph, TrainedFeatures

SOURCES = 5  # annotated pictures that are matched, the last ones in the folder's order before it
KEPT = 64  # maps kept: 2 to 20 MB each


class Suggester:
    """Matches annotated pictures into another one, and keeps the features of what it has seen."""

    def __init__(self, notebook: Notebook, trained: TrainedFeatures) -> None:
        """trained: the features that match."""
        self._notebook, self._trained = notebook, trained
        self._maps: OrderedDict[tuple, tuple[BoxedPhotograph, torch.Tensor]] = OrderedDict()
        self._lock = Lock()

    def suggest(self, name: str) -> dict[str, dict]:
        """By the point's name: `place` (x, y) in pixels of the picture `name`, `returns`: from the
        point to the match of its match, in pixels of the 96-pixel crop; `source`: the picture that
        it comes from.

        Points that no annotated picture shows have none. Raises DataError.
        """
        notebook = self._notebook
        others = [one for one in notebook.done() if one != name]
        place = notebook.pictures.names.index(name)
        others.sort(key=lambda one: abs(notebook.pictures.names.index(one) - place))
        with self._lock:  # one after the other: each uses all cores
            found: dict[str, dict] = {}
            for other in others[:SOURCES]:
                for point, one in self._matched(other, name).items():
                    if point not in found or one["returns"] < found[point]["returns"]:
                        found[point] = one
        return found

    def _matched(self, source: str, target: str) -> dict[str, dict]:
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
        inside = np.clip(matched.matches, 0, (width - 1, height - 1)).round(2).tolist()
        return {
            point: {"place": place, "returns": round(float(returns), 2), "source": source}
            for point, place, returns in zip(points, inside, matched.returns, strict=True)
        }

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
