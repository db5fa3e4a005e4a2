"""Ray Tune drives the trials: python -m scemae.sweep.tune_driver WORDS, started by coordinator.py beside a Ray of its own.

Tune places trials on nodes, asks the search for the next, and ASHA whether one goes on. What a sweep is and how far it has
come is not Tune's but on disk (trials.py): a start after any end, and every WAVE trials, begins with a driver that is told of
the past. So memory stays bounded, and nothing of Ray needs to be restored, in a moved folder or elsewhere.
"""

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import Searcher

from scemae.config.schema.jobs import TrialResources
from scemae.errors import ScemaeError
from scemae.process import streams
from scemae.runs.generations import Generation
from scemae.sweep import spec as sweeps
from scemae.sweep.coordinator import BROKEN, MORE, address_of
from scemae.sweep.page.results import show
from scemae.sweep.processes.trial_process import ASKED, KILLED, TrialCommand
from scemae.sweep.processes.tune_worker import TrialWorker
from scemae.sweep.queue import TrialQueue
from scemae.sweep.spec import Sweep
from scemae.sweep.trials import FAILED, FINISHED, RUNNING, STOPPED, Trial, TrialRecord, read_run

WAVE = 500  # trials that one driver handles: Tune keeps what it has seen in memory
SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "20",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


class QueueSearcher(Searcher):
    """Tune's view of the book: hands it trials, as many at once as fit, and writes down what it says of them."""

    def __init__(
        self, book: TrialQueue, capacity: Callable[[], int], is_asked: Callable[[], bool]
    ) -> None:
        super().__init__(
            metric="progress", mode="max"
        )  # unused: the book's search knows the objectives
        self._book, self._capacity, self._is_asked = book, capacity, is_asked
        self._live: dict[str, Trial] = {}
        self._given = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        is_last = self._is_asked() or self._given >= WAVE
        if is_last or len(self._live) >= self._capacity():
            return Searcher.FINISHED if is_last and not self._live else None
        trial = self._book.next()
        if trial is None:
            return (
                None if self._live else Searcher.FINISHED
            )  # one that lives may be lost, and come again
        self._live[trial_id], self._given = trial, self._given + 1
        sweep, share = self._book.sweep, self._book.sweep.config.trial
        order = TrialCommand(
            sweep.folder, trial, sweep.arguments(trial), share.ranks, sweep.environment
        )
        return {"order": order, "threads": share.cpus, "spawns": sweep.spawns}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        trial = self._live.pop(trial_id)
        outcome = (result or {}).get("outcome", KILLED)
        if outcome in (FINISHED, FAILED):
            self._book.end(trial, outcome, result["reason"])
        elif outcome == RUNNING and not error:
            self._book.end(trial, STOPPED, progress=result["progress"])
        elif outcome == ASKED or self._is_asked():  # a scheduler asks everyone at once
            self._book.put_back(trial)
        else:
            self._book.lose(trial, (result or {}).get("reason") or "its worker or node is gone")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the book is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class ResumedAsha(ASHAScheduler):
    """ASHA that knows the past: the rungs of trials that ended before, and of those that go on."""

    def __init__(self, sweep: Sweep, ended: list[TrialRecord]) -> None:
        halving, objective = sweep.config.halving, sweep.config.objectives[0]
        super().__init__(
            time_attr="progress",
            metric=objective,
            mode="min",
            max_t=1.0,
            grace_period=halving.grace,
            reduction_factor=halving.reduction,
            brackets=1,
            stop_last_trials=False,
        )
        self._sweep = sweep
        for record in ended:
            past = SimpleNamespace(trial_id=f"past-{record.number}")
            super().on_trial_add(None, past)
            self._replay(past, record, record.curve)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """All its looks but the last, which it tells again itself."""
        super().on_trial_add(tune_controller, trial)
        record = read_run(self._sweep.folder, trial.config["order"].trial)
        self._replay(trial, record, record.curve[:-1])

    def _replay(
        self, trial: Any, record: TrialRecord, looks: list[tuple[int, dict[str, float]]]
    ) -> None:
        for step, scores in looks:
            super().on_trial_result(
                None, trial, {"progress": step / max(record.total, 1), **scores}
            )


def _name(trial: Any) -> str:
    return f"{trial.config['order'].trial.number}-{trial.trial_id}"


class Capacity:
    """How many trials fit on the nodes that are there now."""

    def __init__(self, asked: int | str, share: TrialResources) -> None:
        self._asked, self._share, self._found, self._until = asked, share, 0, 0.0

    def __call__(self) -> int:
        if self._asked != "auto":
            return int(self._asked)
        if time.monotonic() > self._until:
            self._found, self._until = sum(map(self._fits, ray.nodes())), time.monotonic() + 1.0
        return self._found

    def _fits(self, node: dict[str, Any]) -> int:
        if not node["Alive"]:
            return 0
        resources, share = node["Resources"], self._share
        found = int(resources.get("CPU", 0) // (share.ranks * share.cpus))
        return min(found, int(resources.get("GPU", 0) / share.gpus + 1e-6)) if share.gpus else found


def run(
    sweep: Sweep, generation: Generation, address: str, worker: type[tune.Trainable] = TrialWorker
) -> int:
    """Run trials until all have ended (0), WAVE have (MORE), or SIGTERM or SIGUSR2 asks it to stop (75)."""
    asked: list[int] = []
    os.environ.update(SETTINGS)
    with contextlib.chdir(
        "/"
    ):  # Ray puts the current folder on the path of its workers, on all nodes
        ray.init(
            address=address,
            namespace=sweep.identity,
            logging_level="ERROR",
            log_to_driver=False,
            configure_logging=False,
        )
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    for number in (signal.SIGTERM, signal.SIGUSR2):  # now: Ray has set its own
        signal.signal(number, lambda received, _: asked.append(received))
    book = TrialQueue(sweep, generation, lambda: show(sweep))
    share = sweep.config.trial
    resources = tune.PlacementGroupFactory([{"CPU": share.ranks * share.cpus, "GPU": share.gpus}])
    scheduler = (
        ResumedAsha(sweep, list(book.ended.values()))
        if sweep.config.halving.enabled
        else FIFOScheduler()
    )
    feeder = QueueSearcher(book, Capacity(sweep.config.concurrency, share), lambda: bool(asked))
    try:
        with tempfile.TemporaryDirectory(
            prefix="tune-", dir=os.environ.get("SCEMAE_SWEEP_TEMP")
        ) as scratch:
            tune.Tuner(
                tune.with_resources(worker, resources),
                tune_config=tune.TuneConfig(
                    search_alg=feeder,
                    scheduler=scheduler,
                    num_samples=WAVE,
                    reuse_actors=True,
                    trial_name_creator=_name,
                    trial_dirname_creator=_name,
                ),
                run_config=tune.RunConfig(
                    name="wave",
                    storage_path=scratch,
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=0),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()
    finally:
        book.close()
    return 0 if book.is_done else 75 if asked else MORE


def main(words: list[str]) -> int:
    """The exit status: 0 all trials have ended, MORE are to come, 75 asked to stop, 1 what the user has to mend, BROKEN
    Ray's."""
    streams.guard()
    start = json.loads(os.environ["SCEMAE_SWEEP_START"])
    folder = Path(start["folder"])
    try:
        sweep = sweeps.load(words)
        sweep.claim()
        while (
            address := address_of(folder)
        ) is None:  # until Ray has started; should it fail, this process is ended
            time.sleep(0.1)
        return run(sweep, Generation(start["generation"], folder), address)
    except ScemaeError as error:
        print(f"scemae sweep: {error}", file=sys.stderr)
        return error.exit_status
    except Exception:
        traceback.print_exc()
        return BROKEN


if __name__ == "__main__":
    from scemae.sweep import tune_driver  # as others import it: workers find its classes there

    status = tune_driver.main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # Ray's own end can wait for processes that are gone
