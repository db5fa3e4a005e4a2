"""The rank that stopped is named, and no rank waits for one that failed for good."""

import json
import os
import time

import pytest
import torch

from scemae.distributed import watchdog
from scemae.distributed.watchdog import Watchdog, find_stopped_rank
from scemae.files import folder_names
from tests.support import Forked


def leave_note(folder, rank, step, phase):
    (folder / f"hang-{rank:04d}.json").write_text(
        json.dumps({"rank": rank, "host": f"n{rank}", "step": step, "phase": phase})
    )


def test_the_rank_that_got_least_far_is_named(tmp_path):
    leave_note(tmp_path, 0, 8, "heartbeat")
    leave_note(tmp_path, 1, 8, "data")
    leave_note(tmp_path, 2, 8, "forward")
    assert "rank 1 on n1 got no further than step 8, data" in find_stopped_rank(tmp_path, 3, 20)
    leave_note(tmp_path, 2, 7, "heartbeat")
    assert "rank 2 on n2 got no further than step 7, heartbeat" in find_stopped_rank(
        tmp_path, 3, 20
    )


def test_a_rank_that_leaves_no_note_is_named(tmp_path):
    leave_note(tmp_path, 0, 8, "forward")
    assert "rank 1 left no note" in find_stopped_rank(tmp_path, 2, 20)


def wait_for_ever(folder):
    """A rank in a collective that will never end."""
    watchdog.CHECK_SECONDS = 0.1
    Watchdog(folder, 0, 2, 600)
    time.sleep(60)


def test_a_rank_ends_after_another_has_failed_for_good(tmp_path):
    failed = tmp_path / "failed-0001.txt"
    failed.write_text("out of memory")
    os.utime(failed, (time.time() - 60, time.time() - 60))
    began = time.monotonic()
    rank = Forked(wait_for_ever, tmp_path, out=tmp_path / "out")
    assert rank.wait(50) == 1 and time.monotonic() - began < 40
    assert "failed-0001: out of memory" in (tmp_path / "rank-0000.log").read_text()


def wait_long_for_ever(folder):
    """As above, after the watchdog has stopped to list a folder that does not change."""
    folder_names.COARSE = 0.3
    wait_for_ever(folder)


def test_a_rank_ends_for_a_failure_that_comes_late(tmp_path):
    rank = Forked(wait_long_for_ever, tmp_path, out=tmp_path / "out")
    log = tmp_path / "rank-0000.log"
    while not log.exists():
        time.sleep(0.05)
        assert rank.poll() is None
    time.sleep(3)
    (tmp_path / "failed-0001.txt").write_text("out of memory")
    assert rank.wait(20) == 1
    assert "failed-0001: out of memory" in log.read_text()


@pytest.fixture
def dogs(tmp_path, monkeypatch):
    """Makes watchdogs that only remember that they would have ended this process."""
    made, ended = [], []

    def make(rank, seconds=0.3):
        made.append(Watchdog(tmp_path, rank, 2, seconds))
        return made[-1], ended

    def end(dog, step, phase):
        ended.append(dog.rank)
        dog._over.set()

    monkeypatch.setattr(watchdog, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(Watchdog, "_end_process", end)
    yield make
    for dog in made:
        dog.close()


def test_compilation_is_no_hang_however_long_it_takes(dogs):
    def compile_slowly(graph, examples):
        time.sleep(1)
        return graph.forward

    # The first compilation imports modules, which takes a while too.
    torch.compile(lambda x: 3 * x, backend="eager")(torch.ones(2))
    double = torch.compile(lambda x: 2 * x, backend=compile_slowly, dynamic=False)
    dog, ended = dogs(0)
    dog.follow_compilation()
    for shape in (2, 3):  # the second shape is compiled again
        dog.note(shape, "forward")
        assert len(double(torch.ones(shape))) == shape
    assert not ended
    time.sleep(0.6)
    assert ended == [0], "after compilation a hang ends the process as before"


def test_a_rank_that_compiles_is_waited_for(dogs, tmp_path):
    compiling, ended = dogs(1, 4)
    compiling._is_compiling = True
    time.sleep(0.6)
    dogs(0)
    time.sleep(1)
    assert not ended
    compiling._is_compiling = False
    time.sleep(1.2)
    assert ended == [0] and not (tmp_path / "compiling-0001").exists()


def test_a_rank_that_died_compiling_is_not_waited_for(dogs, tmp_path):
    (tmp_path / "compiling-0001").touch()
    os.utime(tmp_path / "compiling-0001", (time.time() - 61, time.time() - 61))
    _, ended = dogs(0)
    time.sleep(0.8)
    assert ended == [0]
