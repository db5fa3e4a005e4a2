"""The records of finished shards in FOLDER/.build: what each holds, and whether its images are still what they were."""

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scemae.data.picture import UnusablePicture
from scemae.data.storage.manifest import LeftOut, Shard
from scemae.errors import DataError, ShardError
from scemae.files import disk, documents
from scemae.files.documents import Count
from scemae.shards.image import Frame
from scemae.shards.source import Sample, read_bytes

BUILD_FOLDER = ".build"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class Written:
    """What a finished shard holds, which of its images were unusable, and how many were encoded anew.

    `stamp` is a digest of what the disk said of the sources' last changes, `content` one of their bytes; records of earlier
    versions have neither.
    """

    shard: Shard
    left_out: list[LeftOut]
    encoded: Count
    stamp: str = ""
    content: str = ""


@dataclass(frozen=True)
class Task:
    """One shard to write: a fixed slice of the split's samples, whatever of them turns out unusable."""

    number: int
    folder: Path
    name: str
    samples: list[Sample]
    frame: Frame | None
    accept_other_formats: bool
    upright: bool


def read_finished(task: Task) -> Written | None:
    """What an earlier run finished of this shard; None if it did not, or if the files are not what it wrote."""
    try:
        written = documents.read_json(task.folder / BUILD_FOLDER / f"{task.name}.json", Written)
        if written.shard.file != f"{task.name}.tar":
            return None
        index = documents.read_bytes(task.folder / written.shard.index_file)
        size = (task.folder / written.shard.file).stat().st_size
    except (
        FileNotFoundError,
        DataError,
    ):  # a record that is damaged is written anew, with its shard
        return None
    same = size == written.shard.bytes and disk.digest(index) == written.shard.index_sha256
    return _with_sources_as_now(task, written) if same else None


def _with_sources_as_now(task: Task, written: Written) -> Written:
    """The record of a finished shard, if its images are still what they were. Raises ShardError where one was changed.

    What the disk says of them is compared first; only where that differs, after a copy say, all are read again.
    """
    stamp = stamp_of(task.samples)
    if not written.content or written.stamp == stamp:
        return written
    content = hashlib.sha256()
    for sample in task.samples:
        try:
            read_image(sample, content)
        except UnusablePicture:
            pass  # the digest knows
    if content.hexdigest() != written.content:
        latest = max(task.samples, key=lambda sample: sample.place.stamp)
        raise ShardError(
            f"{task.folder}: holds shards of other images: of those in {task.name} at least one has changed since "
            f"(perhaps {latest.annotation['file']}, the last written); give another folder, or delete this one"
        )
    written = replace(written, stamp=stamp)
    with errors_named(task.folder):
        disk.write_json(task.folder / BUILD_FOLDER / f"{task.name}.json", asdict(written))
    return written


def stamp_of(samples: list[Sample]) -> str:
    """A digest of what the disk said of the images' last changes."""
    places = [
        [place.size, place.member, place.offset, *place.stamp]
        for place in (sample.place for sample in samples)
    ]
    return disk.json_digest(places)


def read_image(sample: Sample, content: Any) -> bytes:
    """The bytes of an image, which the digest `content` goes over. Raises UnusablePicture, DataError."""
    data = b""
    try:
        data = read_bytes(sample.place)
    finally:
        content.update(len(data).to_bytes(8, "big") + data)
    return data


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Turn what the disk says while `path` is written into one sentence."""
    try:
        yield
    except OSError as error:
        remedy = "free some space" if error.errno in FULL else "make it writable"
        raise ShardError(
            f"{path}: cannot be written ({error.strerror}); {remedy} or give another folder, then "
            "run the same command again (finished shards are kept)"
        ) from error
