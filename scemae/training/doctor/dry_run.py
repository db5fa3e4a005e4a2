"""The dry run: the run's parts built in a folder of their own, checked, and trained a few steps."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from scemae.distributed import deepspeed_internals, host_memory
from scemae.distributed.watchdog import watch
from scemae.errors import LostRankError, Preempted, ScemaeError
from scemae.process.stop_signals import StopRequest
from scemae.runs import run_folder
from scemae.runs.checkpoints import checkpoint, resume
from scemae.training import correspond, pretrain
from scemae.training.doctor import rehearsal
from scemae.training.doctor.findings import OK, REFUSED, WARNING, Report
from scemae.training.doctor.rank_survey import RankFacts, hosts_of
from scemae.training.doctor.rehearsal import Limits
from scemae.training.doctor.run_folder_check import check_disk, has_links
from scemae.training.heartbeat import peak_memory
from scemae.training.loop import Steps
from scemae.training.run import Run, Start

FULL = 0.9  # a larger share of the memory than this is a warning
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
