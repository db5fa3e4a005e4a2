"""Writing the tars of one split: in parallel, byte for byte reproducible, resumable, each whole.

Each worker writes a whole shard under another name, syncs it to the disk and renames it.
FOLDER/.build/ keeps what a later run needs to resume: plan.json says which build this is, and
NAME.json what each finished shard holds. The manifest is written last, so that a folder without one
is known to be unfinished.

In a bucket it is the same, each shard written in a folder for temporary files (TMPDIR) and put from
there: tar, index, record.
"""

import itertools
import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from scemae.data.storage import content
from scemae.data.storage.index import check_layout
from scemae.data.storage.index_file import write_index
from scemae.data.storage.manifest import GZIP, MANIFEST, LeftOut, Manifest, Shard, write_manifest
from scemae.data.storage.remote_folder import RemoteFolder
from scemae.errors import DataError, ShardError
from scemae.files import disk
from scemae.process.progress import progress_bar
from scemae.process.workers import follow_parent
from scemae.shards.claim import Part, claimed, make_plan
from scemae.shards.fill import fill_gzip, fill_tar
from scemae.shards.finished import (
    BUILD_FOLDER,
    FinishedShard,
    Place,
    ShardTask,
    errors_named,
    find_finished,
    stamp_of,
    write_record,
)
from scemae.shards.splits import Split

if TYPE_CHECKING:
    pass

FEW = 2000  # images of a split that are written sooner than processes have started


def write_split(
    split: Split,
    folder: Place,
    *,
    samples_per_shard: int = 1000,
    max_bad_fraction: float = 0.01,
    workers: int = 1,
    part: Part | None = None,
    gzip: bool = False,
) -> tuple[Manifest | None, int]:
    """Write the shards of `split` into `folder`.

    Returns the manifest, and how many shards an earlier run had finished. part: writes only the
    shards of that part, beside others that write theirs, and no manifest: a call without it writes
    that, and what is missing. gzip: compresses the tars (gzipped_tars.py). The same source and
    options give the same bytes, whatever the number of workers, parts and interruptions; compressed
    ones with the same zlib. Raises DataError if the split is empty or more than `max_bad_fraction`
    of its images are unusable, ShardError if `folder` holds another build, is in use, or cannot be
    written.
    """
    if not split.samples:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in split.excluded.items())
        reasons = reasons or "the source lists none"
        raise DataError(
            f"{split.name}: no image is left for this split ({reasons}); "
            "check the source's lists, or name the splits to build with --split"
        )
    if gzip:
        split = replace(split, options=split.options | {GZIP: True})
    tasks = _tasks(split, folder, samples_per_shard)
    if part is not None:
        tasks = tasks[part.index :: part.count]
    with claimed(folder, make_plan(split, samples_per_shard), part):
        finished = find_finished(tasks)
        kept = len(finished)
        if kept < len(tasks):
            _remove_manifest(folder)
        _write_missing(tasks, finished, split.name, max_bad_fraction, workers)
        if part is not None:
            return None, kept
        manifest = _make_manifest(
            split, samples_per_shard, [finished[task.number] for task in tasks]
        )
        if not manifest.samples:
            raise DataError(
                f"{split.name}: not one of {len(split.samples):,} images is usable "
                f"({_first(manifest.left_out)}); check the source"
            )
        _add_manifest(folder, manifest)
    return manifest, kept


def _remove_manifest(folder: Place) -> None:
    if isinstance(folder, RemoteFolder):
        folder.remove(MANIFEST)
    else:
        (folder / MANIFEST).unlink(missing_ok=True)


def _add_manifest(folder: Place, manifest: Manifest) -> None:
    if isinstance(folder, RemoteFolder):
        if folder.load(MANIFEST) is None:
            folder.write(MANIFEST, disk.json_bytes(asdict(manifest)))
    elif not (folder / MANIFEST).exists():
        with errors_named(folder / MANIFEST):
            write_manifest(folder, manifest)


def _tasks(split: Split, folder: Place, samples_per_shard: int) -> list[ShardTask]:
    return [
        ShardTask(
            number,
            folder,
            f"{split.name}-{number:06d}",
            split.samples[start : start + samples_per_shard],
            split.frame,
            split.accept_other_formats,
            split.upright,
            GZIP in split.options,
        )
        for number, start in enumerate(range(0, len(split.samples), samples_per_shard))
    ]


def _write_missing(
    tasks: list[ShardTask],
    finished: dict[int, FinishedShard],
    name: str,
    max_bad_fraction: float,
    workers: int,
) -> None:
    images = {task.number: len(task.samples) for task in tasks}
    missing = [task for task in tasks if task.number not in finished]
    total = sum(images.values())
    before = total - sum(len(task.samples) for task in missing)
    bad = sum(len(written.left_out) for written in finished.values())
    with progress_bar(total=total, initial=before, desc=name, unit="image") as bar:
        for number, written in itertools.chain([(-1, None)], _run(missing, workers)):
            if written is not None:
                finished[number] = written
                bad += len(written.left_out)
                bar.update(images[number])
            if bad > max_bad_fraction * total:
                left_out = next(
                    finished[n].left_out for n in sorted(finished) if finished[n].left_out
                )
                raise DataError(
                    f"{name}: {bad:,} of {total:,} images are unusable so far "
                    f"({_first(left_out)}), more than the allowed fraction {max_bad_fraction:g}; "
                    "repair the source, or raise --max-bad-fraction and run again"
                )


def _first(left_out: list[LeftOut]) -> str:
    return f"first {left_out[0]['file']}: {left_out[0]['reason']}"


def _make_manifest(split: Split, samples_per_shard: int, written: list[FinishedShard]) -> Manifest:
    shards = [part.shard for part in written]
    options = split.options | {
        "samples_per_shard": samples_per_shard,
        "encoded_anew": sum(p.encoded for p in written),
    }
    return Manifest(
        split.dataset,
        split.name,
        sum(shard.samples for shard in shards),
        shards,
        [entry for part in written for entry in part.left_out],
        split.excluded,
        options,
    )


def _run(tasks: list[ShardTask], workers: int) -> Iterator[tuple[int, FinishedShard]]:
    """Write the shards, in this process or in several; the first error stops what has not begun."""
    if workers == 1 or len(tasks) <= 1:
        for task in tasks:
            yield task.number, write_shard(task)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(tasks)), mp_context=spawn, initializer=follow_parent
    ) as pool:
        futures = {pool.submit(write_shard, task): task.number for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise ShardError(
                f"{tasks[0].folder}: a worker process died, perhaps for lack of memory; run the "
                "same command again with fewer --workers (finished shards are kept)"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def write_shard(task: ShardTask) -> FinishedShard:
    """Write one tar, its index and its record, each whole or not at all.

    Raises ShardError, DataError.
    """
    place = task.folder
    if not isinstance(place, RemoteFolder):
        return _write_files(task, place)
    with tempfile.TemporaryDirectory(prefix="scemae-shard-") as scratch:
        folder = Path(scratch)
        disk.make_folders(folder / BUILD_FOLDER, folder)
        written = _write_files(task, folder)
        record = f"{BUILD_FOLDER}/{task.name}.json"
        for name in (written.shard.file, written.shard.index_file, record):  # the record last
            place.upload(name, folder / name)
    return written


def _write_files(task: ShardTask, folder: Path) -> FinishedShard:
    path = folder / task.file
    with errors_named(path):
        with disk.replacing(path) as file:
            filled = fill_gzip(file, task, folder) if task.gzip else fill_tar(file, task)
        index = filled.index
        shard = Shard(
            path.name,
            len(index),
            path.stat().st_size,
            disk.file_digest(path),
            "",
            inside_bytes=filled.bytes,
            inside_sha256=filled.sha256,
        )
        check_layout(path, index, shard)
        shard.content = content.of_shard(index.samples(filled.annotations))
        write_index(folder, shard, index)
    stamp = stamp_of(task.samples)
    written = FinishedShard(shard, filled.left_out, filled.encoded, stamp, filled.sources)
    write_record(task, folder, written)
    return written
