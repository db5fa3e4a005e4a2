"""Features of photographs from trained runs, to match points and to detect landmarks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from scemae.data.framing import Box, frame_of, square_box
from scemae.data.geometry import CROP, INPUT
from scemae.data.picture import read_picture
from scemae.errors import CheckpointError, ConfigError, DataError, ScemaeError
from scemae.evaluation import subjects
from scemae.evaluation.landmarks import matching, regression
from scemae.evaluation.landmarks.benchmark_frames import denormalise_landmarks
from scemae.evaluation.landmarks.benchmarks import find_benchmark
from scemae.evaluation.landmarks.local_evidence import Extractor
from scemae.evaluation.landmarks.regressor_file import (
    Origin,
    Regressor,
    check_digests,
    load_regressor,
)
from scemae.evaluation.photographs.boxes import Where, corners_of
from scemae.evaluation.subject import DETECTION, FEW_SHOT, MATCHING, Line, Subject
from scemae.runs import given, usual_frames
from scemae.runs.given import Given
from scemae.runs.usual_frames import Framing, UsualFrames

STRIDE = 2  # of cover-and-stride for matching, in pixels (PROTOCOL 5.2)


@dataclass
class BoxedPhotograph:
    """A photograph and the box that is used of it."""

    path: Path
    image: Image.Image
    box: Box
    framing: Framing | None = None  # where it was checked (framing_check.py)

    @property
    def is_unusual(self) -> bool:
        """Whether its frame was found to be unlike training pictures."""
        return self.framing is not None and self.framing.is_unusual

    def facts(self) -> dict:
        """The part of the JSON results that describes it."""
        return {
            "photograph": str(self.path),
            "size": list(self.image.size),
            "box": self.box.corners,
            "seen": self.box.seen,
            "framing": None if self.framing is None else asdict(self.framing),
        }


@dataclass
class PointMatches:
    """The matches of l points of one photograph in another, in pixels of their photographs."""

    points: np.ndarray  # (l, 2)
    matches: np.ndarray  # (l, 2)
    cosines: np.ndarray  # (l,) of the two features
    returns: np.ndarray  # (l,) from the point to the match of its match, px of the 96-px crop


@dataclass
class TrainedFeatures:
    """A backbone, with a projector where one was given, on a device."""

    subject: Subject
    digests: dict[str, str]  # SHA-256 of the weights, as "backbone" and "projector"
    device: torch.device
    origin: Given | None = None
    _usual: UsualFrames | ScemaeError | None = field(default=None, repr=False)

    def match(
        self, first: BoxedPhotograph, second: BoxedPhotograph, points: np.ndarray
    ) -> PointMatches:
        """Find points (l, 2) of the first photograph in the second."""
        line = self.subject.of(MATCHING)[-1]
        side = self.subject.trunk.side(STRIDE, matching=True)
        source, target = self._features(line, [first, second], STRIDE, side).split(1)
        queries = torch.from_numpy(first.box.to_crop(points)).float().to(self.device).unsqueeze(0)
        answers = matching.match(source, target, queries)
        back = matching.match(target, source, answers)
        cosines = functional.cosine_similarity(_at(source, queries), _at(target, answers), dim=1)[0]
        returns = (back - queries.round().clamp(0, INPUT - 1)).norm(dim=2)[0]
        return PointMatches(
            points,
            second.box.from_crop(answers[0].cpu().double().numpy()),
            cosines.cpu().double().numpy(),
            returns.cpu().double().numpy(),
        )

    def detect(self, photograph: BoxedPhotograph, detector: "Detector") -> np.ndarray:
        """The landmarks (l, 2) of a photograph, in its pixels."""
        stride = detector.origin.stride
        features = self._features(
            detector.line, [photograph], stride, self.subject.trunk.side(stride)
        )
        predicted = regression.predict(detector.regressor, features, device=self.device)[0]
        return photograph.box.from_crop((denormalise_landmarks(predicted) - CROP).double().numpy())

    def framings(self, photographs: Sequence[BoxedPhotograph], usual: UsualFrames) -> list[Framing]:
        """How usual the frames of photographs are among the pictures of a record."""
        frames = torch.stack([frame_of(one.image, one.box) for one in photographs])
        return usual.rate(self.tokens(frames))

    def usual_frames(self) -> UsualFrames:
        """The record of the training pictures (runs/usual_frames.py), which are looked at once.

        Raises ScemaeError with the reason where there is none.
        """
        if self._usual is None:
            try:
                self._usual = self._find_usual_frames()
            except ScemaeError as error:
                self._usual = error
        if isinstance(self._usual, ScemaeError):
            raise self._usual
        return self._usual

    def _find_usual_frames(self) -> UsualFrames:
        if self.origin is None:
            raise DataError("the model has no record of its training pictures")
        place = self.origin.backbone
        if not self.origin.is_export:
            return usual_frames.of_checkpoint(place, self.tokens)
        path = place / usual_frames.EXPORTED
        found = usual_frames.load(path, self.subject.backbone) if path.is_file() else None
        if found is None:
            raise DataError(f"{place}: the export has no {path.name} of its weights")
        return found

    @torch.no_grad()
    def tokens(self, frames: Tensor) -> Tensor:
        """What the trunk makes of frames (b, 3, 136, 136) uint8: (b, n, d), on the CPU."""
        trunk, stride = self.subject.trunk, usual_frames.STRIDE
        maps = trunk.maps(frames.to(self.device).float() / 255, stride)
        return trunk.join(maps, trunk.side(stride)).flatten(2).transpose(1, 2).float().cpu()

    def detection_line(self, path: Path, origin: Origin) -> Line:
        """The features that the regressor in `path` reads.

        Raises CheckpointError where the given runs do not have them.
        """
        lines = self.subject.of(DETECTION) + self.subject.of(FEW_SHOT)
        for line in lines:
            if line.dim == origin.width and self.subject.weights(line) == origin.digests:
                return line
        if not origin.digests:
            raise CheckpointError(
                f"{path}: was trained on features of no run (a floor, as a random encoder); give "
                "another regressor of that evaluation"
            )
        check_digests(path, origin, self.digests)
        raise CheckpointError(
            f"{path}: reads {origin.width} channels, and the features at hand have "
            f"{', '.join(str(line.dim) for line in lines)}; give the runs that it was trained with"
        )

    def model_facts(self) -> dict:
        """The part of the JSON results that describes the networks."""
        return {"title": self.subject.title, "runs": self.subject.runs, "digests": self.digests}

    @torch.no_grad()
    def _features(
        self, line: Line, photographs: list[BoxedPhotograph], stride: int, side: int
    ) -> Tensor:
        frames = torch.stack([frame_of(one.image, one.box) for one in photographs])
        features = line.head(
            self.subject.trunk.maps(frames.to(self.device).float() / 255, stride), side
        ).float()
        if not features.isfinite().all():
            raise CheckpointError(
                f"{self.subject.runs[0]}: its features are not finite; take an earlier checkpoint"
            )
        return features


@dataclass
class Detector:
    """A trained regressor with where it comes from."""

    path: Path
    regressor: Regressor
    origin: Origin
    line: Line  # the features that it reads
    names: list[str]  # of the landmarks, or none
    usual: UsualFrames | None = None  # of the pictures that it was fitted on, where it has them

    def facts(self) -> dict:
        """The part of the JSON results that describes it."""
        return {
            "file": str(self.path),
            "benchmark": self.origin.benchmark,
            "stride": self.origin.stride,
        }


def few_shot_line(subject: Subject) -> Line:
    """The features of a detector of few pictures: the projected ones where there is a projector
    (paper 4.2).
    """
    return (subject.of(FEW_SHOT) or subject.of(DETECTION))[-1]


def extractor(subject: Subject, line: Line, stride: int) -> Extractor:
    """What makes the features of a line, one every `stride` pixels, of frames on its device."""
    trunk = subject.trunk
    return lambda frames: line.head(trunk.maps(frames, stride), trunk.side(stride)).float()


def load_features(
    backbone: Path | None, projector: Path | None, device: torch.device, *, run: Path | None = None
) -> TrainedFeatures:
    """The networks of a stage-1 run and, where given, of a stage-2 run on it; or of a RUN alone.

    Raises CheckpointError, RunFolderError or ConfigError (runs/given.py).
    """
    return of_given(given.of_options(run, backbone, projector), device)


def of_given(one: Given, device: torch.device) -> TrainedFeatures:
    """The networks of the weights that were given, on a device. Raises CheckpointError."""
    return of_subject(subjects.of_given(one), device, one)


def of_subject(subject: Subject, device: torch.device, one: Given | None = None) -> TrainedFeatures:
    """The networks of a subject, on a device; `one`: the weights that it was made of."""
    subject.to(device, torch.float32)
    return TrainedFeatures(subject, subject.weights(subject.of(MATCHING)[-1]), device, one)


def load_detector(path: Path, trained: TrainedFeatures) -> Detector:
    """A regressor file, for use with the features `trained`.

    Raises CheckpointError where it was trained on others.
    """
    regressor, origin = load_regressor(path)
    line = trained.detection_line(path, origin)
    try:
        names = origin.points or list(find_benchmark(origin.benchmark).points)
    except ConfigError:  # a benchmark of another machine: its points have no names here
        names = []
    return Detector(path, regressor, origin, line, names, usual_frames.load(path))


def open_photograph(
    path: Path, where: Where, *, margin: float = 1.0, option: str = "--box"
) -> BoxedPhotograph:
    """A photograph and its box, enlarged by `margin`; `option` is named in errors. Raises DataError
    or ConfigError.
    """
    image = read_picture(path)
    corners = corners_of(where, image, path)
    return BoxedPhotograph(
        path, image, square_box(image, corners, path, margin=margin, option=option)
    )


def _at(features: Tensor, points: Tensor) -> Tensor:
    """Features (1, d, l) at points (1, l, 2) of the 96-px crop, as in `matching.match`."""
    places = ((2 * points.round().clamp(0, INPUT - 1) + 1) / INPUT - 1).unsqueeze(2)
    return functional.grid_sample(
        features, places, mode="bilinear", padding_mode="border", align_corners=False
    )[..., 0]
