"""The options of the settings commands, beside their settings."""

import argparse

from scemae.config.values import given_count, given_path

# What a command takes beside settings.
FIRST = {"tables": "RUN or KEY=VALUE", "doctor": "STAGE or KEY=VALUE"}


def add_settings(parser: argparse.ArgumentParser, name: str) -> None:
    """The arguments of the settings command `name`."""
    parser.add_argument(
        "settings",
        nargs="*",
        metavar=FIRST.get(name, "KEY=VALUE"),
        help="settings; a list is [a,b], null stands for none",
    )
    parser.add_argument("--cfg", action="store_true", help="print the resolved settings and stop")
    parser.add_argument(
        "--explain",
        nargs="?",
        const="",
        metavar="KEY",
        help="say what a setting means, its type and default, and stop; without KEY: the sections",
    )
    if name == "doctor":
        _add_limits(parser)
    elif name == "submit":
        _add_submit_options(parser)
    elif name == "sweep":
        _add_sweep_options(parser)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--time-limit",
        metavar="MINUTES",
        type=given_count,
        help="of one job: how many jobs it takes",
    )
    parser.add_argument(
        "--signal-seconds",
        metavar="N",
        type=given_count,
        help="between the signal and the end of a job: is it enough to save?",
    )
    parser.add_argument(
        "--steps",
        metavar="N",
        type=given_count,
        default=5,
        help="of the dry run, after one more (5)",
    )


def _add_submit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print the job scripts and stop")
    parser.add_argument(
        "--status", metavar="RUN", type=given_path, help="show the state of a chain and stop"
    )


def _add_sweep_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--join", metavar="SWEEP", type=given_path, help="lend this node too, until the sweep ends"
    )
    parser.add_argument(
        "--page",
        metavar="SWEEP",
        type=given_path,
        help="write page and table of what there is, and remove checkpoints that `keep` drops",
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=given_path,
        help="with --page: write there and remove nothing, for a sweep of another user",
    )
    parser.add_argument(
        "--array",
        action="store_true",
        help="random and grid search as an array of jobs, without Ray",
    )
    parser.add_argument("--dry-run", action="store_true", help="with --array: print the jobs")
    # SWEEP part=K of=N start=G: how a job of --array starts its element
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
