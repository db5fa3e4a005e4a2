"""python -m bench streams: loaders that stream from an object store, side by side.

  python -m venv peers
  peers/bin/pip install torch simplejpeg webdataset mosaicml-streaming litdata obstore boto3
  python -m bench streams --peers-python peers/bin/python [--part epoch] [--out DIR]

The peers have an environment of their own, because their pins contradict constraints-cpu.txt.

10^6 JPEGs of 96x96 pixels in shards of 1,000, in the tars that we and webdataset read, in MDS and
in litdata's chunks, lie in one store on this machine (bench/object_store.py), whose answers take
20 ms. Each loader runs alone, in a process of its own that it may fork, with as many workers
(threads of ours, processes of the others), an empty cache of 40 shards where it has
one, batches of 256 and the same decoder.

  start    seconds from the process's start to the first batch, images/s of the 100,000 images
           after it, peak memory of the process and its children (their shares of shared pages)
  resume   a process that starts in the middle of an epoch, with an empty cache
  epoch    all images once, without decoding: bytes that came by those of the images, requests
  epochs   the same three times: what the cache saves (with --samples 200000 it has a fifth of the
           tars); webdataset has none: it looks at the size of its own only every 30 s

`NAME, gzip` are the same loaders on the same tars, compressed (`scemae shards build --gzip`).
`webdataset, full buffer` fills its buffer before the first batch, which by default comes from one
shard of each worker.

What is not equal is how far the loaders shuffle: ours and mosaicml-streaming mix 16 shards (the
latter is told so: its default mixes 262 of them, more than this cache has; --block 0 shows that),
webdataset a buffer of 5 shards' images, litdata the images of one chunk in each worker.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench import linked_sets, machine
from bench.object_store import Store, started
from bench.peers import streams as peers
from bench.peers.streams import Job
from bench.streamed import TOGETHER
from bench.watched import Found, watch

PARTS = ("start", "resume", "epoch", "epochs")
OURS = "scemae"
GZIP = ", gzip"  # of a case: its tars are compressed
FULL = ", full buffer"  # of a case: the first batch is as mixed as the others
VARIANTS = {OURS: (OURS + GZIP,), "webdataset": ("webdataset" + GZIP, "webdataset" + FULL)}
EPOCHS = 3  # of the part epochs
CACHED = 40  # shards that fit into a cache: tars with indexes, the largest format


def main(argv: list[str]) -> int:
    """Measure and write streams-PART.json and streams-PART.md."""
    options = parse(argv)
    python = options.peers_python
    found = json.loads(_python(python, "versions"))
    cases = [OURS, *(name for name in peers.PEERS if found[name])]
    cases = [
        case
        for name in cases
        for case in (name, *VARIANTS.get(name, ()))
        if options.only is None or case in options.only
    ]
    with tempfile.TemporaryDirectory(prefix="bench-streams-") as scratch:
        folder = Path(scratch) / "buckets"
        jpegs = linked_sets.pictures(options.image_bytes)
        linked_sets.write_tars(folder / "tars", jpegs, options.samples, options.shard)
        linked_sets.write_tars(folder / "gzips", jpegs, options.samples, options.shard, gzip=True)
        if {*cases} - {OURS, OURS + GZIP}:
            linked_sets.write_peers(folder, jpegs, options.samples, options.shard, python)
        size = linked_sets.image_bytes(jpegs, options.shard)
        facts = {
            "samples": options.samples,
            "bytes of an image": size,
            "workers": options.workers,
            "wait of the store, ms": options.wait_ms,
            "peers": "; ".join(f"{name} {of}" for name, of in found.items() if of),
            **machine.facts(),
        }
        with started(folder, options.wait_ms / 1000) as store:
            bench = Bench(store, Path(scratch), options)
            for part in options.part or PARTS:
                rows = table(part, bench.rounds(part, cases), size)
                machine.write(f"streams-{part}", options.out, rows, facts)
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench streams",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--peers-python", default=sys.executable, help="the Python that has the peers (this one)"
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part")
    parser.add_argument("--only", nargs="*", metavar="LOADER", help="only these loaders")
    parser.add_argument("--samples", type=int, default=10**6, help="images of an epoch (10^6)")
    parser.add_argument("--shard", type=int, default=1000, help="images of a shard (1,000)")
    parser.add_argument("--images", type=int, default=100_000, help="images timed (100,000)")
    parser.add_argument("--image-bytes", type=int, default=0, help="fill JPEGs up to so many")
    parser.add_argument(
        "--block", type=int, help="mosaicml-streaming's shuffle_block_size; 0: its own default"
    )
    parser.add_argument("--wait-ms", type=float, default=20.0, help="of each answer (20)")
    parser.add_argument("--workers", type=int, default=2, help="threads, or processes (2)")
    parser.add_argument("--repeats", type=int, default=2, help="rounds of start and resume (2)")
    parser.add_argument("--out", default=machine.OUT)
    return parser.parse_args(argv)


class Bench:
    """The store, and where loaders cache."""

    def __init__(self, store: Store, scratch: Path, options: argparse.Namespace) -> None:
        self.store, self.scratch, self.options = store, scratch, options
        shard = sum(path.stat().st_size for path in (scratch / "buckets" / "tars").glob("one.*"))
        self.limit = CACHED * shard

    def rounds(self, part: str, cases: list[str]) -> dict[str, list[Found]]:
        """What each case did, in turns whose order is reversed each time."""
        found: dict[str, list[Found]] = {case: [] for case in cases}
        for turn in range(self.options.repeats if part in ("start", "resume") else 1):
            for case in cases if turn % 2 == 0 else cases[::-1]:
                if part == "resume" and case.startswith("webdataset"):
                    continue  # it has no state: it would read and drop the first half
                if part != "start" and case.endswith(FULL):
                    continue  # only its first batch differs from webdataset's
                found[case].append(self.one(self.job(part, case)))
                print(part, case, found[case][-1], flush=True)
        return {case: each for case, each in found.items() if each}

    def job(self, part: str, case: str) -> Job:
        """What a case does in a part."""
        options = self.options
        job = Job(
            loader=case.partition(",")[0],
            gzip=case.endswith(GZIP),
            full=case.endswith(FULL),
            url=self.store.url,
            cache="",
            limit=self.limit,
            samples=options.samples,
            of_shard=options.shard,
            images=min(options.images, options.samples // 2),
            workers=options.workers,
            together=TOGETHER * options.shard if options.block is None else options.block,
        )
        if part == "resume":
            half = options.samples // 2 // job.batch * job.batch
            return replace(job, first=half, images=job.batch)
        if part == "epoch":
            return replace(job, images=options.samples, decoded=False)
        if part == "epochs":
            images = EPOCHS * options.samples
            return replace(job, images=images, epochs=EPOCHS, decoded=False)
        return job

    def one(self, job: Job) -> Found:
        """Run a job in a process, with an empty cache, and watch it."""
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="cache-") as cache:
            job = replace(job, cache=cache)
            python = sys.executable if job.loader == OURS else self.options.peers_python
            module = "bench.start_streamed" if job.loader == OURS else peers.__name__
            words = [python, "-m", module, "read", json.dumps(asdict(job))]
            return watch(words, self.environment, self.store)

    @property
    def environment(self) -> dict[str, str]:
        """Of the processes: where the store is, for each of the clients."""
        return {
            **os.environ,
            "AWS_ENDPOINT_URL": self.store.url,
            "S3_ENDPOINT_URL": self.store.url,
            "AWS_ACCESS_KEY_ID": peers.KEYS["access"],
            "AWS_SECRET_ACCESS_KEY": peers.KEYS["secret"],
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def table(part: str, found: dict[str, list[Found]], image_bytes: float) -> list[dict]:
    """A line for each loader, with ours on compressed tars by it: above 1 is better for ours."""
    rows, reference = [], OURS + GZIP if OURS + GZIP in found else OURS
    ours = found.get(reference)
    for case, runs in found.items():
        row: dict[str, Any] = {"loader": case}
        for name, (value, is_better_large) in columns(part, image_bytes).items():
            values = [value(run) for run in runs]
            row[name] = statistics.median(values)
            row[f"{name}, repeats"] = values
            if ours and case != reference:
                ratios = [
                    value(mine) / value(run) if is_better_large else value(run) / value(mine)
                    for mine, run in zip(ours, runs)
                ]
                row[f"ours better in {name}, times"] = statistics.median(ratios)
        rows.append(row)
    names = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in names} for row in rows]


def columns(part: str, image_bytes: float) -> dict[str, tuple[Any, bool]]:
    """What a table shows of a run, and whether more of it is better."""
    start = {
        "s to the first batch": (lambda run: run.first, False),
        "... after the imports": (lambda run: run.first - run.imported, False),
        "MB fetched until then": (lambda run: run.sent_at_first.bytes / 1e6, False),
    }
    speed = {"images/s": (lambda run: run.images / (run.last - run.first), True)}
    memory = {"peak MB": (lambda run: run.memory / 1e6, False)}
    traffic = {
        "bytes fetched by the images'": (
            lambda run: run.sent.bytes / ((run.images + 256) * image_bytes),
            False,
        ),
        "requests": (lambda run: run.sent.requests, False),
    }
    if part == "start":
        before = {"MB at the first batch": (lambda run: run.memory_at_first / 1e6, False)}
        return start | speed | before | memory
    return start if part == "resume" else traffic | memory


def _python(python: str, *words: str) -> str:
    """What `bench.peers.streams WORDS` prints, run by that Python."""
    return subprocess.run(
        [python, "-m", peers.__name__, *words],
        check=True,
        capture_output=True,
        text=True,
        cwd=linked_sets.ROOT,
    ).stdout
