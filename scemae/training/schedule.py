"""Learning rate as a pure function of the global step (PROTOCOL 2.1)."""

import math
from dataclasses import dataclass


@dataclass
class Schedule:
    """Linear warm-up from 0 to `peak`, then half a cosine down to `floor`."""

    peak: float
    floor: float
    warmup_steps: float
    total_steps: int

    def learning_rate(self, global_step: int) -> float:
        """The rate of the step that follows `global_step` finished ones."""
        if global_step < self.warmup_steps:
            return self.peak * global_step / self.warmup_steps
        cosine_steps = max(self.total_steps - self.warmup_steps, 1)
        progress = min((global_step - self.warmup_steps) / cosine_steps, 1)
        return self.floor + (self.peak - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))
