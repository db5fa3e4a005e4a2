"""Learning rate as a pure function of the global step (PROTOCOL 2.1)."""

import math


def learning_rate(
    global_step: int, *, peak: float, floor: float, warmup_steps: float, total_steps: int
) -> float:
    """Linear warm-up from 0, then half a cosine down to `floor`; evaluated before each step."""
    if global_step < warmup_steps:
        return peak * global_step / warmup_steps
    progress = (global_step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))
