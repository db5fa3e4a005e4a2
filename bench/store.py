"""python -m bench store: training from an S3 endpoint that is slow, fails and is far too large.

  python -m bench store [--samples 1000000] [--images 80000] [--out DIR]
  pip install 'moto[s3]' flask flask-cors      first: their botocore asks for an older
                                               python-dateutil than constraints-cpu.txt

moto's server on this machine holds 10^6 small images; 1 of 20 answers waits 50 ms, 1 of 50 is a
503, 1 of 50 is cut. A run of four gloo ranks, two of each of two "nodes" (cache folders), is
killed by -9, goes on with three ranks, is killed, goes on with two. A node may cache two windows of
the order. Reported: whether the ledger is that of an undisturbed run on a local folder
(verify-resume --against), bytes that came by those of what was read, the largest cache, memory of a
rank.
"""

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil

from bench import machine, runs
from bench.small_tars import write_shards
from scemae.data.lanes import Lanes
from scemae.data.order import Order
from scemae.data.storage.manifest import MANIFEST
from scemae.files import disk
from scemae.runs import generations
from scemae.runs.generation_files import LEDGER, rows_of

IMAGES_OF_TAR, BATCH, LANES, WINDOW = 250, 256, 8, 1
STAGES = ((4, 0.3), (3, 0.65), (2, 1.0))  # ranks, and the share of the steps after which they die


def main(argv: list[str]) -> int:
    """Measure and write store.json and store.md."""
    parser = argparse.ArgumentParser(
        "python -m bench store",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--samples", type=int, default=10**6, help="images in the bucket (10^6)")
    parser.add_argument("--images", type=int, default=80_000, help="images trained on (80,000)")
    parser.add_argument("--out", default=machine.OUT)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(Path(scratch), options.samples, options.images)
    machine.write("store", options.out, rows, machine.facts())
    return 0


def measure(scratch: Path, samples: int, images: int) -> list[dict]:
    """The rows of the table."""
    folder = scratch / "bucket" / "train"
    write_shards(folder, samples, IMAGES_OF_TAR)
    whole = sum(path.stat().st_size for path in folder.glob("*.tar"))
    window = LANES * WINDOW * IMAGES_OF_TAR
    # Two windows of a node with two of three ranks: six of the eight lanes, one of them shared.
    limit = int(1.1 * 2 * window * whole / samples * 3 / 4)
    steps = images // BATCH
    settings = [
        *runs.TINY,
        *("model.width=48", "model.depth=4", "model.heads=3"),
        *("decoder.width=32", "decoder.depth=1", "decoder.heads=2"),
        f"optim.global_batch_size={BATCH}",
        f"optim.epochs={steps * BATCH / samples:.6f}",
        "loop.log_every=5",
        "loop.save_every=20",
        "runtime.device=cpu",
        "runtime.tier=streaming",
        "data.order=lanes",
        f"data.lanes={LANES}",
        f"data.block={IMAGES_OF_TAR}",
        f"data.window={WINDOW}",
        "data.frame=96",
    ]
    run, plain = scratch / "run", scratch / "plain"
    with endpoint(scratch) as (url, log):
        upload(folder, url)
        before = sent(log)
        peak, memory = train_disturbed(scratch, run, settings, url, limit, steps)
        fetched = sent(log) - before
        faults = log.read_text().count("fault")
    runs.finished(plain, folder, *settings)
    done = subprocess.run(
        [sys.executable, "-m", "scemae", "verify-resume", run, "--all", "--against", plain]
        + ["--shards", folder],
        capture_output=True,
        text=True,
    )
    tar = whole * IMAGES_OF_TAR / samples
    of_nodes, of_all = blocks_read(run, samples, steps)
    return [
        {"what": "ledger equal to that of an undisturbed run", "value": str(not done.returncode)},
        {"what": "what verify-resume says", "value": " ".join(done.stdout.split()) or done.stderr},
        {"what": "images trained on, of how many", "value": f"{steps * BATCH:,} of {samples:,}"},
        {"what": "answers delayed, refused or cut", "value": f"{faults:,}"},
        {
            "what": "bytes that came by those of the blocks that each node read",
            "value": f"{fetched / (of_nodes * tar):.3f}",
        },
        {
            "what": "... by those of all blocks read, once for both nodes",
            "value": f"{fetched / (of_all * tar):.3f}",
        },
        {"what": "largest cache of a node by its limit", "value": f"{peak / limit:.3f}"},
        {"what": "limit by all shards", "value": f"{limit / whole:.3f}"},
        {"what": "memory of a rank, from half of the last start to its end, MB", "value": memory},
    ]


def blocks_read(run: Path, samples: int, steps: int) -> tuple[int, int]:
    """How many blocks the starts of a run read: counted for each node, and for both together.

    Where the ranks of two nodes share a lane, as three ranks do, both read its blocks. A start has
    read six steps more than its last row says: they were on their way.
    """
    order = Order(samples, 0, BATCH, Lanes(samples, 0, LANES, IMAGES_OF_TAR, WINDOW))
    of_nodes: set[tuple[int, int]] = set()
    starts = sorted(generations.base_steps(run).items())
    for (number, first), (ranks, _) in zip(starts, STAGES, strict=True):
        rows = rows_of(generations.path_of(run, number) / LEDGER)
        last = max((row["step"] for row in rows), default=first)
        for step in range(first, min(last + 6, steps)):
            for rank in range(ranks):
                for part in order.slices(step, rank, ranks, 1):
                    blocks = np.unique(part.samples // IMAGES_OF_TAR).tolist()
                    of_nodes |= {(rank // -(-ranks // 2), block) for block in blocks}
    return len(of_nodes), len({block for _, block in of_nodes})


def train_disturbed(
    scratch: Path, run: Path, settings: list[str], url: str, limit: int, steps: int
) -> tuple[int, str]:
    """The largest cache in bytes, and the memory of rank 0 early and late in its last start."""
    caches = [scratch / "cache-0", scratch / "cache-1"]
    for cache in caches:
        cache.mkdir()
    peak, over, resident = [0], threading.Event(), []

    def watch() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], *map(_size, caches))

    threading.Thread(target=watch, daemon=True).start()
    for ranks, share in STAGES:
        resident.clear()
        processes = start(scratch, run, settings, url, limit, ranks)
        last = 20 * int(share * steps / 20)
        while any(process.poll() is None for process in processes):
            resident.append(_memory(processes[0]))
            there = [*run.glob(f"checkpoints/step-{last:08d}*")]
            if share < 1 and there:
                for process in processes:
                    process.send_signal(signal.SIGKILL)
            time.sleep(0.5)
        if share == 1 and any(process.returncode for process in processes):
            raise RuntimeError((scratch / "rank-0.log").read_text()[-2000:])
    over.set()
    steady = [one / 1e6 for one in resident[len(resident) // 2 : -2]]
    return peak[0], f"{steady[0]:.0f} to {steady[-1]:.0f}, at most {max(steady):.0f}"


def start(
    scratch: Path, run: Path, settings: list[str], url: str, limit: int, ranks: int
) -> list[subprocess.Popen]:
    """The ranks of one start, shared by two nodes."""
    local, port, found = -(-ranks // 2), _free_port(), []
    for rank in range(ranks):
        place = {
            "RANK": rank,
            "WORLD_SIZE": ranks,
            "LOCAL_RANK": rank % local,
            "LOCAL_WORLD_SIZE": local,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": 1,
            "AWS_ENDPOINT_URL": url,
            **CREDENTIALS,
        }
        words = [sys.executable, "-m", "scemae", "pretrain", f"run_dir={run}", *settings]
        words += ["data.shards=s3://bucket/train", f"data.cache_gb={limit / 1e9}"]
        words += [f"data.cache_dir={scratch / f'cache-{rank // local}'}", "runtime.workers=1"]
        log = open(scratch / f"rank-{rank}.log", "a")
        environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
        found.append(subprocess.Popen(words, stdout=log, stderr=log, env=environment))
    return found


CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "someone",
    "AWS_SECRET_ACCESS_KEY": "something",
    "AWS_REGION": "us-east-1",
}


class endpoint:
    """moto's server in a process of its own: its URL, and a log with a line for each answer."""

    def __init__(self, scratch: Path) -> None:
        self.log, self.port = scratch / "server.log", _free_port()

    def __enter__(self) -> tuple[str, Path]:
        self.log.touch()
        words = [sys.executable, "-m", "bench.store", "serve", str(self.port), str(self.log)]
        self.process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        for _ in range(600):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            time.sleep(0.1)
        return f"http://127.0.0.1:{self.port}", self.log

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()


def serve(port: int, log: Path) -> None:
    """Serve S3, with faults on GETs of tars."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    store, draw = DomainDispatcherApplication(create_backend_app), random.Random(0)
    lines = open(log, "a", buffering=1)

    def app(environ: dict, respond):
        path, fault = environ["PATH_INFO"], None
        if environ["REQUEST_METHOD"] == "GET" and path.endswith(".tar"):
            chance = draw.random()
            fault = "503" if chance < 0.02 else "cut" if chance < 0.04 else None
            if 0.04 <= chance < 0.09:
                fault = "wait"
                time.sleep(0.05)
        if fault == "503":
            lines.write("0 fault\n")
            respond("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        body = b"".join(store(environ, respond))
        if fault == "cut":
            body = body[: len(body) // 2]
        if environ["REQUEST_METHOD"] == "GET":
            lines.write(f"{len(body)} {'fault' if fault else ''}\n")
        return [body]

    run_simple("127.0.0.1", port, app, threaded=True)


def sent(log: Path) -> int:
    """Bytes that the server has sent."""
    return sum(int(line.split()[0]) for line in log.read_text().splitlines())


def upload(folder: Path, url: str) -> None:
    """Put all files into the bucket."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="someone",
        aws_secret_access_key="something",
    )
    client.create_bucket(Bucket="bucket")
    names = [*folder.glob("train-*"), folder / MANIFEST]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda p: client.upload_file(str(p), "bucket", f"train/{p.name}"), names))


def _size(cache: Path) -> int:
    """Bytes in a cache, while nothing is added or removed."""
    total = 0
    for lock in cache.glob("*/*/.lock"):
        with disk.locked(lock):
            for path in lock.parent.iterdir():
                try:
                    total += path.stat().st_size
                except FileNotFoundError:
                    pass
    return total


def _memory(process: subprocess.Popen) -> int:
    try:
        return psutil.Process(process.pid).memory_info().rss
    except psutil.Error:
        return 0


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


if __name__ == "__main__":
    serve(int(sys.argv[2]), Path(sys.argv[3]))
