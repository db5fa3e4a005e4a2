"""One element of a job array: runs its share of a sweep's trials one by one, without Ray.

    SWEEP/generations/0003/parts/0002/    the starts of element 2 of the array that is start 3

No two processes run the same trial: the elements share the trials by number, a restarted element
takes over from its earlier starts, and a later start of the sweep from all elements. A process that
was superseded finds that out before it writes, and ends.
"""

import sys
from collections.abc import Callable

from scemae.errors import LaunchError, Preempted
from scemae.files import disk
from scemae.process.stop_signals import StopRequest
from scemae.runs.generations import Generation
from scemae.runs.run_folder import own
from scemae.sweep.processes.rank_processes import ForkServerClient
from scemae.sweep.processes.trial_process import ASKED, KILLED, TrialProcess, clear
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
    """Run trials part, part + of, ... of a random or grid search; those that have begun resume.

    start: the start of the sweep that the array is. Raises Preempted once asked to stop and saved,
    RunFolderError once another start of the sweep or of this element has taken over.
    """
    stop = StopRequest()
    folder = start.folder / "parts" / f"{part:04d}"
    refuse_links(sweep.folder)
    disk.make_folders(folder.parent, sweep.folder)
    disk.refuse_link(folder)
    trials = [sweep.trial(number) for number in range(part, sweep.size, of)]
    with own(folder, "sweep") as mine:
        records = [read_record(sweep.folder, trial) for trial in trials]
        mine.record_base(sum(record.step + record.has_ended for record in records))

        def check() -> None:
            for one in (start, mine):
                sweep.refuse_superseded(one)

        server = _RestartingForkServer(sweep, stop)
        try:
            for record in records:
                if not record.has_ended:
                    check()
                    write_trial(sweep.folder, record.trial)
                    _run_to_end(sweep, record.trial, server, stop, check)
        finally:
            server.close()


class _RestartingForkServer:
    """A fork server that is started when first needed, and again where it has ended."""

    def __init__(self, sweep: Sweep, stop: StopRequest) -> None:
        self._sweep, self._stop = sweep, stop
        self._live: ForkServerClient | None = None

    def get(self) -> ForkServerClient:
        """The running fork server; starts one where none runs."""
        if self._live is None or not self._live.is_alive:
            threads = self._sweep.config.trial.cpus
            try:
                self._live = ForkServerClient(spawns=self._sweep.spawns, threads=threads)
            except LaunchError:
                # It may have ended because a scheduler asks every process of a job to stop.
                self._stop.check("starting trials")
                raise
        return self._live

    def close(self) -> None:
        if self._live is not None:
            self._live.close()


def _run_to_end(
    sweep: Sweep,
    trial: Trial,
    server: _RestartingForkServer,
    stop: StopRequest,
    check: Callable[[], None],
) -> None:
    """Run a trial, again up to `retries` times if its processes are lost, and record its end."""
    for _ in range(sweep.config.retries + 1):
        stop.check("starting trials")
        record, outcome = _run_once(sweep, trial, server.get(), stop)
        check()  # ranks that were superseded have failed, but their trial has not
        if outcome in (FINISHED, FAILED):
            break
        if outcome == ASKED or stop.requested:
            raise Preempted(
                f"{sweep.folder}: asked to stop; trial {trial.number} has saved, the same command "
                "resumes it"
            )
        record.reason = record.reason or "its ranks lost each other"
        print(
            f"trial {trial.number}: {record.reason}; it resumes from its last checkpoint",
            file=sys.stderr,
            flush=True,
        )
    else:
        record.reason = f"lost {sweep.config.retries + 1} times: {record.reason}"
        outcome = FAILED
    record = end_trial(sweep.folder, trial, outcome, record.reason)
    clear(trial.folder(sweep.folder))
    scores = " ".join(f"{name} {score:.3f}" for name, score in record.scores.items())
    print(f"trial {trial.number} {outcome}: {record.reason or scores}", flush=True)


def _run_once(
    sweep: Sweep, trial: Trial, server: ForkServerClient, stop: StopRequest
) -> tuple[TrialRecord, str]:
    """One start of a trial: its record and FINISHED, FAILED, ASKED or KILLED."""
    process = TrialProcess(sweep.command(trial), server, lambda: stop.requested)
    try:
        record, outcome = process.next_evaluation()
        while outcome == RUNNING:
            record, outcome = process.next_evaluation()
    except LaunchError as error:
        record, outcome = read_record(sweep.folder, trial), KILLED
        record.reason = str(error)
    finally:
        process.close()
    return record, outcome
