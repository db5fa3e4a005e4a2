"""Tars of small images, as `scemae shards build` writes them, and quicker."""

import io
import tarfile
from pathlib import Path

import numpy as np
import xxhash
from PIL import Image

from scemae.data.storage.gzipped_tars import pack
from scemae.data.storage.index import own_index
from scemae.data.storage.index_file import write_index
from scemae.data.storage.manifest import GZ, Manifest, Shard, write_manifest
from scemae.data.storage.tar_headers import BLOCK
from scemae.files import disk


def write_shards(folder: Path, samples: int, of_tar: int) -> None:
    """Tars of `samples` images, of which 64 are different, and their manifest."""
    folder.mkdir(parents=True)
    pictures, shards = small_jpegs(), []
    for first in range(0, samples, of_tar):
        path = folder / f"train-{first // of_tar:06d}.tar"
        shards.append(write_shard(path, range(first, first + of_tar), pictures))
    write_manifest(folder, Manifest("small", "train", samples, shards))


def small_jpegs() -> list[bytes]:
    """64 different JPEGs of 96x96 pixels."""
    pictures = []
    for seed in range(64):
        noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).resize((96, 96), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        pictures.append(buffer.getvalue())
    return pictures


def write_shard(path: Path, samples: range, pictures: list[bytes], gzip: bool = False) -> Shard:
    """A tar of samples with these numbers, and its index; `pictures` take turns.

    gzip: PATH.gz, as `scemae shards build --gzip` compresses it.
    """
    hashes = [xxhash.xxh3_64_intdigest(data) for data in pictures]
    numbers = [i % len(pictures) for i in samples]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for i, number in zip(samples, numbers):
            for suffix, data in (("jpg", pictures[number]), ("json", b"{}")):
                info = tarfile.TarInfo(f"{i:09d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    sizes = [(len(pictures[number]), 2) for number in numbers]
    index = own_index([f"{i:09d}" for i in samples], sizes, [hashes[one] for one in numbers])
    inside = (0, "")
    if gzip:
        packed = path.with_name(path.name + GZ)
        with open(path, "rb") as tar, open(packed, "wb") as out:
            index.pieces, *inside = pack(tar, out, index.jpg[:, 0] - BLOCK)
        path.unlink()
        path = packed
    digest, size = disk.file_digest(path), path.stat().st_size
    shard = Shard(path.name, len(samples), size, digest, "")
    shard.inside_bytes, shard.inside_sha256 = inside
    write_index(path.parent, shard, index)
    return shard
