"""The heartbeat: once per interval all ranks exchange losses, norms and state, in one all_gather.

Between two heartbeats nothing waits for the device: `Meter` adds losses up on it.
"""

import math
import resource
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed

from scemae.distributed.process_group import Place
from scemae.runs.ledger import to_text

NO_NORM = -1.0  # the gradient norm of a step where the engine does not report one


@dataclass
class Heartbeat:
    """What every rank knows after the exchange at the end of an interval.

    Each list has one entry per step.
    """

    steps: list[int]  # global steps of the interval
    trained: int  # how many of them were trained; skipped ones have loss and norm 0
    losses: list[float]  # mean over the global batch
    norms: list[float]  # of the gradients; NO_NORM where it is not known
    culprits: list[int | None]  # the first rank whose own loss was not finite
    digests: list[str]  # of the samples consumed (runs/ledger.py)
    replaced: int  # samples that could not be decoded and were replaced
    stop: bool  # some rank was asked to stop
    superseded: bool  # another start of this run has taken it over
    saved: bool  # every rank has written its part of the pending save
    seconds: float
    images_per_second: float
    data_wait: float  # share of the interval spent waiting for data, on the rank that waited most
    memory: float  # peak in GiB, on the rank that used most
    mfu: float | None = None  # model FLOPs per second over the measured peak of all devices

    @property
    def loss(self) -> float:
        """Mean over the steps that were trained."""
        return sum(self.losses) / self.trained if self.trained else math.nan

    @property
    def speed(self) -> dict[str, float]:
        """The speed of the interval under its names in metrics.jsonl."""
        known = {} if self.mfu is None else {"mfu": self.mfu}
        return {
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "data_wait": self.data_wait,
            "memory_gib": self.memory,
            **known,
        }

    @property
    def postfix(self) -> dict[str, str]:
        """What the progress bar shows."""
        known = {} if self.mfu is None else {"mfu": f"{self.mfu:.0%}"}
        return {
            "loss": f"{self.loss:.4f}",
            "img_s": f"{self.images_per_second:.0f}",
            "wait": f"{self.data_wait:.1%}",
            **known,
        }


@dataclass
class RankStatus:
    """What one rank reports at a heartbeat besides its losses; fields as in `Heartbeat`."""

    stop: bool
    superseded: bool
    saved: bool


class Meter:
    """Sums losses and gradient norms on the device, one entry per step of the interval."""

    def __init__(
        self, place: Place, most_steps: int, images_per_step: int, full_speed: float = 0.0
    ) -> None:
        """most_steps: the longest interval. full_speed: images per second at the devices' peak
        (training/flops.py), 0 where it is not known."""
        self.place, self._images_per_step, self._full_speed = place, images_per_step, full_speed
        zeros = torch.zeros(2, most_steps, device=place.device, dtype=torch.float64)
        self._loss, self._norm = zeros
        self._micro_steps = 0  # of the open step
        self._trained = 0  # steps of the interval so far, without skipped ones
        self.steps: list[int] = []  # global steps of the interval so far
        self.waited = 0.0  # seconds waited for batches in the interval so far
        self._started = time.perf_counter()

    def add(self, loss: Tensor) -> None:
        """Add one micro-step's loss.

        It is weighted so that the mean over ranks and micro-steps is the mean of the global batch.
        """
        self._loss[len(self.steps)] += loss.double()
        self._micro_steps += 1

    def end_step(self, global_step: int, norm: Tensor | float | None) -> None:
        """Close a trained step; a norm on the device stays there."""
        self._loss[len(self.steps)] /= self._micro_steps
        self._norm[len(self.steps)] = NO_NORM if norm is None else norm
        self._trained += 1
        self.skip_step(global_step)

    def skip_step(self, global_step: int) -> None:
        """Close a step; the loss and norm of a skipped one are 0."""
        self.steps.append(global_step)
        self._micro_steps = 0

    def heartbeat(self, status: RankStatus, sums: np.ndarray, replaced: int) -> Heartbeat:
        """Exchange with all ranks and begin a new interval. All ranks call it.

        sums (steps, 8) int64: the ledger's sums of this rank. replaced: its replaced samples.
        """
        table = self._gather(sums, status, replaced)
        count, elapsed = len(self.steps), self.elapsed
        losses, norms = table[:, :count], table[:, count : 2 * count]
        limbs = table[:, 2 * count : -6]
        stop, superseded, saved, bad, wait, memory = table[:, -6:].T
        speed = self._trained * self._images_per_step / elapsed
        beat = Heartbeat(
            steps=self.steps,
            trained=self._trained,
            losses=losses.mean(0).tolist(),
            norms=norms.max(0).tolist(),
            culprits=[_first_not_finite(step) for step in losses.T],
            digests=[to_text(row) for row in limbs.sum(0).reshape(count, -1)],
            replaced=int(bad.sum()),
            stop=bool(stop.any()),
            superseded=bool(superseded.any()),
            saved=bool(saved.all()),
            seconds=elapsed,
            images_per_second=speed,
            data_wait=wait.max() / elapsed,
            memory=memory.max(),
            mfu=speed / self._full_speed if self._full_speed else None,
        )
        self._loss.zero_()
        self._norm.zero_()
        self.steps, self._trained, self.waited = [], 0, 0.0
        self.restart_clock()
        return beat

    def _gather(self, sums: np.ndarray, status: RankStatus, replaced: int) -> np.ndarray:
        """The numbers of every rank, (ranks, 10 steps + 6) float64; waits for the device."""
        count = len(self.steps)
        state = [status.stop, status.superseded, status.saved]
        counts = [*state, replaced, self.waited, peak_memory(self.place)]
        host = torch.from_numpy(np.append(sums.ravel(), counts).astype(np.float64))
        mine = torch.cat([self._loss[:count], self._norm[:count], host.to(self.place.device)])
        parts = [torch.empty_like(mine) for _ in range(self.place.world_size)]
        distributed.all_gather(parts, mine)
        return torch.stack(parts).cpu().numpy()

    @property
    def elapsed(self) -> float:
        """Seconds since the interval began."""
        return time.perf_counter() - self._started

    def restart_clock(self) -> None:
        """Begin the interval's time now, so that a save or a probe is not in images per second."""
        self._started = time.perf_counter()


def _first_not_finite(losses: np.ndarray) -> int | None:
    """The first rank whose loss is not finite, of the losses (ranks,) of one step."""
    return next(iter(np.flatnonzero(~np.isfinite(losses)).tolist()), None)


def peak_memory(place: Place) -> float:
    """The most memory this process has used, in GiB: of the GPU, or resident on the CPU."""
    if place.device.type == "cuda":
        return torch.cuda.max_memory_allocated(place.device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
