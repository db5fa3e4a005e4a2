"""How OpenMP's threads should wait for each other: steps per second, machine idle or busy.

    python -m bench busy [--others 3] [--seconds 6] [--repeats 5] [--out DIR]

It trains the demo's stage 1 with the parts and threads of `scemae pretrain`. OpenMP reads the
environment once, so each way of waiting runs in its own process. All processes are started first;
all but the measured one are stopped (SIGSTOP). The command also starts the busy processes, and
stops them while it measures the idle machine, so that the two numbers of a case are seconds apart.
Do nothing else on the machine meanwhile.
"""

import torch  # noqa: I001  first: it reads the environment of the case, to which scemae would add

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench import faces, machine
from bench.repeat import interleave, ratio, summary
from scemae.sweep.processes.fork_server import signal_at_parent_death

SETTINGS = (
    "experiment=demo_pretrain",
    "probe_shards=null",
    "loop.probe_every=0",
    "runtime.device=cpu",
    "runtime.hang_seconds=100000",
)
VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
IDLE, BUSY, USUAL = "idle", "busy", "as OpenMP does by itself"
CASES = {
    USUAL: {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "PASSIVE, GOMP_SPINCOUNT=1000 (scemae)": {
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "1000",
    },
    "PASSIVE, GOMP_SPINCOUNT=10000": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"},
    "OMP_WAIT_POLICY=ACTIVE": {"OMP_WAIT_POLICY": "ACTIVE"},
    "one thread": {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"},
}


def main(argv: list[str]) -> int:
    """Measure and write busy.json and busy.md."""
    parser = argparse.ArgumentParser(
        "python -m bench busy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--others", type=int, default=3, help="busy processes (3)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one measured block (6)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of all cases in turn (5)")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="of OpenMP (all cores)"
    )
    parser.add_argument("--faces", type=int, default=1000)
    parser.add_argument("--out", default=machine.OUT)
    options = parser.parse_args(argv)
    shards = faces.shards(options.faces)
    with ExitStack() as stack:
        others = [
            stack.enter_context(stopped([sys.executable, "-c", "while True: pass"]))
            for _ in range(options.others)
        ]
        cases: dict[str, Callable[[], float]] = {}
        for name, environment in CASES.items():
            worker = stack.enter_context(
                training(shards, {"OMP_NUM_THREADS": str(options.threads), **environment})
            )
            for state, busy in ((IDLE, []), (BUSY, others)):
                cases[f"{state} {name}"] = lambda worker=worker, busy=busy: measured(
                    worker, busy, options.seconds
                )
        found = interleave(cases, options.repeats)
    machine.write(
        "busy",
        options.out,
        table(found),
        machine.facts()
        | {
            "threads": options.threads,
            "busy processes": options.others,
            "seconds of a block": options.seconds,
            "repeats": options.repeats,
        },
    )
    return 0


@contextmanager
def stopped(command: list[str], **options: object) -> Iterator[subprocess.Popen]:
    """A process stopped by SIGSTOP, which the caller continues; it is killed at the end."""
    die_with_us = partial(
        signal_at_parent_death, signal.SIGKILL
    )  # a stopped process would stay for ever
    process = subprocess.Popen(command, preexec_fn=die_with_us, **options)
    process.send_signal(signal.SIGSTOP)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def training(shards: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A stopped process that is ready to train, its threads set by `environment` alone."""
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    with stopped(
        [sys.executable, "-m", "bench.busy", str(shards)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**kept, **environment},
    ) as process:
        process.send_signal(signal.SIGCONT)
        while (line := process.stdout.readline()) != "ready\n":
            if not line:
                raise RuntimeError(f"the training process ended with {process.wait()}, see above")
        process.send_signal(signal.SIGSTOP)
        yield process


def measured(worker: subprocess.Popen, busy: list[subprocess.Popen], seconds: float) -> float:
    """Steps per second of one block of `worker`, beside the processes of `busy`."""
    together = [*busy, worker]
    for process in together:
        process.send_signal(signal.SIGCONT)
    print(seconds, file=worker.stdin, flush=True)
    found = float(worker.stdout.readline())
    for process in together:
        process.send_signal(signal.SIGSTOP)
    return found


def table(found: dict[str, list[float]]) -> list[dict]:
    """One row per way of waiting: steps per second idle and busy, and the ratio to the default."""
    rows = []
    for name in CASES:
        row: dict = {"how threads wait": name}
        for state in (IDLE, BUSY):
            values = found[f"{state} {name}"]
            spread = summary(values)
            row |= {
                f"{state}, steps/s": spread["median"],
                f"{state}, least": spread["min"],
                f"{state}, most": spread["max"],
                f"{state}, x by itself": ratio(values, found[f"{state} {USUAL}"]),
                f"{state} repeats": values,
            }
        rows.append(row)
    return rows


def train(shards: str) -> None:
    """The process of a case: read seconds from stdin, train that long, print steps per second."""
    from scemae.config.load import load_config
    from scemae.distributed.process_group import process_group
    from scemae.distributed.watchdog import watch
    from scemae.process.stop_signals import StopRequest
    from scemae.runs import run_folder
    from scemae.training import pretrain
    from scemae.training.run import Start

    answers, sys.stdout = sys.stdout, sys.stderr
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(
            "pretrain", [*SETTINGS, f"run_dir={folder}/run", f"data.shards={shards}"]
        )
        with (
            process_group("cpu") as place,
            run_folder.hold(Path(config.run_dir), place, "pretrain") as generation,
            watch(generation.folder, place, config.runtime.hang_seconds) as dog,
        ):
            run = pretrain.prepare(config, Start(place, generation, StopRequest(), dog))
            slices = (
                part
                for step in range(10**9)
                for part in run.order.slices(step, 0, 1, run.steps.accumulation)
            )
            run.feed.open(run.order, 0, 10**9)
            batches = run.feed.batches(slices, lambda *_: None)
            block(run, batches, 1.0)  # warm
            print("ready", file=answers, flush=True)
            for line in sys.stdin:
                print(block(run, batches, float(line)), file=answers, flush=True)


def block(run: object, batches: Iterator[tuple], seconds: float) -> float:
    """Steps per second over `seconds`, at least one step.

    The first step is not timed: its batch may have been ready.
    """
    from scemae.training.heartbeat import Meter
    from scemae.training.loop import train_step

    meter, steps, began = Meter(run.start.place, 10**5, run.steps.images), 0, 0.0
    while steps < 2 or time.perf_counter() - began < seconds:
        if steps == 1:
            began = time.perf_counter()
        steps += 1
        train_step(run.engine, batches, steps, run.steps.accumulation, meter, run.start.dog)
    return (steps - 1) / (time.perf_counter() - began)


if __name__ == "__main__":
    torch.manual_seed(0)
    train(sys.argv[1])
