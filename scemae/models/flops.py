"""Floating-point operations per image, by formula.

A multiply-add is two operations. Only matrix products and the two products of attention count, not
LayerNorm, softmax, GELU or distances. A backward pass is two products for each one of the forward
pass, one where the input needs no gradient. That is the count of PaLM's appendix B (arXiv
2204.02311): what an attention kernel computes twice counts once, so that model FLOPs utilisation
(training/utilisation.py) is the share of the device that does what the model asks for.
"""

from scemae.config.schema.training import Carb, DecoderShape, Model
from scemae.models.carb import count_selected


def linear(tokens: int, width_in: int, width_out: int) -> int:
    """One linear map of some tokens."""
    return 2 * tokens * width_in * width_out


def blocks(tokens: int, width: int, depth: int) -> int:
    """Transformer blocks with MLP ratio 4: 12 width^2 weights a block; Q K^T and A V, all heads."""
    return depth * (linear(tokens, width, 12 * width) + 4 * tokens**2 * width)


def encoder(model: Model, kept: int | None = None) -> int:
    """A forward pass over CLS and `kept` patches, or all."""
    patches = (model.image_size // model.patch_size) ** 2 if kept is None else kept
    return linear(patches, 3 * model.patch_size**2, model.width) + blocks(
        1 + patches, model.width, model.depth
    )


def autoencoder_step(model: Model, decoder: DecoderShape, mask_ratio: float) -> int:
    """Stage 1, forward and backward. DeiT-S with the 512 x 8 decoder: 27.9e9.

    Counted as MAE's code computes it; ours leaves out, in the decoder's last block, the tokens that
    are not predicted, 2.3 % of that.
    """
    patches, pixels = (model.image_size // model.patch_size) ** 2, 3 * model.patch_size**2
    kept = int(patches * (1 - mask_ratio))
    forward = (
        encoder(model, kept)
        + linear(1 + kept, model.width, decoder.width)
        + blocks(1 + patches, decoder.width, decoder.depth)
        + linear(patches, decoder.width, pixels)
    )
    return 3 * forward - linear(kept, pixels, model.width)  # images need no gradient


def projector_step(carb: Carb, width: int, patches: int) -> int:
    """Stage 2, forward and backward: the projector (of T alone if it is pointwise), and Eq. 4."""
    wide = {"mlp": width, "conv3": 9 * carb.dim}.get(carb.projector, carb.dim)
    tokens = count_selected(carb.eta, carb.clusters, patches)
    seen = tokens if carb.projector in ("linear", "mlp") else patches
    first = linear(seen, width, wide)
    second = linear(seen, width, carb.dim) if carb.projector == "mlp" else 0
    # twice and not three times the first: the encoder's features need no gradient
    return 2 * first + 3 * second + 3 * linear(tokens, carb.dim, tokens)


def selection(model: Model, carb: Carb) -> int:
    """What the frozen encoder does once for each view image of stage 2, forward."""
    patches, width = (model.image_size // model.patch_size) ** 2, model.width
    tokens = (
        patches if carb.remaining == "all" else count_selected(carb.eta, carb.clusters, patches)
    )
    return (
        linear(patches, 3 * model.patch_size**2, width)
        + blocks(1 + patches, width, 3)
        + linear(1 + patches, width, 3 * width)
        + 2 * patches * width  # Eq. 1: q, k, v and K q_cls
        + blocks(1 + tokens, width, model.depth - 3)
    )
