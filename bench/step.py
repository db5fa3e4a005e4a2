"""One training step of stage 1 (forward, backward, AdamW): ours through DeepSpeed, lightly's MAE, the official recipe."""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from bench import machine
from bench.peers import mae_plain
from bench.repeat import interleave, ratio, summary
from scemae.config.load import load_config
from scemae.config.schema.training import PretrainConfig
from scemae.distributed.process_group import Place, process_group
from scemae.runs import networks
from scemae.training import flops

Step = Callable[[], None]
HELP = """\
python -m bench step: images per second of one full training step of stage 1, on batches that are already on the device

  python -m bench step --model deit_small --decoder mae --batch 64
  python -m bench step --device cuda --precision bf16 --batch 512 --steps 20
  python -m bench step --end-to-end data/celeba/train --batch 64       from shards, decoding and cropping too

ours     scemae's autoencoder in the DeepSpeed engine that `scemae pretrain` starts (world size 1)
lightly  the package's own building blocks as its documentation trains MAE, torch's AdamW; left out where not installed
plain    the official recipe, eager: attention as a matrix in memory, every patch embedded and predicted

All have the same sizes, batch, threads and allocator. bf16: ours by DeepSpeed (fp32 master weights), the peers by
autocast. The share of the peak is (GFLOP of the published recipe x images/s) / the fastest matrix product measured here.
"""


def main(argv: list[str]) -> None:
    """Measure and write the table."""
    options = parse(argv)
    if options.end_to_end:
        from bench.end_to_end import measure
    else:
        measure = measure_steps
    rows, told = measure(options)
    name = "end_to_end" if options.end_to_end else "step"
    machine.write(
        f"{name}-{options.model}-{options.device}-{options.precision}",
        options.out,
        rows,
        {**told, **machine.facts()},
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
        help="steps in one measured block (3); end to end, in one "
        "heartbeat of three (20: the batches that are ready beforehand, 3 of ours and 2 a worker of "
        "plain's, must not count)",
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
        help="runtime.tier of ours, end to end: a tier that decodes once is told apart",
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


def settings(options: argparse.Namespace, *overrides: str) -> PretrainConfig:
    """The settings of `scemae pretrain` at these sizes."""
    return load_config(
        "pretrain",
        [
            "run_dir=none",
            f"model={options.model}",
            f"decoder={options.decoder}",
            f"optim.global_batch_size={options.batch}",
            f"runtime.micro_batch_size={options.batch}",
            f"runtime.device={options.device}",
            f"runtime.precision={options.precision}",
            *overrides,
        ],
    )


def measure_steps(options: argparse.Namespace) -> tuple[list[dict], dict]:
    """One row per case, and the facts beside the table."""
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    config = settings(options)
    gflop = flops.autoencoder_step(config.model, config.decoder, config.mask_ratio) / 1e9
    with process_group(options.device) as place:
        peak = flops.peak_flops(place.device, dtype) / 1e9
        steps = {name: build(name, options, place) for name in options.cases}
        for step in steps.values():
            for _ in range(options.warm_up):
                step()
        found = interleave(
            {
                name: lambda step=step: block(step, options, place.device)
                for name, step in steps.items()
            },
            options.repeats,
        )
        peak = max(peak, flops.peak_flops(place.device, dtype) / 1e9)
    return table(found, gflop, peak), {
        "batch": options.batch,
        "steps per repeat": options.steps,
        "repeats": options.repeats,
        "precision": options.precision,
        "GFLOP per image": gflop,
        "peak GFLOP/s": peak,
    }


def wait_for(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def block(step: Step, options: argparse.Namespace, device: torch.device) -> float:
    """Images per second of some steps in a row."""
    wait_for(device)
    started = time.perf_counter()
    for _ in range(options.steps):
        step()
    wait_for(device)
    return options.steps * options.batch / (time.perf_counter() - started)


def table(found: dict[str, list[float]], gflop: float, peak: float) -> list[dict]:
    """Median, range, the ratio to each peer, and the share of the peak; repeats stay in the JSON."""
    peers = [name for name in found if not name.startswith("ours")]
    rows = []
    for name, values in found.items():
        told = summary(values)
        rows.append(
            {
                "case": name,
                "images/s": told["median"],
                "least": told["min"],
                "most": told["max"],
                **{f"x {peer}": ratio(values, found[peer]) for peer in peers},
                "% of peak": 100 * told["median"] * gflop / peak,
                "repeats": values,
            }
        )
    return rows


def build(name: str, options: argparse.Namespace, place: Place) -> Step:
    """A function that makes one training step of the case `name`."""
    if name.startswith("ours"):
        return build_ours(name, options, place)
    config, kind = settings(options), name.removesuffix("-compiled")
    if kind == "plain":
        module, make = (
            mae_plain.PlainMae(config.model, config.decoder, config.mask_ratio),
            mae_plain.optimizer,
        )
    else:
        from bench.peers import mae_lightly

        module, make = (
            mae_lightly.LightlyMae(config.model, config.decoder, config.mask_ratio),
            mae_lightly.optimizer,
        )
    module.to(place.device)
    return peer_step(
        module,
        make(module),
        batches(options, config, place),
        bf16=options.precision == "bf16",
        is_compiled=name.endswith("-compiled"),
        tells_norm=kind == "plain",
    )


def build_ours(
    name: str,
    options: argparse.Namespace,
    place: Place,
    change: Callable[[nn.Module], None] = lambda module: None,
) -> Step:
    """What scemae.training.loop.train_step does, on the engine of `scemae pretrain`; `change` sees the module before."""
    from scemae.distributed import engine as engines

    _, _, variant = name.partition("-")
    compiled = {"eager": ["runtime.compile=false"], "compiled": ["runtime.compile=true"]}
    config = settings(options, *compiled.get(variant, []))
    module = networks.build_autoencoder(
        config.model,
        config.decoder,
        mask_ratio=config.mask_ratio,
        norm_pix=config.norm_pix,
        seed=config.seed,
    )
    change(module)
    engine = engines.start(module, config.optim, config.runtime, place, 1)
    feed = batches(options, config, place)

    def step() -> None:
        images, noise = next(feed)
        loss = engine(
            images, noise, torch.full((len(images),), 1 / len(images), device=images.device)
        )
        engine.backward(loss)
        engine.step()
        engine.get_global_grad_norm()

    return step


def peer_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    feed: Iterator,
    *,
    bf16: bool,
    is_compiled: bool,
    tells_norm: bool,
) -> Step:
    """A step of a plain torch loop; tells_norm: reads loss and gradient norm each step, as the official recipe does."""
    forward = torch.compile(module) if is_compiled else module
    parameters = [p for p in module.parameters() if p.requires_grad]

    def step() -> None:
        images, _ = next(feed)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            loss = forward(images)
        if tells_norm:
            loss.item()
        loss.backward()
        if tells_norm:
            torch.norm(torch.stack([torch.norm(p.grad) for p in parameters if p.grad is not None]))
        optimizer.step()
        optimizer.zero_grad()

    return step


def batches(options: argparse.Namespace, config: PretrainConfig, place: Place) -> Iterator[tuple]:
    """Images (b, 3, s, s) and mask noise (b, n) on the device, four made once and given out in turn."""
    size, n = config.model.image_size, (config.model.image_size // config.model.patch_size) ** 2
    generator = torch.Generator(place.device).manual_seed(0)
    made = [
        (
            torch.randn(options.batch, 3, size, size, device=place.device, generator=generator),
            torch.rand(options.batch, n, device=place.device, generator=generator),
        )
        for _ in range(4)
    ]
    while True:
        yield from made
