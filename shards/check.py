"""Reading finished shards: `verify` compares all bytes with the manifest, `describe` lists them."""

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO

from scemae.config.locations import below, masked, scheme_of
from scemae.data.picture import UnusablePicture, check_jpeg, decode_image
from scemae.data.storage.index import Index
from scemae.data.storage.index_file import parse_index, read_index
from scemae.data.storage.manifest import (
    MANIFEST,
    Annotation,
    Manifest,
    Shard,
    parse_manifest,
    read_manifest,
    url_of_tars,
)
from scemae.data.storage.remote_folder import SCHEMES, WRITABLE, RemoteFolder
from scemae.data.storage.shard_set import open_shards
from scemae.data.storage.tar_headers import BLOCK, is_header, member_name, wrong_header
from scemae.errors import FileError, ShardError, UnreachableError
from scemae.files import disk, documents
from scemae.process.progress import progress_bar
from scemae.shards.finished import BUILD_FOLDER, Place

PIECE = 1 << 20
THREADS = 8  # tars that are read at a time
Arrived = Callable[[int], None]  # called with the number of bytes that were read


@dataclass
class _Split:
    """A split: the place of its manifest and indexes, that of its tars, the manifest."""

    place: Place
    tars: Place
    manifest: Manifest


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


def _remote(location: str) -> RemoteFolder:
    """What is at a URL. Raises ShardError."""
    if scheme_of(location) not in SCHEMES:
        raise ShardError(
            f"{masked(location)}: found {scheme_of(location)}:, and shards at a URL of "
            f"{', '.join(SCHEMES)} are read; copy these to a folder, and give that"
        )
    return RemoteFolder(location, again="run the same command again")


def verify(location: str | Path, *, decode: bool = False) -> str:
    """Read all shards at `location`, compare sizes and digests with the manifests; summarise.

    Tars at a URL pass through a folder for temporary files, THREADS at a time. decode: each image
    is also decoded and each annotation parsed. Raises ShardError that names every wrong file.
    """
    wrong: list[str] = []
    foreign: list[str] = []
    sentences: list[str] = []
    lines: list[str] = []
    for place in find_splits(location):
        try:
            split = _open(place)
        except ShardError as error:
            sentences.append(str(error))
            continue
        foreign += _unlisted(split)
        wrong += (found := _check_split(split, decode))
        lines.append(f"{place}: {_amount(split.manifest)}, {'whole' if not found else 'NOT whole'}")
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


def describe(location: str | Path) -> str:
    """Lines for people on what the shards at `location` hold. Raises ShardError."""
    return "\n\n".join(_describe_split(_open(place)) for place in find_splits(location))


def _open(place: Place) -> _Split:
    """The split at a place. Raises ShardError."""
    if isinstance(place, Path):
        manifest = read_manifest(place)
        tars = manifest.tars or str(place)
    else:
        text, _ = place.newer(MANIFEST, None, documents.MOST_JSON) or (b"", None)
        manifest = parse_manifest(text, place.url(MANIFEST))
        tars = url_of_tars(place.location, manifest)
        if tars == place.location:
            return _Split(place, place, manifest)
    return _Split(place, Path(tars) if scheme_of(tars) is None else _remote(tars), manifest)


def _unlisted(split: _Split) -> list[str]:
    """Tars beside the manifest that are not in it, where the place tells: web servers do not."""
    listed = {shard.file for shard in split.manifest.shards}
    if isinstance(split.place, Path):
        names = [path.name for path in split.place.glob("*.tar")]
        return [str(split.place / name) for name in sorted(names) if name not in listed]
    if scheme_of(split.place.location) not in WRITABLE:
        return []
    try:
        names = [name for name in split.place.names() if name.endswith(".tar")]
    except UnreachableError:  # who may read need not be permitted to list
        return []
    return [split.place.url(name) for name in names if name not in listed]


def _check_split(split: _Split, decode: bool) -> list[str]:
    """What is wrong, a sentence each. Raises UnreachableError where that cannot be told."""
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

        wrong: list[str] = []
        try:
            for found in threads.map(check, split.manifest.shards):
                wrong += [found] if found else []
        except UnreachableError as error:
            before = f". Until then found: {'; '.join(wrong)}" if wrong else ""
            raise UnreachableError(f"{error}{before}") from error
        finally:
            threads.shutdown(cancel_futures=True)
        return wrong


def _check_shard(split: _Split, shard: Shard, arrived: Arrived, decode: bool) -> None:
    """Raise ShardError unless a tar and its index are as the manifest says."""
    if isinstance(split.place, Path):
        index = read_index(split.place, shard, split.manifest.foreign)
    else:
        name = shard.index_file
        data, _ = split.place.newer(name, None, documents.MOST_JSON) or (b"", None)
        index = parse_index(data, split.place.url(name), shard, split.manifest.foreign)
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
            f"of {shard.bytes:,} bytes pass through it; set TMPDIR to a folder with more room"
        ) from error


def _check_tar(
    file: IO[bytes], path: str, digest: str, shard: Shard, index: Index, decode: bool
) -> None:
    """As _check_shard, of an open tar with this digest; messages call it `path`."""
    if digest != shard.sha256:
        raise ShardError(f"{path}: its SHA-256 is not the manifest's, so it was altered")
    _check_members(file, path, index, decode)


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


def _describe_split(split: _Split) -> str:
    manifest = split.manifest
    reasons = Counter(entry["reason"] for entry in manifest.left_out)
    lines = [
        f"{split.place}: split {manifest.split} of {manifest.dataset}",
        f"  holds        {_amount(manifest)}",
        *_first_sample(split),
        *(f"  left out     {count:,}: {reason}" for reason, count in reasons.most_common()),
        *(f"  excluded     {count:,}: {reason}" for reason, count in manifest.excluded.items()),
        *(f"  option       {name}: {value}" for name, value in manifest.options.items()),
        f"  digest       {manifest.digest()}, of the samples in their order",
        f"  of its tars  {manifest.tars_digest()}",
    ]
    return "\n".join(lines)


def _first_sample(split: _Split) -> list[str]:
    if not isinstance(split.tars, Path):
        return []
    shards = open_shards(str(split.place))
    try:
        pixels = "{}x{} pixels".format(*check_jpeg(shards.jpeg(0)))
    except UnusablePicture as error:
        pixels = str(error)
    first = shards.annotation(0)
    return [
        f"  first sample {first.get('file', shards.keys[0])}, {pixels}",
        f"  annotations  {', '.join(_annotations(first)) or 'none'}",
    ]


def _annotations(first: Annotation) -> list[str]:
    names = {
        "landmarks": f"{len(first.get('landmarks') or [])} landmarks",
        "identity": "identity",
        "box": "face box",
        "size": "size",
    }
    return [words for key, words in names.items() if key in first]


def _amount(manifest: Manifest) -> str:
    megabytes = sum(shard.bytes for shard in manifest.shards) / 1e6
    return f"{manifest.samples:,} samples in {len(manifest.shards)} shards, {megabytes:,.1f} MB"
