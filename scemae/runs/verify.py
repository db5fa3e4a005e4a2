"""`scemae verify-resume RUN`: check by its ledger that a run skipped and repeated no sample.

    scemae verify-resume runs/mae                    all rows; 50 steps computed again from shards
    scemae verify-resume runs/mae --all              every step computed again: decodes every image
    scemae verify-resume runs/mae --all --workers 8  with eight threads, not one for each core
    scemae verify-resume runs/mae --against OTHER    the same samples in each step as another run

Four checks, for a run that was stopped, killed, moved or rolled back: the steps that count are 1,
2, 3, ... up to the newest checkpoint, each once; the order has each sample once in an epoch; the
keys and pixels that were consumed, hashed after collation, are those of the order; and steps that
were lost and trained again saw the same samples. Left-out steps and replaced samples, which the
ledger records, are listed.
"""

import argparse
import itertools
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from scemae.data.frame_sources import StreamedFrames
from scemae.data.order import Order
from scemae.data.storage.joined import Grown
from scemae.data.training_set import make_order, open_set
from scemae.errors import ConfigError, LedgerError, RunFolderError
from scemae.files import documents, ownership
from scemae.files.documents import Count, Small
from scemae.process.progress import progress_bar
from scemae.runs import data_parts, generations
from scemae.runs.checkpoints import checkpoint
from scemae.runs.generation_files import LEDGER
from scemae.runs.step_digests import StepDigests

MOST_PIXELS = 2**35  # bytes of one step's frames


def main(options: argparse.Namespace) -> None:
    """Check a run and print the result. Raises LedgerError at the first check that fails."""
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"--workers: found {options.workers}, at least 1 was needed")
    rows, starts = read_rows(options.run)
    plan = read_plan(options.run, options.shards, options.cache_dir)
    epochs = check_plan(plan, len(rows))
    chosen = rows if options.all else [rows[i] for i in spread(len(rows), options.steps)]
    check_rows(plan, chosen, options.workers, options.run)
    if options.against:
        compare(rows, read_rows(options.against)[0])
    print(summary(rows, starts, len(chosen), epochs, options.against))


@dataclass
class FrameSettings:
    """The section `data` of a run's config.yaml, as far as it is needed."""

    shards: str
    frame: Small
    cache_dir: str | None = None
    append: list[str] = field(default_factory=list)
    mix: list[str] = field(default_factory=list)
    subset: str | None = None
    cache_gb: float | None = None
    jpeg_noise: bool = False
    decoder: str = "cpu"
    order: str = "whole"  # as it was before there was a choice
    lanes: Small = 1024
    block: Small = 256
    window: Small = 64


@dataclass
class BatchSettings:
    """The section `optim` of a run's config.yaml, as far as it is needed."""

    global_batch_size: Small


@dataclass
class OrderSettings:
    """The settings of a run's config.yaml that decide which samples it consumes."""

    seed: Count
    data: FrameSettings
    optim: BatchSettings
    views: Small | None = None


@dataclass
class PlannedSamples:
    """What a run should have consumed: the order, and the frames behind it."""

    order: Order
    source: StreamedFrames
    noisy_jpeg: bool
    # the ledger hashes JPEG files, not pixels: those of nvJPEG are never on the host
    hashes_jpeg: bool
    views: int | None  # fixed views of each image, in stage 2


def read_rows(run: Path) -> tuple[list[dict], int]:
    """The ledger's rows that count, of steps 1, 2, 3, ..., and the number of starts.

    Raises LedgerError.
    """
    rows: list[dict] = []
    lost: list[dict] = []
    for row, counts in generations.all_rows(run, LEDGER):
        (rows if counts else lost).append(row)
    starts = len(generations.base_steps(run))
    if not rows:
        raise LedgerError(
            f"{run}: found no ledger; give the run_dir of `scemae pretrain` or `scemae correspond`"
        )
    times = Counter(row["step"] for row in rows)
    kept = checkpoint.committed(run)
    last = max(max(times), checkpoint.place_of(kept[-1])[0] if kept else 0)
    if missing := last - sum(0 < step <= last for step in times):
        first = next(step for step in itertools.count(1) if step not in times)
        raise LedgerError(
            f"{run}: found no row for step {first} ({missing} missing up to {last}); its samples "
            "were not trained on, or the ledger was altered"
        )
    if twice := [step for step, count in times.items() if count > 1]:
        raise LedgerError(
            f"{run}: found step {twice[0]} {times[twice[0]]} times; two starts wrote as one"
        )
    known = {row["step"]: row for row in rows}
    for row in lost:
        other = known.get(row["step"], row)
        if "digest" in row and "digest" in other and row["digest"] != other["digest"]:
            raise LedgerError(
                f"{run}: step {row['step']} saw other samples when it was trained again "
                f"(generations {row['generation']} and {other['generation']})"
            )
    return sorted(rows, key=lambda row: row["step"]), starts


def read_plan(run: Path, location: str | None, cache_dir: Path | None = None) -> PlannedSamples:
    """The order and the data of a run. Raises LedgerError where the shards are others."""
    config = documents.read_yaml(run / "config.yaml", OrderSettings, error=RunFolderError)
    data, batch = config.data, config.optim.global_batch_size
    may_copy = bool(cache_dir) or ownership.is_private_run(run)
    folder = str(cache_dir) if cache_dir else None
    shards = open_set(data, batch, location=location, cache_dir=folder, may_copy=may_copy)
    if isinstance(shards, Grown):
        shards.joins = data_parts.joins(run, shards, make_order(shards, config.seed, batch, data))
    kept = checkpoint.committed(run)
    if kept and (digest := checkpoint.read_state(kept[-1]).data_digest) not in shards.digests:
        raise LedgerError(
            f"{shards.folder}: found other shards than the run's (digest {digest[:12]}); give "
            "--shards"
        )
    if (needed := batch * data.frame**2 * 3) > MOST_PIXELS:
        raise RunFolderError(
            f"{run / 'config.yaml'}: found a batch of {batch:,} images of {data.frame:,} px, "
            f"{needed:,} bytes, at most {MOST_PIXELS:,} are computed again; restore it"
        )
    order = make_order(shards, config.seed, batch, data)
    source = StreamedFrames(shards, data.frame)
    is_nvjpeg = data.decoder == "nvjpeg"
    return PlannedSamples(order, source, data.jpeg_noise, is_nvjpeg, config.views)


def check_plan(plan: PlannedSamples, steps: int) -> float:
    """Check that the order has no sample twice in an epoch, and all of them in a complete one.

    Returns the number of epochs in `steps`. Raises LedgerError.
    """
    for order in plan.order.parts:
        for epoch, drawn in groupby(order.drawn(0, steps), key=itemgetter(0)):
            given, seen = 0, np.zeros(order.samples, bool)
            for _, samples in drawn:
                given += len(samples)
                seen[samples] = True
            if (found := int(np.count_nonzero(seen))) != given:
                raise LedgerError(
                    f"epoch {epoch}: the order gives {found} different samples in {given}, of "
                    f"{order.samples}; another version made it"
                )
    return plan.order.epochs(steps)


def check_rows(plan: PlannedSamples, rows: list[dict], workers: int | None, run: Path) -> None:
    """Compute steps' digests again. Raises LedgerError for the first that is not the ledger's."""
    known = {row["step"]: row["digest"] for row in rows if "digest" in row}
    total = len(known) * plan.order.global_batch_size
    with (
        StepDigests(
            plan.order,
            plan.source,
            views=plan.views,
            noisy_jpeg=plan.noisy_jpeg,
            hashes_jpeg=plan.hashes_jpeg,
            workers=workers,
            owner=f"verify-resume {run.resolve()}",
        ) as digests,
        progress_bar(total=total, unit="image", desc="computing again") as bar,
    ):
        for step, digest in digests.compute([*known], bar.update):
            if digest != known[step]:
                raise LedgerError(
                    f"step {step}: the run consumed different samples than order and shards give "
                    f"(ledger {known[step][:12]}, computed {digest[:12]})"
                )


def compare(rows: list[dict], others: list[dict]) -> None:
    """Raise LedgerError at the first step in which two runs consumed different samples.

    Steps that either run has skipped are not compared. rows, others: of the ledger, in order.
    """
    for row, other in zip(rows, others):
        if row.get("digest") != other.get("digest") and "skipped" not in row | other:
            raise LedgerError(
                f"step {row['step']}: the two runs consumed different samples "
                f"({row.get('digest', '')[:12]}, {other.get('digest', '')[:12]})"
            )


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` places spread evenly over `count`, the first and the last among them."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(wanted, count)).round()})


def summary(rows: list[dict], starts: int, again: int, epochs: float, against: Path | None) -> str:
    """The result of all checks, in a few lines."""
    skipped = [row for row in rows if "skipped" in row]
    replaced = {key: name for row in rows for key, name in row.get("replaced", {}).items()}
    lines = [
        f"verified: steps 1 to {len(rows)} of {starts} starts, each once; {epochs:.2f} epochs, no "
        "sample twice in one",
        f"  {again} steps computed again from the shards, keys and pixels equal",
    ]
    if against:
        lines.append(f"  step for step the samples of {against}")
    lines += [f"  left out: step {row['step']}: {row['skipped']}" for row in skipped]
    lines += [
        f"  replaced: {key} by {name}, no whole JPEG" for key, name in sorted(replaced.items())
    ]
    return "\n".join(lines)
