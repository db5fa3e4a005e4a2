"""The shard contract: what a folder of WebDataset tars holds, with sizes and SHA-256 digests.

A folder of shards is

    manifest.json            one `Manifest`
    train-000000.tar         WebDataset: for each sample KEY.jpg, with the original bytes, and
                             KEY.json, its annotation
    train-000000.index       where in the tar each member starts, so that one read gets any sample
                             (index.py, index_file.py)

Tars may be compressed, train-000000.tar.gz (gzipped_tars.py); these are read through a cache.

Tars that others wrote (`foreign`; `scemae shards index` makes the manifest) may hold more: of each
sample the index has the image's place and suffix, and there are no annotations. The option `tars`
of a manifest names the folder or URL of tars that do not lie beside it.
"""

import re
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from scemae.config.locations import FROM_FILES, masked, may_open, scheme_of
from scemae.data.storage import content
from scemae.errors import ShardError
from scemae.files import disk, documents
from scemae.files.documents import Content, Count, Digest, Finite, OptionalDigest, Point, Whole

T = TypeVar("T", str, bytes)
FORMAT_VERSION = 3
READABLE = (1, 2, 3)  # 1 and 2 (foreign tars): indexes are JSON
MANIFEST = "manifest.json"
INDEX_AGAIN = "make it again with `scemae shards index`"
REBUILD = "rebuild it with `scemae shards build`"
TAR = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\.tar")  # a shard's name: no path
GZ = ".gz"
TARS = (".tar", ".tar" + GZ)
GZIP = "gzip"  # an option: the tars are compressed


@dataclass
class Shard:
    """One tar: file name, number of samples, size in bytes, digests of the file and of its index.

    content: of its samples (content.py); shards of earlier versions have none. packed: its index is
    not the JSON of earlier versions. imageless: samples of a foreign tar that have no image, and
    are left out. inside_bytes, inside_sha256: of the tar in a compressed file; of another 0 and "".
    """

    file: str
    samples: Count
    bytes: Count
    sha256: Digest
    index_sha256: Digest
    content: Content = ""
    packed: bool = False
    imageless: Count = 0
    inside_bytes: Count = 0
    inside_sha256: OptionalDigest = ""

    @property
    def index_file(self) -> str:
        """The name of its index."""
        name = self.file.removesuffix(GZ).removesuffix(".tar")
        return name + (".index" if self.packed else ".index.json")

    @property
    def is_compressed(self) -> bool:
        """Whether the file is a .tar.gz."""
        return self.file.endswith(GZ)

    @property
    def tar_bytes(self) -> int:
        """Of the tar, compressed or not."""
        return self.inside_bytes if self.is_compressed else self.bytes

    def plain(self) -> "Shard":
        """The same shard with its tar as it is inside of the compressed file."""
        if not self.is_compressed:
            return self
        return replace(
            self,
            file=self.file.removesuffix(GZ),
            bytes=self.inside_bytes,
            sha256=self.inside_sha256,
            inside_bytes=0,
            inside_sha256="",
        )


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

    @property
    def is_compressed(self) -> bool:
        """Whether some of the tars are .tar.gz."""
        return any(shard.is_compressed for shard in self.shards)

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
    if found not in READABLE:
        raise ShardError(
            f"{name}: found shard format {str(found)[:40]}, this version reads {READABLE[0]} to "
            f"{FORMAT_VERSION}; use the version of scemae that wrote it, or make the shards again"
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
    if bad := next((file for file in files if not TAR.fullmatch(file.removesuffix(GZ))), None):
        raise ShardError(
            f"{name}: found the shard {bad[:80]!r}, a plain file name that ends in .tar or "
            f".tar.gz was needed; {REBUILD}"
        )
    for shard in manifest.shards:
        said = shard.inside_sha256 and shard.inside_bytes and shard.packed
        if shard.is_compressed and (manifest.foreign or not said):
            raise ShardError(
                f"{name}: does not say what is inside of {shard.file}, as that of "
                f"`scemae shards build --gzip` does; {REBUILD}"
            )
    if repeated := repeated_in([shard.plain().file for shard in manifest.shards]):
        raise ShardError(f"{name}: found the shard {repeated} more than once; {REBUILD}")
    if manifest.samples != (total := sum(shard.samples for shard in manifest.shards)):
        raise ShardError(
            f"{name}: says {manifest.samples:,} samples, its shards have {total:,}; {REBUILD}"
        )
    return manifest


def url_of_tars(location: str, manifest: Manifest) -> str:
    """Where the tars of the manifest at `location` are.

    Raises ShardError where one behind a URL names a folder.
    """
    if manifest.tars is None:
        return location
    if scheme_of(manifest.tars) is None and scheme_of(location) is not None:
        raise ShardError(
            f"{masked(location)}: its manifest names tars in the folder {manifest.tars}, and one "
            "behind a URL may name only URLs; copy it to a folder, and give that"
        )
    return manifest.tars


def repeated_in(names: list[T]) -> T | None:
    """A name that is there more than once."""
    if len(set(names)) == len(names):
        return None
    return Counter(names).most_common(1)[0][0]


def _no_manifest(folder: Path) -> str:
    if not folder.exists():
        return f"{folder}: no such folder; build the shards first with `scemae shards build`"
    inside = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    if inside:
        return several_splits(str(folder), inside)
    return (
        f"{folder}: found no {MANIFEST}, so no finished shards; "
        "run `scemae shards build` (or `index`) to its end"
    )


def several_splits(place: str, splits: list[str]) -> str:
    """The error message for a folder or a bucket that holds splits where one was needed."""
    return (
        f"{place}: holds {'several splits' if len(splits) > 1 else 'a split'} "
        f"({', '.join(splits)}), one was needed; give {_advice(place, splits)}"
    )


def _advice(place: str, splits: list[str]) -> str:
    """Which splits to train and to test on: `train` rather than mafl-train, `test` likewise."""
    advice = []
    for end, use in (("train", "to train on"), ("test", "to test on")):
        fitting = [name for name in splits if name.endswith(end)]
        if fitting:
            advice.append(f"{place}/{end if end in fitting else fitting[0]} {use}")
    return ", or ".join(advice) or f"for example {place}/{splits[0]}"
