"""`python -m bench COMMAND`: the table of commands; a command is imported when it runs."""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

from scemae.process import library_caches, streams  # before torch: scemae says how its threads wait

COMMANDS = {
    "step": "images per second of a step of stage 1: ours, lightly's MAE, the official recipe",
    "loader": "images per second of the data pipeline alone, against other loaders",
    "stage2": "images per second of stage 2",
    "matching": "the 1,000-pair matching test as a share of the machine's matrix-product peak",
    "sweep": "sweeps: trials per minute with and without the token store; memory at 10,000 trials",
    "growth": "how speed and memory grow with batch, images and ranks",
    "attention": "back ends of attention against each other, alone and in a training step",
    "profile": "where the time of a training step goes",
    "soak": "a long run: does speed fall or memory grow",
    "scale": "what a billion images cost: order, start, network, cache, shuffle",
    "streams": "loaders that stream from an object store, side by side",
    "store": "training from an S3 endpoint that is slow, fails and is larger than the cache",
    "sorted": "what lanes cost where the faces come sorted by person: half an hour",
    "trend": "errors of a run against the images it has seen, with stage 2 on each checkpoint",
    "framing": "how often match and detect warn of a bad frame, and how often they are wrong",
    "rivals": "every method under the same wall time, then the tables: needs an hour or more",
    "resume": "seconds from a kill to the next step",
    "busy": "how OpenMP threads should wait: steps per second, machine idle or busy",
    "gpu": "the measurements that need a GPU",
    "needs": "which packages a checkout lacks on this machine",
    "job": "long work on a borrowed machine: start it in the background, poll it, continue it",
}
NOT_IN_ALL = ("framing", "sorted", "streams", "store", "trend", "rivals", "gpu", "job", "needs")
HELP = f"""\
python -m bench COMMAND [OPTIONS]: speed as ratios to peers     (COMMAND --help explains each)

{"".join(f"  {name:9} {line}" + chr(10) for name, line in COMMANDS.items())}\
  all       all but {", ".join(NOT_IN_ALL)},
            one after the other; its only option is --out

  python -m bench step --model deit_small --decoder mae --batch 64
  python -m bench step --device cuda --precision bf16 --batch 512

How it measures: all cases of a table run in turns (A B C A B C ...), in this process or started by
it, with the same tensor shapes, threads and allocator. A number is the median of its repeats, with
the range beside it. A ratio is the median of the ratios within each round: a machine that is slow
for a minute slows both sides. Compare ratios, not numbers, between machines or runs. Each command
writes NAME.json (every repeat) and NAME.md (the table) to --out (bench/results).
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
        found = [each for each in COMMANDS if each not in NOT_IN_ALL and find_spec(f"bench.{each}")]
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
