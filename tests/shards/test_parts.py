"""Shards built by several machines, and in a random order: the same bytes as by one."""

import threading

import numpy as np
import pytest
import simplejpeg

from scemae.data.storage.shard_set import open_shards
from scemae.errors import ShardError
from scemae.shards.claim import Part
from scemae.shards.sources import folder as folder_source
from scemae.shards.write import write_split
from tests.support import scemae


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(50):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 36, 3), dtype=np.uint8)
        (folder / f"{i:03d}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))
    return folder


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file()}


def build(photographs, out, *words):
    return scemae("shards", "build", "folder", photographs, out, "--samples-per-shard", 4, *words)


def test_parts_and_a_last_call_write_what_one_call_writes(photographs, tmp_path):
    build(photographs, tmp_path / "one")
    for part in ("2/3", "1/3"):
        assert "is written" in build(photographs, tmp_path / "three", "--part", part).stdout
    assert not (tmp_path / "three" / "train" / "manifest.json").exists()
    last = build(photographs, tmp_path / "three").stdout  # the third part and the manifest
    assert "50 samples in 13 shards (9 finished earlier and kept, 4 written now)" in last
    assert files_of(tmp_path / "three" / "train") == files_of(tmp_path / "one" / "train")


def test_parts_may_run_at_once_and_one_part_not_twice(photographs, tmp_path):
    split = folder_source.splits(photographs)[0]
    failures = []

    def write(index):
        try:
            write_split(split, tmp_path / "out", samples_per_shard=2, part=Part(index, 4))
        except ShardError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=write, args=(index,)) for index in (0, 1, 2, 3, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("part 2/4 is being written by another process" in why for why in failures)
    manifest, kept = write_split(split, tmp_path / "out", samples_per_shard=2)
    assert (kept, manifest.samples) == (25, 50)


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "a/b"])
def test_a_part_that_there_is_not_is_refused(photographs, tmp_path, part):
    done = scemae(
        "shards", "build", "folder", photographs, tmp_path / "out", "--part", part, check=False
    )
    assert done.returncode and "needed I/N with I from 1 to N" in done.stderr


def test_shuffled_shards_hold_the_same_images_in_the_order_of_their_seed(photographs, tmp_path):
    for name, words in {"a": (5,), "b": (5,), "c": (6,)}.items():
        build(photographs, tmp_path / name, "--shuffle", *words)
    plain = build(photographs, tmp_path / "plain")
    assert plain.returncode == 0
    a, b, c, none = ([*open_shards(str(tmp_path / name / "train")).keys] for name in
                     ("a", "b", "c", "plain"))  # fmt: skip
    assert a == b != c and sorted(a) == sorted(c) == none and a != none
    assert "shuffle: 5" in scemae("shards", "info", tmp_path / "a" / "train").stdout
