"""`scemae match A B --run RUN`: points of one photograph found in another (paper 4.1).

    scemae match a.jpg b.jpg --run runs/carb --points "310,260 420,255"

The matcher is that of the matching test. Writes match.json and match.png.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np

from scemae import __version__
from scemae.distributed.process_group import choose_device
from scemae.errors import ConfigError
from scemae.evaluation.photographs import boxes, framing_check
from scemae.evaluation.photographs.marked import Panel, draw
from scemae.evaluation.photographs.photograph import (
    DEFAULT,
    check_points,
    grid_points,
    parse_points,
)
from scemae.evaluation.photographs.photograph_features import (
    BoxedPhotograph,
    PointMatches,
    TrainedFeatures,
    load_detector,
    load_features,
    open_photograph,
)
from scemae.files import disk
from scemae.process.progress import say

ACROSS = 5  # points of the grid, each way


def main(given: argparse.Namespace) -> None:
    """Match two photographs.

    Raises ConfigError, DataError or CheckpointError before anything is written.
    """
    places = boxes.chosen(given, [given.first, given.second])
    points = parse_points(given.points) if given.points is not None else None
    if points is not None and given.regressor:
        raise ConfigError(
            "--points, --regressor: found both; give the points, or the regressor that finds them"
        )
    option = boxes.option_of(given)
    first, second = (
        open_photograph(path, place, option=option)
        for path, place in zip((given.first, given.second), places)
    )
    if points is not None:
        check_points(points, first.box, first.path)
    trained = load_features(given.backbone, given.projector, choose_device("auto"), run=given.run)
    points = choose_points(trained, first, given.regressor) if points is None else points
    found = trained.match(first, second, points)
    tell = partial(say, file=sys.stderr)
    record = framing_check.find_record(trained, tell)
    framing_check.check(trained, [first, second], record, tell)
    write(given.out, first, second, trained=trained, found=found)
    for line in table(first, second, found, is_default=places == [None, None]):
        print(line)
    print(f"{given.out / 'match.png'}, {given.out / 'match.json'}")


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
        Panel(first.image, first.box, found.points, asked, False, labels, first.is_unusual),
        Panel(second.image, second.box, found.matches, answer, True, labels, second.is_unusual),
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
