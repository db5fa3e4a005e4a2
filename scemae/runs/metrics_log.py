"""What a run says of itself: a meter on the device, one exchange per heartbeat, JSON lines and TensorBoard."""

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed

from scemae.distributed.process_group import Place
from scemae.errors import FileError
from scemae.files import disk
from scemae.files.json_lines import Rows
from scemae.runs import generations
from scemae.runs.generation_files import METRICS
from scemae.runs.generations import Generation
from scemae.runs.ledger import to_text

NO_NORM = -1.0  # of a step whose gradient norm the engine does not tell


@dataclass
class Heartbeat:
    """What all ranks know together at the end of an interval; losses and norms by step."""

    steps: list[int]
    trained: int  # of the steps: the others were left out, with loss and norm 0
    losses: list[float]  # the global batch's mean
    norms: list[float]  # of the gradients; NO_NORM where it is not known
    culprits: list[int | None]  # for each step, the rank whose own loss was no number
    digests: list[str]  # of the samples consumed (ledger.py)
    replaced: int  # samples that were no whole JPEG
    stop: bool
    superseded: bool
    saved: bool  # every rank's part of a pending save is done
    seconds: float
    images_per_second: float
    data_wait: float  # share of the interval spent waiting for data, of the rank that waited most
    memory: float  # peak, in GiB, of the rank that used most
    mfu: float | None = (
        None  # model FLOPs per second, as a share of the measured peak of all devices
    )

    @property
    def loss(self) -> float:
        """Mean over the steps that were trained."""
        return sum(self.losses) / self.trained if self.trained else math.nan

    @property
    def speed(self) -> dict[str, float]:
        """How fast the interval was, under the names of metrics.jsonl."""
        known = {} if self.mfu is None else {"mfu": self.mfu}
        return {
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "data_wait": self.data_wait,
            "memory_gib": self.memory,
            **known,
        }


@dataclass
class Word:
    """What one rank has to say at a heartbeat."""

    stop: bool
    superseded: bool
    saved: bool


class Meter:
    """Losses and gradient norms on the device, one row per step; nothing is synchronised between heartbeats."""

    def __init__(
        self, place: Place, most_steps: int, images_per_step: int, full_speed: float = 0.0
    ) -> None:
        """full_speed: images per second at the devices' peak, 0 where that is not known (training/flops.py)."""
        self.place, self._images_per_step, self._full_speed = place, images_per_step, full_speed
        self._loss, self._norm = torch.zeros(
            2, most_steps, device=place.device, dtype=torch.float64
        )
        self._micro_steps = self._row = 0
        self.steps: list[int] = []  # of the interval so far
        self._trained = 0
        self.waited = (
            0.0  # seconds between asking for a batch and having it, in the interval so far
        )
        self._started = time.perf_counter()

    def add(self, loss: Tensor) -> None:
        """Count one micro-step's loss, already weighted to be a mean over ranks and micro-steps."""
        self._loss[self._row] += loss.double()
        self._micro_steps += 1

    def end_step(self, global_step: int, norm: Tensor | float | None) -> None:
        """Close a step that was trained; a norm on the device stays there."""
        self._loss[self._row] /= self._micro_steps
        self._norm[self._row] = NO_NORM if norm is None else norm
        self._trained += 1
        self.skip_step(global_step)

    def skip_step(self, global_step: int) -> None:
        """Close a step; one that was left out has loss and norm 0."""
        self.steps.append(global_step)
        self._micro_steps, self._row = 0, self._row + 1

    def heartbeat(self, word: Word, sums: np.ndarray, replaced: int) -> Heartbeat:
        """The one exchange between ranks; begins a new interval. sums (steps, 8): the ledger's. All ranks call it."""
        count = len(self.steps)
        told = [
            word.stop,
            word.superseded,
            word.saved,
            replaced,
            self.waited,
            peak_memory(self.place),
        ]
        mine = torch.cat(
            [
                self._loss[:count],
                self._norm[:count],
                torch.from_numpy(np.append(sums.ravel(), told).astype(np.float64)).to(
                    self.place.device
                ),
            ]
        )
        parts = [torch.empty_like(mine) for _ in range(self.place.world_size)]
        distributed.all_gather(parts, mine)
        table = (
            torch.stack(parts).cpu().numpy()
        )  # ranks x all that was told: the only wait for the device
        elapsed = self.elapsed
        losses, norms = table[:, :count], table[:, count : 2 * count]
        limbs, (stop, superseded, saved, bad, wait, memory) = (
            table[:, 2 * count : -6],
            table[:, -6:].T,
        )
        culprit = [
            next(iter(np.flatnonzero(~np.isfinite(column)).tolist()), None) for column in losses.T
        ]
        speed = self._trained * self._images_per_step / elapsed
        beat = Heartbeat(
            self.steps,
            self._trained,
            losses.mean(0).tolist(),
            norms.max(0).tolist(),
            culprit,
            [to_text(row) for row in limbs.sum(0).reshape(count, -1)],
            int(bad.sum()),
            stop.any(),
            superseded.any(),
            saved.all(),
            elapsed,
            speed,
            wait.max() / elapsed,
            memory.max(),
            speed / self._full_speed if self._full_speed else None,
        )
        self._loss.zero_()
        self._norm.zero_()
        self.steps, self._row, self._trained, self.waited = [], 0, 0, 0.0
        self._started = time.perf_counter()
        return beat

    @property
    def elapsed(self) -> float:
        """Seconds since the interval began."""
        return time.perf_counter() - self._started

    def skip_time(self) -> None:
        """Leave the time since the last heartbeat (a save, a probe) out of the next one's images per second."""
        self._started = time.perf_counter()


def peak_memory(place: Place) -> float:
    """The most memory this process has used, in GiB: of the GPU, or resident on the CPU."""
    if place.device.type == "cuda":
        return torch.cuda.max_memory_allocated(place.device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Writer:
    """metrics.jsonl of this generation and TensorBoard events of the run; rank 0 has one, the others write nowhere."""

    def __init__(
        self, run_dir: Path, generation: Generation, place: Place, start_step: int
    ) -> None:
        self._events = self._lines = None
        if place.is_first:
            from torch.utils.tensorboard import SummaryWriter

            self._lines = Rows(generation.folder / METRICS)
            try:
                folder = disk.make_folders(run_dir / "tensorboard", run_dir)
                self._events = SummaryWriter(folder, purge_step=start_step + 1)
            except FileError:  # a link of somebody else's
                raise
            except (
                Exception
            ) as error:  # of any kind: TensorFlow's writer, where it is installed, has its own
                print(f"scemae: no TensorBoard events ({error})", file=sys.stderr)

    def write(self, global_step: int, **values: float) -> None:
        """One line, and one point per value."""
        if self._lines is None:
            return
        self._lines.write({"step": global_step, "time": round(time.time(), 3), **values})
        try:
            for name, value in values.items() if self._events else ():
                self._events.add_scalar(name, value, global_step)
        except Exception as error:  # its writer gives up on a full disk; the rows go on
            print(
                f"scemae: no more TensorBoard events from step {global_step} on ({error})",
                file=sys.stderr,
            )
            self._events = None

    def close(self) -> None:
        """Close both."""
        if self._lines is not None:
            self._lines.close()
        if self._events is not None:
            try:
                self._events.close()
            except Exception as error:
                print(f"scemae: TensorBoard's last events are lost ({error})", file=sys.stderr)


def read_metrics(run_dir: Path) -> list[dict]:
    """The lines of metrics.jsonl that count, of all generations."""
    return generations.rows(run_dir, METRICS)
