"""What `shards index` did in earlier calls: a record of each tar, PLACE/.build/NAME.json.

So an interrupted call resumes, and tars that are as they were are not read again.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from scemae.data.storage.index_file import read_index
from scemae.data.storage.manifest import Shard
from scemae.data.storage.remote_folder import RemoteFolder
from scemae.errors import DataError, ShardError
from scemae.files import disk, documents
from scemae.shards.finished import BUILD_FOLDER, Place


@dataclass
class Indexed:
    """A tar that was indexed. stamp: its size and time on a disk, or its ETag; "": not known."""

    shard: Shard
    stamp: str


class Records:
    """The records in a place. Threads may use it at once."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._records, self._files = dict[str, int](), dict[str, int]()
        if isinstance(place, RemoteFolder):
            self._records, self._files = place.sizes(BUILD_FOLDER), place.sizes()

    def find(self, tar: str) -> Indexed | None:
        """The record of a tar, if its index is there too."""
        name = f"{tar}.json"
        try:
            if not isinstance(self._place, RemoteFolder):
                path = self._place / BUILD_FOLDER / name
                found = documents.read_json(path, Indexed)
                read_index(self._place, found.shard, foreign=True)
                return found if found.shard.file == tar else None
            if name not in self._records:
                return None
            text, _ = self._place.load(f"{BUILD_FOLDER}/{name}") or (b"", None)
            shard = (found := documents.parse_json(text, Indexed, name)).shard
            if shard.file != tar or shard.index_file not in self._files:
                return None
            index, _ = self._place.load(shard.index_file) or (b"", None)
            return found if disk.digest(index) == shard.index_sha256 else None
        except (FileNotFoundError, DataError, ShardError):  # it is made again
            return None

    def write(self, found: Indexed) -> None:
        """Keep a record; its index is there."""
        name, value = f"{found.shard.file}.json", asdict(found)
        if isinstance(self._place, Path):
            disk.make_folders(self._place / BUILD_FOLDER, self._place)
            disk.write_json(self._place / BUILD_FOLDER / name, value)
        else:
            self._place.write(f"{BUILD_FOLDER}/{name}", disk.json_bytes(value))
