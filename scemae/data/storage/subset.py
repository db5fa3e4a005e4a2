"""A part of a set of shards, named by the keys of its samples."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scemae.data.storage.manifest import Annotation
from scemae.data.storage.members import Members
from scemae.data.storage.shard_set import Keys, ShardSet
from scemae.errors import FileError, ShardError
from scemae.files import disk

MOST_BYTES = 2**34  # of a list of keys


class Subset(ShardSet):
    """The samples of `whole` whose keys are in a file, one a line, in the order of the shards."""

    def __init__(self, whole: ShardSet, keys: Path) -> None:
        """Raises ShardError for an empty list, and for a key that the shards have not."""
        self._whole, self._list = whole, keys
        self.folder, self.manifest, self.streams = whole.folder, whole.manifest, whole.streams
        wanted = _read(keys)
        chosen = [i for i, key in enumerate(whole.keys) if key in wanted]
        if len(chosen) < len(wanted):
            missing = sorted(wanted - {whole.keys[i] for i in chosen})
            raise ShardError(
                f"{keys}: found {len(missing):,} keys that {whole.folder} has not, such as "
                f"{missing[0][:80]}; give a list of its keys, one a line"
            )
        self._chosen = np.array(chosen, np.int64)
        numbers = disk.digest(self._chosen.astype("<i8").tobytes())
        self.digest = disk.digest(f"{whole.digest} {numbers}")
        self.tars_digest = disk.digest(f"{whole.tars_digest} {numbers}")
        for stream in self.streams:
            if stream is not None:
                stream.only(self._chosen)
        self.keys = Keys(self)

    def __len__(self) -> int:
        return len(self._chosen)

    def __reduce__(self) -> tuple:
        return Subset, (self._whole, self._list)

    def jpeg(self, i: int) -> bytes:
        """As ShardSet.jpeg."""
        return self._whole.jpeg(int(self._chosen[i]))

    def members(self, samples: np.ndarray) -> Members:
        """As ShardSet.members."""
        return self._whole.members(self._chosen[samples])

    def annotation(self, i: int) -> Annotation:
        """As ShardSet.annotation."""
        return self._whole.annotation(int(self._chosen[i]))

    def key(self, i: int) -> str:
        """As ShardSet.key."""
        return self._whole.key(int(self._chosen[i]))

    def all_keys(self) -> Iterator[str]:
        """As ShardSet.all_keys."""
        return map(self.key, range(len(self)))


def _read(path: Path) -> set[str]:
    try:
        text = disk.read_bytes(path, MOST_BYTES).decode("utf8")
    except (OSError, FileError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ShardError(
            f"{path}: cannot be read ({why}); data.subset names a text file of keys, one a line"
        ) from error
    if not (keys := {line.strip() for line in text.splitlines() if line.strip()}):
        raise ShardError(f"{path}: found no key in it; write one a line, or leave data.subset out")
    return keys
