"""python -m bench gpu: every figure of speed that needs a GPU, in parts that each end within minutes.

  python -m bench gpu SHARDS --part steps      a step of DeiT-T, S, B: ours compiled and not, lightly, the plain recipe
  python -m bench gpu SHARDS --part recipe     end to end from shards, in each tier: images/s, MFU, wait, hours for CelebA
  python -m bench gpu SHARDS --part plain      the same for the plain recipe with a PIL loader, against ours
  python -m bench gpu SHARDS --part profile    where the time of a step goes
  python -m bench gpu SHARDS --part loader     the data pipeline alone
  python -m bench gpu SHARDS --part stage2     CARB with and without the token store
  python -m bench gpu SHARDS --rehearse        all parts on a CPU, at a size that says nothing

SHARDS: `scemae shards build celeba FACES SHARDS`; its train split is used. --part may be given several times.
"""

import argparse
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from statistics import median

import torch

from bench import machine, profile, runs
from scemae.data.reader import open_shards

MODELS = ("deit_tiny", "deit_small", "deit_base")
CELEBA, EPOCHS = 146_501, 400  # images of CelebA without MAFL, and epochs of the paper (PROTOCOL 1.1, 1.4)


def main(argv: list[str]) -> int:
    """Measure the parts asked for, all of them unless told."""
    parser = argparse.ArgumentParser("python -m bench gpu", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="all unless given")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=200, help="of each end-to-end run (200)")
    parser.add_argument("--workers", type=int, default=12, help="threads or processes that read and decode (12)")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--out", default=machine.OUT)
    options = parser.parse_args(argv)
    if options.rehearse:
        options.batch, options.steps, options.workers = 4, 4, 1
    parts = options.part or list(PARTS)
    if len(parts) == 1:
        PARTS[parts[0]](options)
        return 0
    told = ["--batch", str(options.batch), "--steps", str(options.steps), "--workers", str(options.workers), "--out",
            str(options.out), *(["--rehearse"] if options.rehearse else [])]
    # Each in a process of its own: a loader that forks beside torch's threads may hang.
    return max(subprocess.run([sys.executable, "-m", "bench", "gpu", str(options.shards), "--part", part, *told]).returncode
               for part in parts)


def steps(options: argparse.Namespace) -> None:
    """bench step for each model."""
    for model in MODELS[:1] if options.rehearse else MODELS:
        import_module("bench.step").main(["--model", model, *_sizes(options)])


def recipe(options: argparse.Namespace) -> None:
    """The real command from shards, for each model resident, for DeiT-S in every tier."""
    shards, rows = options.shards / "train", []
    cases = [(model, "auto", "cpu") for model in MODELS]
    cases += [("deit_small", tier, "cpu") for tier in ("host", "streaming")] + [("deit_small", "streaming", "nvjpeg")]
    if options.rehearse:
        cases = [("deit_tiny", "host", "cpu"), ("deit_tiny", "streaming", "cpu")]
    samples = len(open_shards(str(shards)))
    with tempfile.TemporaryDirectory() as folder:
        for model, tier, decoder in cases:
            every = max(options.steps // 8, 1)
            found = runs.finished(
                Path(folder) / f"{model}-{tier}-{decoder}", shards, f"model={model}",
                f"decoder={'light' if options.rehearse else 'mae'}", f"optim.global_batch_size={options.batch}",
                f"optim.epochs={8 * every * options.batch / samples}", "optim.warmup_epochs=0",
                f"loop.log_every={every}", f"loop.save_every={8 * every}", f"runtime.tier={tier}", f"data.decoder={decoder}",
                f"runtime.workers={options.workers}")
            rows.append({"model": model, "tier": tier, "decoder": decoder, **_speed(found)})
    machine.write("recipe", options.out, rows, machine.facts() | {"batch": options.batch, "images": samples})


def _speed(rows: list[dict]) -> dict:
    """Medians of the heartbeats but for the first two, and what they mean for CelebA."""
    beats = runs.speeds(rows, skip=2)
    fast = median(row["images_per_second"] for row in beats)
    return {"images/s": fast, "MFU": f"{median(row['mfu'] for row in beats):.1%}",
            "data wait": f"{median(row['data_wait'] for row in beats):.2%}",
            "memory, GiB": max(row["memory_gib"] for row in beats),
            "hours for 400 epochs of CelebA": EPOCHS * CELEBA / fast / 3600}


def plain(options: argparse.Namespace) -> None:
    """bench step --end-to-end."""
    model = "deit_tiny" if options.rehearse else "deit_small"
    import_module("bench.step").main(["--model", model, "--end-to-end", str(options.shards / "train"), "--tier", "host" if options.rehearse else "gpu",
                                      *_sizes(options)])


def _sizes(options: argparse.Namespace) -> list[str]:
    small = ["--decoder", "light", "--repeats", "1", "--steps", "1", "--warm-up", "1", "--precision", "fp32"]
    full = ["--repeats", "5", "--steps", "20", "--warm-up", "10", "--precision", "bf16"]
    return ["--batch", str(options.batch), "--out", str(options.out), *(small if options.rehearse else full)]


def profiled(options: argparse.Namespace) -> None:
    """Where the time of a step goes, eager and compiled."""
    model, decoder = ("deit_tiny", "light") if options.rehearse else ("deit_small", "mae")
    for is_compiled in (False,) if options.rehearse else (False, True):
        profile.main(["--model", model, "--decoder", decoder, "--batch", str(options.batch), "--out", str(options.out),
                      *(["--compile"] if is_compiled else [])])


def loader(options: argparse.Namespace) -> None:
    """bench loader."""
    import_module("bench.loader").main(["--shards", str(options.shards / "train"), "--workers", str(options.workers),
                                        "--batch", str(options.batch), "--out", str(options.out)])


def stage2(options: argparse.Namespace) -> None:
    """bench stage2."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    small = ["--model", "demo", "--images", "64", "--views", "1"] if options.rehearse else []
    import_module("bench.stage2").main(["--shards", str(options.shards / "train"), "--device", device,
                                        "--out", str(options.out), *small])


PARTS = {"steps": steps, "recipe": recipe, "plain": plain, "profile": profiled, "loader": loader, "stage2": stage2}
