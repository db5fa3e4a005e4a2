"""`python -m bench COMMAND`: one dispatcher; what a command needs is imported when it runs."""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

from scemae.process import library_caches, streams  # before torch: scemae says how its threads wait

COMMANDS = {
    "step": "images per second of one training step of stage 1: ours, lightly's MAE, the official recipe",
    "loader": "images per second of the data pipeline alone, against other loaders",
    "stage2": "images per second of stage 2",
    "matching": "the 1,000-pair matching test as a share of the machine's matrix-product peak",
    "sweep": "sweeps: trials per minute with and without the token store; memory of 10,000 trials against 100",
    "growth": "how speed and memory grow with batch, images and ranks",
    "attention": "back ends of attention against each other, alone and in a training step",
    "profile": "where the time of a training step goes",
    "soak": "a long run: does speed sag or memory creep",
    "resume": "seconds from a kill to the next step",
    "busy": "how OpenMP's threads should wait: steps per second on an idle machine and beside busy processes",
    "gpu": "the measurements that need a GPU",
    "needs": "which packages a checkout lacks on this machine",
    "job": "long work on a borrowed machine: start it in the background, poll it, go on with it",
}
HELP = f"""\
python -m bench COMMAND [OPTIONS]: measurements of speed, as ratios to peers     (COMMAND --help teaches each)

{"".join(f"  {name:9} {line}" + chr(10) for name, line in COMMANDS.items())}\
  all       every command above but the last three, with its defaults, one after the other; takes --out alone

  python -m bench step --model deit_small --decoder mae --batch 64
  python -m bench step --device cuda --precision bf16 --batch 512

How it measures: all cases of one table run in this process or start from it, in turns (A B C A B C ...), on the same
tensors' shapes, threads and allocator; a number is the median of its repeats, with the range beside it, and a ratio is
the median of the ratios within each round, so that a machine that is slower for a minute slows both sides. Do not
compare numbers of two machines, or of two runs: compare the ratios. Each command writes NAME.json (every repeat) and
NAME.md (the table) to --out, bench/results unless said otherwise.
"""


def main(argv: list[str]) -> int:
    """Run one command; returns the exit status."""
    streams.guard()
    library_caches.settle()
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    name, options = argv[0], argv[1:]
    if name == "all":
        found = [
            each
            for each in COMMANDS
            if each not in ("gpu", "job", "needs") and find_spec(f"bench.{each}")
        ]
        return max(
            subprocess.run([sys.executable, "-m", "bench", each, *options]).returncode
            for each in found
        )
    if name not in COMMANDS or not find_spec(f"bench.{name}"):
        print(
            f"bench: found no command {name!r}; `python -m bench --help` lists them",
            file=sys.stderr,
        )
        return 2
    return import_module(f"bench.{name}").main(options) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
