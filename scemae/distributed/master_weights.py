"""DeepSpeed's bf16 optimizer (its ZeRO stage 1) in a few kernels a step.

It keeps fp32 master weights of a bf16 model, and sums the gradients of the micro-steps in fp32.
DeepSpeed 0.19 casts, adds, measures, clips and zeroes each parameter's gradient on its own: for a
DeiT-S, 250 times each. Here that is done for all parameters at once, and the numbers are the same.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor


def is_kept(engine: Any) -> bool:
    """Whether this engine has that optimizer."""
    return hasattr(engine.optimizer, "fp32_groups_gradients_flat")


def sum_at_once(engine: Any, is_alone: bool) -> None:
    """Let the engine sum its gradients a group at a time, and reduce none where it `is_alone`."""
    zero = engine.optimizer
    zero.update_hp_grads = partial(_add_gradients, zero)
    zero.clear_hp_grads = partial(_forget, zero)
    if is_alone:
        micro_steps = engine.gradient_accumulation_steps()
        engine.buffered_allreduce_fallback = partial(_round, zero, micro_steps)


@torch.no_grad()
def _add_gradients(zero: Any, clear_lp_grads: bool = False) -> None:
    """Move the bf16 gradients of one micro-step into the fp32 sums; one that is absent is zeros."""
    for group, sums in enumerate(zero.fp32_groups_actual_gradients_flat):
        params, has_gradients = zero.bf16_groups[group], zero.fp32_groups_has_gradients[group]
        flat = zero.flatten([torch.zeros_like(p) if p.grad is None else p.grad for p in params])
        sums.add_(flat) if any(has_gradients) else sums.copy_(flat)
        has_gradients[:] = [True] * len(params)
        for parameter in params:
            parameter.grad = None  # the next backward pass then stores its gradient without adding


def _forget(zero: Any) -> None:
    """Begin new sums: the first micro-step overwrites the old ones."""
    for has_gradients in zero.fp32_groups_has_gradients:
        has_gradients[:] = [False] * len(has_gradients)


def _round(zero: Any, micro_steps: int, grads: None = None, elements_per_buffer: int = 0) -> None:
    """What a reduction over one rank does: sums travel in bf16, so they come back rounded.

    The gradient of a single micro-step is bf16 already.
    """
    if micro_steps > 1:
        for sums in zero.fp32_groups_gradients_flat:
            sums.copy_(sums.bfloat16())


def norm(
    input_tensors: list[Tensor], norm_type: float = 2, mpu: None = None, moe_ep_group: None = None
) -> Tensor:
    """The 2-norm of all `input_tensors` as one vector: DeepSpeed's `get_global_norm_of_tensors`."""
    return torch.stack(torch._foreach_norm(input_tensors, 2)).square().sum().sqrt()


def clip(
    input_tensors: list[Tensor], max_norm: float, global_norm: Tensor, mpu: None = None
) -> None:
    """Scale `input_tensors`, whose norm is `global_norm`, to `max_norm` at most.

    It stands for DeepSpeed's `clip_tensors_by_global_norm`.
    """
    torch._foreach_mul_(input_tensors, (max_norm / (global_norm + 1e-6)).clamp(max=1))
