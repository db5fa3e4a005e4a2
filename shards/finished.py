"""The records of finished shards in PLACE/.build: what each holds, and whether it is current."""

import errno
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scemae.data.picture import UnusablePicture
from scemae.data.storage.manifest import GZ, LeftOut, Shard
from scemae.data.storage.remote_folder import RemoteFolder
from scemae.errors import DataError, ShardError
from scemae.files import disk, documents
from scemae.files.documents import Count
from scemae.shards.image import Frame
from scemae.shards.splits import Sample, read_bytes

BUILD_FOLDER = ".build"
READS = 16  # records of a bucket that are read at a time
Place = Path | RemoteFolder  # where shards are built: a folder, or one below a URL
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class FinishedShard:
    """What a finished shard holds, which of its images were unusable, how many were encoded anew.

    `stamp` is a digest of the sources' sizes and times on the disk, `content` one of their bytes;
    records of earlier versions have neither.
    """

    shard: Shard
    left_out: list[LeftOut]
    encoded: Count
    stamp: str = ""
    content: str = ""


@dataclass(frozen=True)
class ShardTask:
    """One shard to write: a fixed part of the split's samples, some of which may be unusable."""

    number: int
    folder: Place
    name: str
    samples: Sequence[Sample]
    frame: Frame | None
    accept_other_formats: bool
    upright: bool
    gzip: bool = False

    @property
    def file(self) -> str:
        """The name of the tar."""
        return f"{self.name}.tar{GZ if self.gzip else ''}"


def find_finished(tasks: Sequence[ShardTask]) -> dict[int, FinishedShard]:
    """The records, by number, of the shards that earlier runs finished. Raises ShardError."""
    if not tasks or not isinstance(place := tasks[0].folder, RemoteFolder):
        return {task.number: found for task in tasks if (found := read_finished(task))}
    sizes, records = place.sizes(), place.sizes(BUILD_FOLDER)
    listed = [task for task in tasks if _record_name(task) in records]
    with ThreadPoolExecutor(READS) as threads:
        read = threads.map(lambda task: _read_remote(place, task, sizes), listed)
        return {
            task.number: _with_sources_as_now(task, written)
            for task, written in zip(listed, read)
            if written is not None
        }


def _read_remote(
    place: RemoteFolder, task: ShardTask, sizes: dict[str, int]
) -> FinishedShard | None:
    """As read_finished. A bucket takes a file as a whole or not, so an index is not read again."""
    name = f"{BUILD_FOLDER}/{_record_name(task)}"
    text, _ = place.load(name) or (b"", None)
    try:
        written = documents.parse_json(text, FinishedShard, place.url(name))
    except DataError:
        return None
    shard = written.shard
    is_whole = shard.file == task.file and sizes.get(shard.file) == shard.bytes
    return written if is_whole and shard.index_file in sizes else None


def _record_name(task: ShardTask) -> str:
    return f"{task.name}.json"


def read_finished(task: ShardTask) -> FinishedShard | None:
    """The record of this shard if an earlier run finished it and its files are unchanged."""
    assert isinstance(task.folder, Path)
    try:
        written = documents.read_json(
            task.folder / BUILD_FOLDER / _record_name(task), FinishedShard
        )
        if written.shard.file != task.file:
            return None
        index = documents.read_bytes(task.folder / written.shard.index_file)
        size = (task.folder / written.shard.file).stat().st_size
    except (FileNotFoundError, DataError):  # a damaged record is written again, with its shard
        return None
    same = size == written.shard.bytes and disk.digest(index) == written.shard.index_sha256
    return _with_sources_as_now(task, written) if same else None


def _with_sources_as_now(task: ShardTask, written: FinishedShard) -> FinishedShard:
    """The record of a finished shard whose images are unchanged. Raises ShardError if one is not.

    Sizes and times on the disk are compared first. Only where they differ, for example after the
    source was copied, all images are read again.
    """
    stamp = stamp_of(task.samples)
    if not written.content or written.stamp == stamp:
        return written
    content = hashlib.sha256()
    for sample in task.samples:
        try:
            read_image(sample, content)
        except UnusablePicture:
            pass  # its bytes are in the digest
    if content.hexdigest() != written.content:
        latest = max(task.samples, key=lambda sample: sample.place.stamp)
        raise ShardError(
            f"{task.folder}: holds shards of other images: of those in {task.name} at least one "
            f"has changed since (perhaps {latest.annotation['file']}, the last written); give "
            "another folder, or delete this one"
        )
    written = replace(written, stamp=stamp)
    if isinstance(task.folder, RemoteFolder):
        text = disk.json_bytes(asdict(written))
        task.folder.write(f"{BUILD_FOLDER}/{_record_name(task)}", text)
    else:
        write_record(task, task.folder, written)
    return written


def write_record(task: ShardTask, folder: Path, written: FinishedShard) -> None:
    """Write the record of a finished shard of `folder`. Raises ShardError."""
    with errors_named(folder):
        disk.write_json(folder / BUILD_FOLDER / _record_name(task), asdict(written))


def stamp_of(samples: Sequence[Sample]) -> str:
    """A digest of the images' sizes, places and times on the disk."""
    places = [
        [place.size, place.member, place.offset, *place.stamp]
        for place in (sample.place for sample in samples)
    ]
    return disk.json_digest(places)


def read_image(sample: Sample, content: Any) -> bytes:
    """The bytes of an image, added to the digest `content`. Raises UnusablePicture, DataError."""
    data = b""
    try:
        data = read_bytes(sample.place)
    finally:
        content.update(len(data).to_bytes(8, "big") + data)
    return data


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Turn an OSError while `path` is written into a ShardError of one sentence."""
    try:
        yield
    except OSError as error:
        remedy = "free some space" if error.errno in FULL else "make it writable"
        raise ShardError(
            f"{path}: cannot be written ({error.strerror}); {remedy} or give another folder, then "
            "run the same command again (finished shards are kept)"
        ) from error
