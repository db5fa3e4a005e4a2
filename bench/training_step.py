"""The cases of a training step of stage 1: ours in its engine, peers in a plain torch loop."""

import argparse
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

from bench.peers import mae_plain
from bench.repeat import ratio, summary
from scemae.config.load import load_config
from scemae.config.schema.training import PretrainConfig
from scemae.distributed.process_group import Place
from scemae.methods import mae, registry

Step = Callable[[], None]


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
    """Median, range, ratio to each peer and share of the peak; the repeats stay in the JSON."""
    peers = [name for name in found if not name.startswith("ours")]
    rows = []
    for name, values in found.items():
        spread = summary(values)
        rows.append(
            {
                "case": name,
                "images/s": spread["median"],
                "least": spread["min"],
                "most": spread["max"],
                **{f"x {peer}": ratio(values, found[peer]) for peer in peers},
                "% of peak": 100 * spread["median"] * gflop / peak,
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
        reads_norm=kind == "plain",
    )


def build_ours(
    name: str,
    options: argparse.Namespace,
    place: Place,
    change: Callable[[nn.Module], None] = lambda module: None,
) -> Step:
    """scemae's training step in the engine of `scemae pretrain`; `change` may edit the module."""
    from scemae.distributed import engine as engines

    _, _, variant = name.partition("-")
    compiled = {"eager": ["runtime.compile=false"], "compiled": ["runtime.compile=true"]}
    config = settings(options, *compiled.get(variant, []))
    module = mae.build(registry.settings_of(mae, config), seed=config.seed)
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
    reads_norm: bool,
) -> Step:
    """A step of a plain torch loop; reads_norm: loss and gradient norm are read in each step."""
    forward = torch.compile(module) if is_compiled else module
    parameters = [p for p in module.parameters() if p.requires_grad]

    def step() -> None:
        images, _ = next(feed)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            loss = forward(images)
        if reads_norm:
            loss.item()
        loss.backward()
        if reads_norm:
            torch.norm(torch.stack([torch.norm(p.grad) for p in parameters if p.grad is not None]))
        optimizer.step()
        optimizer.zero_grad()

    return step


def batches(options: argparse.Namespace, config: PretrainConfig, place: Place) -> Iterator[tuple]:
    """Four batches of images (b, 3, s, s) and mask noise (b, n) on the device, over and over."""
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
