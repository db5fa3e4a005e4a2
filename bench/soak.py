"""A long run of many epochs: does memory creep, does speed sag?

    python -m bench soak [--minutes 5] [--faces 600] [--out DIR]

A real `scemae pretrain` of the demo's small model; its resident memory is read once a second.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from bench import faces, machine, runs
from scemae.data.storage.shard_set import open_shards
from scemae.runs.metrics_log import read_metrics


def main(argv: list[str]) -> int:
    """Measure and write soak.json, soak.md and soak.png."""
    parser = argparse.ArgumentParser(
        "bench soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5, help="how long (5)")
    parser.add_argument(
        "--faces", type=int, default=600, help="generated faces: the fewer, the more epochs (600)"
    )
    parser.add_argument("--tier", default="host", help="host or streaming (host)")
    parser.add_argument("--out", default=machine.OUT)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        run_dir, shards = Path(folder) / "soak", faces.shards(options.faces)
        with runs.pretrain(
            run_dir,
            shards,
            *runs.TINY,
            "optim.epochs=100000",
            "optim.global_batch_size=64",
            "loop.log_every=10",
            "loop.save_every=100",
            f"runtime.tier={options.tier}",
        ) as process:
            memory = watch(process, 60 * options.minutes)
        beats = runs.speeds(read_metrics(run_dir))
        samples = len(open_shards(str(shards)))
    rows = [fit(memory, beats, samples)]
    machine.write("soak", options.out, rows, machine.facts() | {"tier": options.tier})
    draw(memory, beats, Path(options.out) / "soak.png")
    return 0


def watch(process, seconds: float) -> np.ndarray:
    """(n, 2): seconds since the start and the resident set in MiB, once a second."""
    started, found = time.time(), []
    while time.time() - started < seconds and process.poll() is None:
        resident = psutil.Process(process.pid).memory_info().rss
        found.append((time.time() - started, resident / 2**20))
        time.sleep(1)
    return np.array(found)


def fit(memory: np.ndarray, beats: list[dict], samples: int) -> dict:
    """Slopes over the last two thirds: memory in MiB per 100 epochs, speed in per cent."""
    third, speed = len(memory) // 3, np.array([row["images_per_second"] for row in beats])
    slope = np.polyfit(*memory[third:].T, 1)[0]
    epochs = beats[-1]["step"] * 64 / samples
    epochs_per_second = epochs / memory[-1, 0]
    halves = np.median(speed[len(speed) // 2 :]) / np.median(speed[: len(speed) // 2])
    return {
        "minutes": memory[-1, 0] / 60,
        "epochs": epochs,
        "steps": beats[-1]["step"],
        "resident, MiB, at a third": memory[third, 1],
        "at the end": memory[-1, 1],
        "MiB per 100 epochs": slope / epochs_per_second * 100,
        "images/s": float(np.median(speed)),
        "second half to first": halves,
        "memory": memory.round(1).tolist(),
    }


def draw(memory: np.ndarray, beats: list[dict], path: Path) -> None:
    """Resident set and speed over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(7, 4.5), sharex=True, layout="constrained"
    )
    above.plot(*memory.T)
    above.set(ylabel="resident set, MiB", ylim=(0, None))
    began = beats[0]["time"] - (memory[-1, 0] - (beats[-1]["time"] - beats[0]["time"]))
    below.plot([row["time"] - began for row in beats], [row["images_per_second"] for row in beats])
    below.set(ylabel="images/s", xlabel="seconds since the start", ylim=(0, None))
    figure.savefig(path, dpi=110)
