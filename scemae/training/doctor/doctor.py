"""`scemae doctor STAGE KEY=VALUE ...`: check before a job whether the run will start here, get
through, and stop in time.

    scemae doctor pretrain run_dir=runs/mae data.shards=data/celeba/train --time-limit 240 \
        --signal-seconds 120

Start it as the run will be started (alone, or under torchrun with one process per rank). It joins
the same process group and checks data, run folder, disk, ranks and network. If nothing is refused,
it trains a few steps in a folder of its own inside the run's folder or beside it (dry_run.py),
and removes that. It claims no generation of the run and saves nothing in the run's folder. Only if
it is killed or hangs does its folder (.doctor-*) stay, with the log of each rank.
"""

import argparse
import os
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scemae.config.inputs import refuse_missing_tracker
from scemae.config.locations import masked
from scemae.data.decode import decode
from scemae.data.storage.shard_set import ShardSet
from scemae.distributed.process_group import agree, process_group
from scemae.errors import LostRankError
from scemae.process.stop_signals import StopRequest
from scemae.runs import generations
from scemae.training.doctor import rank_survey
from scemae.training.doctor.data_forecast import forecast
from scemae.training.doctor.dry_run import Request, dry_run
from scemae.training.doctor.findings import OK, REFUSED, WARNING, Report, attempt
from scemae.training.doctor.rehearsal import Limits
from scemae.training.doctor.run_folder_check import check_run_folder
from scemae.training.doctor.scratch_folder import scratch
from scemae.training.loop import Steps
from scemae.training.run_plan import open_data, plan

SAMPLES = 64  # images to decode


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
