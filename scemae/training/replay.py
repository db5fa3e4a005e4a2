"""`scemae replay DUMP`: run the batch of a bad step again in one process (bad_step_dump.py).

    scemae replay runs/mae/capsules/step-00000613

Loads the checkpoint before the step and gives it the batch, with the same crops and masks. Prints
the loss of the images, the norm of the gradients, and the first module whose output is not finite.
If all is finite, neither the data nor these weights are to blame: check the machine of the rank
that the dump names, and the steps between the checkpoint and this one.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from scemae.config.schema.training import Carb
from scemae.data.order import Slice
from scemae.data.pipeline import Batch, correspondence_views, pretraining_views
from scemae.errors import FileError, RunFolderError
from scemae.files import disk, documents
from scemae.files.documents import Count, FileName, Small
from scemae.methods import carb, mae
from scemae.runs import faults, networks
from scemae.runs.checkpoints import checkpoint
from scemae.training import bad_step_dump


@dataclass
class CropScale:
    """RandomResizedCrop's share of the area, lowest and highest."""

    scale: tuple[float, float]


@dataclass
class Side:
    """The side of the images in pixels."""

    image_size: Small


class Facts(TypedDict):
    """capsule.json: the bad step, the rank whose loss was bad, why, the checkpoint, the images."""

    step: Count
    rank: Count | None
    what: str
    checkpoint: FileName
    keys: list[str]


@dataclass
class DumpedConfig:
    """The part of a dump's config.yaml that is needed."""

    seed: Count
    data: CropScale
    mask_ratio: float | None = None
    model: Side | None = None
    backbone: str | None = None
    carb: Carb | None = None


@dataclass
class Replay:
    """The loss of each image (b,), the gradient norm, and the first module with a bad output."""

    losses: list[float]
    norm: float
    first_bad: str | None


def main(options: argparse.Namespace) -> None:
    """Replay one dump and print the result."""
    folder = options.dump
    facts = read_facts(folder)
    found = replay(folder, facts)
    mean = sum(found.losses) / len(found.losses)
    print(
        f"step {facts['step']}: {facts['what']}\n"
        f"replayed on {facts['checkpoint']}: loss {mean:.6g}, gradient norm {found.norm:.6g}"
    )
    worst = sorted(
        zip(found.losses, facts["keys"]), key=lambda pair: (math.isfinite(pair[0]), -pair[0])
    )[:5]
    print("worst images: " + ", ".join(f"{key} {loss:.4g}" for loss, key in worst))
    if found.first_bad:
        print(f"first output that is not finite: {found.first_bad}")
    elif math.isfinite(mean) and math.isfinite(found.norm):
        print(
            "all is finite here: this batch on these weights is not the cause; check the machine "
            f"of rank {facts['rank']}, and the steps between"
        )


def read_facts(folder: Path) -> Facts:
    """capsule.json. Raises RunFolderError where there is none."""
    try:
        return documents.read_json(
            folder / bad_step_dump.FACTS,
            Facts,
            error=RunFolderError,
            remedy="give RUN/capsules/step-*",
        )
    except OSError as error:
        raise RunFolderError(
            f"{folder}: found no whole dump ({error}); give RUN/capsules/step-*"
        ) from error


def replay(folder: Path, facts: Facts) -> Replay:
    """Give a dump's batch to the network of its checkpoint, image by image and as a whole."""
    config = documents.read_yaml(folder / "config.yaml", DumpedConfig, error=RunFolderError)
    kept = read_batch(folder / bad_step_dump.BATCH)
    rows = len(kept["samples"])
    part = Slice(
        facts["step"],
        kept["samples"].numpy(),
        kept["epochs"].numpy(),
        torch.ones(rows).numpy(),
        torch.arange(rows).numpy(),
    )
    batch = Batch(kept["frames"].permute(0, 3, 1, 2), part, config.seed)
    prepare = _pretrain if config.model else _correspond
    module, inputs = prepare(config, folder / facts["checkpoint"], batch)
    step, rank = facts["step"], facts["rank"]
    is_spoilt = rank is not None and faults.at("loss", step=step, rank=rank)
    factor = float("nan") if is_spoilt else 1.0
    first_bad: list[str] = []
    for name, child in module.named_modules():
        child.register_forward_hook(_watch(name or "the loss", first_bad))
    losses = [
        module(*(part[row : row + 1] for part in inputs), torch.ones(1)).item() * factor
        for row in range(rows)
    ]
    (module(*inputs, torch.full((rows,), 1 / rows)) * factor).backward()
    norm = nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    return Replay(losses, norm.item(), first_bad[0] if first_bad else None)


def read_batch(path: Path) -> dict[str, Tensor]:
    """frames (b, s, s, 3) uint8, samples and epochs (b,) int64.

    Raises RunFolderError where the file holds anything else.
    """
    try:
        disk.open_regular(path).close()
        found = load_file(path)
        rows = len(found["samples"])
        right = {
            "frames": (torch.uint8, (rows, *found["frames"].shape[1:3], 3)),
            "samples": (torch.int64, (rows,)),
            "epochs": (torch.int64, (rows,)),
        }
        for name, kind in right.items():
            if not rows or (found[name].dtype, tuple(found[name].shape)) != kind:
                raise ValueError(f"{name} is of another type or shape")
    except (
        OSError,
        FileError,
        SafetensorError,
        KeyError,
        ValueError,
        TypeError,
        IndexError,
    ) as error:
        raise RunFolderError(
            f"{path}: cannot be read as a batch ({error}); give RUN/capsules/step-*"
        ) from error
    return found


def _watch(name: str, first_bad: list[str]) -> Callable:
    def hook(module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor) and not first_bad and not output.isfinite().all():
            first_bad.append(name)

    return hook


def _pretrain(
    config: DumpedConfig, folder: Path, batch: Batch
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The masked autoencoder of a checkpoint, and its arguments without the weights."""
    module, _ = mae.load_autoencoder(folder)
    encoder = module.encoder
    views = pretraining_views(batch, encoder.image_size, config.data.scale, encoder.grid**2)
    return module, views[:2]


def _correspond(
    config: DumpedConfig, folder: Path, batch: Batch
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """CARB of a checkpoint, and its arguments without the weights."""
    if config.backbone is None or config.carb is None:
        raise RunFolderError(
            f"{folder.parent / 'config.yaml'}: is of a method that cannot be replayed; only mae "
            "and carb can"
        )
    encoder, _ = mae.load_encoder(Path(config.backbone))
    settings, shapes = carb.Settings(config.carb), checkpoint.read_shapes(folder)
    module = networks.sized(partial(carb.build, settings, encoder, seed=0), shapes, folder)
    networks.fill(module, checkpoint.read_weights(folder), folder)
    views = correspondence_views(batch, encoder.image_size, config.data.scale)
    with torch.no_grad():
        return module, carb.embed(settings, encoder, views)
