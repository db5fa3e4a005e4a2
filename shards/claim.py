"""One build at a time in a folder: its lock, its plan, and the remains of a killed run."""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scemae.data.storage.manifest import FORMAT_VERSION, MANIFEST
from scemae.errors import FileError, ShardError
from scemae.files import disk, documents
from scemae.shards.finished import BUILD_FOLDER, errors_named
from scemae.shards.splits import Split

PLAN = "plan.json"


def make_plan(split: Split, samples_per_shard: int) -> dict:
    """plan.json of a build: a text for the error that refuses another build, and a digest.

    The digest covers all that determines the bytes of the shards.
    """
    frame = asdict(split.frame) if split.frame else None
    settings = [split.options, split.excluded, frame, split.accept_other_formats]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for sample in split.samples:
        digest.update(json.dumps([sample.key, sample.annotation, sample.place.size]).encode())
    return {
        "format_version": FORMAT_VERSION,
        "dataset": split.dataset,
        "split": split.name,
        "images": len(split.samples),
        "samples_per_shard": samples_per_shard,
        "source_digest": digest.hexdigest(),
    }


@contextmanager
def claimed(folder: Path, plan: dict) -> Iterator[None]:
    """Lock `folder` for this build, compare the plan, remove files that a killed run left."""
    try:
        disk.make_folders(folder / BUILD_FOLDER, folder)
        held = os.open(folder, os.O_RDONLY)
    except FileError as error:
        raise ShardError(str(error)) from error
    except OSError as error:
        raise ShardError(
            f"{folder}: cannot be made or opened ({error.strerror}); give a folder to write to"
        ) from error
    try:
        _lock(held, folder)
        _match_plan(folder, plan)
        _remove_partial_files(folder, plan["split"])
        yield
    finally:
        os.close(held)  # which releases the lock


def _remove_partial_files(folder: Path, split: str) -> None:
    shard = rf"{re.escape(split)}-\d+(\.tar|\.index\.json|\.json)"
    partial = re.compile(rf"(manifest\.json|{shard}|plan\.json)\.partial-[0-9a-f]+")
    for path in [*folder.iterdir(), *(folder / BUILD_FOLDER).iterdir()]:
        if partial.fullmatch(path.name):
            path.unlink()


def _lock(held: int, folder: Path) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ShardError(
            f"{folder}: another build is writing here; wait for it, or give another folder"
        ) from error
    except OSError as error:
        raise ShardError(
            f"{folder}: cannot be locked ({error.strerror}); build on a file system with locks, "
            "such as a local disk, and copy the shards from there"
        ) from error


def _match_plan(folder: Path, plan: dict) -> None:
    path = folder / BUILD_FOLDER / PLAN
    if path.exists():
        found = documents.read_json(
            path, dict[str, Any], error=ShardError, remedy="give another folder, or delete this one"
        )
        differing = [key for key in plan if found.get(key) != plan[key]]
        if differing:
            words = "; ".join(f"{key} {found.get(key)}, not {plan[key]}" for key in differing)
            raise ShardError(
                f"{folder}: holds shards of another build ({words}); give another folder, or "
                "delete this one"
            )
    elif any(folder.glob("*.tar")) or (folder / MANIFEST).exists():
        raise ShardError(f"{folder}: holds shards of unknown origin; give another folder")
    else:
        with errors_named(path):
            disk.write_json(path, plan)
