"""A slot of Ray Tune on some node; imports neither torch nor what a trial needs: its nursery does."""

from typing import Any

from ray import tune

from scemae.errors import LaunchError
from scemae.sweep.processes.rank_processes import PATIENCE, ForkServerClient
from scemae.sweep.processes.trial_process import KILLED, TrialProcess
from scemae.sweep.trials import RUNNING


class TrialWorker(tune.Trainable):
    """A slot on some node: works at one trial after the other, with one warm process to start their ranks from."""

    def setup(self, config: dict[str, Any]) -> None:
        self._nursery, self._work, self._config = None, None, config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._close()
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next look at the trial."""
        try:
            if self._work is None:
                if self._nursery is None or not self._nursery.is_alive:
                    self._nursery = ForkServerClient(
                        spawns=self._config["spawns"], threads=self._config["threads"]
                    )
                self._work = TrialProcess(self._config["order"], self._nursery)
            record, outcome = self._work.look()
        except LaunchError as error:
            return {"progress": 0.0, "outcome": KILLED, "reason": str(error), "done": True}
        looked = record.curve[-1][0] if record.curve else 0
        return {
            "progress": looked / max(record.total, 1),
            "outcome": outcome,
            "reason": record.reason,
            **record.scores,
            "done": outcome != RUNNING,
        }

    def cleanup(self) -> None:
        self._close(PATIENCE)  # at the end of everything, which may come early
        if self._nursery is not None:
            self._nursery.close()

    def _close(self, patience: float = 0.0) -> None:
        if self._work is not None:
            self._work.close(patience)
        self._work = None
