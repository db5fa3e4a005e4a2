"""Reading finished shards: `verify` compares all bytes with the manifest, `describe` lists them."""

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

from scemae.config.locations import masked, scheme_of
from scemae.data.picture import UnusablePicture, check_jpeg, decode_image
from scemae.data.storage.index import Index, read_index
from scemae.data.storage.manifest import MANIFEST, Annotation, Manifest, Shard, read_manifest
from scemae.data.storage.shard_set import open_shards
from scemae.data.storage.tar_headers import BLOCK, is_header, member_name, wrong_header
from scemae.errors import FileError, ShardError
from scemae.files import disk, documents
from scemae.process.progress import progress_bar
from scemae.shards.finished import BUILD_FOLDER

PIECE = 1 << 20


def find_splits(location: Path) -> list[Path]:
    """The folders of splits at `location`: the folder itself if it is one, else those in it.

    Raises ShardError for a file.
    """
    if location.exists() and not location.is_dir():
        raise ShardError(f"{location}: is a file; give the folder of shards that it lies in")
    if (location / MANIFEST).exists() or not location.is_dir():
        return [location]
    inside = [
        folder
        for folder in sorted(location.iterdir())
        if (folder / MANIFEST).exists() or (folder / BUILD_FOLDER).is_dir()
    ]
    return inside or [location]  # read_manifest will say what is missing


def verify(location: Path, *, decode: bool = False) -> str:
    """Read all shards at `location`, compare sizes and digests with the manifests; summarise.

    decode: each image is also decoded and each annotation parsed. Raises ShardError that names
    every wrong file.
    """
    wrong: list[str] = []
    foreign: list[str] = []
    sentences: list[str] = []
    lines: list[str] = []
    for folder in find_splits(location):
        try:
            manifest = read_manifest(folder)
        except ShardError as error:
            sentences.append(str(error))
            continue
        if manifest.tars is not None and scheme_of(manifest.tars) is not None:
            sentences.append(
                f"{folder}: its tars are at {masked(manifest.tars)}, and only those of a folder "
                "can be verified; copy them, and verify the copy"
            )
            continue
        found = _check_split(folder, manifest, decode)
        wrong += found
        listed = {shard.file for shard in manifest.shards}
        foreign += [str(path) for path in sorted(folder.glob("*.tar")) if path.name not in listed]
        lines.append(f"{folder}: {_amount(manifest)}, {'whole' if not found else 'NOT whole'}")
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
        raise ShardError(f"{location}: {'. '.join(sentences)}")
    return "\n".join(lines)


def describe(location: Path) -> str:
    """Lines for people on what the shards at `location` hold. Raises ShardError."""
    return "\n\n".join(_describe_split(folder) for folder in find_splits(location))


def _check_split(folder: Path, manifest: Manifest, decode: bool) -> list[str]:
    wrong = []
    with progress_bar(
        total=sum(shard.bytes for shard in manifest.shards),
        desc=f"verify {manifest.split}",
        unit="B",
        unit_scale=True,
    ) as bar:
        for shard in manifest.shards:
            try:
                _check_shard(folder, manifest, shard, bar, decode)
            except ShardError as error:
                wrong.append(str(error))
    return wrong


def _check_shard(folder: Path, manifest: Manifest, shard: Shard, bar: Any, decode: bool) -> None:
    path = Path(manifest.tars or folder) / shard.file
    try:
        with disk.open_regular(path) as file:
            if (found := os.fstat(file.fileno()).st_size) != shard.bytes:
                raise ShardError(
                    f"{path}: found {found:,} bytes, the manifest says {shard.bytes:,}"
                )
            digest = hashlib.sha256()
            while block := file.read(PIECE):
                digest.update(block)
                bar.update(len(block))
    except FileError as error:
        raise ShardError(str(error)) from error
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror})") from error
    if digest.hexdigest() != shard.sha256:
        raise ShardError(f"{path}: its SHA-256 is not the manifest's, so it was altered")
    _check_members(path, read_index(folder, shard, manifest.foreign), decode)


def _check_members(path: Path, index: Index, decode: bool) -> None:
    """Raise ShardError where the tar's headers are not those of its index.

    decode: also where an image or an annotation does not decode.
    """
    is_foreign = index.suffixes is not None
    with disk.open_regular(path) as file:
        for row, key in enumerate(index.all_keys()):
            places = [index.jpg[row].tolist(), *index.json[row : row + 1].tolist()]
            for is_annotation, (start, size) in enumerate(places):
                name = member_name(key, True) if is_annotation else index.image_name(row)
                file.seek(start - BLOCK)
                if not is_header(header := file.read(BLOCK), name, size, is_foreign):
                    raise ShardError(wrong_header(header, name, path))
                if decode:
                    _decode(file.read(size), path, key, is_annotation)


def _decode(data: bytes, path: Path, key: str, is_annotation: int) -> None:
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


def _describe_split(folder: Path) -> str:
    manifest = read_manifest(folder)
    reasons = Counter(entry["reason"] for entry in manifest.left_out)
    lines = [
        f"{folder}: split {manifest.split} of {manifest.dataset}",
        f"  holds        {_amount(manifest)}",
        *_first_sample(folder, manifest),
        *(f"  left out     {count:,}: {reason}" for reason, count in reasons.most_common()),
        *(f"  excluded     {count:,}: {reason}" for reason, count in manifest.excluded.items()),
        *(f"  option       {name}: {value}" for name, value in manifest.options.items()),
        f"  digest       {manifest.digest()}, of the samples in their order",
        f"  of its tars  {manifest.tars_digest()}",
    ]
    return "\n".join(lines)


def _first_sample(folder: Path, manifest: Manifest) -> list[str]:
    if manifest.tars is not None and scheme_of(manifest.tars) is not None:
        return []
    shards = open_shards(str(folder))
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
