"""Goodput: synthetic run folders against numbers computed by hand, and a real run cut off."""

import json
import os
import re
import time
from dataclasses import asdict

import pytest

from scemae.cli import run_command
from scemae.config.load import load_config
from scemae.errors import RunFolderError
from scemae.evaluation.report import report
from scemae.files import disk
from scemae.runs import goodput, run_folder
from scemae.runs.generations import path_of
from scemae.runs.goodput import Spent
from scemae.runs.metrics_log import METRICS
from tests.support import TINY, scemae, write_shards

ZERO = 1_000_000.0  # unix time at which the synthetic runs begin


def write_start(run, number, started, seen, *, base, rows=(), queued=None, ended=True, **owner):
    """One generation's folder; times in seconds after ZERO."""
    folder = path_of(run, number)
    folder.mkdir(parents=True)
    queued = queued if queued is None else ZERO + queued
    disk.write_json(folder / "owner.json", {"started": ZERO + started, "queued": queued, **owner})
    (folder / "ended" if ended else folder / "beat").write_text(f"1 host {ZERO + seen}\n")
    if base is not None:
        disk.write_json(folder / "base.json", {"step": base})
    (folder / METRICS).write_text(
        "".join(json.dumps({**row, "time": ZERO + row["time"]}) + "\n" for row in rows)
    )


def first(step, time, seconds, wait=0.0):
    return {"step": step, "time": time, "first_step_seconds": seconds, "first_step_wait": wait}


def steps(step, time, seconds, wait=0.0, images=8):
    """A heartbeat: the seconds since the one before, of which some were waited for data."""
    return {
        "step": step,
        "time": time,
        "seconds": seconds,
        "data_wait": wait / seconds,
        "images_per_second": images / seconds,
    }


def check(run, *expected):
    """Compare each start's seconds with those expected, and all of them with the wall time."""
    found = goodput.read(run)
    for start, seconds in zip(found.starts, expected, strict=True):
        assert asdict(start.spent) == pytest.approx(asdict(Spent(**seconds)), abs=1e-6), (
            start.generation
        )
    assert found.wall == pytest.approx(found.starts[-1].ended - found.starts[0].queued)
    assert sum(asdict(found.total).values()) == pytest.approx(found.wall)
    return found


def cut_off_at_step_7(run):
    """Two steps a heartbeat, four images a step.

    The first start is killed after step 7, the second resumes from step 4.
    """
    write_start(
        run,
        1,
        10,
        70,
        base=0,
        queued=0,
        ended=False,
        rows=[
            first(1, 20, 3, wait=1),
            steps(2, 26, 8, wait=2),
            {"step": 2, "time": 29, "probe_seconds": 3},
            steps(4, 40, 10, wait=4),
            {"step": 6, "time": 59, "save_stall": 2, "commit_seconds": 1, "save_seconds": 9},
            steps(6, 60, 15, wait=5),
        ],
    )
    write_start(
        run,
        2,
        100,
        145,
        base=4,
        queued=85,
        rows=[
            first(5, 110, 4),
            steps(6, 115, 9),
            steps(8, 135, 20, wait=2),
            {"step": 8, "time": 139, "save_stall": 4, "save_seconds": 3},
        ],
    )


def test_time_and_images_of_a_run_that_was_cut_off(tmp_path):
    cut_off_at_step_7(tmp_path)
    found = check(
        tmp_path,
        {
            "queue": 10,
            "restart": 10,
            "compute": 4 + 6,
            "data_wait": 1 + 4,
            "probe": 3,
            "save_stall": 3,
            "lost": 15 + 10,
            "other": 1 + 1 + 2,
        },
        {
            "down": 15,
            "queue": 15,
            "restart": 10,
            "compute": 5 + 18,
            "data_wait": 2,
            "save_stall": 4,
            "other": 6,
        },
    )
    assert [(start.base, start.images, start.images_lost) for start in found.starts] == [
        (0, 16, 8),
        (4, 16, 0),
    ]
    assert found.wall == 145 and found.goodput == pytest.approx(33 / 145)
    assert found.goodput_without_queue == pytest.approx(33 / 120)


def test_a_roll_back_loses_what_came_after_its_checkpoint(tmp_path):
    write_start(
        tmp_path,
        1,
        0,
        34,
        base=0,
        ended=False,
        rows=[
            first(1, 10, 2),
            steps(2, 20, 12),
            {"step": 4, "time": 30, "save_stall": 1, "commit_seconds": 1},
        ],
    )
    write_start(
        tmp_path,
        2,
        35,
        60,
        base=2,
        rolled_back=True,
        rows=[first(3, 40, 1), steps(4, 45, 6, images=4), {"step": 4, "time": 50, "save_stall": 5}],
    )
    found = check(
        tmp_path,
        {"restart": 10, "compute": 10, "save_stall": 2, "lost": 13},
        {"restart": 5, "compute": 5, "save_stall": 5, "other": 10},
    )
    assert found.starts[1].rolled_back and (found.images, found.images_lost) == (12, 0)


def test_a_start_that_is_superseded_while_it_lives_is_not_counted_twice(tmp_path):
    write_start(
        tmp_path,
        1,
        0,
        90,
        base=0,
        ended=False,
        rows=[first(1, 10, 2), steps(2, 40, 32), steps(4, 80, 40)],
    )
    write_start(tmp_path, 2, 60, 100, base=2, queued=30, rows=[first(3, 70, 2), steps(4, 100, 32)])
    found = check(
        tmp_path, {"restart": 10, "compute": 30, "lost": 20}, {"restart": 10, "compute": 30}
    )
    assert (found.images, found.images_lost) == (16, 8)


def test_starts_that_never_trained_are_restart_and_the_last_one_has_lost_nothing_yet(tmp_path):
    write_start(tmp_path, 1, 0, 8, base=None)
    write_start(tmp_path, 2, 10, 18, base=0)
    write_start(tmp_path, 3, 20, 50, base=0, ended=False, rows=[first(1, 30, 2), steps(2, 40, 12)])
    (path_of(tmp_path, 4)).mkdir()  # died while it claimed the folder
    check(
        tmp_path,
        {"restart": 8},
        {"down": 2, "restart": 8},
        {"down": 2, "restart": 10, "compute": 10, "other": 10},
    )


def test_a_beat_without_a_time_is_dated_by_its_file(tmp_path):
    write_start(tmp_path, 1, 0, 0, base=0, ended=False)
    (path_of(tmp_path, 1) / "beat").write_text("7 host\n")
    os.utime(path_of(tmp_path, 1) / "beat", (ZERO + 5, ZERO + 5))
    check(tmp_path, {"restart": 5})


def test_the_table_has_a_row_per_start_and_the_json_its_numbers(tmp_path, capsys):
    cut_off_at_step_7(tmp_path)
    run_command(["goodput", str(tmp_path)])
    head, one, two, total, shares, words = capsys.readouterr().out.splitlines()
    assert one.split() == "1 0 1:10 10.0 5.0 3.0 3.0 10.0 25.0 10.0 0.0 4.0 16 8".split()
    assert total.split()[:3] == ["all", "2:25", "33.0"] and shares.split()[0] == "22.8%"
    assert words.startswith(
        "goodput 22.8% of all time, 27.5% without the queue; 32 images trained, 8 lost"
    )
    run_command(["goodput", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["starts"][0]["spent"]["lost"] == 25 and found["total"]["queue"] == 25


def test_a_folder_in_which_nothing_was_trained_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="no start that began to train"):
        goodput.read(tmp_path)


def test_the_page_shows_where_the_time_went(tmp_path):
    cut_off_at_step_7(tmp_path / "run")
    run_folder.describe(
        tmp_path / "run",
        "pretrain",
        load_config("pretrain", [*TINY, f"run_dir={tmp_path / 'run'}"]),
    )
    run_command(["report", str(tmp_path / "run"), "--no-pictures"])
    page, found = (
        (tmp_path / "run" / "report.html").read_text(),
        json.loads((tmp_path / "run" / "report.json").read_text()),
    )
    assert found["goodput"]["pretrain"]["goodput"] == pytest.approx(33 / 145)
    section = page[page.index('id="goodput"') : page.index('id="provenance"')]
    assert section.count("<svg") == 3 and "goodput 22.8 %" in section and "lost 25.0" in section
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', section)]
    assert sum(widths) == pytest.approx(1000 * (70 + 75 + 75) / 75, abs=1)


def test_a_run_without_generations_says_why_the_section_is_missing(tmp_path):
    run_folder.describe(
        tmp_path, "pretrain", load_config("pretrain", [*TINY, f"run_dir={tmp_path}"])
    )
    found, images = report.gather(tmp_path, with_pictures=False)
    assert "began to train" in found["missing"]["goodput of pretrain"] and found["goodput"] == {}
    assert "Not shown, goodput of pretrain" in report.render(found, images)


def test_a_real_run_cut_off_and_started_again_adds_up(tmp_path, monkeypatch):
    shards, run = write_shards(tmp_path / "shards", 24), tmp_path / "run"
    monkeypatch.setenv("SCEMAE_FAULTS", f"kill@data:step=6,rank=0,once={tmp_path / 'once'}")
    command = [
        "pretrain",
        *TINY,
        "optim.global_batch_size=4",
        "optim.epochs=2",
        "optim.warmup_epochs=1",
        "loop.log_every=1",
        "loop.save_every=2",
        "runtime.device=cpu",
        f"data.shards={shards}",
        f"run_dir={run}",
    ]
    scemae("--help")  # starts the process that the others are forked from
    before = time.time()
    assert scemae(*command, check=False).returncode == -9
    between = time.time()
    monkeypatch.setenv("SCEMAE_SUBMITTED", str(int(between)))
    scemae(*command)
    found = goodput.read(run)
    one, two = found.starts
    for start in found.starts:
        assert sum(asdict(start.spent).values()) == pytest.approx(start.wall)
    assert found.wall == pytest.approx(two.ended - one.started)
    assert one.started == pytest.approx(before, abs=0.5) and two.started == pytest.approx(
        between, abs=0.5
    )
    assert before + one.wall <= between + 0.5 and before + found.wall <= time.time() + 0.5
    assert two.base in (2, 4)  # the save of step 4 may not have been done
    assert (found.images, found.images_lost) == (48, 4 * (5 - two.base))
    assert found.total.lost > 0 and found.total.compute > 0 and found.total.other < 0.1 * found.wall
    assert found.total.restart > 0.5 * found.wall  # twelve steps of a tiny model
