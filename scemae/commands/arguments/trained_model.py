"""The options that name a trained model, of all commands that use one (runs/given.py)."""

import argparse
from functools import partial

from scemae.config.values import given_path

MODEL = ("run", "backbone", "projector")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--run, or --backbone and --projector."""
    add = partial(parser.add_argument, type=given_path, metavar="RUN")
    add(
        "--run",
        help="the trained model: a run of stage 1 or 2 (its backbone is found), a checkpoint, the "
        "folder of a chain or a demo, or an export",
    )
    add("--backbone", help="instead: run folder or checkpoint of stage 1")
    add("--projector", help="of stage 2; alone, its backbone is found")
