"""Landmarks of one's own from a few annotated pictures: `fit_landmarks`, and detectors on disk.

The detector is that of `scemae fit`, a constrained local model on the frozen features.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from scemae.api.model import Model
from scemae.api.pictures import Corners, Picture, boxes_of, photograph_of, split
from scemae.data.framing import frame_of
from scemae.data.geometry import CROP
from scemae.errors import ConfigError, DataError
from scemae.evaluation.landmarks import local_evidence, local_model
from scemae.evaluation.landmarks.benchmark_frames import Frames
from scemae.evaluation.landmarks.local_model import LocalModel
from scemae.evaluation.landmarks.regressor_file import Origin, save_regressor
from scemae.evaluation.photographs import marked, photograph_features
from scemae.evaluation.photographs.marked import Panel
from scemae.evaluation.photographs.photograph import check_points
from scemae.evaluation.photographs.photograph_features import BoxedPhotograph
from scemae.evaluation.subject import Line
from scemae.models.cover_and_stride import SHIFTS
from scemae.process.progress import progress_bar
from scemae.runs import usual_frames
from scemae.runs.usual_frames import Framing

OWN = "own"  # in place of a benchmark's name


@dataclass
class Landmarks:
    """The landmarks of one picture."""

    points: np.ndarray  # (l, 2), x and y in pixels of the picture
    names: list[str]  # of the landmarks, or none
    photograph: BoxedPhotograph

    @property
    def framing(self) -> Framing | None:
        """How usual the frame of the picture is; None where that was not checked."""
        return self.photograph.framing

    def plot(self) -> Figure:
        """The picture with its landmarks."""
        labels = self.names if len(self.points) <= 10 else []
        one = self.photograph
        return marked.figure_of(
            [Panel(one.image, one.box, self.points, one.path.name, True, labels, one.is_unusual)]
        )


class Detector:
    """A landmark regressor on the features of a model."""

    def __init__(self, model: Model, found: photograph_features.Detector) -> None:
        """`fit_landmarks` and `load_detector` make one."""
        self.model, self._found = model, found

    @property
    def landmarks(self) -> int:
        """How many points it finds."""
        return self._found.origin.landmarks

    def predict(self, picture: Picture, box: Corners = None) -> Landmarks:
        """The landmarks of a picture, framed as by `Model.match`. The numbers are those of
        `scemae detect`. A FramingWarning says where the frame is unlike the pictures that it was
        fitted on, or the model's training pictures.

        Raises DataError for what is no picture, ConfigError for a box beside it.
        """
        photograph = photograph_of(picture, box)
        points = self.model.trained().detect(photograph, self._found)
        self.model.check_framing([photograph], self._found)
        return Landmarks(points, self._found.names, photograph)

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file, which `load_detector` and `scemae detect` read.

        It can be used with the same model only: the file names the weights. Raises OSError.
        """
        origin = self._found.origin
        save_regressor(
            Path(path),
            self._found.regressor,
            origin.benchmark,
            origin.settings,
            origin.digests,
            stride=origin.stride,
            usual=self._found.usual,
        )


def load_detector(path: str | Path, model: Model) -> Detector:
    """A detector that `save` or `scemae evaluate` wrote.

    Raises CheckpointError where it was trained on the features of another model.
    """
    model.digests()
    return Detector(model, photograph_features.load_detector(Path(path), model.trained()))


def fit_landmarks(
    model: Model,
    images: Any,
    points: Any,
    *,
    boxes: Any = None,
    stride: int = 4,
    views: int = 12,
    seed: int = 0,
) -> Detector:
    """Fit a landmark detector to a few annotated pictures, as `scemae fit` does.

    images: n pictures, as the model takes them; points (n, l, 2), x and y in pixels of each, any
    number l, NaN for a point that is not seen. boxes: one for all, a function that finds it, or a
    list with one of these or None for each. stride: of the features, in pixels; 8 is faster, 2
    finer. views: warps of each picture. Raises DataError and ConfigError, in a sentence that names
    the picture, before anything is computed.
    """
    if stride not in SHIFTS:
        raise ConfigError(f"stride: found {stride!r}, one of 1, 2, 4 or 8 was needed")
    train, digests = _frames(images, points, boxes), model.digests()
    line = photograph_features.few_shot_line(model.trained().subject)
    fitted = _fit(model, line, train, stride, views, seed)
    used = {part: digests[part] for part in model.trained().subject.weights(line)}
    origin = Origin(OWN, None, used, stride, line.dim, fitted.landmarks)
    usual = usual_frames.of_few(train.images, model.trained().tokens)
    found = photograph_features.Detector(Path(OWN), fitted, origin, line, [], usual)
    return Detector(model, found)


def _fit(model: Model, line: Line, train: Frames, stride: int, views: int, seed: int) -> LocalModel:
    """The model of all pictures; a bar on a terminal shows them."""
    rows = np.arange(len(train))
    with progress_bar(total=len(train), unit="picture") as bar:
        evidence = local_evidence.collect(
            photograph_features.extractor(model.trained().subject, line, stride),
            train,
            rows,
            rows,
            views,
            seed=seed,
            device=model.device,
            advance=bar.update,
        )
    return local_model.fit(evidence)


def _frames(images: Any, points: Any, boxes: Any) -> Frames:
    """Frames of the pictures with their landmarks. Raises DataError or ConfigError."""
    pictures = split(images)
    try:
        asked = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"points: found lists of different lengths, or no numbers ({error}); every picture "
            "needs the same l points, (n, l, 2)"
        ) from error
    needed = f"({len(pictures)}, l, 2), of {len(pictures)} pictures"
    if asked.ndim != 3 or len(asked) != len(pictures) or asked.shape[2] != 2 or not asked.size:
        raise DataError(f"points: found the shape {asked.shape}, {needed}, was needed")
    if np.isinf(asked).any():
        row = int(np.isinf(asked).any(axis=(1, 2)).argmax())
        raise DataError(f"points: of picture {row}: found a number that is not finite; correct it")
    if np.isnan(asked).any(axis=2).all(axis=0).any():
        point = int(np.isnan(asked).any(axis=2).all(axis=0).argmax())
        raise DataError(f"points: found point {point} in no picture; annotate it, or leave it out")
    frames, landmarks = [], []
    for i, (picture, box) in enumerate(zip(pictures, boxes_of(boxes, len(pictures)))):
        one = photograph_of(picture, box, i)
        check_points(asked[i][~np.isnan(asked[i]).any(axis=1)], one.box, one.path, option="points")
        frames.append(frame_of(one.image, one.box))
        landmarks.append(torch.from_numpy(one.box.to_crop(asked[i]) + CROP).float())
    keys = [str(i) for i in range(len(pictures))]
    unknown = torch.full((len(pictures),), -1)
    return Frames(torch.stack(frames), torch.stack(landmarks), keys, unknown)
