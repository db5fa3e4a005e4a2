"""Sets of shards at URLs, opened to be streamed: manifests, one cache, and the tars of each set."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from scemae.config.locations import cache_name, masked, scheme_of
from scemae.data.storage import url_program
from scemae.data.storage.block_cache import BLOCKS_OF, BlockCache
from scemae.data.storage.index import Index
from scemae.data.storage.manifest import Manifest, read_manifest, url_of_tars
from scemae.data.storage.remote_folder import RemoteFolder
from scemae.data.storage.remote_manifest import remote_manifest
from scemae.data.storage.streamed_tars import Source, StreamedTars
from scemae.data.storage.url_store import SCHEMES
from scemae.errors import ShardError
from scemae.files import disk


class TarsOfOne:
    """The tars of one of several sources that are streamed as one set, numbered by themselves."""

    def __init__(self, tars: StreamedTars, number: int, sources: list[Source]) -> None:
        before = sources[:number]
        self.streamed, self.folder = tars, tars.folder
        self._shard = sum(len(source.manifest.shards) for source in before)
        self._sample = sum(source.manifest.samples for source in before)
        cache_dir = str(tars.folder.parent.parent)
        location = sources[number].location
        # the arguments of `stream` that open it again, by itself
        self.opened_by = ([location], cache_dir, tars.cache.limit, tars.block)

    def read(self, sample: int, shard: int, offset: int, size: int) -> bytes:
        """As StreamedTars.read."""
        return self.streamed.read(self._sample + sample, self._shard + shard, offset, size)

    def files(
        self, samples: np.ndarray, shard: int, offsets: np.ndarray
    ) -> tuple[list[str], np.ndarray, np.ndarray]:
        """As StreamedTars.files."""
        return self.streamed.files(self._sample + samples, self._shard + shard, offsets)

    def index(self, shard: int) -> Index:
        """As StreamedTars.index."""
        return self.streamed.index(self._shard + shard)

    def path(self, shard: int) -> str:
        """As StreamedTars.path."""
        return self.streamed.path(self._shard + shard)

    def check(self) -> None:
        """As StreamedTars.check."""
        self.streamed.check(self._shard)


def stream(
    locations: list[str],
    cache_dir: str | Path,
    limit: int,
    block: int,
    note: Callable[[], None] = lambda: None,
) -> list[tuple[Manifest, TarsOfOne]]:
    """Manifest and tars at each of some URLs, through one cache of `limit` bytes.

    Raises ShardError.
    """
    sources = [_source(location, Path(cache_dir)) for location in locations]
    digests = [source.manifest.tars_digest() for source in sources]
    name = digests[0] if len(digests) == 1 else disk.digest("\n".join(digests))
    place = Path(cache_dir) / cache_name(locations[0])
    folder = disk.make_folders(place / f"{name[:16]}{BLOCKS_OF}{block}", Path(cache_dir))
    tars = StreamedTars(sources, BlockCache(folder, limit), block, note)
    return [
        (source.manifest, TarsOfOne(tars, number, sources)) for number, source in enumerate(sources)
    ]


def _source(location: str, cache_dir: Path) -> Source:
    url_program.refuse(location)
    if scheme_of(location) not in (None, *SCHEMES):
        raise ShardError(
            f"{masked(location)}: found a scheme that can only be copied whole, data.cache_gb "
            f"streams {', '.join(SCHEMES)}; leave data.cache_gb out"
        )
    indexes: RemoteFolder | Path = Path(location)
    if scheme_of(location) is None:
        manifest = read_manifest(Path(location))
    else:
        indexes = RemoteFolder(location)
        place = disk.make_folders(cache_dir / cache_name(location), cache_dir)
        manifest = remote_manifest(indexes, place)
    tars = url_of_tars(location, manifest)
    if isinstance(indexes, RemoteFolder) and tars == location:
        return Source(location, manifest, indexes, indexes)  # one set of credentials
    if scheme_of(tars) is None:  # compressed, in a folder
        tars = Path(tars).resolve().as_uri()
    return Source(location, manifest, indexes, RemoteFolder(tars))
