"""Ray Tune's worker. It imports neither torch nor what a trial needs: its fork server does."""

from typing import Any

from ray import tune

from scemae.errors import LaunchError
from scemae.sweep.processes.rank_processes import PATIENCE, ForkServerClient
from scemae.sweep.processes.trial_process import KILLED, TrialProcess
from scemae.sweep.trials import RUNNING


class TrialWorker(tune.Trainable):
    """A slot on some node: runs one trial after the other, all from one fork server."""

    def setup(self, config: dict[str, Any]) -> None:
        """config: command (TrialCommand), threads of each rank, spawns."""
        self._server: ForkServerClient | None = None
        self._process: TrialProcess | None = None
        self._config = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial."""
        self._close()
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next evaluation of the trial, or its end."""
        try:
            if self._process is None:
                self._process = TrialProcess(self._config["command"], self._live_server())
            record, outcome = self._process.next_evaluation()
        except LaunchError as error:
            return {"progress": 0.0, "outcome": KILLED, "reason": str(error), "done": True}
        step = record.curve[-1][0] if record.curve else 0
        return {
            "progress": step / max(record.total, 1),
            "outcome": outcome,
            "reason": record.reason,
            **record.scores,
            "done": outcome != RUNNING,
        }

    def cleanup(self) -> None:
        """End the trial, which may be early, and the fork server."""
        self._close(PATIENCE)
        if self._server is not None:
            self._server.close()

    def _live_server(self) -> ForkServerClient:
        if self._server is None or not self._server.is_alive:
            spawns, threads = self._config["spawns"], self._config["threads"]
            self._server = ForkServerClient(spawns=spawns, threads=threads)
        return self._server

    def _close(self, patience: float = 0.0) -> None:
        if self._process is not None:
            self._process.close(patience)
        self._process = None
