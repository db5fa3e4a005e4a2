"""One build at a time in a place: its lock, its plan, and the remains of a killed run."""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scemae.data.storage.manifest import GZIP, MANIFEST, TARS
from scemae.data.storage.remote_folder import RemoteFolder
from scemae.errors import FileError, ShardError
from scemae.files import disk, documents
from scemae.shards.finished import BUILD_FOLDER, Place, errors_named
from scemae.shards.lease import leased
from scemae.shards.splits import Split

PLAN_VERSION = 1  # of what determines the bytes of the tars
PLAN = "plan.json"
ANOTHER = "give another folder, or delete this one"


@dataclass(frozen=True)
class Part:
    """Part number `index`, from 0, of `count`: every count-th shard, written by one machine."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"


def make_plan(split: Split, samples_per_shard: int) -> dict:
    """plan.json of a build: a text for the error that refuses another build, and a digest.

    The digest covers all that determines the bytes of the shards.
    """
    frame = asdict(split.frame) if split.frame else None
    settings = [split.options, split.excluded, frame, split.accept_other_formats]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for sample in split.samples:
        digest.update(json.dumps([sample.key, sample.annotation, sample.place.size]).encode())
    plan = {
        "format_version": PLAN_VERSION,
        "dataset": split.dataset,
        "split": split.name,
        "images": len(split.samples),
        "samples_per_shard": samples_per_shard,
        "source_digest": digest.hexdigest(),
    }
    return plan | ({GZIP: True} if GZIP in split.options else {})


@contextmanager
def claimed(folder: Place, plan: dict, part: Part | None = None) -> Iterator[None]:
    """Lock `folder` for this build, compare the plan, remove files that a killed run left.

    Parts share the folder; each is locked for itself. Raises ShardError.
    """
    if isinstance(folder, RemoteFolder):
        with leased(folder, BUILD_FOLDER, str(part or "")):
            _match_remote_plan(folder, plan)
            yield
        return
    try:
        disk.make_folders(folder / BUILD_FOLDER, folder)
        held = os.open(folder, os.O_RDONLY)
    except FileError as error:
        raise ShardError(str(error)) from error
    except OSError as error:
        raise ShardError(
            f"{folder}: cannot be made or opened ({error.strerror}); give a folder to write to"
        ) from error
    with ExitStack() as locks:
        locks.callback(os.close, held)  # which releases the lock
        _lock(held, folder, fcntl.LOCK_SH if part else fcntl.LOCK_EX)
        if part:
            name = f"part-{part.index + 1}-of-{part.count}.lock"
            try:
                locks.enter_context(disk.locked(folder / BUILD_FOLDER / name, wait=False))
            except BlockingIOError as error:
                raise ShardError(
                    f"{folder}: part {part} is being written by another process; wait for it"
                ) from error
        _match_plan(folder, plan)
        _remove_partial_files(folder, plan["split"], part)
        yield


def _remove_partial_files(folder: Path, split: str, part: Part | None) -> None:
    """Remove what a killed run left; of a part, only of its shards, since others are at work."""
    shard = rf"{re.escape(split)}-(\d+)(\.tar(?:\.gz)?|\.index|(?:\.index)?\.json)"
    partial = re.compile(rf"(?:manifest\.json|{shard}|plan\.json)\.partial-[0-9a-f]+")
    for path in [*folder.iterdir(), *(folder / BUILD_FOLDER).iterdir()]:
        found = partial.fullmatch(path.name)
        if found and (part is None or (found[1] and int(found[1]) % part.count == part.index)):
            path.unlink()


def _lock(held: int, folder: Path, kind: int) -> None:
    try:
        fcntl.flock(held, kind | fcntl.LOCK_NB)
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
        found = documents.read_json(path, dict[str, Any], error=ShardError, remedy=ANOTHER)
        _compare(folder, found, plan)
    elif any(_is_shard(one.name) for one in folder.iterdir()):
        raise ShardError(f"{folder}: holds shards of unknown origin; give another folder")
    else:
        with errors_named(path):
            disk.write_json(path, plan)


def _match_remote_plan(folder: RemoteFolder, plan: dict) -> None:
    """As _match_plan; of builders that start at once, the plan of one is that of all."""
    name = f"{BUILD_FOLDER}/{PLAN}"
    if folder.load(name) is None:
        if any(map(_is_shard, folder.names())):
            raise ShardError(f"{folder}: holds shards of unknown origin; give another folder")
        if folder.create(name, disk.json_bytes(plan)):
            return
    text, _ = folder.load(name) or (b"", None)
    found = documents.parse_json(
        text, dict[str, Any], folder.url(name), error=ShardError, remedy=ANOTHER
    )
    _compare(folder, found, plan)


def _is_shard(name: str) -> bool:
    return name == MANIFEST or name.endswith(TARS)


def _compare(folder: Place, found: dict, plan: dict) -> None:
    keys = dict.fromkeys([*plan, *found])
    if differing := [key for key in keys if found.get(key) != plan.get(key)]:
        # a digest tells least
        differing = [key for key in differing if key != "source_digest"] or differing
        words = "; ".join(f"{key} {found.get(key)}, not {plan.get(key)}" for key in differing)
        raise ShardError(f"{folder}: holds shards of another build ({words}); {ANOTHER}")
