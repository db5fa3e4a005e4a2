"""Learning rate as a pure function of the global step, and the parameters that decay (PROTOCOL 2.1)."""

import math

from torch import nn


def learning_rate(global_step: int, *, peak: float, floor: float, warmup_steps: float, total_steps: int) -> float:
    """Linear warm-up from 0, then half a cosine down to `floor`; evaluated before each step."""
    if global_step < warmup_steps:
        return peak * global_step / warmup_steps
    progress = (global_step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: biases and what has one dimension (LayerNorm) do not decay, all else does.

    That is MAE's rule (PROTOCOL 2.1); by it the CLS and mask tokens, stored with three dimensions, decay.
    """
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    still = [p for name, p in trained if p.ndim <= 1 or name.endswith(".bias")]
    decayed = [p for name, p in trained if not (p.ndim <= 1 or name.endswith(".bias"))]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": still, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
