"""Which step of an interval went wrong: the same judgement on every rank, from what the heartbeat told them all."""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

from scemae.errors import BadStepError
from scemae.runs.metrics_log import NO_NORM, Heartbeat

WINDOW, FEWEST = 100, 20  # steps that a loss is compared with, and how many there must be


class Health:
    """The losses of the last steps, and the judgement of the next."""

    def __init__(self, spike_factor: float, losses: Iterable[float]) -> None:
        """A loss above spike_factor times the median of the last steps is a spike; 0: never. `losses`: those before."""
        self._factor, self._recent = spike_factor, deque(losses, maxlen=WINDOW)
        self._last_trained: int | None = None

    def judge(self, beat: Heartbeat, skips: dict[str, str]) -> BadStepError | None:
        """The first bad step of an interval as the error to raise, or None; good losses are remembered."""
        for step, loss, norm, rank in zip(beat.steps, beat.losses, beat.norms, beat.culprits):
            if str(step) in skips:
                continue
            if what := self._wrong(loss, norm):
                who = f" on rank {rank}" if rank is not None else ""
                # Where norms are not told, gradients that broke the weights may be the step before's.
                doubtful = rank is not None and norm == NO_NORM and self._last_trained is not None
                return BadStepError(
                    f"{what}{who} at step {step}",
                    [self._last_trained, step] if doubtful else [step],
                    rank,
                )
            self._recent.append(loss)
            self._last_trained = step
        return None

    def _wrong(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss became {loss}"
        if not math.isfinite(norm):
            return f"the gradients became {norm}"
        if (
            self._factor
            and len(self._recent) >= FEWEST
            and loss > self._factor * median(self._recent)
        ):
            return f"the loss spiked to {loss:.4g}, {loss / median(self._recent):.0f} times the median of the last steps,"
        return None
