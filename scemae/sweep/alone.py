"""Trials of a sweep one after the other in this process's care, without Ray: what an element of an array of jobs does."""

import sys
from collections.abc import Sequence

from scemae.errors import LaunchError, Preempted
from scemae.loop import StopRequest
from scemae.run_folder import own
from scemae.sweep.ranks import Nursery
from scemae.sweep.sweep import Sweep
from scemae.sweep.trials import FAILED, FINISHED, RUNNING, Record, Trial, end_trial, read_record, write_trial
from scemae.sweep.work import ASKED, KILLED, Order, Work, clear


def run_alone(sweep: Sweep, numbers: Sequence[int]) -> None:
    """Run these trials of a random or grid search, but those that have ended; one that had begun goes on. Raises Preempted
    once asked to stop and saved."""
    stop, nursery = StopRequest(), None
    try:
        for number in numbers:
            trial = sweep.trial(number)
            if read_record(sweep.folder, trial).has_ended:
                continue
            write_trial(sweep.folder, trial)
            with own(trial.folder(sweep.folder), "sweep") as claim:  # no other element, nor one that was thought dead
                claim.record_base(read_record(sweep.folder, trial).step)
                for _ in range(sweep.config.retries + 1):
                    stop.check("starting trials")
                    nursery = _living(sweep, nursery, stop)
                    record, outcome = _work(sweep, trial, nursery, stop)
                    if outcome in (FINISHED, FAILED):
                        break
                    if outcome == ASKED or stop.requested:
                        raise Preempted(f"{sweep.folder}: asked to stop; trial {number} has saved, the same command goes on")
                    print(f"trial {number}: {record.reason}; it goes on from its last checkpoint", file=sys.stderr, flush=True)
                else:
                    outcome, record.reason = FAILED, f"lost {sweep.config.retries + 1} times: {record.reason}"
                record = end_trial(sweep.folder, trial, outcome, record.reason)
                clear(trial.folder(sweep.folder))
            print(f"trial {number} {outcome}: " + (" ".join(f"{name} {score:.3f}" for name, score in record.scores.items())
                                                   or record.reason), flush=True)
    finally:
        if nursery is not None:
            nursery.close()


def _living(sweep: Sweep, nursery: Nursery | None, stop: StopRequest) -> Nursery:
    if nursery is not None and nursery.is_alive:
        return nursery
    try:
        return Nursery(spawns=sweep.spawns, threads=sweep.config.trial.cpus)
    except LaunchError:
        stop.check("starting trials")
        raise


def _work(sweep: Sweep, trial: Trial, nursery: Nursery, stop: StopRequest) -> tuple[Record, str]:
    work = Work(Order(sweep.folder, trial, sweep.arguments(trial), sweep.config.trial.ranks, sweep.environment), nursery,
                lambda: stop.requested)
    try:
        record, outcome = work.look()
        while outcome == RUNNING:
            record, outcome = work.look()
    except LaunchError as error:
        record, outcome = read_record(sweep.folder, trial), KILLED
        record.reason = str(error)
    finally:
        work.close()
    return record, outcome
