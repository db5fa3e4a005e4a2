"""A training step of stage 1: ours, lightly's MAE, the official recipe."""

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

import torch

from bench import machine, training_step
from bench.repeat import interleave
from scemae.distributed.process_group import process_group
from scemae.models import flops
from scemae.training import utilisation

HELP = """\
python -m bench step: images per second of a training step of stage 1, batches on the device

  python -m bench step --model deit_small --decoder mae --batch 64
  python -m bench step --device cuda --precision bf16 --batch 512 --steps 20
  python -m bench step --end-to-end data/celeba/train --batch 64       from shards

ours     scemae's autoencoder in the DeepSpeed engine that `scemae pretrain` starts (world size 1)
lightly  lightly's building blocks as its documentation trains MAE, torch's AdamW
plain    the official recipe, eager: attention matrix in memory, all patches embedded and predicted

All have the same sizes, batch, threads and allocator. bf16: ours by DeepSpeed (fp32 master
weights), the peers by autocast.
Share of the peak: GFLOP of the published recipe x images/s, divided by the
fastest matrix product measured here.
"""


def main(argv: list[str]) -> None:
    """Measure and write the table."""
    options = parse(argv)
    if options.end_to_end:
        from bench.end_to_end import measure
    else:
        measure = measure_steps
    rows, facts = measure(options)
    name = "end_to_end" if options.end_to_end else "step"
    machine.write(
        f"{name}-{options.model}-{options.device}-{options.precision}",
        options.out,
        rows,
        {**facts, **machine.facts()},
    )


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench step",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="deit_small", help="deit_tiny, deit_small, deit_base")
    parser.add_argument("--decoder", default="mae", help="mae or light")
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of all cases in turn")
    parser.add_argument(
        "--steps",
        type=int,
        help="steps in one measured block (3); end to end, in each of three heartbeats (20: "
        "the few batches that are ready beforehand do not matter)",
    )
    parser.add_argument(
        "--warm-up", type=int, default=2, help="steps of each case before the first round"
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda")
    )
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument(
        "--cases",
        nargs="+",
        default=None,
        help="of ours, ours-eager, ours-compiled, lightly, "
        "lightly-compiled, plain; on CUDA ours both eager and compiled unless given",
    )
    parser.add_argument(
        "--end-to-end",
        type=Path,
        metavar="SHARDS",
        help="from a folder of shards instead: ours and plain",
    )
    parser.add_argument(
        "--tier",
        default="streaming",
        choices=("streaming", "host", "gpu"),
        help="runtime.tier of ours, end to end",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="end to end: threads of ours, "
        "processes of plain's DataLoader; a core each unless given",
    )
    parser.add_argument("--out", default=machine.OUT, help="folder of the results")
    options = parser.parse_args(argv)
    options.steps = options.steps or (20 if options.end_to_end else 3)
    if options.cases is None:
        ours = ["ours-eager", "ours-compiled"] if options.device == "cuda" else ["ours"]
        options.cases = [*ours, *(["lightly"] if find_spec("lightly") else []), "plain"]
    return options


def measure_steps(options: argparse.Namespace) -> tuple[list[dict], dict]:
    """One row per case, and the facts beside the table."""
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    config = training_step.settings(options)
    gflop = flops.autoencoder_step(config.model, config.decoder, config.mask_ratio) / 1e9
    with process_group(options.device) as place:
        peak = utilisation.peak_flops(place.device, dtype) / 1e9
        steps = {name: training_step.build(name, options, place) for name in options.cases}
        for step in steps.values():
            for _ in range(options.warm_up):
                step()
        found = interleave(
            {
                name: lambda step=step: training_step.block(step, options, place.device)
                for name, step in steps.items()
            },
            options.repeats,
        )
        peak = max(peak, utilisation.peak_flops(place.device, dtype) / 1e9)
    return training_step.table(found, gflop, peak), {
        "batch": options.batch,
        "steps per repeat": options.steps,
        "repeats": options.repeats,
        "precision": options.precision,
        "GFLOP per image": gflop,
        "peak GFLOP/s": peak,
    }
