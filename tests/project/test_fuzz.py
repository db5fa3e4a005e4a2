"""The fuzzer: each kind of fault is seen, and some of its inputs. All: `python -m tests.fuzz`."""

import os
import socket
import subprocess
import time
from pathlib import Path
from random import Random

import pytest

from scemae.errors import ConfigError
from tests.fuzz.all import TARGETS
from tests.fuzz.campaign import fuzz, table, totals
from tests.fuzz.guard import ACCEPTED, DEATH, ESCAPE, HANG, MEMORY, REFUSED, TRACEBACK
from tests.fuzz.place import Place
from tests.fuzz.pool import Tally
from tests.fuzz.target import Target
from tests.fuzz.trees import mutate_json, mutate_yaml

SLOW = {
    "report",
    "sweep",
    "experiment",
    "aflw-mat",
    "w300-mat",
}  # tenths of a second an input: in a full run alone


def refuse(folder: Path) -> None:
    raise ConfigError("no")


def trip(folder: Path) -> None:
    raise KeyError("x")


def hang(folder: Path) -> None:
    time.sleep(60)


def swell(folder: Path) -> None:
    bytearray(2**31)


def swell_politely(folder: Path) -> None:
    try:
        bytearray(2**31)
    except MemoryError as error:
        raise ConfigError("no memory") from error


def die(folder: Path) -> None:
    os.kill(os.getpid(), 11)


def climb(folder: Path) -> None:
    (folder.parent / "canary" / "new").write_text("x")


def run_a_command(folder: Path) -> None:
    try:
        subprocess.run(["true"])
    except Exception:
        pass


def call_home(folder: Path) -> None:
    socket.create_connection(("127.0.0.1", 9))


def stay(folder: Path) -> None:
    (folder.parent / "out").mkdir()
    (folder / "new").write_text("x")


@pytest.mark.parametrize(
    "enter, kind",
    [
        (refuse, REFUSED),
        (trip, TRACEBACK),
        (hang, HANG),
        (swell, MEMORY),
        (swell_politely, MEMORY),
        (die, DEATH),
        (climb, ESCAPE),
        (run_a_command, ESCAPE),
        (call_home, ESCAPE),
        (stay, ACCEPTED),
    ],
)
def test_each_way_to_end_is_counted_as_its_kind(enter, kind, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.fuzz.pool.WALL", 0.5)
    target = Target(
        "one",
        lambda folder: (folder / "a.json").write_text("{}"),
        {"a.json": mutate_json},
        (enter,),
        1,
    )
    finished = []
    tallies, _ = fuzz(
        {"one": target},
        tmp_path,
        0,
        inputs=2,
        seconds=60,
        workers=1,
        ended=lambda name, tally: finished.append((name, sum(tally.counts.values()))),
    )
    assert tallies["one"].counts == {ACCEPTED: 0, REFUSED: 0} | {kind: 2}, table(tallies)
    assert finished == [("one", 2)]


def test_a_run_that_is_cut_leaves_the_figures_until_then(tmp_path):
    def cut(name: str, tally: Tally) -> None:
        raise KeyboardInterrupt

    def make(folder: Path) -> None:
        (folder / "a.json").write_text("{}")

    targets = {
        name: Target(name, make, {"a.json": mutate_json}, (enter,), inputs)
        for name, enter, inputs in (("first", refuse, 3), ("second", hang, 2))
    }
    tallies, _ = fuzz(targets, tmp_path, 0, inputs=None, seconds=60, workers=1, ended=cut)
    assert tallies["first"].counts[REFUSED] == 3 and not sum(tallies["second"].counts.values())
    assert totals(tallies, 7) == (
        "total: 3 inputs, 0 accepted, 3 refused, 0 tracebacks, 0 hangs, 0 memory over 1 GiB, "
        "0 deaths, 0 escapes, 7 seconds"
    )


def test_a_full_run_has_more_than_110_000_inputs():
    assert sum(target.inputs for target in TARGETS.values()) > 110_000
    assert all(TARGETS[name].inputs < 100 for name in SLOW)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_valid_document_is_accepted_so_that_changes_reach_what_lies_behind(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    place = Place(tmp_path / "place", TARGETS[name], tmp_path / "seeds")
    if place.target.repair:
        place.target.repair(place.folder / "in")
    for enter in place.target.enter:
        enter(place.folder / "in")


def test_the_same_seed_gives_the_same_inputs():
    for mutate, data in (
        (mutate_json, b'{"a": [1, 2], "b": {"c": "d"}}'),
        (mutate_yaml, b"a: [1, 2]\nb: {c: d}\n"),
    ):
        first, second = (
            [mutate(data, Random(f"{seed} {n}")) for n in range(50)] for seed in (7, 7)
        )
        assert first == second and len(set(first)) > 40


def test_a_slice_of_the_inputs_ends_in_no_traceback(tmp_path):
    tallies, findings = fuzz(
        {name: TARGETS[name] for name in sorted(TARGETS.keys() - SLOW)},
        tmp_path,
        seed=0,
        inputs=12,
        seconds=300,
    )
    assert {sum(tally.counts.values()) for tally in tallies.values()} == {12}, "all were tried"
    assert not findings, "\n".join(
        f"{one.target} {one.kind} {one.signature}\n{one.text}" for one in findings
    )
