"""Whether the run may start in its folder, and whether its checkpoints have room on the disk."""

import os
import shutil
from pathlib import Path
from typing import Any

from scemae.errors import CheckpointError, RunFolderError, ScemaeError
from scemae.files import disk
from scemae.runs import generations, run_folder
from scemae.runs.checkpoints import checkpoint
from scemae.training.doctor.findings import OK, REFUSED, WARNING, Report

SPARE = 64 << 20  # bytes to leave free on the disk


def check_run_folder(report: Report, run_dir: Path, stage: str) -> Path | None:
    """Check on rank 0 whether a run may start there now; returns the checkpoint it would resume."""
    whole = None
    try:
        refuse_other_use(run_dir, stage)
        checkpoint.refuse_old_format(run_dir)
        found = checkpoint.committed(run_dir)
        for folder in reversed(found):
            if (problem := checkpoint.damage(folder)) is None:
                whole = folder
                break
            report.add(
                WARNING, "run folder", f"{problem}; the run goes back to the checkpoint before it"
            )
        if found and whole is None:
            raise CheckpointError(
                f"{run_dir}: none of {len(found)} checkpoints is whole; restore one from a backup, "
                "or choose another run_dir"
            )
    except (ScemaeError, OSError, ValueError) as error:
        report.add(REFUSED, "run folder", str(error))
    return whole


def refuse_other_use(run_dir: Path, stage: str) -> None:
    """Raise RunFolderError where the folder is another stage's or in use.

    Raises LaunchError for a job that has failed again and again without progress.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise RunFolderError(f"{run_dir}: is no folder; choose another run_dir")
    other = run_folder.provenance(run_dir).get("stage", stage)
    if other != stage:
        raise RunFolderError(
            f"{run_dir}: found a run of `scemae {other}` in it; choose another run_dir"
        )
    job = os.environ.get("SCEMAE_JOB") or None
    generations.refuse_crash_loop(run_dir, job)
    if earlier := generations.numbers(run_dir):
        generations.refuse_living(run_dir, generations.path_of(run_dir, earlier[-1]), job)


def has_links(folder: Path) -> bool:
    """Whether the file system of a folder has hard links."""
    disk.write_bytes(folder / "one", b"1")
    try:
        os.link(folder / "one", folder / "two")
    except OSError:
        return False
    return True


def check_disk(
    report: Report, folder: Path, config: Any, size: int, links: bool, total_steps: int
) -> None:
    """Check for room for `keep` checkpoints of `size` bytes, one being written, and without hard
    links one being copied."""
    run_dir, loop = Path(config.run_dir), config.loop
    number = loop.keep + 1 + (not links)
    files = [path.stat() for path in (run_dir / checkpoint.CHECKPOINTS).glob("step-*/*")]
    held = sum(file.st_size for file in files if file.st_nlink == 1)
    free, needed = shutil.disk_usage(folder).free, max(number * size - held, size) + SPARE
    text = (
        f"{run_dir}: {free >> 20:,} MiB free, {needed >> 20:,} needed for {number} checkpoints of "
        f"{size >> 20:,} MiB"
    )
    stays = total_steps // loop.keep_every if loop.keep_every else 0
    if free < needed:
        report.add(REFUSED, "disk", f"{text}; make room, lower loop.keep or choose another run_dir")
    elif free < needed + stays * size:
        report.add(
            WARNING,
            "disk",
            f"{text}, and {stays * size >> 20:,} more for the {stays} that loop.keep_every keeps "
            "for good; make room before they are written, or raise it",
        )
    else:
        how = "hard links work" if links else "no hard links: a restart copies a checkpoint"
        report.add(OK, "disk", f"{text}; {how}")
