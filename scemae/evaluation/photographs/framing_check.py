"""Say so where a photograph's frame is unusual for a model, and where that cannot be told."""

from collections.abc import Callable

from scemae.errors import ScemaeError
from scemae.evaluation.photographs.photograph_features import (
    BoxedPhotograph,
    Detector,
    TrainedFeatures,
)
from scemae.runs.usual_frames import UsualFrames

Tell = Callable[[str], object]


def find_record(
    trained: TrainedFeatures, tell: Tell, detector: Detector | None = None
) -> UsualFrames | None:
    """The pictures to compare frames with: those that a detector was fitted on, or else the model's
    training pictures. None where there is no record, after saying why.
    """
    if detector is not None and detector.usual is not None:
        return detector.usual
    try:
        return trained.usual_frames()
    except ScemaeError as error:
        tell(f"framing is not checked: {error}")
        return None


def check(
    trained: TrainedFeatures,
    photographs: list[BoxedPhotograph],
    record: UsualFrames | None,
    tell: Tell,
    *,
    remedy: str = "give --box x0,y0,x1,y1 or --boxes-from",
) -> None:
    """Rate the frame of each photograph, as its `framing`; tell what to do where it is unusual."""
    if record is None:
        return
    for one, framing in zip(photographs, trained.framings(photographs, record), strict=True):
        one.framing = framing
        if framing.is_unusual:
            tell(
                f"{one.path}: its frame is {framing}, so the points may be wrong; {remedy} so that "
                "the object lies in it as in training"
            )
