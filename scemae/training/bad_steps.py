"""Which step of an interval went wrong; every rank gives the same answer, from the heartbeat."""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

from scemae.errors import BadStepError
from scemae.training.heartbeat import NO_NORM, Heartbeat

WINDOW, FEWEST = 100, 20  # a loss is compared with those of so many steps before, at most and least


class LossHistory:
    """The losses of the last steps, which the next ones are compared with."""

    def __init__(self, spike_factor: float, losses: Iterable[float]) -> None:
        """spike_factor: a loss above this many times the median is a spike; 0: never.

        losses: those of the steps before.
        """
        self._factor, self._recent = spike_factor, deque(losses, maxlen=WINDOW)
        self._last_trained: int | None = None

    def judge(self, beat: Heartbeat, skips: dict[str, str]) -> BadStepError | None:
        """The first bad step of an interval as the error to raise; None if all are good.

        Good losses enter the history.
        """
        numbers = zip(beat.steps, beat.losses, beat.norms, beat.culprits, strict=True)
        for step, loss, norm, rank in numbers:
            if str(step) in skips:
                continue
            if problem := self._problem(loss, norm):
                where = f" on rank {rank}" if rank is not None else ""
                # Without norms, the gradients of the step before may have broken the weights.
                is_doubtful = rank is not None and norm == NO_NORM
                before = [self._last_trained] if is_doubtful and self._last_trained else []
                return BadStepError(f"{problem}{where} at step {step}", [*before, step], rank)
            self._recent.append(loss)
            self._last_trained = step
        return None

    def _problem(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss became {loss}"
        if not math.isfinite(norm):
            return f"the gradients became {norm}"
        if not self._factor or len(self._recent) < FEWEST:
            return None
        usual = median(self._recent)
        if loss <= self._factor * usual:
            return None
        times = loss / usual
        return f"the loss spiked to {loss:.4g}, {times:.0f} times the median of the last steps,"
