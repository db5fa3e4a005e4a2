"""The options of `scemae replay`, and its help text."""

import argparse

from scemae.config.values import given_path

READS = ("dump",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("dump", metavar="DUMP", type=given_path, help="RUN/capsules/step-*")
