"""The samples of a source in memory: columns of numbers and text, not an object for each.

So a sample of a folder takes 44 bytes and its name.
"""

import os
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import xxhash

from scemae.shards.splits import ImagePlace, Sample


class Listing(Sequence[Sample]):
    """Samples that `make` makes of the numbers in `rows`, each time that they are asked for."""

    def __init__(self, make: Callable[[int], Sample], rows: range | np.ndarray) -> None:
        self._make, self._rows = make, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, i: int) -> Sample: ...
    @overload
    def __getitem__(self, i: slice) -> "Listing": ...
    def __getitem__(self, i: int | slice) -> "Sample | Listing":
        """A sample; or a part of the listing, which shares its columns."""
        if isinstance(i, slice):
            return Listing(self._make, self._rows[i])
        return self._make(int(self._rows[i]))

    def __iter__(self) -> Iterator[Sample]:
        return (self._make(int(row)) for row in self._rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker gets the samples of its shard, not the columns of all."""
        return list, ([*self],)


class Texts:
    """Texts in one piece of memory."""

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), array("Q", [0])

    def append(self, text: str) -> None:
        """Add a text at the end."""
        self._bytes += text.encode("utf8", "surrogateescape")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        found = self._bytes[self._ends[i] : self._ends[i + 1]]
        return found.decode("utf8", "surrogateescape")


class Files:
    """Files below a root, in the order in which they were added."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._folders: list[str] = []  # each ends with /, unless it is the root itself
        self._folder, self._names = array("I"), Texts()
        self._numbers = array("q")  # size, mtime, ctime in ns, inode: four of each file
        self._suffixes: dict[int, int] = {}  # of the keys that are not unique by themselves

    def append(self, folder: str, name: str, found: os.stat_result) -> None:
        """Add the file `name` of a folder below the root, "" or with / at its end."""
        if not self._folders or self._folders[-1] != folder:
            self._folders.append(folder)
        self._folder.append(len(self._folders) - 1)
        self._names.append(name)
        inode = found.st_ino - 2**64 * (found.st_ino >= 2**63)
        self._numbers.extend((found.st_size, found.st_mtime_ns, found.st_ctime_ns, inode))

    def __len__(self) -> int:
        return len(self._names)

    def name(self, i: int) -> str:
        """The path below the root."""
        return self._folders[self._folder[i]] + self._names[i]

    def finish(self) -> None:
        """Make the keys of all files unique, once all are there."""
        self._suffixes = repeated(len(self), self.name)

    def sample(self, i: int) -> Sample:
        """A file as a sample without annotations."""
        name = self.name(i)
        size, mtime, ctime, inode = self._numbers[4 * i : 4 * i + 4]
        place = ImagePlace(
            os.path.join(self._root, name), size, stamp=(mtime, ctime, inode % 2**64)
        )
        return Sample(key_of(name, self._suffixes.get(i, 1)), {"file": name}, place)


class Places:
    """Where images lie: in few folders, zips or tars."""

    def __init__(self) -> None:
        self._holders: dict[str, int] = {}  # zips, tars, and folders with / at their end
        self._paths: list[str] = []  # the same by number
        self._holder, self._names = array("I"), Texts()
        self._numbers = array("q")  # size, offset
        self._stamps = array("Q")  # three of each

    def append(self, place: ImagePlace) -> None:
        """Add a place, whose stamp has three numbers."""
        holder, name = place.path, place.member
        if place.offset < 0 and not name:
            at = place.path.rfind("/") + 1
            holder, name = place.path[:at], place.path[at:]
        if holder not in self._holders:
            self._holders[holder] = len(self._paths)
            self._paths.append(holder)
        self._holder.append(self._holders[holder])
        self._names.append(name)
        self._numbers.extend((place.size, place.offset))
        self._stamps.extend(number % 2**64 for number in place.stamp)

    def __getitem__(self, i: int) -> ImagePlace:
        size, offset = self._numbers[2 * i : 2 * i + 2]
        mtime, ctime, inode = self._stamps[3 * i : 3 * i + 3]
        stamp = (_signed(mtime), _signed(ctime), inode)
        holder, name = self._paths[self._holder[i]], self._names[i]
        if not holder or holder.endswith("/"):
            return ImagePlace(holder + name, size, stamp=stamp)
        return ImagePlace(holder, size, name, offset, stamp)


def _signed(number: int) -> int:
    return number - 2**64 * (number >= 2**63)


def key_of(name: str, number: int = 1) -> str:
    """A tar key of a file name: letters, digits, - and _ only, at most 80 long, then -number.

    A dot would end the key for webdataset, and a slash would make a folder. Number 1 is not shown.
    """
    stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", name)
    key = re.sub(r"[^A-Za-z0-9-]+", "_", stem).strip("_")[-80:] or "image"
    return key if number == 1 else f"{key}-{number}"


def unique_keys(names: Sequence[str]) -> list[str]:
    """One key of each name (key_of); a repeated one gets -2, -3, ..."""
    numbers = repeated(len(names), names.__getitem__)
    return [key_of(name, numbers.get(place, 1)) for place, name in enumerate(names)]


def repeated(count: int, name: Callable[[int], str]) -> dict[int, int]:
    """The numbers, by place, of the names whose key is taken: 2 or above, one by one in order.

    name: gives the name at a place below `count`. In memory are 16 bytes of each name, and of those
    whose keys may collide (equal hashes) also the keys.
    """
    hashes = np.fromiter((_hash(key_of(name(i))) for i in range(count)), np.uint64, count)
    ordered = np.sort(hashes)
    doubtful = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(doubtful):
        return {}
    while True:
        found, tried = _numbered(np.flatnonzero(np.isin(hashes, doubtful)).tolist(), name)
        wider = np.union1d(doubtful, tried[np.isin(tried, ordered)])
        if len(wider) == len(doubtful):
            return found
        doubtful = wider


def _numbered(places: list[int], name: Callable[[int], str]) -> tuple[dict[int, int], np.ndarray]:
    """The numbers of these places, as if there were no others; hashes of all keys with a number."""
    taken: set[str] = set()
    last: dict[str, int] = {}  # the number that a key without one was given last
    found: dict[int, int] = {}
    tried = array("Q")
    for place in places:
        one = name(place)
        number, key = 1, (plain := key_of(one))
        while key in taken:
            number = max(number, last.get(plain, 1)) + 1
            key = key_of(one, number)
            tried.append(_hash(key))
        taken.add(key)
        if number > 1:
            last[plain] = found[place] = number
    return found, np.unique(np.frombuffer(tried, np.uint64))


def _hash(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key.encode())
