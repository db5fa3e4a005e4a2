"""The folder of the dry run, on the file system of the run's folder; removed at the end."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scemae.distributed.process_group import agree
from scemae.files import disk
from scemae.training.doctor.findings import REFUSED, WARNING, Report, attempt

NOT_SHARED = (
    "{}: what rank 0 writes there is not seen on other hosts; choose a run_dir on a file system "
    "that all nodes share"
)


@contextmanager
def scratch(report: Report, run_dir: Path) -> Iterator[Path | None]:
    """A folder on the run folder's file system that every rank sees, removed at the end; None if
    that is refused."""
    home = next(folder for folder in (run_dir, *run_dir.parents) if folder.is_dir())
    made, problem = (
        attempt(lambda: tempfile.mkdtemp(prefix=".doctor-", dir=home))
        if report.place.is_first
        else (None, None)
    )
    try:
        made, problem = agree((made, problem))
        if made is None:
            report.add(
                REFUSED,
                "run folder",
                f"{home}: cannot be written ({problem}); choose another run_dir, or make room",
            )
        elif not report.all_ranks(
            "run folder", None if Path(made).is_dir() else NOT_SHARED.format(home)
        ):
            yield None
            return
        yield made and Path(made)
    finally:
        if made and report.place.is_first:
            remove(report, Path(made))


def remove(report: Report, folder: Path) -> None:
    """Delete a folder; on a network file system files that were open go a moment later."""
    for _ in range(20):
        disk.remove_tree(folder, folder.parent, best_effort=True)
        if not folder.exists():
            return
        time.sleep(0.25)
    report.add(WARNING, "clean-up", f"{folder}: could not be removed; remove it by hand")
