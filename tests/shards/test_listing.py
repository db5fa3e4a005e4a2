"""Listings of sources: the same samples as lists of objects, in a fraction of the memory."""

import os
import pickle
import re
import sys
import tracemalloc

import numpy as np
import pytest

from scemae.shards import listing, write
from scemae.shards.build import shuffled
from scemae.shards.sources import folder
from scemae.shards.splits import ImagePlace, file_place
from scemae.shards.write import write_split
from tests.support import picture


def slow_keys(names):
    """Keys one after the other, each compared with all before it."""
    keys = {}
    for name in names:
        stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", name)
        key = base = re.sub(r"[^A-Za-z0-9-]+", "_", stem).strip("_")[-80:] or "image"
        number = 1
        while key in keys:
            number += 1
            key = f"{base}-{number}"
        keys[key] = None
    return list(keys)


@pytest.mark.parametrize("seed", range(20))
def test_keys_are_those_of_the_slow_way(seed):
    random = np.random.default_rng(seed)
    words = ["a", "a-2", "a-2-2", "a-3", "é", "image", "image-2", "b c", "b_c", "-2", "b-2"]
    names = [f"{word}.jpg" for word in random.choice(words, 60)]
    assert listing.unique_keys(names) == slow_keys(names)


def test_names_that_give_one_key_take_a_step_each(monkeypatch):
    """Pictures named in another script all have the key `image`: no name may try all numbers."""
    made = []
    monkeypatch.setattr(listing, "_hash", lambda key: made.append(key) or hash(key) % 2**64)
    keys = listing.unique_keys(["é.jpg"] * 3000)
    assert keys[2999] == "image-3000" and len(made) < 4 * 3000


def test_files_come_in_the_order_of_their_paths_and_as_from_the_disk(tmp_path):
    names = ["b/x.jpg", "b-1/x.jpg", "b.jpg", "b/a/z.PNG", "B/x.jpg", "b 1.jpg", "ü/é.jpg", "a.jpg"]
    for name in [*names, ".hidden/x.jpg", "notes.txt", "b/.y.jpg", "empty.jpg/x.gif"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "linked").symlink_to(tmp_path / "b")
    (tmp_path / "linked.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.jpg")
    split = folder.splits(tmp_path)[0]
    found = [sample.annotation["file"] for sample in split.samples]
    assert found == sorted([*names, "empty.jpg/x.gif", "linked.jpg"])
    assert split.excluded == {folder.LINKS: 1, folder.DEVICES: 2, folder.OTHER: 1}
    for sample in split.samples:
        assert sample.place == file_place(tmp_path, sample.annotation["file"])
    assert [sample.key for sample in split.samples] == slow_keys(found)


def test_places_come_back_as_they_were():
    listed = [
        ImagePlace("/a/b/1.jpg", 5, stamp=(-7, 2**62, 2**64 - 1)),
        ImagePlace("/a/x.zip", 6, "img/1.jpg", stamp=(1, 2, 3)),
        ImagePlace("/a/x.tar", 7, "", 2**40, (4, 5, 6)),
        ImagePlace("/a/b/2.jpg", 8, stamp=(7, 8, 9)),
        ImagePlace("3.jpg", 9, stamp=(1, 1, 1)),
    ]
    places = listing.Places()
    for place in listed:
        places.append(place)
    assert [places[i] for i in range(len(listed))] == listed


def test_a_listing_is_a_sequence_and_travels_as_its_samples(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.jpg").write_bytes(b"x")
    whole = folder.splits(tmp_path)[0]
    samples = list(whole.samples)
    part = whole.samples[2:8][1:3]
    assert list(part) == samples[3:5] and part == samples[3:5] and part != samples[3:6]
    travelled = pickle.loads(pickle.dumps(part))
    assert travelled == samples[3:5] and len(pickle.dumps(part)) < len(pickle.dumps(samples)) / 2
    mixed = shuffled(whole, 3)
    assert sorted(mixed.samples, key=lambda one: one.key) == samples != list(mixed.samples)


def test_a_sample_takes_less_than_a_hundred_bytes(tmp_path):
    count = 20_000
    (tmp_path / "source.jpg").write_bytes(b"x")
    for i in range(count):
        place = tmp_path / "own" / f"{i // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        os.link(tmp_path / "source.jpg", place / f"photograph-{i:08d}.jpg")
    folder.splits(tmp_path / "own")  # what is imported and cached comes first
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    split = shuffled(folder.splits(tmp_path / "own")[0], 1)
    tasks = write._tasks(split, tmp_path, 1000)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(tasks) == 20 and len(split.samples) == count
    assert (after - before) / count < 100 and (peak - before) / count < 200


def test_the_check_of_bad_images_takes_the_same_work_for_each_shard(tmp_path):
    """Steps of write.py, for ten and for eighty shards with one bad image each."""
    (tmp_path / "own").mkdir()
    for i in range(80):
        (tmp_path / "own" / f"{i:02d}.jpg").write_bytes(b"no picture")
        picture(i, (32, 32)).save(tmp_path / "own" / f"{i:02d}-good.jpg")
    split = folder.splits(tmp_path / "own")[0]

    def steps(images):
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            if frame.f_code.co_filename != write.__file__:
                return None
            count += 1  # a line, a call, or a step of a generator
            return trace

        part = write.Split(
            "folder", "train", split.samples[:images], accept_other_formats=True, upright=True
        )
        sys.settrace(trace)
        try:
            write_split(part, tmp_path / str(images), samples_per_shard=2, max_bad_fraction=0.9)
        finally:
            sys.settrace(None)
        return count

    few, many = steps(20), steps(160)
    assert many < 8 * few
