"""The shard contract: what a folder of WebDataset tars holds, with sizes and SHA-256 digests.

A folder of shards is

    manifest.json            one `Manifest`
    train-000000.tar         WebDataset: KEY.jpg (original bytes) and KEY.json (the annotation) for each sample
    train-000000.index.json  one `Index`: where in the tar each member starts, so that any sample is one read away
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scemae.errors import ShardError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass
class Shard:
    """One tar: its file name, number of samples, size in bytes and digests of the tar and of its index."""

    file: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str

    @property
    def index_file(self) -> str:
        return self.file.removesuffix(".tar") + ".index.json"


@dataclass
class Index:
    """Where the members of one tar lie: for each key, [offset, size] in bytes of its JPEG and of its JSON."""

    keys: list[str] = field(default_factory=list)
    jpg: list[list[int]] = field(default_factory=list)
    json: list[list[int]] = field(default_factory=list)


@dataclass
class Manifest:
    """The list of shards of one split, and everything of the source that did not make it into them.

    `left_out` holds one {"file": ..., "reason": ...} per image that is unusable (truncated, not a JPEG, ...);
    `excluded` counts what was left out on purpose, by reason (say {"in MAFL's test list": 1000}).
    """

    dataset: str
    split: str
    samples: int
    shards: list[Shard]
    left_out: list[dict[str, str]] = field(default_factory=list)
    excluded: dict[str, int] = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def digest(self) -> str:
        """SHA-256 over the digests of all shards in order: equal if and only if the samples are equal."""
        return hashlib.sha256("\n".join(shard.sha256 for shard in self.shards).encode()).hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write `value` so that `path` holds either the old text or the whole new one, whatever happens."""
    aside = path.with_name(path.name + f".partial-{os.getpid()}")
    with open(aside, "w", encoding="utf8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` into `folder`, atomically."""
    write_json(folder / MANIFEST, asdict(manifest))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of `folder`. Raises ShardError if there is none, or if it is of another format."""
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError as error:
        raise ShardError(_no_manifest(folder)) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ShardError(f"{path}: found no valid JSON ({error}); rebuild it with `scemae shards build`") from error
    found = raw.get("format_version") if isinstance(raw, dict) else None
    if found != FORMAT_VERSION:
        raise ShardError(f"{path}: found shard format {found}, this version reads {FORMAT_VERSION}; "
                         "rebuild the shards with `scemae shards build`")
    try:
        return Manifest(**{**raw, "shards": [Shard(**shard) for shard in raw["shards"]]})
    except (KeyError, TypeError) as error:
        raise ShardError(f"{path}: a field is missing or unknown ({error}); "
                         "rebuild it with `scemae shards build`") from error


def read_index(folder: Path, shard: Shard) -> Index:
    """Read the index of one shard and check it against the manifest. Raises ShardError."""
    path = folder / shard.index_file
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise ShardError(f"{path}: missing, the manifest lists it; re-copy the folder or rebuild it "
                         "with `scemae shards build`") from error
    if hashlib.sha256(text).hexdigest() != shard.index_sha256:
        raise ShardError(f"{path}: its SHA-256 is not the manifest's; re-copy it or run `scemae shards verify`")
    return Index(**json.loads(text))


def _no_manifest(folder: Path) -> str:
    if not folder.exists():
        return f"{folder}: no such folder; build the shards first with `scemae shards build`"
    inside = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    if inside:
        return f"{folder}: holds several splits ({', '.join(inside)}), one was needed; give {folder / inside[0]}, say"
    return f"{folder}: found no {MANIFEST}, so no finished shards; run `scemae shards build` to its end"
