"""The training loop of both stages and all methods.

It knows no model, no config and no DeepSpeed setting. Ranks act together: what one rank alone has
seen (a signal, a bad loss, a failed save) is acted on at the next heartbeat, when all know it.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from scemae.distributed import engine as engines
from scemae.distributed.watchdog import Watchdog
from scemae.errors import CheckpointError, Preempted, RunFolderError
from scemae.process.progress import progress_bar
from scemae.process.stop_signals import StopRequest
from scemae.runs import faults
from scemae.runs.checkpoints.checkpoint import TrainState
from scemae.runs.checkpoints.save import Saver
from scemae.runs.ledger import Ledger
from scemae.runs.metrics_log import Writer
from scemae.training.bad_steps import LossHistory
from scemae.training.feed import Arguments
from scemae.training.heartbeat import Heartbeat, Meter, RankStatus
from scemae.training.schedule import Schedule


@dataclass
class Steps:
    """Where a run starts and ends, and how often it logs, saves and probes, in global steps."""

    start: int
    total: int
    accumulation: int  # micro-steps per global step
    log_every: int
    save_every: int
    probe_every: int  # 0: never
    images: int  # per global step


@dataclass
class Observers:
    """Observers that the loop reports to at each step, and asks at heartbeats."""

    meter: Meter
    writer: Writer
    ledger: Ledger
    history: LossHistory
    saver: Saver
    dog: Watchdog
    stop: StopRequest
    probe: Callable[[], dict[str, float]]


def train(
    engine: Any,
    batches: Iterator[Arguments],
    steps: Steps,
    state: TrainState,
    schedule: Schedule,
    observers: Observers,
) -> None:
    """Train from steps.start to steps.total.

    batches: the engine's arguments for each micro-step, without those of state.skips. Raises
    BadStepError; Preempted once asked to stop and saved; RunFolderError where another start of this
    run has taken it over. All ranks call it.
    """
    meter, writer = observers.meter, observers.writer
    observers.stop.begin()
    meter.restart_clock()
    bar = progress_bar(
        show=meter.place.is_first, total=steps.total, initial=steps.start, unit="step"
    )
    for global_step in range(steps.start + 1, steps.total + 1):
        lr = schedule.learning_rate(global_step - 1)
        engines.set_learning_rate(engine, lr)
        if str(global_step) in state.skips:
            meter.skip_step(global_step)
        else:
            train_step(engine, batches, global_step, steps.accumulation, meter, observers.dog)
        state.global_step = global_step
        bar.update()
        if global_step == steps.start + 1:  # runs/goodput.py: until here the run was starting
            writer.write(
                global_step, first_step_seconds=meter.elapsed, first_step_wait=meter.waited
            )
        is_last = global_step == steps.total
        if global_step % steps.log_every and not is_last:
            continue
        beat = heartbeat(state, observers)
        writer.write(global_step, loss=beat.loss, lr=lr, grad_norm=max(beat.norms), **beat.speed)
        bar.set_postfix(**beat.postfix)
        if beat.stop or is_last or global_step % steps.save_every == 0:
            # before the probe: the job may be killed for its time limit meanwhile
            save(engine, state, observers, wait=beat.stop or is_last)
        check_end(steps, global_step, observers.saver, beat.stop)
        if steps.probe_every and (is_last or global_step % steps.probe_every == 0):
            probe(global_step, observers)
        meter.restart_clock()
    bar.close()


def train_step(
    engine: Any,
    batches: Iterator[Arguments],
    global_step: int,
    accumulation: int,
    meter: Meter,
    dog: Watchdog,
) -> None:
    """One optimizer step."""
    rank = meter.place.rank
    for _ in range(accumulation):
        dog.note(global_step, "data")
        faults.at("data", step=global_step, rank=rank)
        asked = time.perf_counter()
        arguments = next(batches)
        meter.waited += time.perf_counter() - asked
        dog.note(global_step, "forward")
        loss = engine(*arguments)
        if faults.at("loss", step=global_step, rank=rank):
            loss = loss * float("nan")
        engine.backward(loss)  # the engine divides by the accumulation steps
        engine.step()  # moves the weights after the last micro-step only
        meter.add(loss.detach())
    meter.end_step(global_step, engine.get_global_grad_norm())
    if hasattr(engine.module, "after_step"):  # a momentum encoder moves
        engine.module.after_step()


def heartbeat(state: TrainState, observers: Observers) -> Heartbeat:
    """Exchange losses and status with all ranks, and act on what all know now.

    Commits a save that every rank has written, and writes the interval to the ledger. Raises
    RunFolderError, or BadStepError.
    """
    observers.dog.note(state.global_step, "heartbeat")
    meter, saver, ledger = observers.meter, observers.saver, observers.ledger
    is_superseded = saver.place.is_first and saver.generation.is_superseded
    status = RankStatus(observers.stop.requested, is_superseded, saver.is_done)
    beat = meter.heartbeat(status, ledger.sums(meter.steps), ledger.replaced())
    if beat.superseded:
        raise RunFolderError(
            f"{saver.run_dir}: another start of this run has taken it over; this one, generation "
            f"{saver.generation.number}, ends and has touched nothing of the other's"
        )
    if beat.saved:
        started = time.perf_counter()
        saver.commit()
        observers.writer.write(
            state.global_step,
            save_stall=saver.stall,
            save_seconds=saver.write_seconds,
            commit_seconds=time.perf_counter() - started,
        )
    if bad := observers.history.judge(beat, state.skips):
        saver.finish()  # this save predates the bad interval: finish it
        raise bad
    ledger.write(beat.steps, beat.losses, beat.digests, state.skips, beat.replaced)
    return beat


def check_end(steps: Steps, global_step: int, saver: Saver, stop: bool) -> None:
    """Raise CheckpointError if the last step could not be saved, Preempted if asked to stop."""
    is_saved = saver.last_step == global_step
    if global_step == steps.total:
        if not is_saved:
            raise CheckpointError(
                f"{saver.run_dir}: all steps are done, and the checkpoint of step {steps.total} "
                f"was not saved ({saver.last_failure}); repair that and run the same command "
                "again: it repeats the steps since the previous checkpoint"
            )
    elif stop:
        saved = "all is saved" if is_saved else "the last save failed"
        raise Preempted(
            f"asked to stop at step {global_step} of {steps.total}; {saved}, the same command "
            "resumes it"
        )


def save(engine: Any, state: TrainState, observers: Observers, *, wait: bool) -> None:
    """Start a save; `wait` for it where the process ends after it."""
    saver = observers.saver
    observers.dog.note(state.global_step, "save")
    is_behind = observers.ledger.is_behind
    refusal = "the disk has no room even for the ledger" if is_behind else None
    saver.begin(engine, replace(state, skips=dict(state.skips)), refusal)
    if wait:
        saver.finish()
        observers.writer.write(
            state.global_step, save_stall=saver.stall, save_seconds=saver.write_seconds
        )


def probe(global_step: int, observers: Observers) -> None:
    """Measure matching errors, and write them."""
    observers.dog.note(global_step, "probe")
    started = time.perf_counter()
    errors = observers.probe()
    seconds = time.perf_counter() - started
    observers.writer.write(global_step, **errors, probe_seconds=seconds)
