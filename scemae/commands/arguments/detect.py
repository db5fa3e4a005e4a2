"""The options of `scemae detect`, and its help text."""

import argparse
from functools import partial

from scemae.commands.arguments import boxes
from scemae.commands.arguments.trained_model import MODEL, add_model_options
from scemae.config.values import given_path

HELP = f"""\
Detect landmarks in photographs, with the features of trained runs and a regressor that
`scemae evaluate` or `scemae fit` trained on them.

  scemae detect a.jpg b.png --run runs/carb \\
                --regressor runs/eval/regressors/MAE_+_CARB.safetensors --out landmarks
  scemae detect a.jpg --box 80,40,430,390 ...

One face per photograph, in a box: the square that becomes the frame of 136 pixels. Networks see its
middle, 0.71 of each side (dashed in the picture). The regressor expects faces there as in its
benchmark: for CelebA and MAFL a box about 1.9 times as wide as the face, with the eyes a little
above the middle. Without --box it is the largest centred square (of CelebA's aligned pictures of
178x218 rows 30 to 207). With --box, give one per photograph, in order (`centre`: the default).
A regressor of `scemae fit` enlarges each box by the margin of its shards, so that a box is one
around the object as in its annotations.
{boxes.HELP}
A photograph that cannot be used is named and left out, and the command ends with status 1.
DIR gets, for each photograph, NAME.landmarks.json (x, y in pixels of the photograph, upright) and
NAME.landmarks.png.
"""
READS = ("images", *MODEL, "regressor", *boxes.BOXES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = partial(parser.add_argument, type=given_path)
    add("images", metavar="IMAGE", nargs="+", help="photographs, one face each")
    add_model_options(parser)
    regressor = "of `scemae fit`, or one of the regressors/ of `scemae evaluate`"
    add("--regressor", required=True, metavar="FILE", help=regressor)
    add("--out", required=True, metavar="DIR", help="where the results go")
    boxes.add_box_options(parser, "once per photograph; or centre")
