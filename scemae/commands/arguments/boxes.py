"""The options that say where the objects of photographs are (evaluation/photographs/boxes.py)."""

import argparse

from scemae.config.values import given_path

BOXES = ("boxes",)
HELP = """\
Boxes are given by hand (--box), from a file (--boxes: CSV with the columns
file,left,top,right,bottom, or JSON with "boxes" as in our annotations; a line belongs to the
photograph whose path ends with its file), or by a detector of yours (--boxes-from
my_detector:find_boxes): a function that takes a picture (PIL, upright, RGB) and returns its boxes,
each left, top, right, bottom in pixels. Its module is installed, or in a folder that PYTHONPATH
names. Where a picture has several boxes, the largest is used.
Each frame is compared with training pictures, with those that `scemae fit` was given where the
regressor is its own. One that is less usual than 98 of 100 of them is named on stderr, drawn in
red and marked in the JSON (framing.is_unusual); the status stays 0. A run looks at its training
pictures once, and keeps what it finds in RUN/framing; an export has it from `scemae export`.
"""


def add_box_options(parser: argparse.ArgumentParser, each: str) -> None:
    """--box, --boxes and --boxes-from. each: how often --box is given."""
    parser.add_argument("--box", metavar="x0,y0,x1,y1", action="append", help=each)
    parser.add_argument("--boxes", metavar="FILE", type=given_path, help="boxes by file name")
    parser.add_argument(
        "--boxes-from", metavar="MODULE:FUNCTION", help="a function that finds boxes in a picture"
    )
