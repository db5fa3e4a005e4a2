"""`scemae match A B --run RUN`: points of one photograph found in another (paper 4.1).

    scemae match a.jpg b.jpg --run runs/carb --points "310,260 420,255"

The matcher is that of the matching test. Writes match.json and match.png.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np

from scemae import __version__
from scemae.config.values import given_path
from scemae.distributed.process_group import choose_device
from scemae.errors import ConfigError
from scemae.evaluation.photographs.marked import Panel, draw
from scemae.evaluation.photographs.photograph import (
    DEFAULT,
    check_points,
    grid_points,
    parse_boxes,
    parse_points,
)
from scemae.evaluation.photographs.photograph_features import (
    BoxedPhotograph,
    PointMatches,
    TrainedFeatures,
    add_model_options,
    load_detector,
    load_features,
    open_photograph,
)
from scemae.files import disk

HELP = """\
Find points of one photograph in another one, with the features of trained runs.

  scemae match a.jpg b.jpg --run runs/carb --points "310,260 420,255"
  scemae match a.jpg b.jpg --run runs/carb --regressor runs/eval/regressors/MAE_+_CARB.safetensors
  scemae match a.jpg b.jpg --run runs/mae --box 80,40,430,390 --box centre --out pairs/a-b

Points are x,y in pixels of the first photograph, upright. Without --points a 5x5 grid is matched,
or with --regressor the landmarks detected in the first photograph. A box is the square that
becomes the frame of 136 pixels; networks see its middle, 0.71 of each side (dashed in the picture),
which a face should fill. A box that is not square is made square around its middle, and may reach
beyond the photograph. Without --box it is the largest centred square (of CelebA's aligned pictures
of 178x218 rows 30 to 207). For each point you get the place where it was found, the cosine of the
two features, and `returns`: the distance between the point and the match of its match, in pixels of
the 96-px crop (small: a match to trust). OUT gets match.json and match.png.
"""
ACROSS = 5  # points of the grid, each way


def main(given: argparse.Namespace) -> None:
    """Match two photographs.

    Raises ConfigError, DataError or CheckpointError before anything is written.
    """
    corners = parse_boxes(given.box, [given.first, given.second])
    points = parse_points(given.points) if given.points is not None else None
    if points is not None and given.regressor:
        raise ConfigError(
            "--points, --regressor: found both; give the points, or the regressor that finds them"
        )
    first, second = (
        open_photograph(given.first, corners[0]),
        open_photograph(given.second, corners[1]),
    )
    if points is not None:
        check_points(points, first.box, first.path)
    trained = load_features(given.backbone, given.projector, choose_device("auto"), run=given.run)
    points = choose_points(trained, first, given.regressor) if points is None else points
    found = trained.match(first, second, points)
    write(given.out, first, second, trained=trained, found=found)
    for line in table(first, second, found, is_default=given.box is None):
        print(line)
    print(f"{given.out / 'match.png'}, {given.out / 'match.json'}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = partial(parser.add_argument, type=given_path)
    add("first", metavar="A", help="the photograph that has the points")
    add("second", metavar="B", help="the photograph where they are searched for")
    add_model_options(parser)
    add("--regressor", metavar="FILE", help="detects the points of A (see scemae evaluate)")
    add("--out", metavar="DIR", default=Path("match"), help="where both files go (match)")
    parser.add_argument("--points", metavar='"x,y ..."', help="in pixels of A")
    parser.add_argument(
        "--box", metavar="x0,y0,x1,y1", action="append", help="once for A and once for B; or centre"
    )


def choose_points(
    trained: TrainedFeatures, photograph: BoxedPhotograph, regressor: Path | None
) -> np.ndarray:
    """The landmarks (l, 2) that a regressor detects, or a grid of points without a regressor."""
    if regressor is None:
        return grid_points(photograph.box, ACROSS)
    return trained.detect(photograph, load_detector(regressor, trained))


def write(
    out: Path,
    first: BoxedPhotograph,
    second: BoxedPhotograph,
    *,
    trained: TrainedFeatures,
    found: PointMatches,
) -> None:
    """Write match.json and match.png."""
    matched = zip(found.points, found.matches, found.cosines, found.returns, strict=True)
    rows = [
        {
            "point": np.round(point, 2).tolist(),
            "match": np.round(match, 2).tolist(),
            "cosine": round(float(cosine), 4),
            "returns": round(float(returns), 2),
        }
        for point, match, cosine, returns in matched
    ]
    labels = [str(i + 1) for i in range(len(rows))]
    asked, answer = f"{first.path.name}: points", f"{second.path.name}: found, "
    answer += trained.subject.title
    panels = [
        Panel(first.image, first.box, found.points, asked, False, labels),
        Panel(second.image, second.box, found.matches, answer, True, labels),
    ]
    draw(panels, out / "match.png")
    disk.write_json(
        out / "match.json",
        {
            "matches": rows,
            "first": first.facts(),
            "second": second.facts(),
            "model": trained.model_facts(),
            "scemae": __version__,
        },
    )


def table(
    first: BoxedPhotograph, second: BoxedPhotograph, found: PointMatches, *, is_default: bool
) -> list[str]:
    """The printed lines: both boxes, and a line for each point."""
    why = f", {DEFAULT}" if is_default else ""
    lines = [
        f"{one.path}: box {','.join(map(str, one.box.corners))}{why}, of which the middle is used, "
        f"{','.join(map(str, one.box.seen))}"
        for one in (first, second)
    ]
    lines.append(f"{'':>4} {'point':>17} {'found at':>17} {'cosine':>7} {'returns':>8}")
    matched = zip(found.points, found.matches, found.cosines, found.returns, strict=True)
    for i, ((px, py), (x, y), cosine, returns) in enumerate(matched):
        place = f"{px:>8.1f} {py:>8.1f} {x:>8.1f} {y:>8.1f}"
        lines.append(f"{i + 1:>4} {place} {cosine:>7.3f} {returns:>8.1f}")
    return lines
