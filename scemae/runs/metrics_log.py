"""metrics.jsonl, one line per heartbeat, save or probe; the same values as TensorBoard events and
to a tracker."""

import sys
import time
from pathlib import Path

from scemae.distributed.process_group import Place
from scemae.errors import FileError
from scemae.files import disk
from scemae.files.json_lines import Rows
from scemae.runs import generations
from scemae.runs.generation_files import METRICS
from scemae.runs.generations import Generation
from scemae.runs.trackers import Tracking


class Writer:
    """Writes metrics.jsonl of this generation and TensorBoard events of the run; rank 0 only."""

    def __init__(
        self,
        run_dir: Path,
        generation: Generation,
        place: Place,
        start_step: int,
        *,
        tracking: Tracking | None = None,
    ) -> None:
        """tracking: gets the rows too, and is closed with them."""
        self._events = self._lines = None
        self._tracking = tracking
        if place.is_first:
            from torch.utils.tensorboard import SummaryWriter

            self._lines = Rows(generation.folder / METRICS)
            try:
                folder = disk.make_folders(run_dir / "tensorboard", run_dir)
                self._events = SummaryWriter(folder, purge_step=start_step + 1)
            except FileError:  # a link that another user made
                raise
            # TensorFlow's writer, where TensorFlow is installed, raises errors of its own
            except Exception as error:
                print(f"scemae: no TensorBoard events ({error})", file=sys.stderr)

    def write(self, global_step: int, **values: float) -> None:
        """Write a row, and an event for each value."""
        if self._lines is None:
            return
        self._lines.write({"step": global_step, "time": round(time.time(), 3), **values})
        if self._tracking is not None:
            self._tracking.write(global_step, values)
        try:
            if self._events is not None:
                for name, value in values.items():
                    self._events.add_scalar(name, value, global_step)
        except Exception as error:  # its writer fails on a full disk; the rows go on
            print(
                f"scemae: no more TensorBoard events from step {global_step} on ({error})",
                file=sys.stderr,
            )
            self._events = None

    def close(self, *, soon: bool = False) -> None:
        """Close the rows, the events and the tracker; soon: the process was told to stop."""
        if self._lines is not None:
            self._lines.close()
        if self._events is not None:
            try:
                self._events.close()
            except Exception as error:
                print(f"scemae: TensorBoard's last events are lost ({error})", file=sys.stderr)
        if self._tracking is not None:
            self._tracking.close(soon=soon)


def read_metrics(run_dir: Path) -> list[dict]:
    """The lines of metrics.jsonl that count, of all generations."""
    return generations.rows(run_dir, METRICS)
