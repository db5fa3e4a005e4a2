"""The shard contract: what a folder of WebDataset tars holds, with sizes and SHA-256 digests.

A folder of shards is

    manifest.json            one `Manifest`
    train-000000.tar         WebDataset: for each sample KEY.jpg, with the original bytes, and
                             KEY.json, its annotation
    train-000000.index.json  one `Index`: where in the tar each member starts, so that one read gets
                             any sample

A tar holds nothing else: the JPEG and the JSON of the first sample, then those of the second, and
so on, in the order of its index. So the sizes alone determine where each member must start, and an
index that skips, repeats or moves one is refused.

Tars that others wrote (`foreign`; `scemae shards index` makes the manifest) may hold more: of each
sample the index has the image's place and suffix, and there are no annotations. The option `tars`
of a manifest names the folder or URL of tars that do not lie beside it.
"""

import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from scemae.config.locations import FROM_FILES, masked, may_open, scheme_of
from scemae.data.storage import content
from scemae.data.storage.tar_headers import BLOCK, RECORD, in_blocks, member_name
from scemae.errors import ShardError
from scemae.files import disk, documents
from scemae.files.documents import (
    Content,
    Count,
    Digest,
    Extent,
    Finite,
    Hash64,
    Key,
    Point,
    QuotedKey,
    Suffix,
    Whole,
)

FORMAT_VERSION, FOREIGN_VERSION = 1, 2
MANIFEST = "manifest.json"
INDEX_AGAIN = "make it again with `scemae shards index`"
REBUILD = "rebuild it with `scemae shards build`"
TAR = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\.tar")  # a shard's name: no path
LARGEST = 2**28  # bytes of one member


@dataclass
class Shard:
    """One tar: file name, number of samples, size in bytes, digests of the tar and of its index.

    content: of its samples (content.py); shards of earlier versions have none.
    """

    file: str
    samples: Count
    bytes: Count
    sha256: Digest
    index_sha256: Digest
    content: Content = ""

    @property
    def index_file(self) -> str:
        return self.file.removesuffix(".tar") + ".index.json"


@dataclass
class Index:
    """Where the members of one tar lie: for each key, [offset, size] in bytes of JPEG and JSON.

    xxh3: of the bytes of each JPEG; indexes of earlier versions have none.
    """

    keys: list[Key] = field(default_factory=list)
    jpg: list[Extent] = field(default_factory=list)
    json: list[Extent] = field(default_factory=list)
    xxh3: list[Hash64] = field(default_factory=list)


@dataclass
class ForeignIndex:
    """Where the images of one foreign tar lie: for each key, [offset, size], and its suffix.

    Characters of a key that the pattern has not are %XX.
    """

    keys: list[QuotedKey] = field(default_factory=list)
    jpg: list[Extent] = field(default_factory=list)
    suffixes: list[Suffix] = field(default_factory=list)
    xxh3: list[Hash64] = field(default_factory=list)

    @property
    def json(self) -> list[list[int]]:
        """There are no annotations."""
        return []


class LeftOut(TypedDict):
    """An image that is not in the shards, and why."""

    file: str
    reason: str


class Annotation(TypedDict, total=False):
    """KEY.json of a sample: what its source says of it.

    landmarks: x, y of each, in pixels of the stored image; None where one is missing.
    """

    file: str
    landmarks: list[Point | None] | None
    identity: Whole | None
    box: list[Finite] | None
    size: list[Count] | None


@dataclass
class Manifest:
    """The list of shards of one split, and which images of the source are not in them.

    `left_out` holds one {"file": ..., "reason": ...} for each unusable image (truncated, not a
    JPEG, ...); `excluded` counts what was left out on purpose, by reason, such as
    {"in MAFL's test list": 1000}.
    """

    dataset: str
    split: str
    samples: Count
    shards: list[Shard]
    left_out: list[LeftOut] = field(default_factory=list)
    excluded: dict[str, Count] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    foreign: bool = False

    @property
    def tars(self) -> str | None:
        """The folder or URL of the tars; None: that of the manifest."""
        return self.options.get("tars")

    def digest(self) -> str:
        """Equal if and only if the samples and their order are, however tars cut them up.

        Of shards of earlier versions it is that of their tars.
        """
        if not self.shards or not all(shard.content for shard in self.shards):
            return self.tars_digest()
        return content.of_shards((shard.samples, shard.content) for shard in self.shards)

    def tars_digest(self) -> str:
        """SHA-256 of the digests of all tars in order."""
        return disk.digest("\n".join(shard.sha256 for shard in self.shards))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` into `folder`, atomically."""
    disk.write_json(folder / MANIFEST, asdict(manifest))


@dataclass
class _KnownOptions:
    """The options of a manifest that this program reads."""

    official_samples: Count | None = None
    subset: bool | None = None
    frame: str | None = None
    tars: str | None = None


@dataclass
class _FormatVersion:
    format_version: Any = None


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of `folder`. Raises ShardError if there is none, or of another format."""
    path = folder / MANIFEST
    try:
        return parse_manifest(documents.read_bytes(path, error=ShardError, remedy=REBUILD), path)
    except FileNotFoundError as error:
        raise ShardError(_no_manifest(folder)) from error


def parse_manifest(text: bytes, name: object) -> Manifest:
    """The manifest in `text`, checked; error messages call it `name`. Raises ShardError."""
    found = documents.parse_json(
        text, _FormatVersion, name, error=ShardError, remedy=REBUILD
    ).format_version
    if found not in (FORMAT_VERSION, FOREIGN_VERSION):
        raise ShardError(
            f"{name}: found shard format {str(found)[:40]}, this version reads {FORMAT_VERSION} "
            f"and {FOREIGN_VERSION}; rebuild the shards with `scemae shards build`"
        )
    manifest = documents.parse_json(text, Manifest, name, error=ShardError, remedy=REBUILD)
    documents.convert(
        manifest.options, _KnownOptions, f"{name}: options", error=ShardError, remedy=REBUILD
    )
    if manifest.tars is not None and not may_open(manifest.tars):
        raise ShardError(
            f"{name}: says that its tars are at {masked(manifest.tars)}, and a file may name only "
            f"folders and {', '.join(FROM_FILES)}; {INDEX_AGAIN}"
        )
    files = [shard.file for shard in manifest.shards]
    if bad := next((file for file in files if not TAR.fullmatch(file)), None):
        raise ShardError(
            f"{name}: found the shard {bad[:80]!r}, a plain file name that ends in .tar was "
            f"needed; {REBUILD}"
        )
    if repeated := _repeated(files):
        raise ShardError(f"{name}: found the shard {repeated} more than once; {REBUILD}")
    if manifest.samples != (total := sum(shard.samples for shard in manifest.shards)):
        raise ShardError(
            f"{name}: says {manifest.samples:,} samples, its shards have {total:,}; {REBUILD}"
        )
    return manifest


def url_of_tars(location: str, manifest: Manifest) -> str:
    """Where the tars of the manifest at `location` are. Raises ShardError for a folder."""
    if manifest.tars is None:
        return location
    if scheme_of(manifest.tars) is None:
        raise ShardError(
            f"{masked(location)}: its manifest names tars in the folder {manifest.tars}, and one "
            "behind a URL may name only URLs; copy it to a folder, and give that"
        )
    return manifest.tars


def read_index(folder: Path, shard: Shard, foreign: bool = False) -> Index | ForeignIndex:
    """Read the index of one shard and check it against the manifest. Raises ShardError."""
    path = folder / shard.index_file
    return parse_index(read_index_bytes(path), path, shard, foreign)


def read_index_bytes(path: Path) -> bytes:
    """The text of an index on a disk. Raises ShardError."""
    try:
        return documents.read_bytes(path, error=ShardError, remedy=REBUILD)
    except FileNotFoundError as error:
        raise ShardError(
            f"{path}: missing, the manifest lists it; re-copy the folder or rebuild it "
            "with `scemae shards build`"
        ) from error


def parse_index(
    text: bytes, path: object, shard: Shard, foreign: bool = False
) -> Index | ForeignIndex:
    """The index of one shard, checked against the manifest. Raises ShardError."""
    if disk.digest(text) != shard.index_sha256:
        raise ShardError(
            f"{path}: its SHA-256 is not the manifest's; re-copy it or run `scemae shards verify`"
        )
    if foreign:
        found = documents.parse_json(text, ForeignIndex, path, error=ShardError, remedy=INDEX_AGAIN)
        _check_places(path, found, shard)
        return found
    index = documents.parse_json(text, Index, path, error=ShardError, remedy=REBUILD)
    _check_layout(path, index, shard)
    return index


def _check_places(path: object, index: ForeignIndex, shard: Shard) -> None:
    """Raise ShardError unless the images of a foreign tar lie in it one after the other."""
    places = np.array(index.jpg, np.int64).reshape(-1, 2)
    starts, ends = places[:, 0] - BLOCK, places.sum(axis=1)
    if (
        not len(index.keys) == len(places) == len(index.suffixes) == shard.samples
        or len(index.xxh3) not in (0, shard.samples)
        or len(set(index.keys)) != len(index.keys)
        or (places[:, 0] % BLOCK).any()
        or (starts < np.concatenate([[0], ends])[: len(starts)]).any()
        or (places[:, 1] > LARGEST).any()
        or (len(ends) and ends[-1] > shard.bytes)
    ):
        raise ShardError(
            f"{path}: does not describe {shard.samples:,} images that follow each other in a tar "
            f"of {shard.bytes:,} bytes; {INDEX_AGAIN}"
        )


def _check_layout(path: object, index: Index, shard: Shard) -> None:
    """Raise ShardError unless the members in the index fill the tar, one after the other."""
    hashes = len(index.xxh3) or shard.samples
    if not len(index.keys) == len(index.jpg) == len(index.json) == hashes == shard.samples:
        raise ShardError(
            f"{path}: lists {len(index.keys):,} samples, {len(index.jpg):,} JPEGs and "
            f"{len(index.json):,} annotations, the manifest says {shard.samples:,} of each; "
            f"{REBUILD}"
        )
    if repeated := _repeated(index.keys):
        raise ShardError(f"{path}: found the key {repeated!r} more than once; {REBUILD}")
    # Offset and size of each member, in the tar's order.
    members = np.array([*zip(index.jpg, index.json)], np.int64).reshape(-1, 2)
    if len(members) and members[:, 1].max() > LARGEST:
        raise ShardError(
            f"{path}: found a member of {members[:, 1].max():,} bytes, at most {LARGEST:,} were "
            f"expected; {REBUILD}"
        )
    ends = np.cumsum(BLOCK + in_blocks(members[:, 1]))  # each is a header and whole blocks of data
    needed = np.concatenate([[0], ends])[:-1] + BLOCK
    if len(wrong := np.flatnonzero(members[:, 0] != needed)):
        row = int(wrong[0])
        raise ShardError(
            f"{path}: says that {member_name(index.keys[row // 2], row % 2)} begins at byte "
            f"{members[row, 0]:,} of the tar, the members before it end at byte {needed[row]:,}; "
            f"{REBUILD}"
        )
    length = int(ends[-1]) if len(ends) else 0
    if -(-(length + 2 * BLOCK) // RECORD) * RECORD != shard.bytes:
        raise ShardError(
            f"{path}: lists members that end at byte {length:,} of a tar of {shard.bytes:,}; "
            f"{REBUILD}"
        )


def _repeated(names: list[str]) -> str | None:
    """A name that is there more than once."""
    counts = Counter(names).most_common(1)
    return counts[0][0] if counts and counts[0][1] > 1 else None


def _no_manifest(folder: Path) -> str:
    if not folder.exists():
        return f"{folder}: no such folder; build the shards first with `scemae shards build`"
    inside = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    if inside:
        return (
            f"{folder}: holds several splits ({', '.join(inside)}), one was needed; "
            f"give {_advice(folder, inside)}"
        )
    return (
        f"{folder}: found no {MANIFEST}, so no finished shards; "
        "run `scemae shards build` to its end"
    )


def _advice(folder: Path, splits: list[str]) -> str:
    """Which splits to train and to test on: `train` rather than mafl-train, `test` likewise."""
    advice = []
    for end, use in (("train", "to train on"), ("test", "to test on")):
        fitting = [name for name in splits if name.endswith(end)]
        if fitting:
            advice.append(f"{folder / (end if end in fitting else fitting[0])} {use}")
    return ", or ".join(advice) or f"for example {folder / splits[0]}"
