"""`scemae detect IMAGE... --regressor FILE --out DIR`: landmarks of photographs (paper 4.2).

    scemae detect *.jpg --run runs/carb \\
                  --regressor runs/eval/regressors/MAE_+_CARB.safetensors --out landmarks

Writes NAME.landmarks.json and NAME.landmarks.png for each photograph.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np

from scemae import __version__
from scemae.distributed.process_group import choose_device
from scemae.errors import ConfigError, DataError
from scemae.evaluation.photographs import boxes, framing_check
from scemae.evaluation.photographs.boxes import Where
from scemae.evaluation.photographs.marked import Panel, draw
from scemae.evaluation.photographs.photograph import DEFAULT
from scemae.evaluation.photographs.photograph_features import (
    BoxedPhotograph,
    Detector,
    TrainedFeatures,
    load_detector,
    load_features,
    open_photograph,
)
from scemae.files import disk
from scemae.process.progress import progress_bar, say


def main(given: argparse.Namespace) -> None:
    """Detect the landmarks of photographs.

    Raises CheckpointError or ConfigError before any work, DataError at the end where photographs
    were left out.
    """
    places, option = boxes.chosen(given, given.images), boxes.option_of(given)
    if given.out.exists() and not given.out.is_dir():
        raise ConfigError(f"--out: {given.out} is a file; give a folder")
    if len(given.images) == 1:
        # a bad picture is refused before the networks are loaded, which takes seconds
        open_photograph(given.images[0], places[0], option=option)
    trained = load_features(given.backbone, given.projector, choose_device("auto"), run=given.run)
    detector = load_detector(given.regressor, trained)
    if not any(place is not None for place in places):
        print(f"box: {DEFAULT}, of which networks see the middle, 0.71 of each side")
    failed = detect_all(
        given.images, places, given.out, trained=trained, detector=detector, option=option
    )
    print(
        f"{given.out}: {len(given.images) - len(failed)} of {len(given.images)} photographs, "
        f"{detector.origin.landmarks} landmarks each"
    )
    if failed:
        raise DataError(
            f"{len(failed)} of {len(given.images)} photographs were left out, the first "
            f"{failed[0]}; repair them, or leave them out"
        )


def detect_all(
    paths: list[Path],
    places: list[Where],
    out: Path,
    *,
    trained: TrainedFeatures,
    detector: Detector,
    option: str = "--box",
) -> list[Path]:
    """Write the results of each photograph into `out`; places are boxes, or None for the centre.

    Returns the photographs that cannot be used; each is named on stderr, and so is each whose frame
    is unusual. `option` is named in errors of boxes.
    """
    failed = []
    tell = partial(say, file=sys.stderr)
    record = framing_check.find_record(trained, tell, detector)
    bar = progress_bar(paths, show=len(paths) > 1, unit="photograph")
    for path, place, name in zip(bar, places, output_names(paths)):
        try:
            photograph = open_photograph(path, place, margin=detector.origin.margin, option=option)
        except (DataError, ConfigError) as error:
            say(f"left out: {error}", sys.stderr)
            failed.append(path)
        else:
            framing_check.check(trained, [photograph], record, tell)
            write(
                out,
                name,
                photograph,
                landmarks=trained.detect(photograph, detector),
                trained=trained,
                detector=detector,
            )
    return failed


def output_names(paths: list[Path]) -> list[str]:
    """A file name for each photograph: its stem, with a number where the stem is taken."""
    names: list[str] = []
    for path in paths:
        choices = [path.stem, *(f"{path.stem}-{i}" for i in range(2, len(paths) + 2))]
        names.append(next(name for name in choices if name not in names))
    return names


def write(
    out: Path,
    name: str,
    photograph: BoxedPhotograph,
    *,
    landmarks: np.ndarray,
    trained: TrainedFeatures,
    detector: Detector,
) -> None:
    """Write NAME.landmarks.json and .png of a photograph; landmarks (l, 2) in its pixels."""
    labels = [word.replace("_", " ") for word in detector.names] if len(landmarks) <= 10 else []
    panel = Panel(
        photograph.image,
        photograph.box,
        landmarks,
        f"{photograph.path.name}: {detector.origin.title}",
        True,
        labels,
        photograph.is_unusual,
    )
    draw([panel], out / f"{name}.landmarks.png")
    disk.write_json(
        out / f"{name}.landmarks.json",
        {
            "landmarks": np.round(landmarks, 2).tolist(),
            "names": detector.names,
            **photograph.facts(),
            "regressor": detector.facts(),
            "model": trained.model_facts(),
            "scemae": __version__,
        },
    )
