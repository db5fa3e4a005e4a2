"""Sweeps: trials per minute with and without a shared token store; cost of 10,000 trials.

    python -m bench sweep store --backbone runs/demo/pretrain --shards runs/demo/shards
    python -m bench sweep size [--trials 100 10000]

`store` runs `scemae sweep experiment=demo_sweep` with real stage-2 trials, both ways in turns, each
time from an empty folder. `size` runs Ray Tune, the search, the table and the trial folders with
trials that take no time, so that it measures the sweep itself.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bench import faces, machine


def main(argv: list[str]) -> int:
    """Measure and write sweep-PART.json and .md."""
    parser = argparse.ArgumentParser(
        "bench sweep", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=("store", "size"), default="size")
    parser.add_argument(
        "--backbone", type=Path, help="a run of stage 1 on --shards, as `scemae demo` makes"
    )
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--trials", type=int, nargs="+")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", default=machine.OUT)
    options = parser.parse_args(argv)
    if options.part == "store" and not (options.backbone and options.shards):
        parser.error("store: give --backbone and --shards")
    rows = (
        store(options)
        if options.part == "store"
        else [size(count) for count in options.trials or (100, 10_000)]
    )
    machine.write(f"sweep-{options.part}", options.out, rows, machine.facts())
    return 0


def store(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Trials per minute, both ways in turn."""
    found: dict[bool, list[dict]] = {True: [], False: []}
    count = (options.trials or [24])[0]
    for _ in range(options.repeats):
        for shares in found:
            with tempfile.TemporaryDirectory(prefix="bench-sweep-") as scratch:
                backbone = Path(scratch) / "mae"
                shutil.copytree(options.backbone, backbone, ignore=shutil.ignore_patterns("tokens"))
                words = [
                    "experiment=demo_sweep",
                    f"run_dir={scratch}/sweep",
                    f"trials={count}",
                    f"share_tokens={str(shares).lower()}",
                    f"correspond.backbone={backbone}",
                    f"correspond.data.shards={options.shards}/train",
                    f"correspond.probe_shards={options.shards}/mafl-train",
                ]
                started = time.perf_counter()
                subprocess.run([sys.executable, "-m", "scemae", "sweep", *words], check=True)
                seconds = time.perf_counter() - started
                table = (
                    (Path(scratch) / "sweep" / "results.csv")
                    .read_text(encoding="utf8")
                    .splitlines()[1:]
                )
                found[shares].append(
                    {
                        "minutes": seconds / 60,
                        "trials/min": 60 * len(table) / seconds,
                        "finished": sum(",finished," in row for row in table),
                    }
                )
    rows = []
    for shares, runs in found.items():
        middle = sorted(runs, key=lambda run: run["minutes"])[len(runs) // 2]
        rows.append(
            {
                "token store": "shared by all trials" if shares else "each trial computes its own",
                "trials": count,
                **middle,
                "repeats": [run["minutes"] for run in runs],
            }
        )
    rows[0]["ratio"], rows[1]["ratio"] = rows[0]["trials/min"] / rows[1]["trials/min"], 1.0
    return rows


def size(count: int) -> dict[str, Any]:
    """Peak memory of the driver and of Ray's processes, and trials per second, of idle trials."""
    from scemae.sweep.coordinator import MORE
    from scemae.sweep.processes.ray_node import RayNode

    with tempfile.TemporaryDirectory(prefix="bench-sweep-") as scratch:
        root = Path(scratch)
        (root / "token").write_text("0" * 64)
        shards = faces.shards(250)
        make_backbone(root / "mae", shards)
        start = {
            "folder": str(root / "sweep"),
            "count": count,
            "mae": f"{root}/mae",
            "shards": str(shards),
        }
        node = RayNode(root / "token", 4, False, "127.0.0.1", None)
        try:
            start["address"] = node.wait_until_ready()
            most, waves, began = 0, [], time.perf_counter()
            while not waves or waves[-1]["status"] == MORE:
                wave, peak = run_driver(node, start)
                waves.append(wave)
                most = max(most, peak)
            seconds = time.perf_counter() - began
        finally:
            node.stop()
    return {
        "trials": count,
        "drivers, one after the other": len(waves),
        "seconds": seconds,
        "trials/s": count / seconds,
        "driver, MiB": max(wave["mib"] for wave in waves),
        "driver before, MiB": waves[0]["before"],
        "head, raylet and agents, MiB": most / 2**20,
    }


def make_backbone(run_dir: Path, shards: Path) -> None:
    """A run of stage 1 of few steps, for trials that only name it."""
    words = [
        *"model.width=48 model.depth=4 model.heads=3".split(),
        *"decoder.width=32 decoder.depth=1 decoder.heads=2".split(),
        *"optim.epochs=1 optim.warmup_epochs=0 optim.global_batch_size=50".split(),
        *"loop.log_every=1 loop.save_every=1".split(),
        f"run_dir={run_dir}",
        f"data.shards={shards}",
    ]
    subprocess.run([sys.executable, "-m", "scemae", "pretrain", *words], check=True)


def run_driver(node: Any, start: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Run a driver to its end: its report, and the peak memory of Ray's processes in bytes."""
    driver = subprocess.Popen(
        [sys.executable, "-m", "bench.sweep_driver"],
        stdout=subprocess.PIPE,
        text=True,
        env={**node.environment, "SCEMAE_SWEEP_START": json.dumps(start)},
    )
    most = 0
    while driver.poll() is None:
        pids = [pid for pid in node.pids() if pid != driver.pid and _is_rays(pid)]
        most = max(most, sum(map(_resident, pids)))
        time.sleep(1)
    return json.loads(driver.stdout.read().splitlines()[-1]), most


def _resident(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0


def _is_rays(pid: int) -> bool:
    """True for Ray's own processes, whose memory grows with trials; false for its workers."""
    try:
        words = " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False
    return any(
        name in words
        for name in ("gcs_server", "raylet/raylet", "dashboard", "Agent", "monitor.py")
    )


def peak_mib() -> float:
    """The most memory that this process has used."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
