"""The options of `scemae goodput`, and its help text."""

import argparse

from scemae.config.values import given_path

HELP = """\
Where the wall time of a training run went, over all its starts, and its goodput: the share spent on
steps that count.

  scemae goodput runs/mae            a row per start, and all together
  scemae goodput runs/mae --json     the same as JSON, in seconds

  compute     steps that count, without their wait for data
  data wait   steps that count, waiting for data
  save stall  what steps waited for checkpoints
  probe       the matching test on other faces
  restart     process start to the end of the first step
  lost        steps trained and later trained again, and what a start that was cut off did after its
              last heartbeat
  queue       from queued to started, where the scheduler gave the time
  down        from the last sign of life to the next start
  other       what nothing above explains
A start marked r is a roll-back in the same process. Images lost are those of logged steps: a start
that was cut off may have trained up to loop.log_every steps more.
"""
READS = ("run",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "run", metavar="RUN", type=given_path, help="run_dir of pretrain or correspond"
    )
    parser.add_argument("--json", action="store_true", help="seconds by start and kind, as JSON")
