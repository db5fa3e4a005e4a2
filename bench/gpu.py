"""python -m bench gpu: what needs a GPU to be measured, in cases that are kept at once.

  python -m bench gpu SHARDS --part steps      a step of DeiT-T, S, B: ours compiled and not,
                                               lightly, the plain recipe; back ends of attention
  python -m bench gpu SHARDS --part recipe     end to end from shards, in each tier: images/s, MFU,
                                               wait, hours for CelebA
  python -m bench gpu SHARDS --part plain      the plain recipe with a PIL loader, against ours
  python -m bench gpu SHARDS --part profile    where the time of a step goes
  python -m bench gpu SHARDS --part loader     the data pipeline alone
  python -m bench gpu SHARDS --part stage2     CARB with and without the token store
  python -m bench gpu SHARDS --rehearse        all parts on a CPU, at a size that says nothing

SHARDS: `scemae shards build celeba FACES SHARDS`, with --resize 136 or not; its train split is
used. --part may be given several times. Tables are written after each case, which is not measured
again by the same command with the same --out; a case that fails stops none of the others. In the
background (`python -m bench job --help`):

  python -m bench job start runs/gpu python3 -m bench gpu SHARDS --out runs/gpu
  python -m bench job poll runs/gpu --wait 500
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median

import torch

from bench import decoders, job, machine, needs, profile, runs
from scemae.data.storage.shard_set import open_shards

Case = Callable[[argparse.Namespace], None]
PARTS = ("steps", "recipe", "plain", "profile", "loader", "stage2")
MODELS = ("deit_tiny", "deit_small", "deit_base")
CELEBA = 146_501  # images of CelebA without MAFL (PROTOCOL 1.1)
EPOCHS = 400  # of the paper (PROTOCOL 1.4)


def main(argv: list[str]) -> int:
    """Measure the cases of the parts asked for, each in a process of its own: a loader that forks
    beside torch's threads may hang."""
    options = parse(argv)
    if options.case:
        signal.signal(
            signal.SIGTERM, lambda *_: sys.exit(143)
        )  # leaves the blocks that end what a case has started
        cases(options)[options.case](options)
        return 0
    if needs.main([]):
        return 1
    sizes = f"--batch {options.batch} --steps {options.steps} --workers {options.workers}".split()
    sizes += ["--out", str(options.out), *(["--rehearse"] if options.rehearse else [])]
    chosen = [name for name in cases(options) if name.partition("-")[0] in (options.part or PARTS)]
    command = [sys.executable, "-m", "bench", "gpu", str(options.shards), *sizes]
    return max(job.case(options.out, name, [*command, "--case", name]) for name in chosen)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--part", action="append", choices=PARTS, help="all unless given")
    parser.add_argument("--case", help="one case alone, in this process")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=200, help="of each end-to-end run (200)")
    parser.add_argument(
        "--workers", type=int, default=12, help="threads or processes that read and decode (12)"
    )
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/gpu"), help="tables, and what is done (runs/gpu)"
    )
    options = parser.parse_args(argv)
    if options.rehearse:
        options.batch, options.steps, options.workers = 4, 4, 1
    if options.case and options.case not in cases(options):
        parser.error(f"--case: found {options.case!r}, there are {', '.join(cases(options))}")
    return options


def cases(options: argparse.Namespace) -> dict[str, Case]:
    """Every measurement by its name, which begins with its part's."""
    small = options.rehearse
    tiers = [(model, "auto", "cpu") for model in MODELS]
    tiers += [("deit_small", tier, "cpu") for tier in ("host", "streaming")] + [
        ("deit_small", "streaming", "nvjpeg")
    ]
    if small:
        tiers = [("deit_tiny", "host", "cpu"), ("deit_tiny", "streaming", "cpu")]
    return {
        **{f"steps-{model}": partial(steps, model) for model in (MODELS[:1] if small else MODELS)},
        "steps-attention": attention,
        **{f"recipe-{'-'.join(tier)}": partial(recipe, *tier) for tier in tiers},
        "plain": plain,
        **{
            f"profile-{kind}": partial(profiled, kind)
            for kind in (("eager",) if small else ("eager", "compiled"))
        },
        "loader": loader,
        "stage2": stage2,
    }


def steps(model: str, options: argparse.Namespace) -> None:
    """bench step for one model."""
    import_module("bench.step").main(["--model", model, *_sizes(options)])


def attention(options: argparse.Namespace) -> None:
    """bench attention: which back end a step should use."""
    model, decoder = ("deit_tiny", "light") if options.rehearse else ("deit_small", "mae")
    words = f"--model {model} --decoder {decoder} --batch {options.batch}".split()
    import_module("bench.attention").main([*words, "--out", str(options.out)])


def recipe(model: str, tier: str, decoder: str, options: argparse.Namespace) -> None:
    """The real command from shards, as one row of the table."""
    shards, every = options.shards / "train", max(options.steps // 8, 1)
    samples = len(open_shards(str(shards)))
    with tempfile.TemporaryDirectory() as folder:
        found = runs.finished(
            Path(folder) / "run",
            shards,
            f"model={model}",
            f"decoder={'light' if options.rehearse else 'mae'}",
            f"optim.global_batch_size={options.batch}",
            f"optim.epochs={8 * every * options.batch / samples}",
            "optim.warmup_epochs=0",
            f"loop.log_every={every}",
            f"loop.save_every={8 * every}",
            f"runtime.tier={tier}",
            f"data.decoder={decoder}",
            f"runtime.workers={options.workers}",
        )
    machine.add(
        "recipe",
        options.out,
        {"model": model, "tier": tier, "decoder": decoder},
        _speed(found),
        machine.facts() | {"batch": options.batch, "images": samples},
    )


def _speed(rows: list[dict]) -> dict:
    """Medians of the heartbeats but for the first two, and what they mean for CelebA."""
    beats = runs.speeds(rows, skip=2)
    fast = median(row["images_per_second"] for row in beats)
    return {
        "images/s": fast,
        "MFU": f"{median(row['mfu'] for row in beats):.1%}",
        "data wait": f"{median(row['data_wait'] for row in beats):.2%}",
        "memory, GiB": max(row["memory_gib"] for row in beats),
        "hours for 400 epochs of CelebA": EPOCHS * CELEBA / fast / 3600,
    }


def plain(options: argparse.Namespace) -> None:
    """bench step --end-to-end."""
    model = "deit_tiny" if options.rehearse else "deit_small"
    tier = "host" if options.rehearse else "gpu"
    words = ["--model", model, "--tier", tier, "--end-to-end", str(options.shards / "train")]
    import_module("bench.step").main([*words, *_sizes(options)])


def _sizes(options: argparse.Namespace) -> list[str]:
    small = "--decoder light --repeats 1 --steps 1 --warm-up 1 --precision fp32"
    full = "--repeats 5 --steps 20 --warm-up 10 --precision bf16"
    words = (small if options.rehearse else full).split()
    return ["--batch", str(options.batch), "--out", str(options.out), *words]


def profiled(kind: str, options: argparse.Namespace) -> None:
    """Where the time of a step goes, eager or compiled."""
    model, decoder = ("deit_tiny", "light") if options.rehearse else ("deit_small", "mae")
    words = f"--model {model} --decoder {decoder} --batch {options.batch}".split()
    words += ["--compile"] if kind == "compiled" else []
    profile.main([*words, "--out", str(options.out)])


def loader(options: argparse.Namespace) -> None:
    """bench loader. Its peers crop CelebA's own 178x218: in place of others it draws faces."""
    shards = options.shards / "train"
    is_celeba = decoders.by_pil(open_shards(str(shards)).jpeg(0)).shape == (218, 178, 3)
    small = ["--images", "64", "--repeats", "1", "--faces", "200"] if options.rehearse else []
    given = ["--shards", str(shards)] if is_celeba else []
    words = f"--batch {options.batch} --workers {options.workers}".split()
    import_module("bench.loader").main([*given, *small, *words, "--out", str(options.out)])


def stage2(options: argparse.Namespace) -> None:
    """bench stage2."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    small = ["--model", "demo", "--images", "64", "--views", "1"] if options.rehearse else []
    words = ["--shards", str(options.shards / "train"), "--device", device]
    import_module("bench.stage2").main([*words, "--out", str(options.out), *small])
