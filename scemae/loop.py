"""The training loop of both stages; it knows no model, no config file and no DeepSpeed setting."""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from scemae.distributed import Place
from scemae.errors import NonFiniteLossError, Preempted
from scemae.metrics import Meter, Writer


@dataclass
class Steps:
    """Where a run starts, how far it goes and how often it speaks, in global steps."""

    start: int
    total: int
    accumulation: int
    log_every: int
    save_every: int
    probe_every: int
    images: int  # per global step


class StopRequest:
    """True once SIGTERM, SIGINT or SIGUSR2 has come: the handler only sets a flag."""

    def __init__(self) -> None:
        self.requested, self._asked = False, 0.0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self._set)

    def _set(self, number: int, frame: object) -> None:
        # A second Ctrl-C ends it at once; a launcher repeats the first within a moment.
        if number == signal.SIGINT and self.requested and time.monotonic() - self._asked > 3:
            raise KeyboardInterrupt
        self.requested, self._asked = True, time.monotonic()


def train(engine: Any, batches: Iterator[tuple], waited: Callable[[], float], steps: Steps, place: Place, *,
          set_lr: Callable[[int], float], save: Callable[[int], None], probe: Callable[[], dict[str, float]],
          writer: Writer) -> None:
    """Train from steps.start to steps.total; all ranks act together at heartbeats.

    batches yields the engine's arguments for each micro-step; waited() is the seconds spent on data so far. Raises
    NonFiniteLossError, or Preempted once asked to stop and saved.
    """
    meter, stop = Meter(place), StopRequest()
    bar = tqdm(total=steps.total, initial=steps.start, unit="step", disable=not place.is_first, dynamic_ncols=True)
    for global_step in range(steps.start + 1, steps.total + 1):
        lr = set_lr(global_step - 1)
        for _ in range(steps.accumulation):
            loss = engine(*next(batches))
            engine.backward(loss)  # the engine divides by the accumulation steps
            engine.step()  # moves weights at the accumulation boundary only
            meter.add(loss.detach(), steps.images / steps.accumulation / place.world_size)
        bar.update()
        if global_step % steps.log_every and global_step != steps.total:
            continue
        beat = meter.heartbeat(waited(), stop.requested)  # the one reduction: loss, stop, waiting
        if not beat.is_finite:
            raise NonFiniteLossError(f"the loss became {beat.loss} in the {steps.log_every} steps up to {global_step}; "
                                     "nothing was saved since: lower optim.lr in a new run_dir with init_from, say")
        writer.write(global_step, loss=beat.loss, lr=lr, images_per_second=beat.images_per_second,
                     data_wait=beat.data_wait, memory_gib=beat.memory)
        bar.set_postfix(loss=f"{beat.loss:.4f}", img_s=f"{beat.images_per_second:.0f}", wait=f"{beat.data_wait:.1%}")
        last = global_step == steps.total
        if beat.stop or last or global_step % steps.save_every == 0:
            save(global_step)  # before the probe: it may be killed for time
        if beat.stop and not last:
            raise Preempted(f"asked to stop at step {global_step} of {steps.total}; all is saved, the same command "
                            "goes on")
        if steps.probe_every and (last or global_step % steps.probe_every == 0):
            writer.write(global_step, **probe())
        meter.skip()
    bar.close()
