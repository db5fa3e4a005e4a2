"""The driver of a sweep with trials that take no time, for `python -m bench sweep size`."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from ray import tune

from bench.sweep import peak_mib
from scemae.files import disk
from scemae.runs.generation_files import METRICS
from scemae.runs.generations import claim
from scemae.sweep import spec as sweeps
from scemae.sweep import sweep_folder, tune_driver
from scemae.sweep.trials import FINISHED


class Idle(tune.Trainable):
    """Writes what a run would leave, and ends."""

    def setup(self, config: dict[str, Any]) -> None:
        self._config = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Report the only result of this trial."""
        run = self._config["command"].folder / "run"
        generation = claim(run, None, None)
        generation.record_base(0)
        rows = (
            {
                "step": step,
                "probe_same": 1.0,
                "probe_different": 5.0 + self._config["command"].trial.number % 97 / 97,
            }
            for step in (10, 20, 30)
        )
        (generation.folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
        disk.write_json(run / "provenance.json", {"total_steps": 30})
        return {"progress": 1.0, "outcome": FINISHED, "reason": "", "different": 5.0, "done": True}


def main() -> None:
    """Run the sweep of SCEMAE_SWEEP_START and print its seconds and memory."""
    start = json.loads(os.environ["SCEMAE_SWEEP_START"])
    sweep = sweeps.load(
        [
            f"run_dir={start['folder']}",
            "search=random",
            "halving.enabled=false",
            f"trials={start['count']}",
            f"correspond.backbone={start['mae']}",
            f"correspond.data.shards={start['shards']}",
            f"correspond.probe_shards={start['shards']}",
            "correspond.optim.global_batch_size=50",
        ]
    )
    sweep_folder.claim(sweep)
    sys.stdout, answers = sys.stderr, sys.stdout
    before, began = peak_mib(), time.perf_counter()
    # the page is drawn once, whatever the number of trials: it is left out
    tune_driver.show = lambda sweep: None
    status = tune_driver.run(
        sweep, claim(Path(start["folder"]), None, None), start["address"], Idle
    )
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - began,
                "mib": peak_mib(),
                "before": before,
                "status": status,
            }
        ),
        file=answers,
        flush=True,
    )
    os._exit(0)


if __name__ == "__main__":
    from bench import sweep_driver

    sweep_driver.main()
