"""`scemae shards index FOLDER`: use WebDataset tars that others wrote, as they are.

    scemae shards index /data/laion                          every *.tar of the folder
    scemae shards index '/data/laion/{00000..00099}.tar'     some of them
    scemae shards index s3://bucket/laion                    of a bucket that you may write to
    scemae shards index s3://theirs/laion --out PLACE        of one that you may only read

Writes manifest.json and one index per tar beside the tars, which are read whole once, in
parallel, and never written. A sample is what webdataset takes for one: members that follow each
other and share the name up to its first dot. Its image is the member .jpg, .jpeg, .png or .webp;
other members (captions, numbers) stay unread, and a sample without an image is counted and left
out. Tars of a bucket are downloaded, through a folder for temporary files (TMPDIR), as many at a
time as there are workers.

Run the same command again after an interruption, or when tars were added: one whose size and time
(in a bucket: whose ETag) are those of an earlier call is not read again. Several machines share the
work by --part 1/8, 2/8, and so on; the same command without --part then writes the manifest. It
replaces one that is there: of tars that came later, --out makes a set of their own, which a run
adds by data.append.

--out puts manifest and indexes into another folder or bucket, which is the set of shards then: its
manifest names the place of the tars, which stay where they are and are only read. A web server
needs it (https://HOST/{000..099}.tar). Tars of a folder need a folder.
"""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar, cast

from scemae.config.locations import masked, scheme_of
from scemae.data.storage import url_program
from scemae.data.storage.manifest import (
    MANIFEST,
    TAR,
    TARS,
    Manifest,
    Shard,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from scemae.data.storage.remote_folder import RemoteFolder
from scemae.errors import DataError, FileError, ShardError
from scemae.files import disk
from scemae.process.progress import progress_bar
from scemae.shards.claim import PLAN, Part
from scemae.shards.finished import BUILD_FOLDER, Place
from scemae.shards.index_records import Indexed, Records
from scemae.shards.index_tar import index_tar

T = TypeVar("T")
IMAGELESS = "samples without .jpg, .jpeg, .png or .webp"  # the reason in the manifest


def index_tars(pattern: str, workers: int, out: str | None = None, part: Part | None = None) -> str:
    """Index the tars of a folder or a brace pattern; returns a line on what was found.

    out: the folder or URL for manifest and indexes, if not that of the tars. part: indexes only the
    tars of that part, and writes no manifest. Raises DataError, ShardError.
    """
    if scheme_of(pattern) is not None:
        return _index_remote(pattern, workers, out, part)
    if out is not None and scheme_of(out) is not None:
        raise DataError(
            f"{masked(out)}: found a URL, and the tars are in a folder, which others cannot read; "
            "give a folder as --out, or copy the tars there"
        )
    if out is None and Path(pattern).is_dir():
        _refuse_own(Path(pattern))
    folder, tars = find_tars(pattern)
    target = folder if out is None else _made(out)
    _refuse_own(target)
    records = Records(target)

    def index(tar: Path) -> Shard:
        found, before = tar.stat(), records.find(tar.name)
        stamp = f"{found.st_size} {found.st_mtime_ns}"
        if before and before.stamp == stamp:
            return before.shard
        shard = index_tar(tar, target)
        records.write(Indexed(shard, stamp))
        return shard

    shards = _index_all(_of_part(tars, part), index, workers)
    if part is not None:
        return _part_done(str(target), part, shards)
    manifest = _manifest(str(folder), shards)
    if target != folder:
        manifest.options["tars"] = str(folder.absolute())
    write_manifest(target, manifest)
    return _summary(str(target), manifest)


def _of_part(tars: list[T], part: Part | None) -> list[T]:
    return tars if part is None else tars[part.index :: part.count]


def _part_done(target: str, part: Part, shards: list[Shard]) -> str:
    return (
        f"{target}: part {part}, {len(shards):,} tars, is indexed; when all parts are, the same "
        "command without --part writes the manifest"
    )


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
    if (manifest and not manifest.foreign) or _has_plan(target):
        raise DataError(f"{name}: found shards of `scemae shards build`, which need no other index")


def _has_plan(target: Place) -> bool:
    name = f"{BUILD_FOLDER}/{PLAN}"
    if isinstance(target, RemoteFolder):
        return target.load(name) is not None
    return (target / name).exists()


def _index_all(tars: list[T], index: Callable[[T], Shard], workers: int) -> list[Shard]:
    """Index tars, `workers` at a time."""
    with (
        ThreadPoolExecutor(workers) as threads,
        progress_bar(total=len(tars), unit="tar", desc="index") as bar,
    ):
        shards = []
        try:
            for shard in threads.map(index, tars):
                shards.append(shard)
                bar.update()
        finally:
            threads.shutdown(cancel_futures=True)  # after an error none is begun
    return shards


def _manifest(folder: str, shards: list[Shard]) -> Manifest:
    """The manifest of tars. Raises ShardError where none holds an image."""
    imageless = sum(shard.imageless for shard in shards)
    kept = [shard for shard in shards if shard.samples]
    if not kept:
        raise ShardError(
            f"{folder}: found no image in {len(shards):,} tars; members named KEY.jpg, .jpeg, .png "
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


def _index_remote(pattern: str, workers: int, out: str | None, part: Part | None) -> str:
    """Index tars below a URL; each is downloaded for that, and deleted."""
    location, names = pattern, None
    if pattern.endswith(".tar"):
        from braceexpand import braceexpand  # webdataset's

        expanded = [*dict.fromkeys(braceexpand(pattern))]
        location = expanded[0].rpartition("/")[0]
        names = [url.rpartition("/")[2] for url in expanded]
    url_program.refuse(location)
    target, remote = _target(location, out), RemoteFolder(location)
    _refuse_own(target)
    tars = [name for name in names or remote.names() if TAR.fullmatch(name)]
    if not tars:
        raise DataError(_no_tar(remote.url(""), names or remote.names()))
    records = Records(target)
    with tempfile.TemporaryDirectory() as scratch:

        def index(name: str) -> Shard:
            before = records.find(name)
            found = remote.newer_pieces(name, before.stamp if before else None)
            if found is None:
                return cast(Indexed, before).shard
            tar, (pieces, tag) = Path(scratch) / name, found
            with disk.create(tar) as file:
                for piece in pieces:
                    file.write(piece)
            shard = index_tar(tar, Path(scratch))
            disk.remove(tar)
            _put(target, shard.index_file, (Path(scratch) / shard.index_file).read_bytes())
            records.write(Indexed(shard, tag or ""))
            return shard

        shards = _index_all(_of_part(tars, part), index, workers)
    if part is not None:
        return _part_done(str(target), part, shards)
    manifest = _manifest(remote.url(""), shards)
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


def _no_tar(place: str, names: list[str]) -> str:
    """The error message for a place without tars."""
    if compressed := next((name for name in names if name.endswith(TARS[1])), None):
        return (
            f"{place}: found {compressed} and no *.tar, and of a compressed one no range can be "
            "read; unpack them with gunzip"
        )
    return f"{place}: found no *.tar in it; give the folder of WebDataset tars"


def find_tars(pattern: str) -> tuple[Path, list[Path]]:
    """The folder, and its tars by name. Raises DataError."""
    if Path(pattern).is_dir():
        folder, tars = Path(pattern), sorted(Path(pattern).glob("*.tar"))
    else:
        from braceexpand import braceexpand  # webdataset's

        tars = [Path(name) for name in dict.fromkeys(braceexpand(pattern))]
        folder = tars[0].parent
    if not tars:
        raise DataError(_no_tar(str(folder), [path.name for path in folder.iterdir()]))
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
