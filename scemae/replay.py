"""`scemae replay CAPSULE`: run the batch of a step that was left out again, on one process, and see what it does.

    scemae replay runs/mae/capsules/step-00000613

Loads the checkpoint before the step and feeds the batch as it was fed then, with the same crops and masks: the loss of
each image, the norm of the gradients, and the first module whose output is no number. Where all is finite, neither data
nor weights are to blame: look at the machine of the rank that the capsule names, or at the steps between.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from scemae import capsule, checkpoint, faults, restore
from scemae.correspond import build
from scemae.data.order import Slice
from scemae.data.pipeline import Batch, correspondence_views, pretraining_views
from scemae.errors import RunFolderError
from scemae.models.carb import select, third
from scemae.schema import Carb
from scemae.words import given_path


@dataclass
class Replay:
    """What one batch did: loss of each image (b,), gradient norm, and the first module with a bad output."""

    losses: list[float]
    norm: float
    first_bad: str | None


def main(argv: list[str]) -> None:
    """Replay one capsule and print what happened."""
    parser = argparse.ArgumentParser("scemae replay", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capsule", metavar="CAPSULE", type=given_path, help="RUN/capsules/step-*")
    folder = parser.parse_args(argv).capsule
    facts = read_facts(folder)
    found = replay(folder, facts)
    mean = sum(found.losses) / len(found.losses)
    print(f"step {facts['step']}: {facts['what']}\nreplayed on {facts['checkpoint']}: loss {mean:.6g}, gradient norm "
          f"{found.norm:.6g}")
    worst = sorted(zip(found.losses, facts["keys"]), key=lambda pair: (math.isfinite(pair[0]), -pair[0]))[:5]
    print("worst images: " + ", ".join(f"{key} {loss:.4g}" for loss, key in worst))
    if found.first_bad:
        print(f"first output that is no number: {found.first_bad}")
    elif math.isfinite(mean) and math.isfinite(found.norm):
        print("all is finite here: not this batch on these weights alone; look at the machine of rank "
              f"{facts['rank']}, or at the steps between")


def read_facts(folder: Path) -> dict:
    """capsule.json. Raises RunFolderError where there is none."""
    try:
        return json.loads((folder / capsule.FACTS).read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder}: found no whole capsule ({error}); give RUN/capsules/step-*") from error


def replay(folder: Path, facts: dict) -> Replay:
    """Feed a capsule's batch to the network of its checkpoint, image by image and as a whole."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf8"))
    kept = load_file(folder / capsule.BATCH)
    rows = len(kept["samples"])
    part = Slice(facts["step"], kept["samples"].numpy(), kept["epochs"].numpy(), torch.ones(rows).numpy(),
                 torch.arange(rows).numpy())
    batch = Batch(kept["frames"].permute(0, 3, 1, 2), part, config["seed"])
    prepare = _pretrain if "mask_ratio" in config else _correspond
    module, inputs = prepare(config, folder / facts["checkpoint"], batch)
    spoilt = float("nan") if faults.at("loss", step=facts["step"], rank=facts["rank"]) else 1.0
    first_bad: list[str] = []
    for name, child in module.named_modules():
        child.register_forward_hook(_look(name or "the loss", first_bad))
    losses = [module(*(part[row:row + 1] for part in inputs), torch.ones(1)).item() * spoilt for row in range(rows)]
    (module(*inputs, torch.full((rows,), 1 / rows)) * spoilt).backward()
    norm = nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    return Replay(losses, norm.item(), first_bad[0] if first_bad else None)


def _look(name: str, first_bad: list[str]) -> Callable:
    def hook(module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor) and not first_bad and not output.isfinite().all():
            first_bad.append(name)

    return hook


def _pretrain(config: dict, folder: Path, batch: Batch) -> tuple[nn.Module, tuple[Tensor, ...]]:
    module, _ = restore.load_autoencoder(folder)
    size = config["model"]["image_size"]
    return module, pretraining_views(batch, size, tuple(config["data"]["scale"]), module.encoder.grid**2)[:2]


def _correspond(config: dict, folder: Path, batch: Batch) -> tuple[nn.Module, tuple[Tensor, ...]]:
    encoder, _ = restore.load_encoder(Path(config["backbone"]))
    carb = Carb(**config["carb"])
    module = build(carb, encoder)
    module.load_state_dict(checkpoint.read_weights(folder))
    views = correspondence_views(batch, encoder.grid * encoder.patch_size, tuple(config["data"]["scale"]))
    chosen = select(encoder, third(encoder, views, carb.layer, carb.heads), **restore.selection_options(carb))
    return module, (chosen.tokens.bfloat16(), chosen.ids, chosen.slot)  # rounded as in the token store
