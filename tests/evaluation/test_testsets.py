"""The benchmarks at hand: official splits, and noted substitutes for those that are missing."""

import pytest

from scemae.data.storage.manifest import read_manifest, write_manifest
from scemae.errors import ConfigError, ShardError
from scemae.evaluation.measuring.testsets import find_testsets
from tests.support import write_shards


def split(root, name, count):
    """Generated shards whose manifest names the split `name`."""
    manifest = read_manifest(write_shards(root / name, count, 1))
    manifest.split, manifest.dataset = name, "celeba"
    write_manifest(root / name, manifest)


def find(*folders, train_on=None, hold_out=None):
    return find_testsets(map(str, folders), None, train_on=train_on or {}, hold_out=hold_out or {})


def test_each_split_is_found_in_whichever_folder_has_it(tmp_path):
    split(tmp_path / "a", "mafl-train", 6)
    split(tmp_path / "b", "mafl-test", 4)
    found, missing = find(tmp_path / "a", tmp_path / "b")
    assert (
        found["mafl"].count("train"),
        found["mafl"].count("test"),
        found["mafl"].count("train", 2),
    ) == (6, 4, 2)
    assert found["mafl"].notes == ["test subset: 4 of 1,000", "train subset: 6 of 19,000"]
    assert set(missing) == {"aflw_m", "aflw_r", "aflw_rc", "300w"} and missing["aflw_rc"].endswith(
        "labels are not public"
    )


@pytest.mark.parametrize("there", ["mafl-train", "mafl-test"])
def test_where_one_split_is_there_every_nth_image_of_it_is_tested_on(tmp_path, there):
    split(tmp_path, there, 7)
    found, _ = find(tmp_path, hold_out={"mafl": 3})
    train, test = found["mafl"].frames("train"), found["mafl"].frames("test")
    assert (
        test.keys == ["000002", "000005"]
        and set(train.keys).isdisjoint(test.keys)
        and len(train) == 5
    )
    assert "1 in 3 is tested on (2), the others are trained on (5)" in found["mafl"].notes[-1]


def test_another_sets_training_images_are_noted_and_must_have_the_same_points(tmp_path):
    split(tmp_path, "mafl-train", 6)
    split(tmp_path, "mafl-test", 4)
    split(tmp_path, "aflw-test", 5)
    found, _ = find(tmp_path, train_on={"aflw_m": "mafl"})
    assert found["aflw_m"].count("train") == 6 and len(found["aflw_m"].frames("train", 3)) == 3
    assert found["aflw_m"].notes[-1] == "no training images of its own: trained on MAFL's"
    with pytest.raises(ConfigError, match="found no training shards of 300w"):
        find(tmp_path, train_on={"aflw_m": "300w"})


def test_shards_that_claim_to_be_whole_and_are_not_are_refused(tmp_path):
    split(tmp_path, "mafl-test", 4)
    manifest = read_manifest(tmp_path / "mafl-test")
    manifest.options |= {"subset": False, "official_samples": 1000}
    write_manifest(tmp_path / "mafl-test", manifest)
    with pytest.raises(ShardError):
        find(tmp_path)
