"""The data pipeline alone: images/s from JPEGs in memory to normalised batches, ours and peers'."""

import argparse
import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench import decoders, faces, machine
from bench.peers import loaders
from bench.repeat import interleave, ratio, summary
from scemae.data.decode_processes import MANY, streamed_frames
from scemae.data.frame_cache import CHUNK, HostFrames, row_bytes
from scemae.data.order import Order
from scemae.data.pipeline import Pipeline, pretraining_views
from scemae.data.storage.shard_set import ShardSet
from scemae.distributed.process_group import keep_freed_memory

OURS = ("streaming", "resident")
HELP = """\
python -m bench loader: images per second of the loader alone, against a null model, on all cores

  python -m bench loader                               on generated faces, cached
  python -m bench loader --shards data/celeba/train    on CelebA
  python -m bench loader --only webdataset --images 2048 --repeats 2 --out /tmp/speed

From 178x218 JPEGs in the page cache to float32 batches (b, 3, 96, 96): the 178x178 frame,
RandomResizedCrop 0.2..1 (bicubic, antialiased), flip, normalise. Each block runs in a fresh process
with the same number of workers (processes or threads, as the loader has them) and the same setting
of glibc (freed memory is kept). The clock starts once the loader's queues have been emptied once.
Peers that are not installed are left out; peers that fail are named. To install them:

  pip install -c constraints-cpu.txt spdl          (its case "ffmpeg" needs FFmpeg's libraries >= 4)
  pip install --no-deps -c constraints-cpu.txt litdata lightning-utilities tifffile obstore \
      boto3 botocore s3transfer jmespath requests urllib3
  pip install --no-deps -c constraints-cpu.txt mosaicml-streaming catalogue Brotli python-snappy \
      cramjam zstd zstandard transformers tokenizers huggingface_hub hf-xet regex typer

(--no-deps, because botocore asks for an older python-dateutil than the constraints allow)

Writes loader (the table), loader-decoders (decoding alone) and loader-pixels (their differences).
"""


def main(argv: list[str]) -> None:
    """Measure and write the three tables."""
    options = parse(argv)
    shards = options.shards or faces.shards(options.faces)
    facts = {
        "batch": options.batch,
        "workers": options.workers,
        "images per block": options.images,
        **machine.facts(),
    }
    jpegs = some_jpegs(ShardSet(shards), 500)
    machine.write("loader-pixels", options.out, decoders.differences(jpegs), facts)
    machine.write("loader-decoders", options.out, decoders.rates(jpegs, options.repeats), facts)
    with tempfile.TemporaryDirectory(prefix="bench-loader-") as folder:
        images = loaders.prepare(
            shards, Path(folder), options.images + 2 * warm_up(options.workers) * options.batch
        )
        rows, failed = measure(shards, images, options)
    versions = {
        name: machine.version_of(name) for name in loaders.installed() if name != "torchvision"
    }
    machine.write("loader", options.out, rows, {**facts, **versions, **failed})


def parse(argv: list[str]) -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        "python -m bench loader",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shards", type=Path, help="folder of shards with aligned CelebA images")
    parser.add_argument(
        "--faces", type=int, default=2000, help="generated faces, where there are no --shards"
    )
    parser.add_argument("--batch", type=int, default=256, help="images per batch")
    parser.add_argument(
        "--workers", type=int, default=cores, help=f"processes or threads (all cores, here {cores})"
    )
    parser.add_argument("--images", type=int, default=8192, help="images of one measured block")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of all cases in turn")
    parser.add_argument("--only", nargs="*", metavar="PEER", help="these peers only, beside ours")
    parser.add_argument("--out", default=machine.OUT, help="folder for the tables")
    return parser.parse_args(argv)


def some_jpegs(shards: ShardSet, most: int) -> list[bytes]:
    """Up to `most` images. Ends the program unless they are aligned CelebA, which loaders crop."""
    jpegs = [shards.jpeg(sample) for sample in range(min(len(shards), most))]
    if any(decoders.by_pil(data).shape != (218, 178, 3) for data in jpegs):
        raise SystemExit(
            f"{shards.folder}: found images of another size than 178x218; give aligned CelebA"
        )
    return jpegs


def measure(
    shards: Path, images: loaders.Images, options: argparse.Namespace
) -> tuple[list[dict], dict[str, str]]:
    """The rows, and why cases are left out."""
    peers = [name for name in loaders.installed() if options.only is None or name in options.only]
    names = [("ours", tier) for tier in OURS] + list(itertools.product(peers, loaders.DECODERS))
    names += [("spdl", "ffmpeg")] if "spdl" in peers else []
    cases, failed = {}, {}
    for name in names:
        case = partial(alone, block, name, shards, images, options.batch, options.workers)
        try:
            case(options.batch)  # once, to see that it runs
            cases[name] = partial(case, options.images)
        except Exception as error:  # a peer that cannot run here ends that peer alone
            if name[0] == "ours":
                raise
            failed[f"{name[0]} {name[1]} failed"] = str(error).strip().splitlines()[0][:120]
    found, cores = (
        interleave(cases, options.repeats),
        min(options.workers, len(os.sched_getaffinity(0))),
    )
    rows = []
    for name, rates in found.items():
        median = summary(rates)["median"]
        rows.append(
            {
                "loader": name[0],
                "how": name[1],
                "images/s": median,
                "min": min(rates),
                "max": max(rates),
                "per core": median / cores,
                "repeats": rates,
            }
            | {f"ours {tier}, times as fast": ratio(found["ours", tier], rates) for tier in OURS}
        )
    return rows, failed


def alone(function: object, *arguments: object) -> float:
    """Call `function` in a fresh process, free of other loaders' threads and settings."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def block(
    name: tuple[str, str],
    shards: Path,
    images: loaders.Images,
    batch: int,
    workers: int,
    measured: int,
) -> float:
    """Images/s over `measured` images, once warm."""
    multiprocessing.set_start_method(
        "fork", force=True
    )  # Linux's own; a process that was spawned would spawn
    keep_freed_memory()  # forked workers inherit it
    torch.set_num_threads(1)  # the workers are the parallelism
    kind, how = name
    batches = (
        ours(how, shards, batch, workers)
        if kind == "ours"
        else loaders.PEERS[kind](images, how, batch, workers)
    )
    for _ in range(warm_up(workers)):
        found = next(batches)
    started = time.perf_counter()
    for _ in range(measured // batch):
        found = next(batches)
        assert (
            found.shape == (batch, 3, loaders.SIZE, loaders.SIZE) and found.dtype == torch.float32
        ), found.shape
    elapsed = time.perf_counter() - started
    batches.close()
    return measured // batch * batch / elapsed


def warm_up(workers: int) -> int:
    """Batches before the clock starts: twice what a DataLoader's queue holds."""
    return 4 * workers


def ours(tier: str, shards: Path, batch: int, workers: int) -> Iterator[Tensor]:
    """Our batches, from frames that are decoded on demand, or all of them beforehand."""
    opened = ShardSet(shards)
    source = streamed_frames(opened, 178, MANY, workers)  # as a long run
    order = Order(len(opened), 0, batch)
    if tier == "resident":
        resident = HostFrames(np.empty(row_bytes(178) * len(opened), np.uint8), len(opened), 178)
        for row in range(0, len(opened), CHUNK):
            resident.decode(source, np.arange(row, min(row + CHUNK, len(opened))))
        source = resident
    slices = (part for step in itertools.count() for part in order.slices(step, 0, 1, 1))
    views = partial(pretraining_views, size=loaders.SIZE, scale=loaders.SCALE, patches=144)
    for images, *_ in Pipeline(
        source, slices, 0, views, device=torch.device("cpu"), workers=workers
    ):
        yield images
