"""Metrics to wandb, MLflow or trackio, as runtime.tracker says; rank 0 only.

A thread opens the tracker, sends the rows and closes it: training never waits for a network. What
fails there costs one warning; metrics.jsonl has every row. Where a tracker writes, and as whom, is
said by its own environment (WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR and so on) and never by a
setting, so that no credential enters a run folder. RUN/tracker.json keeps the ids by which the next
start continues the same run of the tracker.
"""

import os
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from scemae.config.dotted import flatten
from scemae.config.inputs import NO_TRACKER
from scemae.config.locations import masked_all, without_secrets
from scemae.errors import FileError, RunFolderError
from scemae.files import disk, documents

FILE = "tracker.json"
PROJECT = "scemae"  # where the tracker's environment names none
CLOSE_SECONDS = 60.0  # that the end of a run waits for the last rows
SOON_SECONDS = 5.0  # the same, where the job was told to stop: its time is counted
MOST_ROWS = 10_000  # that wait for a slow tracker
MOST_LETTERS = 500  # of a setting in MLflow


@dataclass
class TrackedRun:
    """What a tracker is told of a run."""

    folder: Path
    settings: dict[str, Any]  # by dotted names; secrets in URLs are masked
    known: str | None = None  # its id at the tracker, of an earlier start

    @property
    def name(self) -> str:
        """Of its folder and the one above: `demo/pretrain`."""
        return "/".join(self.folder.resolve().parts[-2:])


class Tracker(Protocol):
    """A place that shows metrics. Made with a TrackedRun; all calls come from one thread."""

    id: str  # by which a later start finds this run again

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send the metrics of one optimizer step; a step may come in several parts."""

    def close(self) -> None:
        """Send what is left."""


class Wandb:
    """Weights & Biases. WANDB_MODE=offline writes RUN/wandb, which `wandb sync` sends later."""

    def __init__(self, run: TrackedRun) -> None:
        disk.make_folders(run.folder / "wandb", run.folder)  # raises for another user's link
        import wandb

        self.id = run.known or uuid.uuid4().hex[:12]
        # x_disable_meta: the command line and the environment's user may name secrets
        settings = wandb.Settings(
            console="off", disable_git=True, x_disable_meta=True, login_timeout=CLOSE_SECONDS
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.id,
            name=run.name,
            resume="allow",
            dir=str(run.folder),
            config=run.settings,
            allow_val_change=True,
            settings=settings,
        )
        # wandb refuses a step below its last one, and a resumed run trains some steps again
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """MLflow, at MLFLOW_TRACKING_URI: a server, sqlite:///FILE or a folder."""

    def __init__(self, run: TrackedRun) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._client, self._metric = MlflowClient(), Metric
        try:
            if run.known is None:
                raise MlflowException("a new run")
            self.id = self._client.get_run(run.known).info.run_id
            self._client.update_run(self.id, status="RUNNING")
        except MlflowException:  # or it is no longer there
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(name)
            place = found.experiment_id if found else self._client.create_experiment(name)
            self.id = self._client.create_run(place, run_name=run.name).info.run_id
            told = [Param(key, str(value)[:MOST_LETTERS]) for key, value in run.settings.items()]
            for at in range(0, len(told), 100):  # its largest batch
                self._client.log_batch(self.id, params=told[at : at + 100])

    def log(self, step: int, values: dict[str, float]) -> None:
        now = int(1000 * time.time())
        rows = [self._metric(key, float(value), now, step) for key, value in values.items()]
        self._client.log_batch(self.id, metrics=rows)

    def close(self) -> None:
        self._client.set_terminated(self.id)


class Trackio:
    """trackio, in the folder TRACKIO_DIR or on the hub's space that TRACKIO_SPACE_ID names."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self.id = run.known or f"{run.name}-{uuid.uuid4().hex[:8]}"  # the name finds it again
        self._trackio = trackio
        trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=self.id,
            space_id=os.environ.get("TRACKIO_SPACE_ID"),
            config=run.settings,
            resume="allow",
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        self._trackio.log(values, step=step)

    def close(self) -> None:
        self._trackio.finish()


# By the value of runtime.tracker, which is the name of the package.
TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "wandb": Wandb,
    "mlflow": MLflow,
    "trackio": Trackio,
}


class Tracking:
    """A tracker behind a thread. Nothing that it does raises, or waits longer than `close`."""

    def __init__(self, name: str, folder: Path, settings: dict[str, Any]) -> None:
        """settings: by dotted names, as they are."""
        self._name, self._folder = name, folder
        self._settings = masked_all(settings)
        self._rows: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(MOST_ROWS)
        self._has_failed = False
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def write(self, global_step: int, values: dict[str, float]) -> None:
        """Hand a row over."""
        row = {name: float(one) for name, one in values.items()}
        try:
            if not self._has_failed:
                self._rows.put_nowait((global_step, row))
        except queue.Full:
            self._fail(f"it is {MOST_ROWS:,} rows behind at step {global_step}")

    def close(self, *, soon: bool = False) -> None:
        """Wait for the last rows, CLOSE_SECONDS at most, or where it is to be soon SOON_SECONDS."""
        if self._has_failed:
            return
        seconds = SOON_SECONDS if soon else CLOSE_SECONDS
        try:
            self._rows.put_nowait(None)
        except queue.Full:
            seconds = 0
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._fail(f"it has not answered for {seconds:g} s; its last rows are missing")

    def _work(self) -> None:
        try:
            known = _read_ids(self._folder)
            run = TrackedRun(self._folder, self._settings, known.get(self._name))
            tracker = TRACKERS[self._name](run)
            if tracker.id != run.known:
                disk.write_json(self._folder / FILE, {**known, self._name: tracker.id})
            while (row := self._rows.get()) is not None:
                if self._has_failed:
                    return
                tracker.log(*row)
            tracker.close()
        except (Exception, SystemExit) as error:  # of a package of others, and its network
            self._fail(" ".join(without_secrets(f"{type(error).__name__}: {error}").split())[:300])

    def _fail(self, why: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            print(
                f"scemae: runtime.tracker={self._name}: {why}; training goes on "
                "without it, and metrics.jsonl has every row",
                file=sys.stderr,
                flush=True,
            )


def start(run_dir: Path, config: Any) -> Tracking | None:
    """The tracker of a training run; None for runtime.tracker=none."""
    name = config.runtime.tracker
    return None if name == NO_TRACKER else Tracking(name, run_dir, flatten(config))


def _read_ids(folder: Path) -> dict[str, str]:
    """The ids in tracker.json; none where it is not there or not readable."""
    if not (folder / FILE).exists():
        return {}
    try:
        return documents.read_json(
            folder / FILE, dict[str, str], error=RunFolderError, remedy="remove it"
        )
    except (RunFolderError, FileError, OSError):
        return {}
