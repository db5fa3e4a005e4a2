"""The options of `scemae report`, and its help text."""

import argparse

from scemae.config.values import given_path

HELP = """\
Write one HTML page (pictures inside it, nothing fetched) and one JSON file with all that a run has
to show.

  scemae report runs/eval                  of `scemae evaluate`: all of the list below
  scemae report runs/mae                   of `scemae pretrain`: curves, reconstructions, ...
  scemae report runs/eval --out page       elsewhere (of a run that is not yours: report-RUN)
  scemae report runs/eval --no-pictures    numbers and curves only, for photographs that must not be
                                           published

Shows: errors of landmark matching and detection with 95 % intervals beside the paper's; which
differences between methods are decided; how the run differs from the paper's recipe; curves of both
stages; reconstructions; attentive tokens and clusters (Eq. 1 to 3); similarity maps; faces to click
(the only part that needs JavaScript); matched pairs; detected landmarks; where the time of each
training run went; command, commit, settings, data and machine of each run. Shards and training runs
are searched for where the run's provenance.json says, and training runs also beside RUN. The page
names what was not found, with the command for it.
"""
READS = ("run",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    run = "run_dir of evaluate, pretrain or correspond, or the folder of a chain or a demo"
    parser.add_argument("run", metavar="RUN", type=given_path, help=run)
    out = "where both files go (default: RUN, where it is yours, else report-RUN)"
    parser.add_argument("--out", metavar="FOLDER", type=given_path, help=out)
    parser.add_argument("--no-pictures", action="store_true", help="leave out all faces")
