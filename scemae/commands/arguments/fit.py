"""The options of `scemae fit`, and its help text."""

import argparse
from functools import partial

from scemae.commands.arguments.trained_model import MODEL, add_model_options
from scemae.config.values import given_count, given_path

HELP = """\
Train a landmark regressor on a few annotated pictures, with the features of a trained run, and
measure it on the same pictures: each is predicted by a regressor that was trained without it.

  scemae shards build folder PICTURES data/cats --landmarks points.json
  scemae pretrain run_dir=runs/mae data.shards=data/cats/train
  scemae fit data/cats --run runs/mae --out runs/cats
  scemae detect new.jpg --run runs/mae --regressor runs/cats/regressor.safetensors --out found

SHARDS is the folder that `shards build folder --landmarks` wrote. Errors are mean distances in % of
that of the two scale points of SHARDS/benchmark.yaml, with 95 % bootstrap intervals over pictures.
Beside them stand two floors, on the same pictures: the mean shape of the other pictures, and the
same regressor on an encoder of the same architecture with random weights. A difference below zero
means that the trained features are better; where its interval excludes zero, that is decided.
Pictures that lack a scale point are trained on, and have no error.
Where points have left and right partners, mirrored pictures are trained on too. SHARDS/annotated-
test, where there is one, is measured with the final regressor.
"""
READS = ("shards", *MODEL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = partial(parser.add_argument, type=given_path)
    add("shards", metavar="SHARDS", help="folder of `shards build folder --landmarks`")
    add_model_options(parser)
    add("--out", required=True, metavar="DIR", help="where regressor and results go")
    number = partial(parser.add_argument, type=given_count, metavar="N")
    number("--folds", help="leave out so many parts in turn (each of up to 30 pictures, else 10)")
    add_training_options(parser)


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """How the regressor is trained; `scemae explore --serve` has the same."""
    number = partial(parser.add_argument, type=given_count, metavar="N")
    number("--stride", default=8, help="of cover-and-stride in pixels; less is slower (8)")
    number("--epochs", default=20, help="of each regressor (20)")
    number("--images-per-epoch", default=160, help="pictures are repeated up to so many (160)")
    number("--heat-maps", default=10, help="of each point (10; the paper's 50 are slower)")
    number("--views", default=12, help="warps of each picture (12)")
    parser.add_argument("--lr", type=float, default=1e-2, help="learning rate (0.01)")
    parser.add_argument(
        "--init-std", type=float, default=0.05, help="deviation of the initial weights (0.05)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of folds and weights (0)")
