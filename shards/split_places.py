"""Where finished shards are: the splits at a folder or a URL, their manifests and indexes."""

from dataclasses import dataclass
from pathlib import Path

from scemae.config.locations import below, masked, scheme_of
from scemae.data.storage.index import Index
from scemae.data.storage.index_file import parse_index, read_index
from scemae.data.storage.manifest import (
    MANIFEST,
    Manifest,
    Shard,
    parse_manifest,
    read_manifest,
    url_of_tars,
)
from scemae.data.storage.remote_folder import RemoteFolder
from scemae.data.storage.remote_manifest import newer_manifest
from scemae.data.storage.url_store import SCHEMES, WRITABLE
from scemae.errors import ShardError
from scemae.files import documents
from scemae.shards.finished import BUILD_FOLDER, Place


@dataclass
class SplitAt:
    """A split: the place of its manifest and indexes, that of its tars, the manifest."""

    place: Place
    tars: Place
    manifest: Manifest

    @property
    def amount(self) -> str:
        """How much it holds, for people."""
        shards = self.manifest.shards
        megabytes = sum(shard.bytes for shard in shards) / 1e6
        return f"{self.manifest.samples:,} samples in {len(shards)} shards, {megabytes:,.1f} MB"

    def index(self, shard: Shard) -> Index:
        """The index of a shard, checked. Raises ShardError."""
        if isinstance(self.place, Path):
            return read_index(self.place, shard, self.manifest.foreign)
        name = shard.index_file
        data, _ = self.place.newer(name, None, documents.MOST_JSON) or (b"", None)
        return parse_index(data, self.place.url(name), shard, self.manifest.foreign)


def find_splits(location: str | Path) -> list[Place]:
    """The places of splits at `location`: the folder or bucket itself if it is one, else those in
    it.

    Raises ShardError for a file, and where a bucket cannot be read.
    """
    if isinstance(location, str) and scheme_of(location) is not None:
        place = _remote(location)
        if scheme_of(location) not in WRITABLE or place.load(MANIFEST) is not None:
            return [place]
        inside = [_remote(below(location, name)) for name in place.folders()]
        return [one for one in inside if one.load(MANIFEST) is not None] or [place]
    folder = Path(location)
    if folder.exists() and not folder.is_dir():
        raise ShardError(f"{folder}: is a file; give the folder of shards that it lies in")
    if (folder / MANIFEST).exists() or not folder.is_dir():
        return [folder]
    found = [
        inner
        for inner in sorted(folder.iterdir())
        if (inner / MANIFEST).exists() or (inner / BUILD_FOLDER).is_dir()
    ]
    return [*found] or [folder]  # read_manifest will say what is missing


def open_split(place: Place) -> SplitAt:
    """The split at a place. Raises ShardError."""
    if isinstance(place, Path):
        manifest = read_manifest(place)
        tars = manifest.tars or str(place)
    else:
        text, _ = newer_manifest(place) or (b"", None)
        manifest = parse_manifest(text, place.url(MANIFEST))
        tars = url_of_tars(place.location, manifest)
        if tars == place.location:
            return SplitAt(place, place, manifest)
    return SplitAt(place, Path(tars) if scheme_of(tars) is None else _remote(tars), manifest)


def _remote(location: str) -> RemoteFolder:
    """What is at a URL. Raises ShardError."""
    if scheme_of(location) not in SCHEMES:
        raise ShardError(
            f"{masked(location)}: found {scheme_of(location)}:, and shards at a URL of "
            f"{', '.join(SCHEMES)} are read; copy these to a folder, and give that"
        )
    return RemoteFolder(location, again="run the same command again")
