"""`scemae verify-resume RUN`: what the ledger proves of a run that was stopped, killed, moved or rolled back.

    scemae verify-resume runs/mae                    the rows of all starts; 50 steps computed again from the shards
    scemae verify-resume runs/mae --all              every step computed again (reads and decodes each image it used)
    scemae verify-resume runs/mae --against OTHER    step for step the same samples as an uninterrupted run

Four things are checked: that the steps that count are 1, 2, 3, ... without gap or repeat up to the newest checkpoint; that
the plan gives each sample once per epoch; that what was consumed (keys and pixels, hashed after collation) is what the
plan says; and that work which was lost and done again saw the same samples. Left-out steps and replaced samples are
listed: they are declared in the ledger.
"""

import argparse
import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scemae.config.values import given_location, given_path
from scemae.data.decode import StreamedFrames, consumed_frames, digests
from scemae.data.order import Order
from scemae.data.storage.shard_set import open_shards
from scemae.errors import LedgerError, RunFolderError
from scemae.files import documents, ownership
from scemae.files.documents import Count, Small
from scemae.process.progress import progress_bar
from scemae.runs import generations
from scemae.runs.checkpoints import checkpoint
from scemae.runs.ledger import FILE, LIMBS, sample_digest, to_text

MOST_PIXELS = 2**35  # bytes of one step's frames


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "run", metavar="RUN", type=given_path, help="run_dir of pretrain or correspond"
    )
    parser.add_argument(
        "--all", action="store_true", help="compute every step again, not only --steps of them"
    )
    parser.add_argument(
        "--steps", type=int, default=50, help="steps to compute again, spread over the run (50)"
    )
    parser.add_argument(
        "--against",
        metavar="OTHER",
        type=given_path,
        help="a run that must have seen the same samples",
    )
    parser.add_argument(
        "--shards",
        type=given_location,
        help="where the shards are now, if not where the run's config.yaml says",
    )
    parser.add_argument(
        "--cache-dir",
        type=given_path,
        metavar="FOLDER",
        help="where shards at a URL are copied, if not where config.yaml says",
    )


def main(options: argparse.Namespace) -> None:
    """Check, say what was found, and raise LedgerError at the first thing that does not hold."""
    rows, starts = read_rows(options.run)
    plan = read_plan(options.run, options.shards, options.cache_dir)
    epochs = check_plan(plan, len(rows))
    chosen = rows if options.all else [rows[i] for i in spread(len(rows), options.steps)]
    for row in progress_bar(chosen, unit="step", desc="computing again"):
        check_row(plan, row)
    if options.against:
        compare(rows, read_rows(options.against)[0])
    print(summary(rows, starts, len(chosen), epochs, options.against))


@dataclass
class Frames:
    """What a run's config.yaml says of its images."""

    shards: str
    frame: Small
    cache_dir: str | None = None
    jpeg_noise: bool = False
    decoder: str = "cpu"


@dataclass
class Batch:
    """What a run's config.yaml says of its batches."""

    global_batch_size: Small


@dataclass
class Consumed:
    """What a run's config.yaml says of the samples that it was to consume."""

    seed: Count
    data: Frames
    optim: Batch
    views: Small | None = None


@dataclass
class Plan:
    """What a run should have consumed: the order, and the frames behind it."""

    order: Order
    source: StreamedFrames
    noisy_jpeg: bool
    hashes_jpeg: (
        bool  # nvJPEG's pixels never visit the host: the ledger has digests of what it was given
    )
    views: int | None  # fixed views of each image, in stage 2


def read_rows(run: Path) -> tuple[list[dict], int]:
    """The ledger's rows that count, steps 1, 2, 3, ..., and the number of starts. Raises LedgerError."""
    rows, lost = [], []
    for row, counts in generations.all_rows(run, FILE):
        (rows if counts else lost).append(row)
    starts = len(generations.base_steps(run))
    if not rows:
        raise LedgerError(
            f"{run}: found no ledger; give the run_dir of a `scemae pretrain` or `scemae correspond`"
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
                f"{run}: step {row['step']} saw other samples when it was done again (generations "
                f"{row['generation']} and {other['generation']})"
            )
    return sorted(rows, key=lambda row: row["step"]), starts


def read_plan(run: Path, location: str | None, cache_dir: Path | None = None) -> Plan:
    """The order and the data of a run. Raises LedgerError where the shards are others."""
    config = documents.read_yaml(run / "config.yaml", Consumed, error=RunFolderError)
    data = config.data
    shards = open_shards(
        location or data.shards,
        cache_dir or data.cache_dir,
        may_copy=bool(cache_dir) or ownership.is_private_run(run),
    )
    kept = checkpoint.committed(run)
    if kept and (needed := checkpoint.read_state(kept[-1]).data_digest) != shards.manifest.digest():
        raise LedgerError(
            f"{shards.folder}: found other shards than the run's (digest {needed[:12]}); give --shards"
        )
    if (needed := config.optim.global_batch_size * data.frame**2 * 3) > MOST_PIXELS:
        raise RunFolderError(
            f"{run / 'config.yaml'}: found a batch of {config.optim.global_batch_size:,} images of {data.frame:,} px, "
            f"{needed:,} bytes, at most {MOST_PIXELS:,} are computed again; restore it"
        )
    order = Order(len(shards), config.seed, config.optim.global_batch_size)
    return Plan(
        order,
        StreamedFrames(shards, data.frame),
        data.jpeg_noise,
        data.decoder == "nvjpeg",
        config.views,
    )


def check_plan(plan: Plan, steps: int) -> float:
    """Walk the plan: within each epoch no sample twice, and in each whole one all of them. Returns the epochs walked."""
    seen: dict[int, list[np.ndarray]] = defaultdict(list)
    for step in range(steps):
        samples, epochs = plan.order.global_batch(step)
        for epoch in np.unique(epochs):
            seen[int(epoch)].append(samples[epochs == epoch])
        for epoch in [epoch for epoch in seen if epoch < epochs[-1] or step == steps - 1]:
            line = np.concatenate(seen.pop(epoch))
            if len(np.unique(line)) != len(line) or (
                epoch < epochs[-1] and len(line) != plan.order.samples
            ):
                raise LedgerError(
                    f"epoch {epoch}: the order gives {len(np.unique(line))} different samples in {len(line)}, "
                    f"of {plan.order.samples}; it is not the one that this version makes"
                )
    return steps * plan.order.global_batch_size / plan.order.samples


def check_row(plan: Plan, row: dict) -> None:
    """Compute a step's digest again from order and shards. Raises LedgerError where it is not the ledger's."""
    if "digest" not in row:
        return
    part = plan.order.slices(row["step"] - 1, 0, 1, 1)[0]
    if plan.views is not None:
        part = replace(part, epochs=part.epochs % plan.views)
    samples, pixels = consumed_frames(plan.source, part, plan.order.seed, plan.noisy_jpeg)
    shards = plan.source.shards
    hashed = (
        [np.frombuffer(shards.jpeg(sample), np.uint8) for sample in samples.tolist()]
        if plan.hashes_jpeg
        else pixels
    )
    limbs = sum(
        (
            sample_digest(row["step"], place, shards.keys[sample], digest)
            for place, (sample, digest) in enumerate(zip(samples, digests(hashed)))
        ),
        np.zeros(LIMBS, dtype=np.int64),
    )
    if to_text(limbs) != row["digest"]:
        raise LedgerError(
            f"step {row['step']}: the run consumed other samples than order and shards give (ledger "
            f"{row['digest'][:12]}, computed {to_text(limbs)[:12]})"
        )


def compare(rows: list[dict], others: list[dict]) -> None:
    """Raise LedgerError at the first step where two runs consumed other samples, declared left-out steps apart."""
    for row, other in zip(rows, others):
        if row.get("digest") != other.get("digest") and "skipped" not in row | other:
            raise LedgerError(
                f"step {row['step']}: the two runs consumed other samples ({row.get('digest', '')[:12]}, "
                f"{other.get('digest', '')[:12]})"
            )


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` places spread evenly over `count`, the first and the last among them."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(wanted, count)).round()})


def summary(rows: list[dict], starts: int, again: int, epochs: float, against: Path | None) -> str:
    """What was proved, in a few lines."""
    skipped = [row for row in rows if "skipped" in row]
    replaced = {key: name for row in rows for key, name in row.get("replaced", {}).items()}
    lines = [
        f"verified: steps 1 to {len(rows)} of {starts} starts, each once; {epochs:.2f} epochs, no sample twice in one",
        f"  {again} steps computed again from the shards, keys and pixels equal",
    ]
    if against:
        lines.append(f"  step for step the samples of {against}")
    lines += [f"  left out: step {row['step']}: {row['skipped']}" for row in skipped]
    lines += [
        f"  replaced: {key} by {name}, no whole JPEG" for key, name in sorted(replaced.items())
    ]
    return "\n".join(lines)
