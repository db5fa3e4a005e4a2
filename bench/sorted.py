"""python -m bench sorted: what an order in lanes costs where the faces come sorted by person.

  python -m bench sorted OUT [--faces 4000] [--seeds 3] [--lanes 16 --block 10 --window 4]

The worst case for an order that reads neighbours together. The demo's faces are stored person after
person. Its MAE is trained from several seeds in each order: whole, a permutation of all, and lanes,
which shuffles a fifth of the faces at a time. Each run is measured on the demo's validation faces:
matching errors of all couples, and the paired difference of lanes to whole with its 95 % interval.
Writes OUT/sorted.json and OUT/sorted.md. Runs that have ended are kept. 35 minutes on two cores.
"""

import argparse
from pathlib import Path

import numpy as np

from bench import machine, runs
from scemae.commands import demo
from scemae.data.storage.shard_set import open_shards
from scemae.evaluation import scores
from scemae.evaluation.landmarks import matching
from scemae.evaluation.landmarks.benchmark_frames import load_frames
from scemae.evaluation.landmarks.benchmarks import find_benchmark
from scemae.evaluation.landmarks.matching import MatchingErrors
from scemae.evaluation.landmarks.pairs import Pairs, build_pairs
from scemae.evaluation.projection import load_trunk
from scemae.files import disk

ORDERS, STRIDE = ("whole", "lanes"), 4


def main(argv: list[str]) -> int:
    """Draw, sort, train, measure, compare."""
    given = _parse(argv)
    shards = build(given.out, given.faces)
    settings = {
        "whole": ["data.order=whole"],
        "lanes": [
            *("data.order=lanes", f"data.lanes={given.lanes}", f"data.block={given.block}"),
            f"data.window={given.window}",
        ],
    }
    for seed in range(given.seeds):
        for order in ORDERS:
            run = given.out / f"{order}-{seed}"
            words = ["experiment=demo_pretrain", f"seed={seed}", *settings[order]]
            words += ["probe_shards=null", "loop.probe_every=0", f"optim.epochs={given.epochs}"]
            runs.finished(run, shards, *words)
    frames = load_frames(open_shards(str(given.out / "shards" / "val")), find_benchmark("mafl"))
    pairs = build_pairs(frames, couples=None)
    found = {
        (order, seed): errors_of(given.out / f"{order}-{seed}", pairs)
        for seed in range(given.seeds)
        for order in ORDERS
    }
    rows = [
        row
        for kind in ("same", "different")
        for row in compared(kind, {at: getattr(one, kind) for at, one in found.items()})
    ]
    machine.write("sorted", str(given.out), rows, machine.facts())
    return 0


def build(out: Path, faces: int) -> Path:
    """The demo's shards in OUT/shards; returns those of its training faces, person after person."""
    for command in demo.commands(out, faces, 2):
        if command[0] in ("faces", "shards"):
            demo.run(command)
    train, pictures = open_shards(str(out / "shards" / "train")), out / "by-person"
    if not pictures.exists():
        with disk.building(pictures) as partial:
            for i in range(len(train)):
                person = train.annotation(i).get("identity") or 0
                disk.write_bytes(partial / f"{person:05d}-{train.key(i)}.jpg", train.jpeg(i))
    demo.run(demo.build("folder", pictures, out / "sorted", 2))
    return out / "sorted" / "train"


def errors_of(run: Path, pairs: Pairs) -> MatchingErrors:
    """The matching errors of a run's features."""
    trunk, _ = load_trunk(run)
    return matching.matching_errors(
        lambda crops: trunk.join(trunk.maps(crops, STRIDE), trunk.side(STRIDE)), pairs
    )["features"]


def compared(kind: str, errors: dict[tuple[str, int], np.ndarray]) -> list[dict]:
    """A row for each seed, and one for the means over seeds. errors: (pairs, landmarks) each."""
    means = {at: one.mean(axis=1) for at, one in errors.items()}
    seeds = sorted({seed for _, seed in means})
    sides = [{seed: means[order, seed] for seed in seeds} for order in ORDERS]
    rows = []
    for name in (*seeds, "all"):
        whole, lanes = (
            np.mean([*side.values()], axis=0) if name == "all" else side[name] for side in sides
        )
        found = scores.compare(lanes, whole)
        gap = found.difference
        rows.append(
            {
                "error": kind,
                "seed": str(name),
                "whole": f"{found.second:.3f}",
                "lanes": f"{found.first:.3f}",
                "lanes - whole": f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]",
            }
        )
    return rows


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench sorted",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of faces, runs and results")
    parser.add_argument("--faces", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=9, help="of each run (9, as the demo)")
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--block", type=int, default=10)
    parser.add_argument("--window", type=int, default=4)
    return parser.parse_args(argv)
