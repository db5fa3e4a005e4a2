"""`scemae doctor STAGE KEY=VALUE ...`: would this run start here, go through, and stop in time? Asked before the job.

    scemae doctor pretrain run_dir=runs/mae data.shards=data/celeba/train --time-limit 240 --signal-seconds 120

It is started as the run will be (alone, under torchrun, one process per rank), joins the same process group, and looks
at data, run folder, disk, ranks and network. Where nothing is refused, it trains a few steps in a folder of its own
inside the run's or beside it (rehearsal.py), which it removes. It claims no generation of the run and saves nothing there.
Only where it is killed, or hangs, does the folder (.doctor-*) stay, with each rank's log.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from scemae.config.locations import masked
from scemae.data.decode import decode
from scemae.data.storage.shard_set import ShardSet, open_shards
from scemae.distributed import deepspeed_internals, host_memory
from scemae.distributed.process_group import agree, process_group
from scemae.distributed.watchdog import watch
from scemae.errors import CheckpointError, LostRankError, Preempted, RunFolderError, ScemaeError
from scemae.files import disk
from scemae.process.stop_signals import StopRequest
from scemae.runs import generations, run_folder
from scemae.runs.checkpoints import checkpoint, resume
from scemae.training import correspond, pretrain
from scemae.training.doctor import rank_survey, rehearsal
from scemae.training.doctor.findings import OK, REFUSED, WARNING, Report
from scemae.training.doctor.rank_survey import Seat, hosts_of
from scemae.training.doctor.rehearsal import Limits
from scemae.training.heartbeat import peak_memory
from scemae.training.loop import Steps
from scemae.training.run import Run, Start, plan

SAMPLES, SPARE, FULL = (
    64,
    64 << 20,
    0.9,
)  # images to decode; bytes to leave on the disk; share of memory that is a lot
STAGES = {"pretrain": pretrain.prepare, "correspond": correspond.prepare}


def main(config: Any, options: argparse.Namespace) -> None:
    """Examine a run of `options.schema` and say what was found, one line each. All ranks call it; exits with 1 if refused."""
    stage = options.schema
    limits = Limits(options.time_limit, options.signal_seconds, options.steps)
    stop, report = StopRequest("starting or waiting for other ranks"), Report()
    try:
        with ExitStack() as stack:
            place, problem = attempt(
                lambda: stack.enter_context(process_group(config.runtime.device))
            )
            if problem:
                report.add(
                    REFUSED,
                    "network",
                    f"the ranks cannot meet at {os.environ.get('MASTER_ADDR')}: {problem}",
                )
            else:
                report.place = place
                stop.begin()  # the folder of the dry run is to be removed
                examine(report, config, stage, limits, stop, time.time() - generations.started())
    except (
        LostRankError
    ):  # it stands in the report; leaving the group as usual would wait for the lost rank
        pass
    sys.exit(report.end())


def examine(
    report: Report, config: Any, stage: str, limits: Limits, stop: StopRequest, joining: float
) -> None:
    """All checks in order, the dry run last. joining: seconds that it took to start and to meet the other ranks."""
    shards, steps = check_data(report, config)
    digest = shards.manifest.digest() if shards else ""
    seats = rank_survey.gather(report.place, rank_survey.take_seat(report.place, config, digest))
    for finding in rank_survey.compare(seats):
        report.add(finding.verdict, finding.subject, finding.text)
    resumed = agree(
        check_run_folder(report, Path(config.run_dir), stage) if report.place.is_first else None
    )
    if report.refused:
        report.add(WARNING, "dry run", "left out until what is refused above is mended")
        return
    with scratch(report, Path(config.run_dir)) as folder:
        if folder is not None:
            trial = rehearsal.shorten(config, folder, limits.steps, resumed is not None)
            dry_run(
                report,
                config,
                trial,
                stage,
                limits,
                stop,
                time.time() - joining,
                seats,
                steps,
                resumed,
            )


def attempt(find: Callable[[], Any]) -> tuple[Any, str | None]:
    """What `find` returns and None, or None and why it could not."""
    try:
        return find(), None
    except (ScemaeError, OSError, ValueError, RuntimeError) as error:
        return None, str(error)


def check_data(report: Report, config: Any) -> tuple[ShardSet | None, Steps | None]:
    """Open the shards on every rank, decode some samples, plan the steps."""
    shards, problem = attempt(lambda: open_shards(config.data.shards, config.data.cache_dir))
    if not report.all_ranks("data", problem):
        return None, None
    chosen = np.unique(np.linspace(0, len(shards) - 1, SAMPLES).astype(int)).tolist()
    broken = [
        shards.keys[i]
        for i in chosen
        if attempt(lambda: decode(shards.jpeg(i), config.data.frame))[1]
    ]
    found = (
        f"{len(broken)} of {len(chosen)} images cannot be decoded ({', '.join(broken[:3])}, ...)"
        if broken
        else None
    )
    too_many = len(broken) > 1 + config.data.max_bad_fraction * len(chosen)
    report.all_ranks(
        "data", f"{found}; run `scemae shards verify` and build them again" if too_many else None
    )
    if broken and not too_many:
        report.add(
            WARNING,
            "data",
            f"{found}; more than data.max_bad_fraction={config.data.max_bad_fraction} of all "
            "would stop the run; run `scemae shards verify`",
        )
    steps, problem = attempt(lambda: plan(shards, config, report.place))
    if report.all_ranks("data", problem) and not too_many:
        report.add(
            OK,
            "data",
            f"{len(shards):,} images in {len(shards.manifest.shards)} shards at {masked(config.data.shards)}, "
            f"{len(chosen) - len(broken)} of {len(chosen)} tried decode; {steps.total:,} steps of {steps.images}",
        )
    return shards, steps


def check_run_folder(report: Report, run_dir: Path, stage: str) -> Path | None:
    """Rank 0: may a run start there now, and from which checkpoint would it go on?"""
    whole = None
    try:
        refuse_other_use(run_dir, stage)
        checkpoint.refuse_old_format(run_dir)
        found = checkpoint.committed(run_dir)
        for folder in reversed(found):
            if (problem := checkpoint.damage(folder)) is None:
                whole = folder
                break
            report.add(
                WARNING, "run folder", f"{problem}; the run goes back to the checkpoint before"
            )
        if found and whole is None:
            raise CheckpointError(
                f"{run_dir}: none of {len(found)} checkpoints is whole; restore one from a backup, or choose "
                "another run_dir"
            )
    except (ScemaeError, OSError, ValueError) as error:
        report.add(REFUSED, "run folder", str(error))
    return whole


def refuse_other_use(run_dir: Path, stage: str) -> None:
    """Raise RunFolderError where the folder is another stage's or in use, LaunchError for a job that never gets on."""
    if run_dir.exists() and not run_dir.is_dir():
        raise RunFolderError(f"{run_dir}: is no folder; choose another run_dir")
    other = run_folder.provenance(run_dir).get("stage", stage)
    if other != stage:
        raise RunFolderError(
            f"{run_dir}: found a run of `scemae {other}` in it; choose another run_dir"
        )
    job = os.environ.get("SCEMAE_JOB") or None
    generations.refuse_crash_loop(run_dir, job)
    if earlier := generations.numbers(run_dir):
        generations.refuse_living(run_dir, generations.path_of(run_dir, earlier[-1]), job)


@contextmanager
def scratch(report: Report, run_dir: Path) -> Iterator[Path | None]:
    """A folder on the run folder's own file system that every rank sees, removed at the end; None where refused."""
    home = next(folder for folder in (run_dir, *run_dir.parents) if folder.is_dir())
    made, problem = (
        attempt(lambda: tempfile.mkdtemp(prefix=".doctor-", dir=home))
        if report.place.is_first
        else (None, None)
    )
    try:
        made, problem = agree((made, problem))
        if made is None:
            report.add(
                REFUSED,
                "run folder",
                f"{home}: cannot be written ({problem}); choose another run_dir, or make room",
            )
        elif not report.all_ranks(
            "run folder",
            None
            if Path(made).is_dir()
            else f"{home}: what rank 0 writes there is not "
            f"seen on other hosts; choose a run_dir on a file system that all nodes share",
        ):
            yield None
            return
        yield made and Path(made)
    finally:
        if made and report.place.is_first:
            remove(report, Path(made))


def remove(report: Report, folder: Path) -> None:
    """Delete a folder; a network file system keeps files that a process has open for a moment."""
    for _ in range(20):
        disk.remove_tree(folder, folder.parent, best_effort=True)
        if not folder.exists():
            return
        time.sleep(0.25)
    report.add(WARNING, "clean-up", f"{folder}: could not be removed; remove it by hand")


def dry_run(
    report: Report,
    config: Any,
    trial: Any,
    stage: str,
    limits: Limits,
    stop: StopRequest,
    started: float,
    seats: list[Seat],
    steps: Steps,
    resumed: Path | None,
) -> None:
    """Build the real parts in the scratch folder; check what needs them; train a few steps; say what follows."""
    place, folder = report.place, Path(trial.run_dir)
    try:
        with (
            run_folder.hold(folder, place, stage) as generation,
            watch(generation.folder, place, config.runtime.hang_seconds) as dog,
        ):
            run = STAGES[stage](trial, Start(place, generation, stop, dog))
            built = time.time()
            check_parts(report, config, run, folder, resumed)
            if report.refused:
                return
            measured = rehearsal.rehearse(run, limits.steps, started + time.time() - built)
            check_memory(report, seats)
    except LostRankError as error:
        report.add(REFUSED, "dry run", str(error))
        raise
    except Preempted:
        report.add(REFUSED, "dry run", "asked to stop before its end; start it again")
        return
    except Exception as error:  # whatever ends the dry run would end the run
        kind = "" if isinstance(error, ScemaeError) else f"{type(error).__name__}: "
        report.add(REFUSED, "dry run", f"failed: {kind}{' '.join(str(error).split())[:500]}")
        return
    if place.is_first:
        done = checkpoint.place_of(resumed)[0] if resumed else 0
        for finding in rehearsal.forecast(
            measured, config, steps, min(done, steps.total), limits, len(hosts_of(seats))
        ):
            report.add(finding.verdict, finding.subject, finding.text)


def check_parts(report: Report, config: Any, run: Run, folder: Path, resumed: Path | None) -> None:
    """What the built parts tell: room for checkpoints, whether the one there fits, an all-reduce as large as a step's."""
    parameters = list(run.engine.module.parameters())
    count, trained = (
        sum(deepspeed_internals.numel(p) for p in some)
        for some in (parameters, [p for p in parameters if p.requires_grad])
    )
    if report.place.is_first:
        links = has_links(folder)
        check_disk(report, folder, config, 12 * count + (1 << 20), links, run.steps.total)
        check_checkpoint(report, Path(config.run_dir), run, resumed)
    if report.place.world_size == 1:
        report.add(OK, "all-reduce", "one rank, nothing to add up")
        return
    seconds, right = rehearsal.time_all_reduce(report.place, trained)
    text = (
        f"{trained:,} gradients in fp32 over {report.place.world_size} ranks: {seconds:.4f} s, "
        f"{4e-9 * trained / seconds:.2f} GB/s"
    )
    if right:
        report.add(OK, "all-reduce", text)
    else:
        report.add(
            REFUSED,
            "all-reduce",
            f"{text}, and the sums are wrong: leave out hosts until they are right",
        )


def has_links(folder: Path) -> bool:
    """Whether the file system of a folder has hard links."""
    disk.write_bytes(folder / "one", b"1")
    try:
        os.link(folder / "one", folder / "two")
    except OSError:
        return False
    return True


def check_disk(
    report: Report, folder: Path, config: Any, size: int, links: bool, total_steps: int
) -> None:
    """Room for `keep` checkpoints of `size` bytes, one on its way, and without hard links one that is being copied."""
    run_dir, loop = Path(config.run_dir), config.loop
    number = loop.keep + 1 + (not links)
    files = [path.stat() for path in (run_dir / checkpoint.CHECKPOINTS).glob("step-*/*")]
    held = sum(file.st_size for file in files if file.st_nlink == 1)
    free, needed = shutil.disk_usage(folder).free, max(number * size - held, size) + SPARE
    text = f"{run_dir}: {free >> 20:,} MiB free, {needed >> 20:,} needed for {number} checkpoints of {size >> 20:,} MiB"
    stays = total_steps // loop.keep_every if loop.keep_every else 0
    if free < needed:
        report.add(REFUSED, "disk", f"{text}; make room, lower loop.keep or choose another run_dir")
    elif free < needed + stays * size:
        report.add(
            WARNING,
            "disk",
            f"{text}, and {stays * size >> 20:,} more for the {stays} that loop.keep_every keeps for "
            "good; make room before they are written, or raise it",
        )
    else:
        report.add(
            OK,
            "disk",
            f"{text}; {'hard links work' if links else 'no hard links: a restart copies a checkpoint'}",
        )


def check_checkpoint(report: Report, run_dir: Path, run: Run, resumed: Path | None) -> None:
    """What the run would do with what stands in its folder."""
    if resumed is None:
        report.add(OK, "run folder", f"{run_dir}: no checkpoint there, the run starts from scratch")
        return
    state = checkpoint.read_state(resumed)
    if refusal := resume.differs(resumed, state, run.state):
        report.add(REFUSED, "run folder", refusal)
        return
    step = state.global_step
    if step >= run.steps.total:
        report.add(
            OK,
            "run folder",
            f"{run_dir}: already finished at step {step:,}, a run would end at once",
        )
    else:
        report.add(
            OK, "run folder", f"the run goes on from step {step:,} of whole checkpoint {resumed}"
        )


def check_memory(report: Report, seats: list[Seat]) -> None:
    """The peak of the dry run against what host and GPU have. All ranks call it."""
    place, told = report.place, [None] * report.place.world_size
    gpu = (
        (peak_memory(place), torch.cuda.mem_get_info(place.device)[1] / 2**30)
        if place.device.type == "cuda"
        else None
    )
    distributed.all_gather_object(
        told, (gpu, host_memory.most_resident() / 2**30, host_memory.limit() / 2**30)
    )
    for host, here in hosts_of(seats).items():
        mine = [told[seat.rank] for seat in here]
        used, limit = sum(resident for _, resident, _ in mine), min(most for *_, most in mine)
        report.add(
            WARNING if used > FULL * limit else OK,
            "memory",
            f"{host}: its ranks used {used:.2f} of {limit:.1f} GiB"
            + (
                "; ask the scheduler for more, or start fewer ranks per host"
                if used > FULL * limit
                else ""
            ),
        )
    gpus = [gpu for gpu, *_ in told if gpu]
    if gpus:
        used, limit = max(gpus, key=lambda pair: pair[0] / pair[1])
        report.add(
            WARNING if used > FULL * limit else OK,
            "GPU memory",
            f"the fullest used {used:.2f} of {limit:.1f} GiB"
            + (
                "; lower runtime.micro_batch_size or raise runtime.zero_stage"
                if used > FULL * limit
                else ""
            ),
        )
