"""What a run says of itself: a meter on the device, one reduction per heartbeat, JSON lines and TensorBoard."""

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed

from scemae.distributed import Place


@dataclass
class Heartbeat:
    """What all ranks know together at the end of an interval."""

    loss: float  # mean over the images of the interval
    stop: bool
    images_per_second: float
    data_wait: float  # share of the interval spent waiting for data, of the rank that waited most
    memory: float  # peak, in GiB, of the rank that used most

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss)


class Meter:
    """Sums losses on the device; every micro-step counts, and nothing is synchronised between heartbeats."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._loss = torch.zeros((), device=place.device, dtype=torch.float64)
        self._micro_steps = self._images = 0
        self._started, self._waited_before = time.perf_counter(), 0.0

    def add(self, loss: Tensor, images: float) -> None:
        """Count one micro-step's loss, already weighted to be a mean over ranks and micro-steps."""
        self._loss += loss.double()
        self._micro_steps += 1
        self._images += images

    def heartbeat(self, waited: float, stop: bool) -> Heartbeat:
        """Reduce over ranks and begin anew. `waited` is the pipeline's running total in seconds. All ranks call it."""
        elapsed = time.perf_counter() - self._started
        mean = (self._loss / self._micro_steps / self.place.world_size).reshape(1)
        most = torch.tensor([float(stop), (waited - self._waited_before) / elapsed, peak_memory(self.place)],
                            dtype=torch.float64, device=self.place.device)
        distributed.all_reduce(mean)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        loss, (stop_now, wait, memory) = mean.item(), most.tolist()
        beat = Heartbeat(loss, stop_now > 0, self._images * self.place.world_size / elapsed, wait, memory)
        self._loss.zero_()
        self._micro_steps = self._images = 0
        self._started, self._waited_before = time.perf_counter(), waited
        return beat

    def skip(self) -> None:
        """Leave the time since the last heartbeat (a save, a probe) out of the next one's images per second."""
        self._started = time.perf_counter()


def peak_memory(place: Place) -> float:
    """The most memory this process has used, in GiB: of the GPU, or resident on the CPU."""
    if place.device.type == "cuda":
        return torch.cuda.max_memory_allocated(place.device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Writer:
    """metrics.jsonl and TensorBoard events of a run folder; rank 0 has one, the others write nowhere."""

    def __init__(self, run_dir: Path, place: Place, start_step: int) -> None:
        self._events = self._lines = None
        if place.is_first:
            from torch.utils.tensorboard import SummaryWriter

            path = run_dir / "metrics.jsonl"
            drop_after(path, start_step)
            self._lines = open(path, "a", encoding="utf8")
            self._events = SummaryWriter(run_dir / "tensorboard", purge_step=start_step + 1)

    def write(self, global_step: int, **values: float) -> None:
        """One line, and one point per value."""
        if self._lines is None:
            return
        self._lines.write(json.dumps({"step": global_step, **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, global_step)

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._events.close()


def read_metrics(run_dir: Path) -> list[dict]:
    """The lines of metrics.jsonl; a last line that a kill cut short is left out."""
    path = run_dir / "metrics.jsonl"
    rows = []
    for line in path.read_text(encoding="utf8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def drop_after(path: Path, global_step: int) -> None:
    """Forget lines past `global_step`: a resumed run writes them again."""
    kept = [row for row in read_metrics(path.parent) if row["step"] <= global_step]
    aside = path.with_name(path.name + ".partial")
    aside.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf8")
    os.replace(aside, path)
