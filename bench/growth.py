"""How speed and memory grow: with the batch, with ranks, and with the number of images.

    python -m bench growth [--faces 4000] [--out DIR]

Each line is a real `scemae pretrain` of the demo's small model; its first heartbeat is left out.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

from bench import faces, machine, runs
from scemae.data.storage.shard_set import open_shards


def main(argv: list[str]) -> int:
    """Measure and write growth.json and growth.md."""
    parser = argparse.ArgumentParser(
        "bench growth", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--faces", type=int, default=4000, help="generated faces of the largest set (4000)"
    )
    parser.add_argument("--steps", type=int, default=60, help="steps of each run at batch 64 (60)")
    parser.add_argument("--out", default=machine.OUT)
    options = parser.parse_args(argv)
    images, rows = options.faces, []
    with tempfile.TemporaryDirectory() as folder:
        for batch in (16, 32, 64, 128, 256):
            rows.append(line(Path(folder), "batch", images, batch, 1, options.steps))
        rows.append(line(Path(folder), "ranks", images, 64, 2, options.steps))
        for tier in ("streaming", "host"):
            for count in (images // 16, images // 4, images):
                rows.append(line(Path(folder), "images", count, 64, 1, options.steps, tier))
    machine.write("growth", options.out, rows, machine.facts())
    return 0


def line(
    folder: Path, what: str, images: int, batch: int, ranks: int, steps: int, tier: str = "host"
) -> dict:
    """One run: median images/s and data wait, peak memory of a rank, seconds to the first step."""
    shards = faces.shards(images)
    samples = len(open_shards(str(shards)))
    every = max(steps * 64 // batch // 6, 1)
    rows = runs.finished(
        folder / f"{what}-{images}-{batch}-{ranks}-{tier}",
        shards,
        *runs.TINY,
        f"optim.global_batch_size={batch}",
        f"optim.epochs={6 * every * batch / samples}",
        f"loop.log_every={every}",
        f"loop.save_every={6 * every}",
        f"runtime.tier={tier}",
        ranks=ranks,
    )
    beats = runs.speeds(rows)
    start = next(row["first_step_seconds"] for row in rows if "first_step_seconds" in row)
    return {
        "grows": what,
        "images": samples,
        "batch": batch,
        "ranks": ranks,
        "tier": tier,
        "images/s": median(row["images_per_second"] for row in beats),
        "data wait": f"{median(row['data_wait'] for row in beats):.2%}",
        "memory of a rank, GiB": max(row["memory_gib"] for row in beats),
        "first step, s": start,
    }
