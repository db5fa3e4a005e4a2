"""`scemae shards index FOLDER`: use WebDataset tars that others wrote, as they are.

    scemae shards index /data/laion                          every *.tar of the folder
    scemae shards index '/data/laion/{00000..00099}.tar'     some of them
    scemae shards index s3://bucket/laion                    of a bucket that you may write to
    scemae shards index s3://theirs/laion --out PLACE        of one that you may only read

Writes manifest.json and one index per tar beside the tars, which are read whole once, in
parallel, and never written. A sample is what webdataset takes for one: members that follow each
other and share the name up to its first dot. Its image is the member .jpg, .jpeg, .png or .webp;
other members (captions, numbers) stay unread, and a sample without an image is counted and left
out. When tars were added to a folder, run the same command again: of a tar that the last manifest
describes, only the digest is computed again. Tars of a bucket are all downloaded, through a folder
for temporary files (TMPDIR), as many at a time as there are workers. The manifest comes last and
replaces one that is there: of tars that came later, --out makes a set of their own, which a run
adds by data.append.

--out puts manifest and indexes into another folder or bucket, which is the set of shards then: its
manifest names the place of the tars, which stay where they are and are only read. A web server
needs it (https://HOST/{000..099}.tar). Tars of a folder need a folder.
"""

import itertools
import re
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import xxhash

from scemae.config.locations import masked, scheme_of
from scemae.data.storage import content, url_program
from scemae.data.storage.index import LARGEST, foreign_index
from scemae.data.storage.index_file import read_index, write_index
from scemae.data.storage.manifest import (
    MANIFEST,
    TAR,
    Manifest,
    Shard,
    parse_manifest,
    read_manifest,
    repeated_in,
    write_manifest,
)
from scemae.data.storage.remote_folder import RemoteFolder
from scemae.errors import DataError, FileError, ShardError
from scemae.files import disk
from scemae.files.documents import QUOTED_KEY
from scemae.process.progress import progress_bar
from scemae.shards.archive import Member, tar_members
from scemae.shards.finished import Place

IMAGES = ("jpg", "jpeg", "png", "webp")  # the first of these that a sample has is its image
IMAGELESS = "samples without .jpg, .jpeg, .png or .webp"  # the reason in the manifest
# webdataset's: the name up to the first dot of its last part, and the rest.
NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
SKIPPED = re.compile(r"__[^/]*__($|/)")  # members that webdataset passes over


def index_tars(pattern: str, workers: int, out: str | None = None) -> str:
    """Index the tars of a folder or a brace pattern; returns a line on what was found.

    out: the folder or URL for manifest and indexes, if not that of the tars. Raises DataError,
    ShardError.
    """
    if scheme_of(pattern) is not None:
        return _index_remote(pattern, workers, out)
    if out is not None and scheme_of(out) is not None:
        raise DataError(
            f"{masked(out)}: found a URL, and the tars are in a folder, which others cannot read; "
            "give a folder as --out, or copy the tars there"
        )
    folder, tars = find_tars(pattern)
    target = folder if out is None else _made(out)
    _refuse_own(target)
    known = _known(target)
    manifest = _manifest(str(folder), tars, lambda tar: _index_tar(tar, known, target), workers)
    if target != folder:
        manifest.options["tars"] = str(folder.absolute())
    write_manifest(target, manifest)
    return _summary(str(target), manifest)


def _made(out: str) -> Path:
    """The folder, which is made where it is missing. Raises DataError."""
    try:
        return disk.make_folders(Path(out), Path(out))
    except (OSError, FileError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{out}: cannot be made ({why}); give a folder to write to") from error


def _refuse_own(target: Place) -> None:
    if isinstance(target, RemoteFolder):
        text, _ = target.load(MANIFEST) or (b"", None)
        name, manifest = target.url(MANIFEST), None
        if text:
            manifest = parse_manifest(text, name)
    else:
        name = str(target / MANIFEST)
        manifest = read_manifest(target) if (target / MANIFEST).exists() else None
    if manifest and not manifest.foreign:
        raise DataError(f"{name}: found shards of `scemae shards build`, which need no other index")


T = TypeVar("T")


def _manifest(folder: str, tars: list[T], index: Callable[[T], Shard], workers: int) -> Manifest:
    """Index all tars, `workers` at a time. Raises ShardError where none holds an image."""
    with (
        ThreadPoolExecutor(workers) as threads,
        progress_bar(total=len(tars), unit="tar", desc="index") as bar,
    ):
        shards = []
        for shard in threads.map(index, tars):
            shards.append(shard)
            bar.update()
    imageless = sum(shard.imageless for shard in shards)
    kept = [shard for shard in shards if shard.samples]
    if not kept:
        raise ShardError(
            f"{folder}: found no image in {len(tars):,} tars; members named KEY.jpg, .jpeg, .png "
            "or .webp were needed"
        )
    return Manifest(
        "webdataset",
        "train",
        sum(shard.samples for shard in kept),
        kept,
        excluded={IMAGELESS: imageless} if imageless else {},
        foreign=True,
    )


def _summary(folder: str, manifest: Manifest) -> str:
    left = "".join(f"; left out: {count:,} {why}" for why, count in manifest.excluded.items())
    return f"{folder}: {manifest.samples:,} images in {len(manifest.shards):,} tars{left}"


def _index_remote(pattern: str, workers: int, out: str | None) -> str:
    """Index tars below a URL; each is downloaded for that, and deleted."""
    location, names = pattern, None
    if pattern.endswith(".tar"):
        from braceexpand import braceexpand  # webdataset's

        expanded = [*braceexpand(pattern)]
        location = expanded[0].rpartition("/")[0]
        names = [url.rpartition("/")[2] for url in expanded]
    url_program.refuse(location)
    target, remote = _target(location, out), RemoteFolder(location)
    _refuse_own(target)
    tars = [name for name in names or remote.names() if TAR.fullmatch(name)]
    if not tars:
        raise DataError(f"{remote.url('')}: found no *.tar in it; give the folder of the tars")
    with tempfile.TemporaryDirectory() as scratch:

        def index(name: str) -> Shard:
            tar = Path(scratch) / name
            with disk.create(tar) as file:
                for piece in remote.stream(name):
                    file.write(piece)
            shard = _index_tar(tar, {}, Path(scratch))
            disk.remove(tar)
            _put(target, shard.index_file, (Path(scratch) / shard.index_file).read_bytes())
            return shard

        manifest = _manifest(remote.url(""), tars, index, workers)
        if out is not None:
            manifest.options["tars"] = remote.location
        _put(target, MANIFEST, disk.json_bytes(asdict(manifest)))
    return _summary(str(target), manifest)


def _target(location: str, out: str | None) -> Place:
    """Where manifest and indexes go. Raises DataError, ShardError."""
    if out is None:
        return RemoteFolder(location, to_write=True)
    if masked(location) != location:
        raise DataError(
            f"{masked(location)}: found a password or a query in the URL, which the manifest would "
            "keep; give a URL without, and credentials as its store takes them"
        )
    if scheme_of(out) is not None:
        return RemoteFolder(out, to_write=True)
    return _made(out)


def _put(target: Place, name: str, data: bytes) -> None:
    if isinstance(target, RemoteFolder):
        target.write(name, data)
    else:
        disk.write_bytes(target / name, data)


def find_tars(pattern: str) -> tuple[Path, list[Path]]:
    """The folder, and its tars by name. Raises DataError."""
    if Path(pattern).is_dir():
        folder, tars = Path(pattern), sorted(Path(pattern).glob("*.tar"))
    else:
        from braceexpand import braceexpand  # webdataset's

        tars = [Path(name) for name in braceexpand(pattern)]
        folder = tars[0].parent
    if not tars:
        raise DataError(f"{folder}: found no *.tar in it; give the folder of WebDataset tars")
    for tar in tars:
        if not tar.is_file():
            raise DataError(
                f"{tar}: no such file; give a folder of tars, or FOLDER/{{000..099}}.tar"
            )
        if tar.parent != folder or not TAR.fullmatch(tar.name):
            raise DataError(
                f"{tar}: found no plain name of a tar in {folder}; name all tars of one folder "
                "with letters, digits, dots, - and _"
            )
    return folder, tars


def _known(folder: Path) -> dict[str, Shard]:
    """The shards of an earlier call, by name."""
    if not (folder / MANIFEST).exists():
        return {}
    return {shard.file: shard for shard in read_manifest(folder).shards}


def _index_tar(tar: Path, known: dict[str, Shard], target: Path) -> Shard:
    """The shard of one tar, whose index is written."""
    before = known.get(tar.name)
    # One of an earlier version does not say how many samples have no image.
    if before and before.packed and before.bytes == tar.stat().st_size:
        try:
            read_index(target, before, foreign=True)
            if disk.file_digest(tar) == before.sha256:
                return before
        except ShardError:
            pass  # made again
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
