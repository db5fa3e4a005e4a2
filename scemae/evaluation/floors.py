"""Subjects without training of ours: raw pixels, a random encoder, and backbones of timm."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from scemae.evaluation.landmarks import features, matching
from scemae.evaluation.landmarks.features import Head, Trunk
from scemae.evaluation.subject import DETECTION, FEW_SHOT, FLOOR, MATCHING, REFERENCE, Line, Subject
from scemae.evaluation.subject_lines import of_descriptor, unit
from scemae.files import disk
from scemae.models.timm_vit import TimmVit
from scemae.models.vit import Encoder


def of_timm(name: str, seed: int = 0) -> Subject:
    """A backbone of timm: "NAME" has random weights, "NAME:FILE" local ones (timm_vit.py)."""
    model, _, weights = name.partition(":")
    network = TimmVit(model, Path(weights) if weights else None, seed)
    digest = disk.file_digest(Path(weights)) if weights else "random"
    trunk = features.timm_trunk(network, model)
    method = model if weights else f"{model}, random weights"
    trunk.model = ""
    return Subject(
        method,
        REFERENCE,
        trunk,
        disk.json_digest({"timm": model, "weights": digest, "seed": seed}),
        lines=of_descriptor(trunk),
        runs=[name],
    )


def floors(encoder: Encoder | None, seed: int) -> list[Subject]:
    """Raw pixels, raw patches without and with a preference for near pixels and, where an encoder
    is given, a random one of its shape.
    """
    raw = Trunk(
        "", 0, 3, nn.Identity(), lambda frames, stride: [frames], lambda maps, side: maps[0]
    )
    width = 3 * matching.PATCH**2
    patches: Head = lambda maps, side: matching.patches(maps[0])  # noqa: E731
    lines = [
        Line(MATCHING, 1, "raw pixels", 3, lambda maps, side: matching.pixels(maps[0])),
        Line(MATCHING, 1, "raw 9x9 patches", width, patches),
        Line(MATCHING, 1, "near 9x9 patches", width, patches, prior=matching.PRIOR),
    ]
    found = [Subject("", FLOOR, raw, "none", lines=lines)]
    if encoder is not None:
        found.append(_random_encoder(encoder, seed))
    return found


def _random_encoder(encoder: Encoder, seed: int) -> Subject:
    trunk = features.vit_trunk(random_like(encoder, seed))
    name, alone = "random encoder", unit(trunk.join)
    lines = [
        Line(MATCHING, 1, name, trunk.width, trunk.join),
        Line(DETECTION, 2, name, trunk.width, alone),
        Line(FEW_SHOT, 3, name, trunk.width, alone),
    ]
    shape = [encoder.width, len(encoder.blocks)]
    digest = disk.json_digest({"random": shape, "seed": seed})
    return Subject(name, FLOOR, trunk, digest, lines=lines)


def random_like(encoder: Encoder, seed: int) -> Encoder:
    """An encoder of the same shape with random weights: what the architecture alone gives."""
    torch.manual_seed(seed)
    block: Any = encoder.blocks[0]
    fresh = Encoder(
        encoder.width,
        len(encoder.blocks),
        block.attn.num_heads,
        encoder.patch_size,
        encoder.grid * encoder.patch_size,
    )
    weight = encoder.patch_embed.weight
    return fresh.to(weight.device, weight.dtype).eval().requires_grad_(False)
