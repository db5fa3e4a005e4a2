"""The same images as our tars, as MDS and as litdata's chunks, in sets that take no room.

A set has one shard, written by its own writer, under as many names as it has shards: hard links. No
loader sees that: each asks for every name, and nothing of what it reads depends on the name. So
10^6 images of any size are there in seconds, and the store reads them from the page cache.
"""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.peers import streams as peers
from bench.small_tars import small_jpegs, write_shard
from scemae.data.storage.manifest import Manifest, write_manifest

ROOT = Path(__file__).resolve().parent.parent
SEGMENT = 65_533  # bytes of the longest comment in a JPEG, with the two that say its length


def pictures(least: int) -> list[bytes]:
    """64 small JPEGs of at least `least` bytes: comments, which decoders skip, fill them."""
    found, noise = [], np.random.default_rng(0)  # zeros would vanish in a compressed tar
    for data in small_jpegs():
        comments = b""
        while (lacking := least - len(data) - len(comments)) > 0:
            size = min(max(lacking, 4), SEGMENT + 2) - 2
            comments += b"\xff\xfe" + size.to_bytes(2, "big") + noise.bytes(size - 2)
        found.append(data[:2] + comments + data[2:])
    return found


def image_bytes(jpegs: list[bytes], of_shard: int) -> float:
    """Of a JPEG of a shard, on average."""
    return sum(len(jpegs[i % len(jpegs)]) for i in range(of_shard)) / of_shard


def write_tars(
    folder: Path, jpegs: list[bytes], samples: int, of_shard: int, gzip: bool = False
) -> None:
    """Shards of ours, which webdataset reads too."""
    folder.mkdir(parents=True)
    one = write_shard(folder / "one.tar", range(of_shard), jpegs, gzip)
    shards = []
    for number in range(samples // of_shard):
        shard = replace(one, file=one.file.replace("one", f"train-{number:06d}"))
        os.link(folder / one.file, folder / shard.file)
        os.link(folder / one.index_file, folder / shard.index_file)
        shards.append(shard)
    write_manifest(folder, Manifest("linked", "train", samples, shards))


def write_peers(folder: Path, jpegs: list[bytes], samples: int, of_shard: int, python: str) -> None:
    """folder/mds and folder/litdata, by the writers that `python` has."""
    (source := folder / "jpegs").mkdir()
    for i in range(of_shard):
        (source / f"{i:06d}.jpg").write_bytes(jpegs[i % len(jpegs)])
    for form, key, name in (("mds", "shards", "raw_data"), ("litdata", "chunks", "")):
        words = [python, "-m", peers.__name__, "write", form, str(source), str(folder / form)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        _repeat(folder / form, key, name, samples // of_shard)


def _repeat(folder: Path, key: str, name: str, times: int) -> None:
    """Make a set's one shard into many; `key` and `name` are where its index has the file."""
    index = json.loads((folder / "index.json").read_text())
    (one,) = index[key]
    shards = []
    for number in range(times):
        shard = json.loads(json.dumps(one))
        entry, field = (shard[name], "basename") if name else (shard, "filename")
        old, suffix = entry[field], Path(entry[field]).suffix
        entry[field] = f"shard-{number:06d}{suffix}"
        os.link(folder / old, folder / entry[field])
        shards.append(shard)
    index[key] = shards
    (folder / "index.json").write_text(json.dumps(index))
