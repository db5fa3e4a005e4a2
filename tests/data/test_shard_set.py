"""Shards as they are opened: checked by size, read at random."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest

from scemae.data.storage.shard_set import open_shards
from scemae.errors import ShardError
from tests.support import write_shards


def test_any_sample_is_read_by_its_number(tmp_path):
    shards = open_shards(str(write_shards(tmp_path / "shards", 7, shards=3)))
    assert len(shards) == 7 and shards.keys[5] == "000005"
    assert shards.annotation(5)["file"] == "000005.jpg" and shards.jpeg(5)[:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda folder: (folder / "train-000001.tar").unlink(), "cannot be opened"),
        (lambda folder: (folder / "train-000001.index").unlink(), "missing, the manifest lists it"),
        (
            lambda folder: (folder / "train-000001.index").write_text("{}"),
            "its SHA-256 is not the manifest's",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text("{"),
            "manifest.json: cannot be read",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text(json.dumps({"format_version": 9})),
            "found shard format 9",
        ),
    ],
)
def test_what_is_missing_or_altered_is_named(tmp_path, break_it, sentence):
    folder = write_shards(tmp_path / "shards", 4)
    break_it(folder)
    with pytest.raises(ShardError, match=sentence):
        open_shards(str(folder))


def test_the_parent_of_several_splits_is_explained(tmp_path):
    write_shards(tmp_path / "shards" / "train", 2)
    with pytest.raises(ShardError, match=r"holds a split \(train\), one was needed"):
        open_shards(str(tmp_path / "shards"))


def test_an_open_shard_set_can_be_pickled(tmp_path):
    shards = open_shards(str(write_shards(tmp_path / "shards", 4)))
    assert pickle.loads(pickle.dumps(shards)).jpeg(3) == shards.jpeg(3)


MANY = """
import resource, sys
import scemae.data.storage.shard_set as shard_set
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
shards = shard_set.open_shards(sys.argv[1])
assert len(shards) == 700 and [*shards.keys] == [f"{i:06d}" for i in range(700)]
for i in (*range(0, 700, 7), 3, 699, 0):
    assert shards.annotation(i)["file"] == f"{i:06d}.jpg" and shards.jpeg(i)[:2] == b"\\xff\\xd8"
"""


def test_a_manifest_without_samples_is_refused(tmp_path):
    folder = write_shards(tmp_path / "shards", 0, shards=1)
    with pytest.raises(ShardError, match="found no sample"):
        open_shards(str(folder))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """More shards than are opened at the start, or kept open."""
    return write_shards(tmp_path_factory.mktemp("many") / "shards", 700, shards=700, size=(96, 96))


def test_more_shards_than_a_process_may_open_files(many):
    done = subprocess.run([sys.executable, "-c", MANY, many], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["train-000650.tar", "train-000003.index"])
def test_of_many_shards_a_missing_file_is_found_at_the_start(many, tmp_path, name):
    folder = tmp_path / "shards"
    shutil.copytree(many, folder, copy_function=os.link)
    (folder / name).unlink()
    with pytest.raises(ShardError, match=f"{name}: missing, the manifest lists it"):
        open_shards(str(folder))


def test_of_many_shards_a_short_tar_is_found_when_it_is_read(many, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(many, folder, copy_function=os.link)
    cut = folder / "train-000650.tar"
    data = cut.read_bytes()
    cut.unlink()
    cut.write_bytes(data[:-512])
    shards = open_shards(str(folder))
    assert shards.jpeg(649)[:2] == b"\xff\xd8"
    with pytest.raises(ShardError, match="train-000650.tar: found .* bytes, the manifest says"):
        shards.jpeg(650)
