"""Shards of others: manifest, index, tar and annotations, read as the commands read them."""

import gzip
import io
import tarfile
from pathlib import Path
from random import Random
from unittest import mock

import numpy as np

from scemae.data.frame_sources import StreamedFrames
from scemae.data.storage import shard_set
from scemae.errors import ShardError
from scemae.evaluation.landmarks.benchmark_frames import load_frames
from scemae.evaluation.landmarks.benchmarks import find_benchmark
from scemae.shards import check
from scemae.shards import describe as info
from tests.fuzz.binary import mutate_bytes
from tests.fuzz.containers import mutate_picture, mutate_tar
from tests.fuzz.target import Target
from tests.fuzz.trees import mutate_json
from tests.support import as_earlier_version, compressed, digest, write_shards

SHARD, INDEX, JSON = "train/train-000000.tar", "train/train-000000.index", "manifest.json"


def make(folder: Path) -> None:
    """Three small pictures."""
    write_shards(folder / "train", 3, shards=1)


def repair(folder: Path) -> None:
    """Write the current size and digests of the tar and the index into the manifest."""
    import json

    path = folder / "train" / JSON
    raw = json.loads(path.read_text())
    tar = folder / "train" / raw["shards"][0]["file"]
    index = folder / (INDEX if raw["shards"][0]["packed"] else f"{INDEX}.json")
    raw["shards"][0] |= {
        "bytes": tar.stat().st_size,
        "sha256": digest(tar),
        "index_sha256": digest(index),
    }
    path.write_text(json.dumps(raw))


def read_all(folder: Path) -> None:
    """Read every sample, as training and evaluation do."""
    shards = shard_set.open_shards(str(folder / "train"))
    for sample in range(min(len(shards), 50)):
        shards.jpeg(sample)
        shards.annotation(sample)


def train_on(folder: Path) -> None:
    """Decode frames, as training does."""
    shards = shard_set.open_shards(str(folder / "train"))
    StreamedFrames(shards, 96).frames(np.arange(min(len(shards), 3)))


def evaluate(folder: Path) -> None:
    """Read frames with landmarks, as `scemae evaluate` does."""
    load_frames(
        shard_set.open_shards(str(folder / "train")), find_benchmark("mafl"), limit=3, threads=1
    )


def fetch(folder: Path) -> None:
    """Copy the shards of a URL into a cache."""
    shard_set.open_shards(f"file://{folder / 'train'}", str(folder.parent / "out"))


class Ranges:
    """Files of a folder in place of a RemoteFolder, whose client cannot be used across a fork."""

    def __init__(self, location: str) -> None:
        self.folder = Path(location.removeprefix("file://"))

    def read(self, name, start, stop, size, use, note):
        """As RemoteFolder.read."""
        data = (self.folder / name).read_bytes()
        if len(data) != size:
            raise ShardError(f"{name}: found {len(data)} bytes, {size} were needed")
        return use(iter([data[start:stop]]))

    def url(self, name: str) -> str:
        """As RemoteFolder.url."""
        return str(self.folder / name)


def stream(folder: Path) -> None:
    """Read every sample by ranges."""
    out = str(folder.parent / "out" / "blocks")
    with mock.patch("scemae.data.storage.streamed_sets.RemoteFolder", Ranges):
        (shards,) = shard_set.stream_shards([str(folder / "train")], out, 0.01, 2)
    for sample in range(min(len(shards), 50)):
        shards.jpeg(sample)
        shards.annotation(sample)


def verify(folder: Path) -> None:
    """`scemae shards verify --decode`"""
    (out := folder.parent / "out").mkdir(exist_ok=True)
    with mock.patch("tempfile.tempdir", str(out)):
        check.verify(folder, decode=True)


def describe(folder: Path) -> None:
    """`scemae shards info`"""
    info.describe(folder)


def mutate_member(suffix: str, mutate) -> object:
    """Change the first member of a tar whose name ends in `suffix`; its place and size stay."""

    def change(data: bytes, chance: Random) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            member = next(member for member in tar if member.name.endswith(suffix))
        start, size = member.offset_data, member.size
        content = mutate(data[start : start + size], chance)[:size].ljust(size)
        return data[:start] + content + data[start + size :]

    return change


def mutate_inside(data: bytes, chance: Random) -> bytes:
    """Change what is inside of a gzip, or one time in five the gzip itself."""
    if chance.random() < 0.2:
        return mutate_bytes(data, chance)
    return gzip.compress(mutate_bytes(gzip.decompress(data), chance), mtime=0)


def make_earlier(folder: Path) -> None:
    """The same, as an earlier version wrote them."""
    make(folder)
    as_earlier_version(folder / "train")


def make_compressed(folder: Path) -> None:
    """The same, compressed, in several pieces."""
    make(folder)
    with mock.patch("scemae.data.storage.gzipped_tars.PIECE", 8000):
        compressed(folder / "train")


def make_roomy(folder: Path) -> None:
    """The same, with room for longer annotations."""
    with mock.patch(
        "tests.support.json.dumps",
        lambda value, **_: __import__("json").JSONEncoder().encode(value).ljust(600),
    ):
        write_shards(folder / "train", 3, shards=1)


TARGETS = (
    Target(
        "manifest", make, {f"train/{JSON}": mutate_json}, (read_all, describe, verify, fetch), 8_000
    ),
    Target(
        "index",
        make,
        {INDEX: mutate_bytes},
        (read_all, verify, train_on),
        6_000,
        repair,
        f"train/{JSON}",
    ),
    Target(
        "json-index",
        make_earlier,
        {f"{INDEX}.json": mutate_json},
        (read_all, verify, train_on),
        6_000,
        repair,
        f"train/{JSON}",
    ),
    Target(
        "shard-tar",
        make,
        {SHARD: mutate_tar},
        (verify, train_on, evaluate),
        5_000,
        repair,
        f"train/{JSON}",
    ),
    Target(
        "gzip-index",
        make_compressed,
        {INDEX: mutate_inside},
        (stream, verify, fetch),
        6_000,
        repair,
        f"train/{JSON}",
    ),
    Target(
        "gzip-tar",
        make_compressed,
        {f"{SHARD}.gz": mutate_bytes},
        (stream, verify, fetch),
        6_000,
        repair,
        f"train/{JSON}",
    ),
    Target(
        "annotation",
        make_roomy,
        {SHARD: mutate_member(".json", mutate_json)},
        (evaluate, describe, verify),
        5_000,
        repair,
        f"train/{JSON}",
    ),
    Target(
        "shard-jpeg",
        make,
        {SHARD: mutate_member(".jpg", mutate_picture)},
        (train_on, evaluate, describe),
        2_000,
        repair,
        f"train/{JSON}",
    ),
)
