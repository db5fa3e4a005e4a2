"""Trials of a sweep one after the other in this process's care, without Ray: what an element of an array of jobs does.

    SWEEP/generations/0003/parts/0002/    the starts of element 2 of the array that is start 3 of the sweep

No two processes run the same trial: elements share the trials by number, a restarted element takes over from its own past,
and a later start of the sweep from all of them. Whoever was taken over from finds that out before it writes, and ends.
"""

import sys
from collections.abc import Callable

from scemae.errors import LaunchError, Preempted
from scemae.files import disk
from scemae.process.stop_signals import StopRequest
from scemae.runs.generations import Generation
from scemae.runs.run_folder import own
from scemae.sweep.processes.rank_processes import ForkServerClient
from scemae.sweep.processes.trial_process import ASKED, KILLED, TrialCommand, TrialProcess, clear
from scemae.sweep.spec import Sweep
from scemae.sweep.trials import (
    FAILED,
    FINISHED,
    RUNNING,
    Trial,
    TrialRecord,
    end_trial,
    read_record,
    refuse_links,
    write_trial,
)


def run_array_element(sweep: Sweep, part: int, of: int, start: Generation) -> None:
    """Run trials part, part + of, ... of a random or grid search, but those that have ended; one that had begun goes on.

    start: of the sweep, which these trials are a part of. Raises Preempted once asked to stop and saved, RunFolderError once
    another start of the sweep or of this part has taken over.
    """
    stop = StopRequest()
    refuse_links(sweep.folder)
    disk.make_folders(start.folder / "parts", sweep.folder)
    disk.refuse_link(start.folder / "parts" / f"{part:04d}")
    trials = [sweep.trial(number) for number in range(part, sweep.size, of)]
    with own(start.folder / "parts" / f"{part:04d}", "sweep") as mine:
        records = [read_record(sweep.folder, trial) for trial in trials]
        mine.record_base(sum(record.step + record.has_ended for record in records))

        def check() -> None:
            for one in (start, mine):
                sweep.refuse_superseded(one)

        nurseries = _RestartingForkServer(sweep, stop)
        try:
            for trial in (trial for trial, record in zip(trials, records) if not record.has_ended):
                check()
                write_trial(sweep.folder, trial)
                record, outcome = _to_its_end(sweep, trial, nurseries, stop, check)
                record = end_trial(sweep.folder, trial, outcome, record.reason)
                clear(trial.folder(sweep.folder))
                told = record.reason or " ".join(
                    f"{name} {score:.3f}" for name, score in record.scores.items()
                )
                print(f"trial {trial.number} {outcome}: {told}", flush=True)
        finally:
            nurseries.close()


class _RestartingForkServer:
    """One warm process after the other, each started when it is needed and the one before is gone."""

    def __init__(self, sweep: Sweep, stop: StopRequest) -> None:
        self._sweep, self._stop, self._living = sweep, stop, None

    def get(self) -> ForkServerClient:
        """The one that lives."""
        if self._living is None or not self._living.is_alive:
            try:
                self._living = ForkServerClient(
                    spawns=self._sweep.spawns, threads=self._sweep.config.trial.cpus
                )
            except LaunchError:
                self._stop.check("starting trials")  # a scheduler asks every process of a job
                raise
        return self._living

    def close(self) -> None:
        if self._living is not None:
            self._living.close()


def _to_its_end(
    sweep: Sweep,
    trial: Trial,
    nurseries: _RestartingForkServer,
    stop: StopRequest,
    check: Callable[[], None],
) -> tuple[TrialRecord, str]:
    """Start a trial until it has ended, at most `retries` times more where its processes are lost."""
    for _ in range(sweep.config.retries + 1):
        stop.check("starting trials")
        record, outcome = _work(sweep, trial, nurseries.get(), stop)
        check()  # ranks that were taken over from have failed, but their trial has not
        if outcome in (FINISHED, FAILED):
            return record, outcome
        if outcome == ASKED or stop.requested:
            raise Preempted(
                f"{sweep.folder}: asked to stop; trial {trial.number} has saved, the same command goes on"
            )
        record.reason = record.reason or "its ranks lost each other"
        print(
            f"trial {trial.number}: {record.reason}; it goes on from its last checkpoint",
            file=sys.stderr,
            flush=True,
        )
    record.reason = f"lost {sweep.config.retries + 1} times: {record.reason}"
    return record, FAILED


def _work(
    sweep: Sweep, trial: Trial, nursery: ForkServerClient, stop: StopRequest
) -> tuple[TrialRecord, str]:
    """One start of a trial: its record and FINISHED, FAILED, ASKED or KILLED."""
    work = TrialProcess(
        TrialCommand(
            sweep.folder, trial, sweep.arguments(trial), sweep.config.trial.ranks, sweep.environment
        ),
        nursery,
        lambda: stop.requested,
    )
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
