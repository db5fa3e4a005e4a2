"""Our encoder's weights under the names of timm's VisionTransformer, and weights of timm or MAE as
ours.

Both ways are exact, with two exceptions, which are choices of ours: patches of another size are
resampled by FlexiViT's rule; learned positions of another grid are resampled bicubically, and MAE's
fixed ones are computed for ours.
"""

import math
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import create_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from scemae.config.schema.training import Model
from scemae.data.augment import MEAN, STD
from scemae.data.geometry import CROP
from scemae.errors import CheckpointError
from scemae.models.vit import Encoder, sincos_positions

ARCHITECTURE = "vit_base_patch8_224"  # of timm: any plain ViT, as its arguments are all replaced
# MAE's decoder, and classifiers.
LEFT_OUT = re.compile(r"mask_token|decoder_.*|head\..*|head_drop.*|pre_logits\..*")
SCALE = re.compile(r"(blocks\.\d+\.)ls([12])\.gamma")
UNKNOWN = {
    "reg_token": "registers",
    "register_tokens": "registers",
    "dist_token": "a distillation token",
    "q_norm": "norms of queries and keys",
    "fc_norm": "a LayerNorm after pooling",
    "norm_pre": "a LayerNorm before the blocks",
    "relative_position": "relative positions",
    "w12": "a gated MLP",
    "fc1_g": "a gated MLP",
    "rope": "rotary positions",
}


@dataclass
class Pixels:
    """The normalisation that weights expect of pixels in [0, 1]: (pixel - mean) / std, in RGB."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def timm_options(encoder: Encoder) -> dict:
    """The arguments of timm's VisionTransformer for an encoder of this shape."""
    blocks: Any = encoder.blocks
    return {
        "img_size": encoder.grid * encoder.patch_size,
        "patch_size": encoder.patch_size,
        "embed_dim": encoder.width,
        "depth": len(blocks),
        "num_heads": blocks[0].attn.num_heads,
        "mlp_ratio": 4,
        "qkv_bias": True,
        "class_token": True,
        "global_pool": "token",
        "num_classes": 0,
    }


def timm_config(encoder: Encoder) -> dict:
    """config.json for an encoder, as timm's `local-dir:` and `hf-hub:` and transformers read it.

    The architecture is one of timm's names, changed by model_args to this encoder's shape. timm's
    own transform of pictures is then that of frames: to 136 px, of which the middle 96 are seen.
    """
    side, arguments = encoder.grid * encoder.patch_size, timm_options(encoder)
    return {
        "architecture": ARCHITECTURE,
        # not among model_args, beside which transformers gives its own
        "num_classes": arguments.pop("num_classes"),
        "num_features": encoder.width,
        "global_pool": "token",
        "model_args": arguments,
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [3, side, side],
            "fixed_input_size": True,
            "interpolation": "bilinear",
            "crop_pct": math.floor(1e4 * side / (side + 2 * CROP)) / 1e4,
            "crop_mode": "center",
            "mean": list(MEAN),
            "std": list(STD),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def create_timm(config: dict) -> VisionTransformer:
    """The network that timm builds for a `timm_config`, without weights, in eval mode."""
    arguments = config["model_args"] | {"num_classes": config["num_classes"]}
    made = create_model(config["architecture"], **arguments).eval()
    assert isinstance(made, VisionTransformer)
    return made


def build_timm(options: dict) -> VisionTransformer:
    """timm's VisionTransformer of these arguments, in eval mode, with LayerNorm's eps of MAE, 1e-6.

    Its forward_features gives tokens (b, 1 + n, d).
    """
    return VisionTransformer(**options, norm_layer=partial(nn.LayerNorm, eps=1e-6)).eval()


def to_timm(encoder: Encoder) -> dict[str, Tensor]:
    """An encoder's weights as timm names them.

    The patch embedding becomes a convolution, the table of positions pos_embed. They expect pixels
    normalised by DVE's statistics (PROTOCOL 3.1), as the encoder does.
    """
    tensors = {
        key: value
        for key, value in encoder.state_dict().items()
        if key not in ("patch_embed.weight", "patch_embed.bias", "positions")
    }
    p = encoder.patch_size
    return {
        "cls_token": tensors.pop("cls_token"),
        "pos_embed": encoder.get_buffer("positions").unsqueeze(0),
        "patch_embed.proj.weight": rearrange(
            encoder.patch_embed.weight, "d (p q c) -> d c p q", p=p, q=p
        ),
        "patch_embed.proj.bias": encoder.patch_embed.bias,
        **tensors,
    }


def translate(
    found: dict[str, Tensor], model: Model, pixels: Pixels, *, path: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights under timm's names as those of our `Encoder` of the shape `model`, and the changes.

    `path` is named in errors. Raises CheckpointError with the key of a weight that our encoder does
    not have, that is missing, or that is of another width or depth.
    """
    left = {key: value for key, value in found.items() if not LEFT_OUT.fullmatch(key)}
    _refuse_unknown(left, path)
    scales = [key for key in left if SCALE.fullmatch(key)]
    left = fold_layer_scale(left)
    for key in ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"):
        if key not in left:
            raise CheckpointError(
                f"{path}: found no {key}, which a ViT of MAE or timm has; give the weights of one"
            )
    kernel, table = left.pop("patch_embed.proj.weight"), left.pop("pos_embed")
    if kernel.shape[:2] != (model.width, 3) or kernel.shape[2] != kernel.shape[3]:
        raise CheckpointError(
            f"{path}: patch_embed.proj.weight: found {tuple(kernel.shape)}, {model.name} needs "
            f"({model.width}, 3, p, p); give the --model that the weights are of"
        )
    small = resample_patch_embed(kernel, [model.patch_size, model.patch_size])
    weight, bias = fold_pixels(small, left.pop("patch_embed.proj.bias"), pixels)
    positions, remark = fit_positions(table, model, path)
    tensors = {"patch_embed.weight": weight, "patch_embed.bias": bias, **left}
    if positions is not None:
        tensors["positions"] = positions
    _check_shapes(tensors, model, path)
    size = kernel.shape[-1]
    changes = [
        remark,
        f"patches of {size} px resampled to {model.patch_size}"
        if size != model.patch_size
        else f"patches of {size} px as they are",
        "pixel statistics folded into the patch embedding",
    ]
    return tensors, changes + (["LayerScale folded into the layers before it"] if scales else [])


def fold_pixels(kernel: Tensor, bias: Tensor, pixels: Pixels) -> tuple[Tensor, Tensor]:
    """A patch embedding for pixels normalised by `pixels`, as one for ours (PROTOCOL 3.1), exactly.

    kernel (d, 3, p, p), bias (d,); returns weight (d, p*p*3), in the layout of `patchify`, and bias
    (d,).
    Ours are u = (x - M) / S and theirs (x - m) / s = u * S / s + (M - m) / s, so that
    sum_k w_k (x_k - m) / s is sum_k (w_k S / s) u_k plus the constant sum_k w_k (M - m) / s: a
    factor and a constant for each colour.
    """
    mean, std, theirs, spread = (
        torch.tensor(part, dtype=torch.float64) for part in (MEAN, STD, pixels.mean, pixels.std)
    )
    exact = kernel.double()
    weight = exact * (std / spread).view(3, 1, 1)
    constant = (exact.sum((2, 3)) * ((mean - theirs) / spread)).sum(1)
    return weight.permute(0, 2, 3, 1).flatten(1).float().contiguous(), (
        bias.double() + constant
    ).float()


def fold_layer_scale(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same function without LayerScale: gamma * (W x + b) is (gamma W) x + gamma b."""
    folded = {key: value for key, value in tensors.items() if not SCALE.fullmatch(key)}
    for key, gamma in tensors.items():
        if scale := SCALE.fullmatch(key):
            layer = scale[1] + ("attn.proj" if scale[2] == "1" else "mlp.fc2")
            for part in (f"{layer}.weight", f"{layer}.bias"):
                if part in folded:
                    folded[part] = folded[part] * (
                        gamma.view(-1, 1) if part.endswith("weight") else gamma
                    )
    return folded


def fit_positions(table: Tensor, model: Model, path: Path) -> tuple[Tensor | None, str]:
    """The table of positions (1 + 144, d) for our grid, None for our fixed one, and a remark.

    table (1, n, d) or (1, 1 + n, d), of a square grid. MAE's fixed table becomes ours, which is the
    same for our grid. Raises CheckpointError.
    """
    table = table.reshape(-1, table.shape[-1])
    side, grid = int(len(table) ** 0.5), model.image_size // model.patch_size
    extra = len(table) - side * side
    if table.shape[1] != model.width or extra not in (0, 1):
        raise CheckpointError(
            f"{path}: pos_embed: found {tuple(table.shape)}, {model.name} needs a square grid of "
            f"positions {model.width} wide, with CLS's or without; give weights without registers "
            "of this --model"
        )
    if not extra:
        table = torch.cat([torch.zeros(1, model.width), table])
    if model.width % 4 == 0 and torch.allclose(
        table, sincos_positions(model.width, side), atol=1e-4
    ):
        return None, f"the fixed positions of a {side}x{side} grid computed anew for {grid}x{grid}"
    if side == grid:
        return table.contiguous(), f"learned positions of a {grid}x{grid} grid as they are"
    return (
        resample_abs_pos_embed(table.unsqueeze(0), [grid, grid])[0].contiguous(),
        f"learned positions of a {side}x{side} grid resampled to {grid}x{grid}",
    )


def _refuse_unknown(tensors: dict[str, Tensor], path: Path) -> None:
    for key in tensors:
        for part, what in UNKNOWN.items():
            if part in key:
                raise CheckpointError(
                    f"{path}: {key}: found {what}, which this encoder does not have; give weights "
                    "of a plain ViT with a CLS token"
                )


def _check_shapes(tensors: dict[str, Tensor], model: Model, path: Path) -> None:
    with torch.device("meta"):
        encoder = Encoder(
            model.width,
            model.depth,
            model.heads,
            model.patch_size,
            model.image_size,
            own_positions="positions" in tensors,
        )
    own = {key: tuple(value.shape) for key, value in encoder.state_dict().items()}
    for key in [*own, *tensors]:
        found = tuple(tensors[key].shape) if key in tensors else "nothing"
        if found != own.get(key, "nothing"):
            raise CheckpointError(
                f"{path}: {key}: found {found}, {model.name} needs {own.get(key, 'nothing')}; give "
                "the --model that the weights are of, and weights of a plain ViT"
            )
        if not tensors[key].isfinite().all():
            raise CheckpointError(
                f"{path}: {key}: holds numbers that are not finite; copy the file again"
            )
