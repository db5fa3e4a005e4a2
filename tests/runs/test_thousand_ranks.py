"""What ranks do to the shared file system is counted: with many ranks it stays bounded."""

import json
import os
import sys
from contextlib import contextmanager

import pytest

from scemae.distributed import watchdog
from scemae.distributed.process_group import process_group
from scemae.distributed.watchdog import find_stopped_rank
from scemae.files import disk, folder_names
from scemae.files.folder_names import FolderNames
from scemae.runs.checkpoints import checkpoint, resume
from scemae.runs.checkpoints.checkpoint import TrainState
from scemae.runs.generations import claim
from tests.support import Forked, places

RANKS, STARTS = 64, 30
_counted: list | None = None


def note_call(event, arguments):
    if _counted is not None and event in ("open", "os.listdir", "os.scandir"):
        _counted.append((event, arguments[0]))


sys.addaudithook(note_call)


class Calls(list):
    """Calls of this process that open or list what is below `folder`.

    A listing or an open by descriptor counts as one of the folder itself.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = str(folder)

    def paths(self, *events):
        of_folder = (
            (event, self.folder if isinstance(path, int) else str(path)) for event, path in self
        )
        return [path for event, path in of_folder if event in events and self.folder in path]

    @property
    def listings(self):
        return self.paths("os.listdir", "os.scandir")

    @property
    def opened(self):
        return [path for path in self.paths("open") if path != self.folder]


@contextmanager
def counted(folder):
    global _counted
    calls = Calls(folder)
    _counted = calls
    try:
        yield calls
    finally:
        _counted = None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of STARTS starts with a checkpoint each, every one with the files of RANKS ranks."""
    run = tmp_path_factory.mktemp("run")
    for number in range(1, STARTS + 1):
        generation = claim(run, None, None)
        generation.record_base(number - 1)
        (generation.folder / "ended").touch()
        folder = checkpoint.path_of(run, number, number)
        folder.mkdir(parents=True)
        for rank in range(RANKS):
            (generation.folder / f"rank-{rank:04d}.log").touch()
            (folder / f"moments-{rank + 1:04d}-of-{RANKS:04d}.safetensors").touch()
        checkpoint.write_state(
            folder, TrainState(number, 0, RANKS, 1, "pretrain", {}, "", 1, number)
        )
    return run


def test_the_newest_checkpoint_is_found_without_a_look_inside_any(run):
    with counted(run) as calls:
        assert checkpoint.place_of(checkpoint.committed(run)[-1]) == (STARTS, STARTS)
    assert sorted(calls.listings) == [str(run / "checkpoints"), str(run / "generations")]
    bases = [str(run / "generations" / f"{n:04d}" / "base.json") for n in range(1, STARTS + 1)]
    assert sorted(calls.opened) == bases


def test_old_checkpoints_are_looked_for_without_a_look_inside_any(run, tmp_path):
    generation = claim(run, None, None)
    (generation.folder / "ended").touch()
    with counted(run) as calls:
        checkpoint.tidy(run, generation, STARTS, 0)
        checkpoint.clear_partial(run, generation)
    assert set(calls.listings) == {str(run / "checkpoints"), str(run / "generations")}
    assert len(calls.listings) <= 4


def find_newest(run, where):
    """A rank that starts: what it finds, and how often it opened or listed anything to find it."""
    with process_group("cpu") as place, counted(run) as calls:
        has_any, newest = resume.has_any(run, place), resume.newest_of(run, place)
        assert resume._listed(run, place)[-1] == str(newest)
        looks = len(calls.opened) + len(calls.listings)
        disk.write_json(where / f"{place.rank}", [has_any, newest.name, looks])


@pytest.mark.slow
def test_of_all_ranks_the_first_alone_looks_for_checkpoints(run, tmp_path):
    ranks = [
        Forked(find_newest, run, tmp_path, out=tmp_path / f"out-{i}", **place)
        for i, place in enumerate(places(2))
    ]
    assert [rank.wait() for rank in ranks] == [0, 0], (tmp_path / "out-1").read_text()
    first, second = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert first[:2] == second[:2] == [True, f"step-{STARTS:08d}.g{STARTS:04d}"]
    assert first[2] > STARTS and second[2] == 0


def test_a_rank_learns_why_no_checkpoint_was_found(tmp_path):
    with process_group("cpu") as place:
        assert not resume.has_any(tmp_path, place)
        with pytest.raises(resume.CheckpointError, match="found no finished checkpoint"):
            resume.newest_of(tmp_path, place)


def test_a_folder_that_does_not_change_is_not_listed_again(run):
    folder, now = run / "generations" / "0001", 0.0
    names = FolderNames(folder, lambda: now)
    with counted(folder) as calls:
        for now in range(0, 800, 8):  # noqa: B007  # the clock reads it
            assert len(names.read()) == RANKS + 3
    assert len(calls.listings) == 2


def test_a_change_is_seen_though_the_folders_time_stays(tmp_path):
    now = 0.0
    names = FolderNames(tmp_path, lambda: now)
    (tmp_path / "one").touch()
    time = os.stat(tmp_path).st_mtime_ns
    assert names.read() == ["one"]
    now = 1.0  # in the same tick of a coarse clock
    (tmp_path / "failed-0001.txt").touch()
    os.utime(tmp_path, ns=(time, time))
    assert len(names.read()) == 2
    now = 1.0 + folder_names.COARSE
    assert len(names.read()) == 2
    (tmp_path / "failed-0002.txt").touch()
    assert len(names.read()) == 3


def leave_notes(folder, ranks):
    for rank in range(ranks):
        note = {"rank": rank, "host": "n", "step": 9 - (rank == 7), "phase": "data"}
        (folder / f"hang-{rank:04d}.json").write_text(json.dumps(note))


def test_of_all_ranks_that_hang_a_few_read_the_others_notes(tmp_path):
    leave_notes(tmp_path, RANKS)
    opened = []
    for rank in range(RANKS):
        with counted(tmp_path) as calls:
            text = find_stopped_rank(tmp_path, RANKS, 20, rank)
        opened.append(len([path for path in calls.opened if "hang-" in path]))
        expected = "rank 7 on n" if rank < watchdog.READERS else "rank-0000.log"
        assert expected in text
    assert opened == [RANKS] * watchdog.READERS + [0] * (RANKS - watchdog.READERS)


def test_every_rank_names_those_that_left_no_note(tmp_path):
    leave_notes(tmp_path, RANKS)
    (tmp_path / "hang-0005.json").unlink()
    (tmp_path / "hang-0060.json").unlink()
    for rank in (0, 1, 63):
        assert "rank 5, 60 left no note" in find_stopped_rank(tmp_path, RANKS, 20, rank)
