"""python -m bench scale: what a billion images cost in order, start, network and cache.

    python -m bench scale                  all parts, about ten minutes
    python -m bench scale --part shuffle   one of them

  order     10^9 images, 1,024 ranks: start, memory, time of a step, resume in a late epoch
  start     10^9 images in 50,000 tars (hard links to one sparse tar): open, memory, files opened
  traffic   10^9 images on 128, then 96, then 100 nodes, changed in mid-window: blocks that each
            node fetches, from the slices of the real order, against the ideal; the largest cache
  shuffle   how evenly batches take from sources that lie one after the other, against the law
            1 + (sources - 1) / (lanes x window); a full permutation and a buffer beside it
  folder    system calls of looking into a run folder of 1,024 ranks, 300 starts, 300 checkpoints;
            needs strace

Nothing is downloaded and nothing is trained: tests/training/test_streamed_run.py does that, small,
with a server that counts, fails and is slow, ranks that are killed, and the ledger as the judge.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench import machine, run_folder
from scemae.data.lanes import Lanes
from scemae.data.order import Order, permutation
from scemae.data.storage.index import own_index
from scemae.data.storage.index_file import write_index
from scemae.data.storage.manifest import Manifest, Shard, write_manifest

IMAGES, BATCH, RANKS_OF_NODE = 10**9, 65536, 8
LANES, BLOCK, WINDOW = 1024, 256, 64
IMAGE_BYTES = 100_000
PARTS = ("order", "start", "traffic", "shuffle", "folder")


def main(argv: list[str]) -> int:
    """Measure and write scale.json and scale.md."""
    parser = argparse.ArgumentParser(
        "python -m bench scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part")
    parser.add_argument("--out", default=machine.OUT)
    options = parser.parse_args(argv)
    rows: list[dict] = []
    for part in options.part or PARTS:
        # A part runs in its own process, so that the peak of memory is that of this part alone.
        words = [sys.executable, "-c", f"from bench import scale; scale.run({part!r})"]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return 1
        found = [{"part": part, **row} for row in json.loads(done.stdout.splitlines()[-1])]
        rows += found
        for row in found:
            print(row, flush=True)
    machine.write("scale", options.out, rows, machine.facts())
    return 0


def run(part: str) -> None:
    """Measure one part, and print its rows as one line of JSON."""
    print(json.dumps(globals()[f"measure_{part}"]()))


def billion(seed: int = 0) -> Order:
    """The order of 10^9 images."""
    return Order(IMAGES, seed, BATCH, Lanes(IMAGES, seed, LANES, BLOCK, WINDOW))


def row(what: str, value: float, unit: str, ideal: float | None = None) -> dict:
    """A line of the table."""
    return {"what": what, "value": round(float(value), 4), "unit": unit, "ideal": ideal}


def peak() -> float:
    """Of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure_order() -> list[dict]:
    """Start, memory and time of rank 5 of 1,024."""
    before, begun = peak(), time.perf_counter()
    order = billion()
    started = time.perf_counter() - begun
    times = []
    for step in range(600):  # two windows
        begun = time.perf_counter()
        order.slices(step, 5, 1024, 1)
        times.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    order.slices(7 * IMAGES // BATCH + 1234, 5, 1024, 1)
    resumed = time.perf_counter() - begun
    return [
        row("start", started, "s"),
        row("memory", peak() - before, "MB"),
        row("a step, mean", 1e3 * np.mean(times), "ms"),
        row("a step, longest", 1e3 * max(times), "ms"),
        row("first step after a resume in epoch 7", 1e3 * resumed, "ms"),
    ]


def measure_start() -> list[dict]:
    """Open 50,000 tars of 20,000 images, and read three keys."""
    with tempfile.TemporaryDirectory() as scratch:
        write_sparse_shards(Path(scratch), 50_000, 20_000)
        words = [sys.executable, "-c", f"from bench import scale; scale.open_sparse({scratch!r})"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    started, memory, files = json.loads(done.stdout)
    return [
        row("open", started, "s"),
        row("memory, three indexes read", memory, "MB"),
        row("files opened", files, "", 4),
    ]


def open_sparse(folder: str) -> None:
    """In a process of its own: open the tars, and print seconds, MB and files opened."""
    from scemae.data.storage.shard_set import open_shards

    opened: list[str] = []
    sys.addaudithook(lambda event, words: opened.append(str(words[0])) if event == "open" else None)
    before, begun = peak(), time.perf_counter()
    shards = open_shards(folder)
    started = time.perf_counter() - begun
    for sample in (0, IMAGES // 2, IMAGES - 1):
        shards.keys[sample]
    files = sum(name.startswith(folder) for name in opened)
    print(json.dumps([started, peak() - before, files]))


def write_sparse_shards(folder: Path, tars: int, images: int) -> None:
    """Tars whose members are holes, all links to one file; the same keys in each."""
    keys = [f"{i:09d}" for i in range(images)]
    step = 512 + -(-IMAGE_BYTES // 512) * 512 + 1024
    size = -(-(step * images + 1024) // 10240) * 10240
    one = Shard("one.tar", images, size, "0" * 64, "")
    write_index(folder, one, own_index(keys, [(IMAGE_BYTES, 30)] * images))
    with open(folder / "tar", "wb") as file:
        file.truncate(size)
    shards = []
    for number in range(tars):
        shard = replace(one, file=f"train-{number:06d}.tar")
        os.link(folder / "tar", folder / shard.file)
        os.link(folder / one.index_file, folder / shard.index_file)
        shards.append(shard)
    write_manifest(folder, Manifest("sparse", "train", tars * images, shards))


def measure_traffic() -> list[dict]:
    """Blocks that nodes fetch while their number changes, each with a cache of two windows."""
    order = billion()
    steps = WINDOW * BLOCK * LANES // BATCH  # of a window
    phases = [(128, 0, 2 * steps + 100), (96, 2 * steps + 100, 4 * steps + 30)]
    phases.append((100, 4 * steps + 30, 6 * steps))
    rows, cached = [], {}
    fetched = total = 0
    largest = 0
    for nodes, first, last in phases:
        ranks, mine, ideal = nodes * RANKS_OF_NODE, 0, 0
        cached = {node: cached.get(node, set()) for node in range(nodes)}  # a node keeps its disk
        seen: dict[int, set] = {}
        for step in range(first, last):
            window = order.window_of(step)
            if window not in seen:
                seen = {window: set()}
                live = order.line.next_windows(np.arange(-(-IMAGES // BLOCK)), window) <= window + 1
                cached = {n: {b for b in blocks if live[b]} for n, blocks in cached.items()}
            samples, _ = order.global_batch(step)
            lanes = (np.arange(BATCH) + step * BATCH) % IMAGES % LANES
            by_lane = lanes.argsort(kind="stable")
            parts = np.array_split(samples[by_lane] // BLOCK, ranks)
            for node in range(nodes):
                touched = np.unique(np.concatenate(parts[node * 8 : node * 8 + 8])).tolist()
                new = set(touched) - cached[node]
                cached[node] |= new
                mine += len(new)
                ideal += len(set(touched) - seen[window])
                seen[window] |= set(touched)
            largest = max(largest, max(map(len, cached.values())))
        name = f"{nodes} nodes, steps {first:,} to {last:,}"
        rows.append(row(f"{name}: fetched by what is read", mine / ideal, "", 1.0))
        fetched, total = fetched + mine, total + ideal
    span = 2 * LANES * WINDOW * BLOCK * IMAGE_BYTES / 1e9
    return [
        *rows,
        row("all three phases: fetched by what is read", fetched / total, "", 1.15),
        row("range requests of an epoch", IMAGES / BLOCK / 1e6, "million"),
        row("network of a node at 8,000 images/s", 8000 * IMAGE_BYTES / 1e9, "GB/s"),
        row("largest cache of a node", largest * BLOCK * IMAGE_BYTES / 1e9, "GB", span / 96),
    ]


def measure_folder() -> list[dict]:
    """System calls of looking into the run folder of 1,024 ranks."""
    return run_folder.measure()


def measure_shuffle() -> list[dict]:
    """Variance of the share that a batch takes of a source, in units of a random batch's.

    10^7 images of 4,096 sources that lie one after the other, batches of 4,096.
    """
    images, sources, batch = 10**7, 4096, 4096
    source = np.arange(images) * sources // images
    rows = []
    shapes = ((64, 64, 64), (256, 16, 64), (256, 64, 16), (1024, 64, 64), (1024, 16, 256))
    for lanes, window, block in shapes:
        line = Lanes(images, 0, lanes, block, window)
        found = spread(lambda p, line=line: line.at(0, p), source, batch)
        opened = line.lanes * line.window
        law = 1 + (sources - 1) / opened
        name = f"lanes {lanes}, window {window}, block {block}"
        rows.append(row(name, found, "of random", round(law, 2)))
    whole = permutation(0, 0, images)
    rows.append(row("full permutation", spread(lambda p: whole[p], source, batch), "of random", 1))
    rows.append(
        row("a buffer of 5,000", spread(buffered(images, 5000), source, batch), "of random")
    )
    return rows


def spread(at, source: np.ndarray, batch: int) -> float:
    """The variance over batches of each source's count, by that of random batches."""
    images, sources = len(source), source.max() + 1
    draw = np.random.default_rng(1).choice(images // batch, 200, replace=False)
    counts = np.stack(
        [
            np.bincount(source[at(np.arange(each * batch, (each + 1) * batch))], minlength=sources)
            for each in draw
        ]
    )
    share = 1 / sources
    random = batch * share * (1 - share) * (images - batch) / (images - 1)
    return float(((counts - batch * share) ** 2).mean() / random)


def buffered(images: int, size: int):
    """What a shuffle buffer over a shuffled list of shards of 1,000 gives."""
    draw = np.random.default_rng(0)
    shards = draw.permutation(images // 1000)
    stream = (shards[:, None] * 1000 + np.arange(1000)).reshape(-1)
    found, buffer = np.empty(images, np.int64), stream[:size].copy()
    picks = draw.integers(0, size, images)
    for place in range(images - size):
        pick = picks[place]
        found[place], buffer[pick] = buffer[pick], stream[size + place]
    found[images - size :] = draw.permutation(buffer)
    return lambda p: found[p]
