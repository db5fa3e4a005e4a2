"""The driver: Ray Tune runs the trials. Started by coordinator.py beside a Ray of its own.

    python -m scemae.sweep.tune_driver WORDS

Tune places trials on nodes, asks the search for the next one, and ASHA whether a trial continues.
What the sweep is and how far it has come is on disk (trials.py), not with Tune: after any end, and
every WAVE trials, a new driver starts, and replays the past to the search and to ASHA. So memory is
bounded and nothing of Ray has to be restored, not even if the folder was moved.
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
from scemae.sweep.page.results import write_results
from scemae.sweep.processes.trial_process import ASKED, KILLED
from scemae.sweep.processes.tune_worker import TrialWorker
from scemae.sweep.queue import TrialQueue
from scemae.sweep.spec import Sweep
from scemae.sweep.sweep_folder import claim
from scemae.sweep.trials import FAILED, FINISHED, RUNNING, STOPPED, Trial, TrialRecord, read_run

WAVE = 500  # trials of one driver: Tune keeps what it has seen in memory
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
NO_CONTROLLER: Any = None  # ASHA does not use the controller that Ray passes it


class QueueSearcher(Searcher):
    """The TrialQueue as a search algorithm of Tune, which limits how many trials run at once."""

    def __init__(
        self, queue: TrialQueue, capacity: Callable[[], int], is_asked: Callable[[], bool]
    ) -> None:
        """capacity: trials at once. is_asked: whether the sweep is to stop."""
        # Metric and mode are not used: the queue's own search knows the objectives.
        super().__init__(metric="progress", mode="max")
        self._queue, self._capacity, self._is_asked = queue, capacity, is_asked
        self._live: dict[str, Trial] = {}  # by Tune's id
        self._started = 0

    # Ray's own annotation lacks the str.
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The config of Tune's next trial; None: not now; FINISHED: no more."""
        is_last = self._is_asked() or self._started >= WAVE
        if is_last or len(self._live) >= self._capacity():
            return Searcher.FINISHED if is_last and not self._live else None
        trial = self._queue.next()
        if trial is None:  # one that runs may be lost, and come again
            return None if self._live else Searcher.FINISHED
        self._live[trial_id], self._started = trial, self._started + 1
        sweep = self._queue.sweep
        threads = sweep.config.trial.cpus
        return {"command": sweep.command(trial), "threads": threads, "spawns": sweep.spawns}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record how a trial ended, or that it is to be resumed."""
        trial, result = self._live.pop(trial_id), result or {}
        outcome = result.get("outcome", KILLED)
        if outcome in (FINISHED, FAILED):
            self._queue.end(trial, outcome, result["reason"])
        elif outcome == RUNNING and not error:
            self._queue.end(trial, STOPPED, progress=result["progress"])
        elif outcome == ASKED or self._is_asked():  # a scheduler asks all processes at once
            self._queue.put_back(trial)
        else:
            self._queue.lose(trial, result.get("reason") or "its worker or node is gone")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trials are on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class ResumedAsha(ASHAScheduler):
    """ASHA with the rungs of trials of earlier starts: those that ended, and those that resume."""

    def __init__(self, sweep: Sweep, ended: list[TrialRecord]) -> None:
        halving, objective = sweep.config.halving, sweep.config.objectives[0]
        shares: dict[str, Any] = {"max_t": 1.0, "grace_period": halving.grace}  # Ray says int
        super().__init__(
            time_attr="progress",
            metric=objective,
            mode="min",
            **shares,
            reduction_factor=halving.reduction,
            brackets=1,
            stop_last_trials=False,
        )
        self._sweep = sweep
        for record in ended:
            past: Any = SimpleNamespace(trial_id=f"past-{record.number}")
            super().on_trial_add(NO_CONTROLLER, past)
            self._replay(past, record, record.curve)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Replay all evaluations of a resumed trial but the last, which it reports again itself."""
        super().on_trial_add(tune_controller, trial)
        record = read_run(self._sweep.folder, trial.config["command"].trial)
        self._replay(trial, record, record.curve[:-1])

    def _replay(
        self, trial: Any, record: TrialRecord, curve: list[tuple[int, dict[str, float]]]
    ) -> None:
        for step, scores in curve:
            result = {"progress": step / max(record.total, 1), **scores}
            super().on_trial_result(NO_CONTROLLER, trial, result)


def _name(trial: Any) -> str:
    return f"{trial.config['command'].trial.number}-{trial.trial_id}"


class Capacity:
    """How many trials fit on the nodes that are there now."""

    def __init__(self, concurrency: int | str, share: TrialResources) -> None:
        """concurrency: the setting of that name; "auto" counts the nodes' processors and GPUs."""
        self._concurrency, self._share = concurrency, share
        self._found, self._valid_until = 0, 0.0

    def __call__(self) -> int:
        if self._concurrency != "auto":
            return int(self._concurrency)
        if time.monotonic() > self._valid_until:
            self._found = sum(map(self._fits, ray.nodes()))
            self._valid_until = time.monotonic() + 1.0
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
    """Run trials until all have ended (0), WAVE have (MORE), or a signal asks to stop (75)."""
    asked: list[int] = []
    os.environ.update(SETTINGS)
    _connect(address, sweep.identity)
    for number in (signal.SIGTERM, signal.SIGUSR2):  # after Ray has set its own handlers
        signal.signal(number, lambda received, _: asked.append(received))
    queue = TrialQueue(sweep, generation, lambda: write_results(sweep))
    share, halving = sweep.config.trial, sweep.config.halving
    ended = list(queue.ended.values())
    scheduler = ResumedAsha(sweep, ended) if halving.enabled else FIFOScheduler()
    capacity = Capacity(sweep.config.concurrency, share)
    searcher = QueueSearcher(queue, capacity, lambda: bool(asked))
    resources = tune.PlacementGroupFactory([{"CPU": share.ranks * share.cpus, "GPU": share.gpus}])
    temporary = os.environ.get("SCEMAE_SWEEP_TEMP")
    try:
        with tempfile.TemporaryDirectory(prefix="tune-", dir=temporary) as scratch:
            tune.Tuner(
                tune.with_resources(worker, resources),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
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
        queue.close()
    return 0 if queue.is_done else 75 if asked else MORE


def _connect(address: str, namespace: str) -> None:
    # Ray puts the current folder on the import path of its workers on all nodes.
    with contextlib.chdir("/"):
        ray.init(
            address=address,
            namespace=namespace,
            logging_level=logging.ERROR,
            log_to_driver=False,
            configure_logging=False,
        )
    logging.getLogger("ray").setLevel(logging.CRITICAL)


def main(words: list[str]) -> int:
    """Run the driver; the exit status.

    0: all trials have ended. MORE: some are left. 75: asked to stop. 1: the user has to correct
    something. BROKEN: Ray failed.
    """
    streams.guard()
    start = json.loads(os.environ["SCEMAE_SWEEP_START"])
    folder = Path(start["folder"])
    try:
        sweep = sweeps.load(words)
        claim(sweep)
        # Until Ray has started; if it does not, the coordinator ends this process.
        while (address := address_of(folder)) is None:
            time.sleep(0.1)
        return run(sweep, Generation(start["generation"], folder), address)
    except ScemaeError as error:
        print(f"scemae sweep: {error}", file=sys.stderr)
        return error.exit_status
    except Exception:
        traceback.print_exc()
        return BROKEN


if __name__ == "__main__":
    from scemae.sweep import tune_driver  # under this name workers find the classes of this file

    status = tune_driver.main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # Ray's own shutdown can wait for processes that are gone
