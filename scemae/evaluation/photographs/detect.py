"""`scemae detect IMAGE... --regressor FILE --out DIR`: the landmarks of photographs, by a trained regressor (paper 4.2).

    scemae detect *.jpg --backbone runs/mae --projector runs/carb \\
                  --regressor runs/eval/regressors/MAE_+_CARB.safetensors --out landmarks

Writes NAME.landmarks.json and NAME.landmarks.png for each photograph.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from scemae import __version__
from scemae.config.values import given_path
from scemae.distributed.process_group import choose_device
from scemae.errors import ConfigError, DataError
from scemae.evaluation.photographs.marked import Panel, draw
from scemae.evaluation.photographs.photograph import DEFAULT, parse_boxes
from scemae.evaluation.photographs.photograph_features import (
    Detector,
    Sight,
    View,
    load_detector,
    load_sight,
    open_view,
)
from scemae.files import disk
from scemae.process.progress import progress_bar, say

HELP = """\
Detect landmarks in any photographs, with the features of trained runs and the regressor of a `scemae evaluate` of them.

  scemae detect a.jpg b.png --backbone runs/mae --projector runs/carb \\
                --regressor runs/eval/regressors/MAE_+_CARB.safetensors --out landmarks
  scemae detect a.jpg --box 80,40,430,390 ...

One face per photograph, in a box: the square that becomes the frame of 136 pixels. Networks see its middle, 0.71 of each
side (dashed in the picture), and the regressor expects faces in it as its benchmark shows them: for CelebA and MAFL a box
about 1.9 times as wide as the face, with the eyes a little above the middle. Without --box it is the largest centred
square (of CelebA's aligned pictures of 178x218 rows 30 to 207); with it, one for each photograph, in their order (centre for
the default). A photograph that cannot be used is named and left out, and the command ends with status 1. DIR gets, for each,
NAME.landmarks.json (x, y in pixels of the photograph as it is shown, upright) and NAME.landmarks.png.
"""


def main(given: argparse.Namespace) -> None:
    """Detect the landmarks of photographs. Raises CheckpointError or ConfigError before any work, DataError at the end
    where photographs were left out."""
    corners = parse_boxes(given.box, given.images)
    if given.out.exists() and not given.out.is_dir():
        raise ConfigError(f"--out: {given.out} is a file; give a folder")
    if len(given.images) == 1:
        open_view(given.images[0], corners[0])  # before the networks: seconds
    sight = load_sight(given.backbone, given.projector, choose_device("auto"))
    detector = load_detector(given.regressor, sight)
    if given.box is None:
        print(f"box: {DEFAULT}, of which networks see the middle, 0.71 of each side")
    failed = detect_all(given.images, corners, given.out, sight=sight, detector=detector)
    print(
        f"{given.out}: {len(given.images) - len(failed)} of {len(given.images)} photographs, "
        f"{detector.origin.landmarks} landmarks each"
    )
    if failed:
        raise DataError(
            f"{len(failed)} of {len(given.images)} photographs were left out, the first {failed[0]}; mend "
            "them, or leave them out"
        )


def detect_all(
    paths: list[Path],
    corners: list[list[float] | None],
    out: Path,
    *,
    sight: Sight,
    detector: Detector,
) -> list[Path]:
    """Write the results of each photograph, with its box or None for the centre, into `out`; returns those that cannot be
    used, each of which is named on stderr."""
    failed = []
    bar = progress_bar(paths, show=len(paths) > 1, unit="photograph")
    for path, box, name in zip(bar, corners, output_names(paths)):
        try:
            view = open_view(path, box)
        except (DataError, ConfigError) as error:
            say(f"left out: {error}", sys.stderr)
            failed.append(path)
        else:
            write(
                out,
                name,
                view,
                landmarks=sight.detect(view, detector),
                sight=sight,
                detector=detector,
            )
    return failed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", type=given_path, help="photographs, one face each"
    )
    parser.add_argument(
        "--backbone",
        required=True,
        metavar="RUN",
        type=given_path,
        help="run folder or checkpoint of stage 1",
    )
    parser.add_argument(
        "--projector",
        metavar="RUN",
        type=given_path,
        help="of stage 2, where the regressor's features have one",
    )
    parser.add_argument(
        "--regressor",
        required=True,
        metavar="FILE",
        type=given_path,
        help="one of the regressors/*.safetensors of an evaluation",
    )
    parser.add_argument(
        "--box", metavar="x0,y0,x1,y1", action="append", help="once for each photograph; or centre"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", type=given_path, help="where the results go"
    )


def output_names(paths: list[Path]) -> list[str]:
    """A name for each photograph's results: its stem, numbered where it comes again."""
    names: list[str] = []
    for path in paths:
        choices = [path.stem, *(f"{path.stem}-{i}" for i in range(2, len(paths) + 2))]
        names.append(next(name for name in choices if name not in names))
    return names


def write(
    out: Path, name: str, view: View, *, landmarks: np.ndarray, sight: Sight, detector: Detector
) -> None:
    """NAME.landmarks.json and NAME.landmarks.png of one photograph, with landmarks (l, 2) in its pixels."""
    labels = [word.replace("_", " ") for word in detector.names] if len(landmarks) <= 10 else []
    panel = Panel(
        view.image,
        view.box,
        landmarks,
        f"{view.path.name}: {detector.origin.benchmark}",
        True,
        labels,
    )
    draw([panel], out / f"{name}.landmarks.png")
    disk.write_json(
        out / f"{name}.landmarks.json",
        {
            "landmarks": np.round(landmarks, 2).tolist(),
            "names": detector.names,
            **view.facts(),
            "regressor": detector.facts(),
            "model": sight.model_facts(),
            "scemae": __version__,
        },
    )
