"""The index of one tar that others wrote: its samples, as webdataset takes them."""

import itertools
import re
from pathlib import Path
from urllib.parse import quote

import xxhash

from scemae.data.storage import content
from scemae.data.storage.index import LARGEST, foreign_index
from scemae.data.storage.index_file import write_index
from scemae.data.storage.manifest import Shard, repeated_in
from scemae.errors import DataError
from scemae.files import disk
from scemae.files.documents import QUOTED_KEY
from scemae.shards.archive import Member, tar_members

IMAGES = ("jpg", "jpeg", "png", "webp")  # the first of these that a sample has is its image
# webdataset's: the name up to the first dot of its last part, and the rest.
NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
SKIPPED = re.compile(r"__[^/]*__($|/)")  # members that webdataset passes over


def index_tar(tar: Path, target: Path) -> Shard:
    """The shard of one tar, whose index is written into the folder `target`. Raises DataError."""
    keys, places, suffixes = list[str](), list[tuple[int, int]](), list[str]()
    hashes, imageless = list[int](), 0
    with disk.open_regular(tar) as file:
        for key, members in _samples(tar_members(tar)):
            image = next((members[kind] for kind in IMAGES if kind in members), None)
            if image is None:
                imageless += 1
                continue
            if image.size > LARGEST:
                raise DataError(
                    f"{tar}: found the image {image.name[:80]} of {image.size:,} bytes, at most "
                    f"{LARGEST:,} were expected; leave it out of the tar"
                )
            keys.append(quote(key, safe="", errors="surrogateescape"))
            if not re.fullmatch(QUOTED_KEY, keys[-1]):
                raise DataError(
                    f"{tar}: found a sample named {key[:80]}..., {len(keys[-1]):,} characters with "
                    "those that are no letters as %XX, at most 3,000 were expected; give it a "
                    "shorter name"
                )
            places.append((image.offset, image.size))
            suffixes.append(image.name.rpartition(".")[2])
            file.seek(image.offset)
            hashes.append(xxhash.xxh3_64_intdigest(file.read(image.size)))
    if repeated := repeated_in(keys):
        raise DataError(
            f"{tar}: found the sample {repeated[:80]} twice, not one after the other; sort the "
            "members by name when writing the tar"
        )
    shard = Shard(tar.name, len(keys), tar.stat().st_size, disk.file_digest(tar), "")
    index = foreign_index(keys, places, suffixes, hashes)
    shard.content = content.of_shard(index.samples(itertools.repeat(b"")))
    shard.imageless = imageless
    write_index(target, shard, index)
    return shard


def _samples(members: list[Member]) -> list[tuple[str, dict[str, Member]]]:
    """The samples of a tar: key, and its members by lower-case suffix."""
    samples: list[tuple[str, dict[str, Member]]] = []
    for member in members:
        parts = NAME.fullmatch(member.name)
        if parts is None or SKIPPED.match(member.name):
            continue
        if not samples or samples[-1][0] != parts[1]:
            samples.append((parts[1], {}))
        samples[-1][1].setdefault(parts[2].lower(), member)
    return samples
