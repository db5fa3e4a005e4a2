"""`scemae replay CAPSULE`: run the batch of a step that was left out again, on one process, and see what it does.

    scemae replay runs/mae/capsules/step-00000613

Loads the checkpoint before the step and feeds the batch as it was fed then, with the same crops and masks: the loss of
each image, the norm of the gradients, and the first module whose output is no number. Where all is finite, neither data
nor weights are to blame: look at the machine of the rank that the capsule names, or at the steps between.
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
from scemae.config.values import given_path
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
class Scale:
    """RandomResizedCrop's share of the area, as two numbers."""

    scale: tuple[float, float]


@dataclass
class Side:
    """The side of the images in pixels."""

    image_size: Small


class Facts(TypedDict):
    """capsule.json: the step that was left out, whose loss was bad, why, the checkpoint before it, and the images."""

    step: Count
    rank: Count | None
    what: str
    checkpoint: FileName
    keys: list[str]


@dataclass
class Replayed:
    """The part of a capsule's config.yaml that is read again."""

    seed: Count
    data: Scale
    mask_ratio: float | None = None
    model: Side | None = None
    backbone: str | None = None
    carb: Carb | None = None


@dataclass
class Replay:
    """What one batch did: loss of each image (b,), gradient norm, and the first module with a bad output."""

    losses: list[float]
    norm: float
    first_bad: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("capsule", metavar="CAPSULE", type=given_path, help="RUN/capsules/step-*")


def main(options: argparse.Namespace) -> None:
    """Replay one capsule and print what happened."""
    folder = options.capsule
    facts = read_facts(folder)
    found = replay(folder, facts)
    mean = sum(found.losses) / len(found.losses)
    print(
        f"step {facts['step']}: {facts['what']}\nreplayed on {facts['checkpoint']}: loss {mean:.6g}, gradient norm "
        f"{found.norm:.6g}"
    )
    worst = sorted(
        zip(found.losses, facts["keys"]), key=lambda pair: (math.isfinite(pair[0]), -pair[0])
    )[:5]
    print("worst images: " + ", ".join(f"{key} {loss:.4g}" for loss, key in worst))
    if found.first_bad:
        print(f"first output that is no number: {found.first_bad}")
    elif math.isfinite(mean) and math.isfinite(found.norm):
        print(
            "all is finite here: not this batch on these weights alone; look at the machine of rank "
            f"{facts['rank']}, or at the steps between"
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
            f"{folder}: found no whole capsule ({error}); give RUN/capsules/step-*"
        ) from error


def replay(folder: Path, facts: Facts) -> Replay:
    """Feed a capsule's batch to the network of its checkpoint, image by image and as a whole."""
    config = documents.read_yaml(folder / "config.yaml", Replayed, error=RunFolderError)
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
    spoilt = float("nan") if faults.at("loss", step=facts["step"], rank=facts["rank"]) else 1.0
    first_bad: list[str] = []
    for name, child in module.named_modules():
        child.register_forward_hook(_look(name or "the loss", first_bad))
    losses = [
        module(*(part[row : row + 1] for part in inputs), torch.ones(1)).item() * spoilt
        for row in range(rows)
    ]
    (module(*inputs, torch.full((rows,), 1 / rows)) * spoilt).backward()
    norm = nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    return Replay(losses, norm.item(), first_bad[0] if first_bad else None)


def read_batch(path: Path) -> dict[str, Tensor]:
    """frames (b, s, s, 3) uint8, samples and epochs (b,) int64. Raises RunFolderError where they are not that."""
    try:
        disk.open_regular(path).close()
        found = load_file(path)
        rows = len(found["samples"])
        right = {
            "frames": (torch.uint8, (rows, *found["frames"].shape[1:3], 3)),
            "samples": (torch.int64, (rows,)),
            "epochs": (torch.int64, (rows,)),
        }
        wrong = next(
            (
                name
                for name, kind in right.items()
                if (found[name].dtype, tuple(found[name].shape)) != kind
            ),
            None,
        )
        if wrong or not rows:
            raise ValueError(f"{wrong or 'samples'} is of another type or shape")
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


def _look(name: str, first_bad: list[str]) -> Callable:
    def hook(module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor) and not first_bad and not output.isfinite().all():
            first_bad.append(name)

    return hook


def _pretrain(config: Replayed, folder: Path, batch: Batch) -> tuple[nn.Module, tuple[Tensor, ...]]:
    module, _ = mae.load_autoencoder(folder)
    size = config.model.image_size
    return module, pretraining_views(batch, size, tuple(config.data.scale), module.encoder.grid**2)[
        :2
    ]


def _correspond(
    config: Replayed, folder: Path, batch: Batch
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    if config.backbone is None or config.carb is None:
        raise RunFolderError(
            f"{folder.parent / 'config.yaml'}: is of another method than mae and carb, which cannot be replayed"
        )
    encoder, _ = mae.load_encoder(Path(config.backbone))
    settings, shapes = carb.Settings(config.carb), checkpoint.read_shapes(folder)
    module = networks.sized(partial(carb.build, settings, encoder, seed=0), shapes, folder)
    networks.fill(module, checkpoint.read_weights(folder), folder)
    views = correspondence_views(batch, encoder.image_size, tuple(config.data.scale))
    with torch.no_grad():
        return module, carb.embed(settings, encoder, views)
