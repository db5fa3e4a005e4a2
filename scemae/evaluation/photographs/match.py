"""`scemae match A B --backbone RUN`: where points of a photograph are in another, found as in the matching test (paper 4.1).

    scemae match a.jpg b.jpg --backbone runs/mae --projector runs/carb --points "310,260 420,255"

Writes match.json and match.png.
"""

import argparse
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
    Found,
    Sight,
    View,
    load_detector,
    load_sight,
    open_view,
)
from scemae.files import disk

HELP = """\
Find points of one photograph in another one, with the features of trained runs.

  scemae match a.jpg b.jpg --backbone runs/mae --projector runs/carb --points "310,260 420,255"
  scemae match a.jpg b.jpg --backbone runs/mae --projector runs/carb --regressor runs/eval/regressors/MAE_+_CARB.safetensors
  scemae match a.jpg b.jpg --backbone runs/mae --box 80,40,430,390 --box centre --out pairs/a-b

Points are x,y in pixels of the first photograph as it is shown, upright; without --points a grid of 5x5 is matched, or
with --regressor the landmarks that are detected in the first photograph. A box is the square that becomes the frame of 136
pixels, and networks see its middle, 0.71 of each side (dashed in the picture): a face should fill about that. A box that
is no square is made one around its middle, and may reach beyond the photograph. Without --box it is the largest centred
square (of CelebA's aligned pictures of 178x218 rows 30 to 207). For each point: where it was found, the cosine of the two
features, and `returns`, how many pixels of the 96-px crop from the point the way back ends (a match that comes back is one
to trust). OUT gets match.json and match.png.
"""
ACROSS = 5  # points of the grid, each way


def main(given: argparse.Namespace) -> None:
    """Match two photographs. Raises ConfigError, DataError or CheckpointError, before anything is written."""
    corners = parse_boxes(given.box, [given.first, given.second])
    points = parse_points(given.points) if given.points is not None else None
    if points is not None and given.regressor:
        raise ConfigError(
            "--points, --regressor: found both; give the points, or the regressor that finds them"
        )
    first, second = open_view(given.first, corners[0]), open_view(given.second, corners[1])
    if points is not None:
        check_points(points, first.box, first.path)
    sight = load_sight(given.backbone, given.projector, choose_device("auto"))
    points = choose_points(sight, first, given.regressor) if points is None else points
    found = sight.match(first, second, points)
    write(given.out, first, second, sight=sight, found=found)
    for line in table(first, second, found, is_default=given.box is None):
        print(line)
    print(f"{given.out / 'match.png'}, {given.out / 'match.json'}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "first", metavar="A", type=given_path, help="the photograph that has the points"
    )
    parser.add_argument(
        "second", metavar="B", type=given_path, help="the one where they are looked for"
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
        help="run folder or checkpoint of stage 2 on it",
    )
    parser.add_argument("--points", metavar='"x,y ..."', help="in pixels of A")
    parser.add_argument(
        "--regressor",
        metavar="FILE",
        type=given_path,
        help="that finds the points of A (scemae evaluate)",
    )
    parser.add_argument(
        "--box", metavar="x0,y0,x1,y1", action="append", help="once for A and once for B; or centre"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=given_path,
        default=Path("match"),
        help="where both files go (match)",
    )


def choose_points(sight: Sight, view: View, regressor: Path | None) -> np.ndarray:
    """The landmarks (l, 2) that a regressor detects, those of them that the network sees, or a grid without one."""
    if regressor is None:
        return grid_points(view.box, ACROSS)
    return sight.detect(view, load_detector(regressor, sight))


def write(out: Path, first: View, second: View, *, sight: Sight, found: Found) -> None:
    """match.json and match.png."""
    rows = [
        {
            "point": np.round(point, 2).tolist(),
            "match": np.round(match, 2).tolist(),
            "cosine": round(float(cosine), 4),
            "returns": round(float(returns), 2),
        }
        for point, match, cosine, returns in zip(
            found.points, found.matches, found.cosines, found.returns
        )
    ]
    labels = [str(i + 1) for i in range(len(rows))]
    draw(
        [
            Panel(
                first.image, first.box, found.points, f"{first.path.name}: points", False, labels
            ),
            Panel(
                second.image,
                second.box,
                found.matches,
                f"{second.path.name}: found, {sight.subject.title}",
                True,
                labels,
            ),
        ],
        out / "match.png",
    )
    disk.write_json(
        out / "match.json",
        {
            "matches": rows,
            "first": first.facts(),
            "second": second.facts(),
            "model": sight.model_facts(),
            "scemae": __version__,
        },
    )


def table(first: View, second: View, found: Found, *, is_default: bool) -> list[str]:
    """What is printed: the boxes, and a line for each point."""
    why = f", {DEFAULT}" if is_default else ""
    lines = [
        f"{view.path}: box {','.join(map(str, view.box.corners))}{why}, of which the middle is seen, "
        f"{','.join(map(str, view.box.seen))}"
        for view in (first, second)
    ]
    lines.append(f"{'':>4} {'point':>17} {'found at':>17} {'cosine':>7} {'returns':>8}")
    return lines + [
        f"{i + 1:>4} {px:>8.1f} {py:>8.1f} {x:>8.1f} {y:>8.1f} {cosine:>7.3f} {returns:>8.1f}"
        for i, ((px, py), (x, y), cosine, returns) in enumerate(
            zip(found.points, found.matches, found.cosines, found.returns)
        )
    ]
