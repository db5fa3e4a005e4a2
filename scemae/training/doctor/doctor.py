"""`scemae doctor STAGE KEY=VALUE ...`: check before a job whether the run will start here, get
through, and stop in time.

    scemae doctor pretrain run_dir=runs/mae data.shards=data/celeba/train --time-limit 240 \
        --signal-seconds 120

Start it as the run will be started (alone, or under torchrun with one process per rank). It joins
the same process group and checks data, run folder, disk, ranks and network. If nothing is refused,
it trains a few steps in a folder of its own inside the run's folder or beside it (rehearsal.py),
and removes that. It claims no generation of the run and saves nothing in the run's folder. Only if
it is killed or hangs does its folder (.doctor-*) stay, with the log of each rank.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from scemae.config.inputs import refuse_missing_tracker
from scemae.config.locations import masked
from scemae.data.decode import decode
from scemae.data.storage.shard_set import ShardSet
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
from scemae.training.doctor.data_forecast import forecast
from scemae.training.doctor.findings import OK, REFUSED, WARNING, Report
from scemae.training.doctor.rank_survey import RankFacts, hosts_of
from scemae.training.doctor.rehearsal import Limits
from scemae.training.heartbeat import peak_memory
from scemae.training.loop import Steps
from scemae.training.run import Run, Start
from scemae.training.run_plan import open_data, plan

SAMPLES = 64  # images to decode
SPARE = 64 << 20  # bytes to leave free on the disk
FULL = 0.9  # a larger share of the memory than this is a warning
NOT_SHARED = (
    "{}: what rank 0 writes there is not seen on other hosts; choose a run_dir on a file system "
    "that all nodes share"
)
STAGES: dict[str, Callable[[Any, Start], Run]] = {
    "pretrain": pretrain.prepare,
    "correspond": correspond.prepare,
}


@dataclass
class Request:
    """The run that is examined."""

    config: Any
    stage: str  # a key of STAGES
    limits: Limits
    stop: StopRequest
    joining: float  # seconds until this process had started and met the other ranks


def main(config: Any, options: argparse.Namespace) -> None:
    """Examine a run of the stage `options.schema`, and print one line per finding.

    Exits with 1 if something is refused. All ranks call it.
    """
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
                report.join(place)
                stop.begin()  # a signal must leave time to remove the folder of the dry run
                joining = time.time() - generations.started()
                examine(report, Request(config, options.schema, limits, stop, joining))
    except LostRankError:  # the report has it; leaving the group would wait for the lost rank
        pass
    sys.exit(report.end())


def examine(report: Report, request: Request) -> None:
    """All checks in order, the dry run last."""
    config = request.config
    shards, steps = check_data(report, config)
    report.all_ranks("tracker", attempt(lambda: refuse_missing_tracker(config.runtime.tracker))[1])
    digest = shards.digest if shards else ""
    ranks = rank_survey.gather(report.place, rank_survey.describe(report.place, config, digest))
    for finding in rank_survey.compare(ranks):
        report.add(finding.verdict, finding.subject, finding.text)
    run_dir, is_first = Path(config.run_dir), report.place.is_first
    resumed = agree(check_run_folder(report, run_dir, request.stage) if is_first else None)
    if report.refused or steps is None:
        report.add(WARNING, "dry run", "left out until the problems refused above are solved")
        return
    with scratch(report, run_dir) as folder:
        if folder is not None:
            dry_run(report, request, folder, ranks, steps, resumed)


def attempt(find: Callable[[], Any]) -> tuple[Any, str | None]:
    """The result of `find` and None, or None and the message of its error."""
    try:
        return find(), None
    except (ScemaeError, OSError, ValueError, RuntimeError) as error:
        return None, str(error)


def check_data(report: Report, config: Any) -> tuple[ShardSet | None, Steps | None]:
    """Open the shards on every rank, decode some samples, plan the steps."""
    shards, problem = attempt(lambda: open_data(config, report.place, lambda: None))
    if not report.all_ranks("data", problem):
        return None, None
    chosen = np.unique(np.linspace(0, len(shards) - 1, SAMPLES).astype(int)).tolist()
    broken = [
        shards.keys[i] for i in chosen if attempt(partial(_decode, shards, i, config.data.frame))[1]
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
            f"{len(shards):,} images in {len(shards.manifest.shards)} shards at "
            f"{masked(config.data.shards)}, {len(chosen) - len(broken)} of {len(chosen)} tried "
            f"decode; {steps.total:,} steps of {steps.images}",
        )
        report.add(OK, "scale", forecast(config, shards, report.place))
    return shards, steps


def _decode(shards: ShardSet, sample: int, frame: int) -> None:
    decode(shards.jpeg(sample), frame)


def check_run_folder(report: Report, run_dir: Path, stage: str) -> Path | None:
    """Check on rank 0 whether a run may start there now; returns the checkpoint it would resume."""
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
                WARNING, "run folder", f"{problem}; the run goes back to the checkpoint before it"
            )
        if found and whole is None:
            raise CheckpointError(
                f"{run_dir}: none of {len(found)} checkpoints is whole; restore one from a backup, "
                "or choose another run_dir"
            )
    except (ScemaeError, OSError, ValueError) as error:
        report.add(REFUSED, "run folder", str(error))
    return whole


def refuse_other_use(run_dir: Path, stage: str) -> None:
    """Raise RunFolderError where the folder is another stage's or in use.

    Raises LaunchError for a job that has failed again and again without progress.
    """
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
    """A folder on the run folder's file system that every rank sees, removed at the end; None if
    that is refused."""
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
            "run folder", None if Path(made).is_dir() else NOT_SHARED.format(home)
        ):
            yield None
            return
        yield made and Path(made)
    finally:
        if made and report.place.is_first:
            remove(report, Path(made))


def remove(report: Report, folder: Path) -> None:
    """Delete a folder; on a network file system files that were open go a moment later."""
    for _ in range(20):
        disk.remove_tree(folder, folder.parent, best_effort=True)
        if not folder.exists():
            return
        time.sleep(0.25)
    report.add(WARNING, "clean-up", f"{folder}: could not be removed; remove it by hand")


def dry_run(
    report: Report,
    request: Request,
    folder: Path,
    ranks: list[RankFacts],
    steps: Steps,
    resumed: Path | None,
) -> None:
    """Build the run's parts in `folder`, check them, train a few steps, and report the forecast."""
    place, config, limits = report.place, request.config, request.limits
    trial = rehearsal.shorten(config, folder, limits.steps, resumed is not None)
    began = time.time() - request.joining
    try:
        with (
            run_folder.hold(folder, place, request.stage) as generation,
            watch(generation.folder, place, config.runtime.hang_seconds) as dog,
        ):
            run = STAGES[request.stage](trial, Start(place, generation, request.stop, dog))
            built = time.time()
            check_parts(report, config, run, folder, resumed)
            if report.refused:
                return
            # without the time of the checks, which a real run does not make
            measured = rehearsal.rehearse(run, limits.steps, began + time.time() - built)
            check_memory(report, ranks)
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
    if measured is not None:  # on rank 0
        done = checkpoint.place_of(resumed)[0] if resumed else 0
        nodes, done = len(hosts_of(ranks)), min(done, steps.total)
        for finding in rehearsal.forecast(measured, config, steps, done, limits, nodes):
            report.add(finding.verdict, finding.subject, finding.text)


def check_parts(report: Report, config: Any, run: Run, folder: Path, resumed: Path | None) -> None:
    """Check the disk, the checkpoint to resume, and an all-reduce of a step's size."""
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
    """Check for room for `keep` checkpoints of `size` bytes, one being written, and without hard
    links one being copied."""
    run_dir, loop = Path(config.run_dir), config.loop
    number = loop.keep + 1 + (not links)
    files = [path.stat() for path in (run_dir / checkpoint.CHECKPOINTS).glob("step-*/*")]
    held = sum(file.st_size for file in files if file.st_nlink == 1)
    free, needed = shutil.disk_usage(folder).free, max(number * size - held, size) + SPARE
    text = (
        f"{run_dir}: {free >> 20:,} MiB free, {needed >> 20:,} needed for {number} checkpoints of "
        f"{size >> 20:,} MiB"
    )
    stays = total_steps // loop.keep_every if loop.keep_every else 0
    if free < needed:
        report.add(REFUSED, "disk", f"{text}; make room, lower loop.keep or choose another run_dir")
    elif free < needed + stays * size:
        report.add(
            WARNING,
            "disk",
            f"{text}, and {stays * size >> 20:,} more for the {stays} that loop.keep_every keeps "
            "for good; make room before they are written, or raise it",
        )
    else:
        how = "hard links work" if links else "no hard links: a restart copies a checkpoint"
        report.add(OK, "disk", f"{text}; {how}")


def check_checkpoint(report: Report, run_dir: Path, run: Run, resumed: Path | None) -> None:
    """Check that the run can resume the checkpoint in its folder."""
    if resumed is None:
        report.add(OK, "run folder", f"{run_dir}: no checkpoint there, the run starts from scratch")
        return
    state = checkpoint.read_state(resumed)
    if refusal := resume.differs(resumed, state, run.state, run.feed.shards.digests):
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
            OK, "run folder", f"the run resumes from step {step:,} of whole checkpoint {resumed}"
        )


def check_memory(report: Report, ranks: list[RankFacts]) -> None:
    """Compare the peak of the dry run with the memory of hosts and GPUs. All ranks call it."""
    place = report.place
    gpu, host = None, (host_memory.most_resident() / 2**30, host_memory.limit() / 2**30)
    if place.device.type == "cuda":
        gpu = peak_memory(place), torch.cuda.mem_get_info(place.device)[1] / 2**30
    usage: list = [None] * place.world_size
    distributed.all_gather_object(usage, (gpu, host))
    for name, here in hosts_of(ranks).items():
        own = [usage[rank.rank][1] for rank in here]
        used, limit = sum(resident for resident, _ in own), min(limit for _, limit in own)
        text = f"{name}: its ranks used {used:.2f} of {limit:.1f} GiB"
        advice = "; ask the scheduler for more, or start fewer ranks per host"
        _report_memory(report, "memory", used > FULL * limit, text, advice)
    if gpus := [gpu for gpu, _ in usage if gpu]:
        used, limit = max(gpus, key=lambda pair: pair[0] / pair[1])
        text = f"the fullest used {used:.2f} of {limit:.1f} GiB"
        advice = "; lower runtime.micro_batch_size or raise runtime.zero_stage"
        _report_memory(report, "GPU memory", used > FULL * limit, text, advice)


def _report_memory(report: Report, subject: str, is_full: bool, text: str, advice: str) -> None:
    report.add(WARNING if is_full else OK, subject, text + (advice if is_full else ""))
