"""The options of `scemae fit`, and its help text."""

import argparse
from functools import partial

from scemae.commands.arguments.trained_model import MODEL, add_model_options
from scemae.config.values import given_count, given_path

HELP = """\
Fit a landmark detector to a few annotated pictures, with the features of a trained run, and measure
it on the same pictures: each is predicted by a detector that was fitted without it.

  scemae shards build folder PICTURES data/cats --landmarks points.json
  scemae pretrain run_dir=runs/mae data.shards=data/cats/train
  scemae fit data/cats --run runs/mae --out runs/cats
  scemae detect new.jpg --run runs/mae --regressor runs/cats/regressor.safetensors --out found

SHARDS is the folder that `shards build folder --landmarks` wrote. Errors are mean distances in % of
that of the two scale points of SHARDS/benchmark.yaml, with 95 % bootstrap intervals over pictures.
Beside them stand two floors, on the same pictures: the mean shape of the other pictures, and the
same detector on an encoder of the same architecture with random weights. A difference below zero
means that the trained features are better; where its interval excludes zero, that is decided.
Pictures that lack a scale point count, and have no error.
Where points have left and right partners, mirrored pictures count too. SHARDS/annotated-test, where
there is one, is measured with the final detector. It is a constrained local model, in closed form,
and not the paper's few-shot regressor, which `scemae evaluate` trains and measures.
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
    add_fitting_options(parser)


def add_fitting_options(parser: argparse.ArgumentParser) -> None:
    """How the detector is fitted; `scemae explore --serve` has the same."""
    number = partial(parser.add_argument, type=given_count, metavar="N")
    number("--stride", default=4, help="of cover-and-stride in pixels; less is slower (4)")
    number("--views", default=12, help="warps of each picture (12)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of folds, warps and the random encoder (0)"
    )
