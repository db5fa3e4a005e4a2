"""`shards verify`: all bytes of finished shards, compared with their manifests."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import IO

from scemae.config.locations import masked, scheme_of
from scemae.data.picture import decode_image
from scemae.data.storage.gzipped_tars import check_pieces_of, whole_of
from scemae.data.storage.index import Index
from scemae.data.storage.manifest import TARS, Annotation, Shard
from scemae.data.storage.tar_headers import BLOCK, is_header, member_name, wrong_header
from scemae.data.storage.url_store import WRITABLE
from scemae.errors import FileError, ShardError, UnreachableError
from scemae.files import disk, documents
from scemae.process.progress import progress_bar
from scemae.shards.split_places import SplitAt, find_splits, open_split

PIECE = 1 << 20
THREADS = 8  # tars that are read at a time
Arrived = Callable[[int], None]  # called with the number of bytes that were read


def verify(location: str | Path, *, decode: bool = False) -> str:
    """Read all shards at `location`, compare sizes and digests with the manifests; summarise.

    Tars at a URL, or compressed, pass through a folder for temporary files, THREADS at a time.
    decode: each image is also decoded and each annotation parsed. Raises ShardError that names
    every wrong file.
    """
    wrong: list[str] = []
    foreign: list[str] = []
    sentences: list[str] = []
    lines: list[str] = []
    for place in find_splits(location):
        before = len(wrong)
        try:
            split = open_split(place)
            foreign += _unlisted(split)
            _check_split(split, decode, wrong)
        except ShardError as error:
            sentences.append(str(error))
            continue
        state = "whole" if len(wrong) == before else "NOT whole"
        lines.append(f"{place}: {split.amount}, {state}")
    if wrong:
        sentences.append(
            f"{len(wrong)} of its parts are wrong: {'; '.join(wrong)}; copy these files again, or "
            "remove them and run the same `scemae shards build` again, which writes only what is "
            "missing"
        )
    if foreign:
        sentences.append(
            f"{len(foreign)} tars are in no manifest ({', '.join(foreign[:5])}), so nothing reads "
            "them: they belong to something else; move them to where they belong"
        )
    if sentences:
        raise ShardError(f"{masked(str(location))}: {'. '.join(sentences)}")
    return "\n".join(lines)


def _unlisted(split: SplitAt) -> list[str]:
    """Tars beside the manifest that are not in it, where the place tells: web servers do not."""
    listed = {shard.file for shard in split.manifest.shards}
    if isinstance(split.place, Path):
        names = [path.name for path in split.place.iterdir() if path.name.endswith(TARS)]
        return [str(split.place / name) for name in sorted(names) if name not in listed]
    if scheme_of(split.place.location) not in WRITABLE:
        return []
    try:
        names = [name for name in split.place.names() if name.endswith(TARS)]
    except UnreachableError:  # who may read need not be permitted to list
        return []
    return [split.place.url(name) for name in names if name not in listed]


def _check_split(split: SplitAt, decode: bool, wrong: list[str]) -> None:
    """Add a sentence to `wrong` for each fault. Raises UnreachableError if a file cannot be read.

    What cannot be read may still be whole, so it is no fault.
    """
    with (
        progress_bar(
            total=sum(shard.bytes for shard in split.manifest.shards),
            desc=f"verify {split.manifest.split}",
            unit="B",
            unit_scale=True,
        ) as bar,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        lock = Lock()

        def arrived(count: int) -> None:
            with lock:
                bar.update(count)

        def check(shard: Shard) -> str | None:
            try:
                _check_shard(split, shard, arrived, decode)
            except UnreachableError:
                raise
            except ShardError as error:
                return str(error)
            return None

        try:
            for found in threads.map(check, split.manifest.shards):
                wrong += [found] if found else []
        finally:
            threads.shutdown(cancel_futures=True)


def _check_shard(split: SplitAt, shard: Shard, arrived: Arrived, decode: bool) -> None:
    """Raise ShardError unless a tar and its index are as the manifest says."""
    index = split.index(shard)
    digest = hashlib.sha256()
    if isinstance(split.tars, Path):
        path = split.tars / shard.file
        try:
            with disk.open_regular(path) as file:
                _refuse_size(os.fstat(file.fileno()).st_size, str(path), shard)
                for piece in iter(lambda: file.read(PIECE), b""):
                    digest.update(piece)
                    arrived(len(piece))
                _check_tar(file, str(path), digest.hexdigest(), shard, index, decode)
        except FileError as error:
            raise ShardError(str(error)) from error
        except OSError as error:
            raise ShardError(f"{path}: cannot be read ({error.strerror})") from error
        return
    url, count = split.tars.url(shard.file), 0
    with tempfile.TemporaryFile() as copy:
        for piece in split.tars.stream(shard.file):
            count += len(piece)
            if count > shard.bytes:
                break
            digest.update(piece)
            _write(copy, piece, shard)
            arrived(len(piece))
        _refuse_size(count, url, shard)
        _check_tar(copy, url, digest.hexdigest(), shard, index, decode)


def _refuse_size(found: int, path: str, shard: Shard) -> None:
    if found != shard.bytes:
        more = "at least " if found > shard.bytes else ""
        raise ShardError(f"{path}: found {more}{found:,} bytes, the manifest says {shard.bytes:,}")


def _write(copy: IO[bytes], piece: bytes, shard: Shard) -> None:
    try:
        copy.write(piece)
        copy.flush()
    except OSError as error:
        raise UnreachableError(
            f"{tempfile.gettempdir()}: cannot be written to ({error.strerror}), and {THREADS} tars "
            f"of {shard.tar_bytes:,} bytes pass through it; set TMPDIR to a folder with more room"
        ) from error


def _check_tar(
    file: IO[bytes], path: str, digest: str, shard: Shard, index: Index, decode: bool
) -> None:
    """As _check_shard, of an open tar with this digest; messages call it `path`."""
    if digest != shard.sha256:
        raise ShardError(f"{path}: its SHA-256 is not the manifest's, so it was altered")
    if index.pieces is None:
        _check_members(file, path, index, decode)
        return
    check_pieces_of(file, index.pieces, shard, path)
    file.seek(0)
    with tempfile.TemporaryFile() as inside:
        for piece in whole_of(iter(lambda: file.read(PIECE), b""), shard, path):
            _write(inside, piece, shard)
        _check_members(inside, path, index, decode)


def _check_members(file: IO[bytes], path: str, index: Index, decode: bool) -> None:
    """Raise ShardError where the tar's headers are not those of its index.

    decode: also where an image or an annotation does not decode.
    """
    is_foreign = index.suffixes is not None
    for row, key in enumerate(index.all_keys()):
        places = [index.jpg[row].tolist(), *index.json[row : row + 1].tolist()]
        for is_annotation, (start, size) in enumerate(places):
            name = member_name(key, True) if is_annotation else index.image_name(row)
            file.seek(start - BLOCK)
            if not is_header(header := file.read(BLOCK), name, size, is_foreign):
                raise ShardError(wrong_header(header, name, path))
            if decode:
                _decode(file.read(size), path, key, is_annotation)


def _decode(data: bytes, path: str, key: str, is_annotation: int) -> None:
    try:
        if is_annotation:
            name = f"{key}.json"
            documents.parse_json(
                data, Annotation, name, error=ShardError, remedy="rebuild the shards"
            )
        else:
            decode_image(data, strict=True)
    except (ValueError, ShardError) as error:
        raise ShardError(f"{path}: sample {key} cannot be decoded ({error})") from error
