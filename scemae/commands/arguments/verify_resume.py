"""The options of `scemae verify-resume`, and its help text."""

import argparse

from scemae.config.values import given_location, given_path

READS = ("run", "against")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "run", metavar="RUN", type=given_path, help="run_dir of pretrain or correspond"
    )
    parser.add_argument(
        "--all", action="store_true", help="compute every step again, not only --steps of them"
    )
    parser.add_argument(
        "--steps", type=int, default=50, help="steps to compute again, spread over the run (50)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="threads that read and decode images (one for each core)",
    )
    parser.add_argument(
        "--against",
        metavar="OTHER",
        type=given_path,
        help="a run that must have seen the same samples",
    )
    parser.add_argument(
        "--shards",
        type=given_location,
        help="where the shards are now, if not where the run's config.yaml says",
    )
    parser.add_argument(
        "--cache-dir",
        type=given_path,
        metavar="FOLDER",
        help="where shards at a URL are copied, if not where config.yaml says",
    )
