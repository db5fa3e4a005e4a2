"""The options of `scemae demo`, and its help text."""

import argparse
from pathlib import Path

from scemae.config.values import given_path
from scemae.process.cores import cores

FEWEST = 400  # faces: a twentieth of their people is the validation split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "out",
        nargs="?",
        type=given_path,
        default=Path("runs/demo"),
        help="folder of the demo (runs/demo)",
    )
    faces = f"how many faces to generate (6000; at least {FEWEST})"
    parser.add_argument("--faces", type=int, default=6000, help=faces)
    parser.add_argument(
        "--workers", type=int, default=cores(), help="processes that draw and write (all cores)"
    )
    parser.add_argument(
        "--rivals",
        action="store_true",
        help="the rivals too, and all tables; half an hour on two cores",
    )
