"""The options of `scemae match`, and its help text."""

import argparse
from functools import partial
from pathlib import Path

from scemae.commands.arguments import boxes
from scemae.commands.arguments.trained_model import MODEL, add_model_options
from scemae.config.values import given_path

HELP = f"""\
Find points of one photograph in another one, with the features of trained runs.

  scemae match a.jpg b.jpg --run runs/carb --points "310,260 420,255"
  scemae match a.jpg b.jpg --run runs/carb --regressor runs/eval/regressors/MAE_+_CARB.safetensors
  scemae match a.jpg b.jpg --run runs/mae --box 80,40,430,390 --box centre --out pairs/a-b

Points are x,y in pixels of the first photograph, upright. Without --points a 5x5 grid is matched,
or with --regressor the landmarks detected in the first photograph. A box is the square that
becomes the frame of 136 pixels; networks see its middle, 0.71 of each side (dashed in the picture),
which a face should fill. A box that is not square is made square around its middle, and may reach
beyond the photograph. Without --box it is the largest centred square (of CelebA's aligned pictures
of 178x218 rows 30 to 207).
{boxes.HELP}
For each point you get the place where it was found, the cosine of the
two features, and `returns`: the distance between the point and the match of its match, in pixels of
the 96-px crop (small: a match to trust). OUT gets match.json and match.png.
"""
READS = ("first", "second", *MODEL, "regressor", *boxes.BOXES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = partial(parser.add_argument, type=given_path)
    add("first", metavar="A", help="the photograph that has the points")
    add("second", metavar="B", help="the photograph where they are searched for")
    add_model_options(parser)
    add("--regressor", metavar="FILE", help="detects the points of A (see scemae evaluate)")
    add(
        "--out",
        type=given_path,
        metavar="DIR",
        default=Path("match"),
        help="where both files go (match)",
    )
    parser.add_argument("--points", metavar='"x,y ..."', help="in pixels of A")
    boxes.add_box_options(parser, "once for A and once for B; or centre")
