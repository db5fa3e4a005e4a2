"""Where the points of the next picture may be: by the detector of `scemae fit`, fitted to the
pictures that are annotated so far.
"""

from collections import OrderedDict
from threading import Lock

import numpy as np
import torch

from scemae.data.framing import frame_of
from scemae.data.geometry import CROP
from scemae.evaluation.explore.serve.annotation import Notebook
from scemae.evaluation.landmarks import local_evidence, local_model
from scemae.evaluation.landmarks.benchmark_frames import denormalise_landmarks
from scemae.evaluation.landmarks.local_evidence import Seen
from scemae.evaluation.photographs.photograph_features import (
    BoxedPhotograph,
    TrainedFeatures,
    extractor,
    few_shot_line,
)

STRIDE, VIEWS = 4, 4  # of cover-and-stride, and warps of each picture: a second of a small encoder
SOURCES = 30  # annotated pictures that count: the nearest ones in the folder's order
KEPT = 100  # pictures whose features are kept, of 1 to 10 MB each


class Suggester:
    """Fits to annotated pictures, and keeps what it has seen of each."""

    def __init__(self, notebook: Notebook, trained: TrainedFeatures) -> None:
        """trained: the features."""
        self._notebook, self._trained = notebook, trained
        line = few_shot_line(trained.subject)
        self._extract = extractor(trained.subject, line, STRIDE)
        self._kept: OrderedDict[tuple, Seen] = OrderedDict()
        self._lock = Lock()

    def suggest(self, name: str) -> dict[str, dict]:
        """By the point's name: `place` (x, y) in pixels of the picture `name`, and `pictures`: how
        many others show the point.

        Points that no annotated picture shows have none. Raises DataError.
        """
        notebook, marks = self._notebook, self._notebook.now.marks
        others = [one for one in notebook.done() if one != name]
        order = {one: number for number, one in enumerate(notebook.pictures.names)}
        others = sorted(others, key=lambda one: abs(order[one] - order[name]))[:SOURCES]
        shown = {
            point: sum(marks[one].get(point) is not None for one in others)
            for point in notebook.now.points
        }
        points = [point for point, count in shown.items() if count]
        if not points:
            return {}
        rows = np.arange(len(others))
        with self._lock:  # one after the other: each uses all cores
            seen = [self._look(one, points) for one in others]
            model = local_model.fit(local_evidence.gather(seen, rows, rows))
            photograph = self._photograph(name)
            frame = frame_of(photograph.image, photograph.box)[None]
            predicted = local_model.predict(model, self._extract, frame)
        found = denormalise_landmarks(predicted)[0].cpu()
        places = photograph.box.from_crop((found - CROP).double().numpy())
        width, height = notebook.pictures.size(name)
        places = np.clip(places, 0, (width - 1, height - 1)).round(2).tolist()
        return {
            point: {"place": place, "pictures": shown[point]}
            for point, place in zip(points, places, strict=True)
        }

    def _look(self, name: str, points: list[str]) -> Seen:
        notebook = self._notebook
        marks = notebook.now.marks[name]
        places = [tuple(marks.get(point) or (np.nan, np.nan)) for point in points]
        key = (name, tuple(notebook.now.boxes.get(name) or ()), notebook.margin, str(places))
        if key not in self._kept:
            photograph = self._photograph(name)
            inside = photograph.box.to_frame(np.array(places))
            self._kept[key] = local_evidence.look(
                self._extract,
                frame_of(photograph.image, photograph.box),
                torch.from_numpy(inside).float(),
                VIEWS,
                seed=(0,),
                device=self._trained.device,
            )
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _photograph(self, name: str) -> BoxedPhotograph:
        notebook = self._notebook
        return notebook.pictures.photograph(name, notebook.now.boxes.get(name), notebook.margin)
