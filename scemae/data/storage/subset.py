"""A part of a set of shards, named by the keys of its samples.

000017          the sample with this key
celeba-0*       those whose keys match, as in a shell (* ? [abc]), which no key contains
!*-blurred      not those, whatever the other lines say; without other lines, all but those
"""

import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scemae.data.storage.manifest import Annotation
from scemae.data.storage.members import Members
from scemae.data.storage.shard_set import Keys, ShardSet
from scemae.errors import FileError, ShardError
from scemae.files import disk

MOST_BYTES = 2**34  # of a list of keys
PATTERN = re.compile(r"[*?\[\]!]")  # what a line has that is no key


class Subset(ShardSet):
    """The samples of `whole` whose keys are in a file, one a line, in the order of the shards."""

    def __init__(self, whole: ShardSet, keys: Path) -> None:
        """Raises ShardError for an empty list, and for a line that names no sample."""
        self._whole, self._list = whole, keys
        self.folder, self.manifest, self.streams = whole.folder, whole.manifest, whole.streams
        self._chosen = _Lines(_read(keys)).choose(whole, keys)
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


class _Lines:
    """What the lines of a list name: keys, patterns, and patterns of what is left out."""

    def __init__(self, lines: set[str]) -> None:
        self._keys = {line for line in lines if not PATTERN.search(line)}
        self._out = [_compiled(line[1:]) for line in sorted(lines) if line.startswith("!")]
        named = [line for line in sorted(lines - self._keys) if not line.startswith("!")]
        self._patterns = {line: _compiled(line) for line in named}
        self._is_all = not (self._keys or self._patterns)

    def choose(self, whole: ShardSet, path: Path) -> np.ndarray:
        """The numbers (n,) of the samples. Raises ShardError."""
        chosen, idle, found = [], dict(self._patterns), 0
        for i, key in enumerate(whole.keys):
            matching = [line for line, one in self._patterns.items() if one.fullmatch(key)]
            for line in matching:
                idle.pop(line, None)
            found += key in self._keys
            if self._is_all or matching or key in self._keys:
                if not any(one.fullmatch(key) for one in self._out):
                    chosen.append(i)
        if found < len(self._keys):
            missing = sorted(self._keys - {*whole.keys})
            raise ShardError(
                f"{path}: found {len(missing):,} keys that {whole.folder} has not, such as "
                f"{missing[0][:80]}; give a list of its keys, one a line"
            )
        if idle:
            raise ShardError(
                f"{path}: found the pattern {next(iter(idle))[:80]}, which no key of "
                f"{whole.folder} matches; correct it, or remove it"
            )
        if not chosen:
            raise ShardError(
                f"{path}: leaves out all samples of {whole.folder}; remove a line that begins "
                "with !"
            )
        return np.array(chosen, np.int64)


def _compiled(pattern: str) -> re.Pattern:
    return re.compile(fnmatch.translate(pattern))


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
