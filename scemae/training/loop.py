"""The training loop of both stages; it knows no model, no config file and no DeepSpeed setting."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from scemae.distributed.process_group import Place
from scemae.distributed.watchdog import Watchdog
from scemae.errors import CheckpointError, Preempted, RunFolderError
from scemae.process.progress import progress_bar
from scemae.process.stop_signals import StopRequest
from scemae.runs import faults
from scemae.runs.checkpoints.checkpoint import TrainState
from scemae.runs.checkpoints.save import Saver
from scemae.runs.ledger import Ledger
from scemae.runs.metrics_log import Heartbeat, Meter, Word, Writer
from scemae.training.bad_steps import Health


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


@dataclass
class Watch:
    """Who looks on: what the loop tells of each step, and asks at heartbeats."""

    saver: Saver
    ledger: Ledger
    health: Health
    dog: Watchdog
    writer: Writer


def train(
    engine: Any,
    batches: Iterator[tuple],
    steps: Steps,
    state: TrainState,
    place: Place,
    *,
    watch: Watch,
    stop: StopRequest,
    set_lr: Callable[[int], float],
    probe: Callable[[], dict[str, float]],
    full_speed: float = 0.0,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Train from steps.start to steps.total; all ranks act together at heartbeats.

    batches yields the engine's arguments for each micro-step but those of state.skips. full_speed: images per second
    if all devices did nothing but matrix products (flops.py), 0 where that is not known. after_step: what follows each
    optimizer step (a momentum encoder moves). Raises BadStepError; Preempted once asked to stop and saved;
    RunFolderError once superseded.
    """
    stop.begin()
    meter = Meter(place, min(steps.log_every, steps.total), steps.images, full_speed)
    bar = progress_bar(show=place.is_first, total=steps.total, initial=steps.start, unit="step")
    for global_step in range(steps.start + 1, steps.total + 1):
        lr = set_lr(global_step - 1)
        if str(global_step) in state.skips:
            meter.skip_step(global_step)
        else:
            train_step(
                engine, batches, global_step, steps.accumulation, meter, watch.dog, place.rank
            )
            after_step()
        state.global_step = global_step
        bar.update()
        if global_step == steps.start + 1:  # for runs/goodput.py: where starting ends
            watch.writer.write(
                global_step, first_step_seconds=meter.elapsed, first_step_wait=meter.waited
            )
        if global_step % steps.log_every and global_step != steps.total:
            continue
        beat = heartbeat(meter, watch, state, stop.requested)
        watch.writer.write(
            global_step, loss=beat.loss, lr=lr, grad_norm=max(beat.norms), **beat.speed
        )
        bar.set_postfix(
            loss=f"{beat.loss:.4f}",
            img_s=f"{beat.images_per_second:.0f}",
            wait=f"{beat.data_wait:.1%}",
            **({} if beat.mfu is None else {"mfu": f"{beat.mfu:.0%}"}),
        )
        last = global_step == steps.total
        if beat.stop or last or global_step % steps.save_every == 0:
            save(
                engine, state, watch, wait=beat.stop or last
            )  # before the probe: it may be killed for time
        check_end(steps, global_step, watch.saver, beat.stop)
        if steps.probe_every and (last or global_step % steps.probe_every == 0):
            watch.dog.note(global_step, "probe")
            started = time.perf_counter()
            watch.writer.write(global_step, **probe(), probe_seconds=time.perf_counter() - started)
        meter.skip_time()
    bar.close()


def train_step(
    engine: Any,
    batches: Iterator[tuple],
    global_step: int,
    accumulation: int,
    meter: Meter,
    dog: Watchdog,
    rank: int,
) -> None:
    """One optimizer step."""
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
        engine.step()  # moves weights at the accumulation boundary only
        meter.add(loss.detach())
    meter.end_step(global_step, engine.get_global_grad_norm())


def heartbeat(meter: Meter, watch: Watch, state: TrainState, stop: bool) -> Heartbeat:
    """What all ranks know together; commits a save that is written, and raises what they must act on together."""
    watch.dog.note(state.global_step, "heartbeat")
    saver, ledger = watch.saver, watch.ledger
    word = Word(
        stop, saver.generation.is_superseded if saver.place.is_first else False, saver.is_done
    )
    beat = meter.heartbeat(word, ledger.sums(meter.steps), ledger.replaced())
    if beat.superseded:
        raise RunFolderError(
            f"{saver.run_dir}: another start of this run has taken it over; this one, generation "
            f"{saver.generation.number}, ends and has touched nothing of its"
        )
    if beat.saved:
        started = time.perf_counter()
        saver.commit()
        watch.writer.write(
            state.global_step,
            save_stall=saver.stall,
            save_seconds=saver.write_seconds,
            commit_seconds=time.perf_counter() - started,
        )
    if bad := watch.health.judge(beat, state.skips):
        saver.finish()  # of a state from before this interval, and so good
        raise bad
    ledger.write(beat.steps, beat.losses, beat.digests, state.skips, beat.replaced)
    return beat


def check_end(steps: Steps, global_step: int, saver: Saver, stop: bool) -> None:
    """Raise CheckpointError where the last step's checkpoint was not saved, Preempted where asked to stop before it."""
    is_saved = saver.last_step == global_step
    if global_step == steps.total:
        if not is_saved:
            raise CheckpointError(
                f"{saver.run_dir}: all steps are done, and the checkpoint of step {steps.total} was not "
                f"saved ({saver.last_failure}); mend that, and the same command does the steps since the "
                "one before again"
            )
    elif stop:
        raise Preempted(
            f"asked to stop at step {global_step} of {steps.total}; "
            + ("all is saved" if is_saved else "the last save failed")
            + ", the same command goes on"
        )


def save(engine: Any, state: TrainState, watch: Watch, *, wait: bool) -> None:
    """Start a save; where it has to be the last, wait for it."""
    watch.dog.note(state.global_step, "save")
    refusal = "the disk has no room even for the ledger" if watch.ledger.is_behind else None
    watch.saver.begin(engine, replace(state, skips=dict(state.skips)), refusal)
    if wait:
        watch.saver.finish()
        watch.writer.write(
            state.global_step, save_stall=watch.saver.stall, save_seconds=watch.saver.write_seconds
        )
