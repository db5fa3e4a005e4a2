"""The few steps of the dry run, in a temporary folder, and the forecast for the real run.

It uses the real run's parts, loop and saves, on the real file system; times are read from the
metrics that it wrote. The factors 1.5 and 3 below are choices of ours.
"""

import math
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from scemae.config.inputs import NO_TRACKER
from scemae.config.schema.training import Loop
from scemae.distributed.process_group import Place, agree, barrier
from scemae.errors import CheckpointError
from scemae.runs.checkpoints import checkpoint
from scemae.runs.metrics_log import read_metrics
from scemae.training.doctor.findings import OK, REFUSED, WARNING, Finding
from scemae.training.loop import Steps
from scemae.training.run import Run

SIGNAL_MARGIN = 1.5  # times the measured time: a file system is slower when others use it too
HANG_MARGIN = 3  # times the longest measured time without progress


@dataclass
class Limits:
    """The limits of the job: minutes per job, and seconds between signal and end; steps of the dry
    run."""

    minutes: float | None = None
    signal_seconds: float | None = None
    steps: int = 5


@dataclass
class Measured:
    """What was measured in the dry run; in seconds, except the first two."""

    images_per_second: float
    data_wait: float  # share of a step
    start: float  # from the start of the process to the end of the first step
    step: float
    save: float  # a save that the run waits for, as at the end of a job
    write: float  # the part of it that otherwise overlaps with training
    probe: float  # 0: no probe
    ahead: float = 0.0  # at most, for tokens that the real run computes before its first step

    @property
    def stall(self) -> float:
        """How long a step waits for a save."""
        return max(self.save - self.write, 0.0)


def shorten(config: Any, folder: Path, steps: int, goes_on: bool) -> Any:
    """The settings of the dry run in `folder`: a heartbeat per step, a save at start and end.

    goes_on: the real run has a checkpoint of its own, so that init_from is not read.
    """
    probe_every = steps + 1 if config.loop.probe_every and config.probe_shards else 0
    loop = replace(
        config.loop,
        log_every=1,
        save_every=steps + 1,
        probe_every=probe_every,
        keep=1,
        keep_every=0,
        max_skips=0,
    )
    runtime = replace(config.runtime, tracker=NO_TRACKER)
    changed = replace(config, run_dir=str(folder), loop=loop, runtime=runtime)
    return replace(changed, init_from=None) if goes_on and hasattr(config, "init_from") else changed


def rehearse(run: Run, steps: int, started: float) -> Measured | None:
    """Train one step to warm up and then `steps`, between two saves; returns the times on rank 0.

    started: unix time at which the process would have begun, had it only done what a real run does.
    Raises what ends the run, and CheckpointError where a save failed. All ranks call it.
    """
    total = run.steps.total
    run.steps = replace(run.steps, total=min(steps + 1, total))
    with redirect_stdout(StringIO()):
        run.go()
    last = 0
    if run.start.place.is_first:
        last, _ = checkpoint.place_of(checkpoint.committed(run.run_dir)[-1])
    saved = agree(last)
    if saved != run.steps.total:
        raise CheckpointError(
            f"the checkpoint of step {run.steps.total} was not saved, for the reason on stderr"
        )
    if not run.start.place.is_first:
        return None
    made, needed = (run.feed.views_stored(run.order, last) for last in (run.steps.total, total))
    ahead = run.open_seconds * needed / made if made else 0.0
    return replace(measure(read_metrics(run.run_dir), run.steps.images, started), ahead=ahead)


def measure(rows: list[dict], images: int, started: float) -> Measured:
    """Times from the metrics of a dry run, whose first step is a warm-up."""
    trained = [row for row in rows if "loss" in row]
    save = [row for row in rows if "save_stall" in row][-1]
    timed = trained[1:] or trained
    if len(trained) > 1:  # from row to row: the seconds in a row leave out the wait for a GPU
        step = (trained[-1]["time"] - trained[0]["time"]) / (len(trained) - 1)
    else:
        step = trained[0]["seconds"]
    return Measured(
        images / step,
        sum(row["data_wait"] for row in timed) / len(timed),
        trained[0]["time"] - started,
        step,
        save["save_stall"],
        save["save_seconds"],
        max((row["probe_seconds"] for row in rows if "probe_seconds" in row), default=0.0),
    )


def speed(measured: Measured, count: int) -> Finding:
    """Images per second over `count` steps, and how long they wait for data."""
    text = (
        f"{measured.images_per_second:,.1f} images/s, {measured.step:.3f} s per step, "
        f"{measured.data_wait:.1%} of it waiting for data (over {count} steps); "
        f"{measured.start:.0f} s to start"
    )
    if measured.data_wait > 0.2:
        return Finding(
            WARNING, "speed", f"{text}; raise runtime.workers, or put the shards on a faster disk"
        )
    return Finding(OK, "speed", text)


def saves(measured: Measured, loop: Loop) -> Finding:
    """How long a save takes, and whether the next one would have to wait for it."""
    text = (
        f"{measured.save:.2f} s when waited for; beside training {measured.write:.2f} s, and the "
        f"step waits {measured.stall:.2f} s"
    )
    if measured.write > loop.save_every * measured.step:
        return Finding(
            WARNING,
            "save",
            f"{text}; longer than the {loop.save_every} steps between two, which then wait; "
            "raise loop.save_every",
        )
    return Finding(OK, "save", text)


def signal_needed(measured: Measured, log_every: int) -> int:
    """Seconds needed between the signal and the end of a job.

    An interval, a save that is still being written, one more save and a probe, times SIGNAL_MARGIN.
    """
    interval = log_every * measured.step
    unfinished = max(measured.write - interval, 0.0)
    return math.ceil(SIGNAL_MARGIN * (interval + unfinished + measured.save + measured.probe))


def log_every_that_fits(measured: Measured, loop: Loop, signal_seconds: float) -> int | None:
    """The largest smaller loop.log_every for which `signal_seconds` are enough, or None."""
    common = math.gcd(loop.save_every, loop.probe_every)
    for n in range(loop.log_every - 1, 0, -1):
        if common % n == 0 and signal_needed(measured, n) <= signal_seconds:
            return n
    return None


def signal(measured: Measured, loop: Loop, seconds: float | None) -> Finding:
    """Whether the ranks can save between the signal and the end of the job."""
    needed = signal_needed(measured, loop.log_every)
    probe = f" + a probe of {measured.probe:.1f} s" if measured.probe else ""
    why = (
        f"{SIGNAL_MARGIN} x ({loop.log_every} steps of {measured.step:.3f} s + a save of "
        f"{measured.save:.2f} s{probe})"
    )
    if seconds is None:
        return Finding(
            OK, "signal", f"the job needs its signal at least {needed} s before its end: {why}"
        )
    if seconds >= needed:
        return Finding(OK, "signal", f"{seconds:g} s before the end, {needed} needed: {why}")
    fits = log_every_that_fits(measured, loop, seconds)
    other = f", or set loop.log_every={fits}" if fits else ""
    return Finding(
        REFUSED,
        "signal",
        f"found {seconds:g} s before the end, {needed} needed: {why}; give the job "
        f"--signal of {needed} s or more{other}",
    )


def hang(measured: Measured, hang_seconds: float) -> Finding:
    """Whether the watchdog waits long enough for the slowest part of the run."""
    parts = {
        "start": measured.start,
        "step": measured.step,
        "save": measured.save,
        "probe": measured.probe,
    }
    slowest = max(parts, key=lambda name: parts[name])
    text = (
        f"runtime.hang_seconds={hang_seconds:g}, the longest time without progress is a {slowest} "
        f"of {parts[slowest]:.1f} s"
    )
    if hang_seconds < HANG_MARGIN * parts[slowest]:
        return Finding(
            WARNING,
            "watchdog",
            f"{text}; set at least {math.ceil(HANG_MARGIN * parts[slowest])}, or the watchdog may "
            "end a healthy run",
        )
    return Finding(OK, "watchdog", text)


def training_seconds(measured: Measured, steps: Steps, done: int) -> float:
    """Seconds from step `done` to the last one, without those of starting."""
    left = steps.total - done
    probes = left / steps.probe_every if steps.probe_every else 0
    return (
        left * measured.step
        + math.ceil(left / steps.save_every) * measured.stall
        + probes * measured.probe
    )


def jobs_needed(seconds: float, measured: Measured, limits: Limits) -> int | None:
    """How many jobs of `limits.minutes` (None: no limit) so many seconds of training take.

    None where not even one step fits in a job.
    """
    if limits.minutes is None:
        return 1
    each = 60 * limits.minutes - measured.start - (limits.signal_seconds or 0)
    return max(math.ceil(seconds / each), 1) if each > measured.step else None


def duration(measured: Measured, steps: Steps, done: int, limits: Limits, nodes: int) -> Finding:
    """How long the run takes, when it ends, in node hours and jobs."""
    seconds = training_seconds(measured, steps, done)
    jobs = jobs_needed(seconds, measured, limits)
    if jobs is None:
        return Finding(
            REFUSED,
            "time",
            f"found a time limit of {limits.minutes:g} minutes, of which {measured.start:.0f} s "
            f"are needed to start and {limits.signal_seconds or 0:g} s lie after the signal: no "
            "step fits; give more",
        )
    whole = seconds + jobs * measured.start + measured.ahead
    end = datetime.now().astimezone() + timedelta(seconds=whole)
    text = (
        f"{steps.total - done:,} of {steps.total:,} steps to go: "
        f"{timedelta(seconds=round(whole))}, "
        f"{nodes * whole / 3600:.2f} node hours on {nodes} node{'' if nodes == 1 else 's'}; "
        f"started now, done {end:%Y-%m-%d %H:%M %Z}"
    )
    if measured.ahead >= 1:
        ahead = timedelta(seconds=round(measured.ahead))
        text += f"; of it at most {ahead} for the tokens of all views, before the first step"
    if limits.minutes:
        text += (
            f"; {jobs} job{'' if jobs == 1 else 's'} of {limits.minutes:g} minutes, without the "
            "time between them"
        )
    return Finding(OK, "time", text)


def forecast(
    measured: Measured, config: Any, steps: Steps, done: int, limits: Limits, nodes: int
) -> list[Finding]:
    """The findings about the real run, which resumes from step `done`."""
    return [
        speed(measured, limits.steps),
        saves(measured, config.loop),
        signal(measured, config.loop, limits.signal_seconds),
        hang(measured, config.runtime.hang_seconds),
        duration(measured, steps, done, limits, nodes),
    ]


def time_all_reduce(place: Place, count: int) -> tuple[float, bool]:
    """Sum a buffer of `count` fp32 numbers over all ranks, three times. All ranks call it.

    Returns the seconds of the slowest rank, best of three, and whether the sums were right.
    """
    buffer = torch.empty(count, device=place.device)
    times, right = [], True
    for _ in range(3):
        buffer.fill_(place.rank + 1.0)
        _synchronise(place)
        barrier()
        started = time.perf_counter()
        distributed.all_reduce(buffer)
        _synchronise(place)
        times.append(time.perf_counter() - started)
        right &= bool((buffer == place.world_size * (place.world_size + 1) / 2).all())
    results: list = [None] * place.world_size
    distributed.all_gather_object(results, (times, right))
    slowest = map(max, zip(*(times for times, _ in results), strict=True))
    return min(slowest), all(right for _, right in results)


def _synchronise(place: Place) -> None:
    if place.device.type == "cuda":
        torch.cuda.synchronize(place.device)
