"""The content of one shard: images and annotations as a tar, compressed if that is asked for."""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import xxhash

from scemae.data.picture import UnusablePicture
from scemae.data.storage.gzipped_tars import pack
from scemae.data.storage.index import Index, own_index
from scemae.data.storage.manifest import LeftOut
from scemae.data.storage.tar_headers import BLOCK
from scemae.errors import ConfigError
from scemae.shards.finished import ShardTask, read_image
from scemae.shards.image import check_annotation, to_jpeg

if TYPE_CHECKING:
    from webdataset import TarWriter


@dataclass
class Filled:
    """A tar: its index and annotations, what was left out, how many images were encoded anew, a
    digest of the sources; if it was compressed, its bytes and SHA-256 inside.
    """

    index: Index
    annotations: list[bytes]
    left_out: list[LeftOut]
    encoded: int
    sources: str
    bytes: int = 0
    sha256: str = ""


def fill_gzip(file: BinaryIO, task: ShardTask, folder: Path) -> Filled:
    """As fill_tar, compressed; the tar itself is for a while in `folder`."""
    with tempfile.TemporaryFile(dir=folder) as tar:
        filled = fill_tar(cast(BinaryIO, tar), task)
        starts = filled.index.jpg[:, 0] - BLOCK
        filled.index.pieces, filled.bytes, filled.sha256 = pack(cast(BinaryIO, tar), file, starts)
    return filled


def fill_tar(file: BinaryIO, task: ShardTask) -> Filled:
    """Write the tar of a shard into an open file. Raises DataError, ConfigError."""
    encoded, sources, annotations = 0, hashlib.sha256(), list[bytes]()
    keys, sizes, hashes = list[str](), list[tuple[int, int]](), list[int]()
    left_out: list[LeftOut] = []
    with _open_tar(file) as tar:
        for sample in task.samples:
            try:
                stored = to_jpeg(
                    read_image(sample, sources),
                    task.frame,
                    upright=task.upright,
                    accept_other_formats=task.accept_other_formats,
                )
                check_annotation(sample.annotation, stored.size)
            except UnusablePicture as reason:
                left_out.append({"file": sample.annotation["file"], "reason": str(reason)})
                continue
            encoded += stored.anew
            annotation = json.dumps(sample.annotation).encode()
            tar.write({"__key__": sample.key, "jpg": stored.jpeg, "json": annotation})
            annotations.append(annotation)
            keys.append(sample.key)
            hashes.append(xxhash.xxh3_64_intdigest(stored.jpeg))
            sizes.append((len(stored.jpeg), len(annotation)))
    index = own_index(keys, sizes, hashes)
    return Filled(index, annotations, left_out, encoded, sources.hexdigest())


def _open_tar(file: BinaryIO) -> "TarWriter":
    """webdataset's writer without dates or owners, so that the same samples give the same bytes.

    Imported here, because reading shards must work without webdataset. Raises ConfigError.
    """
    try:
        from webdataset import TarWriter
    except ModuleNotFoundError as error:
        raise ConfigError(
            "shards build: found no package webdataset, which writes the tars; "
            "`pip install webdataset`"
        ) from error
    return TarWriter(file, user="", group="", mode=0o444, mtime=0, encoder=False)
