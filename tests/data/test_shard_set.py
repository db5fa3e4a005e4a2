"""Shards as they are opened: checked by size, read at random."""

import json
import pickle

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
        (
            lambda folder: (folder / "train-000001.index.json").unlink(),
            "missing, the manifest lists it",
        ),
        (
            lambda folder: (folder / "train-000001.index.json").write_text("{}"),
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
    with pytest.raises(ShardError, match=r"holds several splits \(train\), one was needed"):
        open_shards(str(tmp_path / "shards"))


def test_an_open_shard_set_can_be_pickled(tmp_path):
    shards = open_shards(str(write_shards(tmp_path / "shards", 4)))
    assert pickle.loads(pickle.dumps(shards)).jpeg(3) == shards.jpeg(3)
