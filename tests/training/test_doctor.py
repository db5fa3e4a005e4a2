"""The check before a job: what it refuses and forecasts, and that it does not change the run."""

import os
from dataclasses import replace

import pytest

from scemae.config.schema.training import Loop
from scemae.runs import run_folder
from scemae.runs.checkpoints.checkpoint import committed
from scemae.training.doctor.findings import OK, REFUSED, WARNING
from scemae.training.doctor.rank_survey import RankFacts, _ticks, compare
from scemae.training.doctor.rehearsal import (
    Limits,
    Measured,
    duration,
    jobs_needed,
    log_every_that_fits,
    measure,
    signal,
    signal_needed,
    training_seconds,
)
from scemae.training.loop import Steps
from tests.support import TINY, scemae, small_disk, write_shards

COMMON = [
    "pretrain",
    *TINY,
    "optim.global_batch_size=4",
    "optim.epochs=2",
    "loop.log_every=2",
    "loop.save_every=2",
    "loop.keep=9",
    "runtime.device=cpu",
]
MEASURED = Measured(
    images_per_second=100, data_wait=0, start=30, step=0.5, save=4, write=3, probe=0
)
LOOP = Loop(
    log_every=100,
    save_every=500,
    keep=2,
    keep_every=0,
    probe_every=0,
    probe_pairs=64,
    spike_factor=0,
    max_skips=0,
    ledger_keys=False,
)
STEPS = Steps(
    start=0, total=1000, accumulation=1, log_every=100, save_every=500, probe_every=0, images=50
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("doctor") / "shards", 8)


@pytest.fixture(scope="module")
def begun(shards, tmp_path_factory):
    """A run of four steps, as it was after step 2 with a damaged checkpoint of step 4."""
    run_dir = tmp_path_factory.mktemp("begun") / "run"
    scemae(*COMMON, f"data.shards={shards}", f"run_dir={run_dir}")
    weights = committed(run_dir)[-1] / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return run_dir


def doctor(*arguments, status, **options):
    """Its lines, once it has ended with `status`."""
    done = scemae("doctor", *arguments, check=False, **options)
    assert done.returncode == status and "Traceback" not in done.stderr, (
        done.stdout + done.stderr[-3000:]
    )
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("not ready: " if status else "ready: "), done.stdout
    return lines


def line(lines, verdict, subject):
    """The text of the one line of a verdict on a subject."""
    found = [
        text
        for text in lines
        if text.split(maxsplit=1)[0] == verdict and text[9:].startswith(subject)
    ]
    assert len(found) == 1, lines
    return found[0]


def tree(folder):
    return sorted(
        (str(path), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()
    )


def test_a_healthy_setup_is_ready_and_nothing_is_left(shards, tmp_path):
    lines = doctor(
        *COMMON,
        f"data.shards={shards}",
        f"run_dir={tmp_path / 'runs' / 'new'}",
        "--time-limit",
        60,
        "--signal-seconds=500",
        status=0,
    )
    assert "8 images in 2 shards" in line(lines, OK, "data") and "4 steps of 4" in line(
        lines, OK, "data"
    )
    assert "starts from scratch" in line(lines, OK, "run folder")
    assert "1 job of 60 minutes" in line(lines, OK, "time") and "images/s" in line(
        lines, OK, "speed"
    )
    assert not any(text.startswith(REFUSED) for text in lines) and list(tmp_path.iterdir()) == []


def test_a_signal_too_late_is_refused_with_the_number_needed_and_the_run_stays_as_it_is(
    shards, begun
):
    before = tree(begun)
    lines = doctor(
        *COMMON,
        "loop.log_every=500",
        "loop.save_every=500",
        f"data.shards={shards}",
        f"run_dir={begun}",
        "--signal-seconds",
        1,
        "--steps",
        1,
        status=1,
    )
    refusal = line(lines, REFUSED, "signal")
    needed = int(refusal.split("before the end, ")[1].split()[0])
    assert needed > 1 and f"give the job --signal of {needed} s or more" in refusal
    assert "step-00000004" in line(lines, WARNING, "run folder")
    assert "resumes from step 2 of whole checkpoint" in line(lines, OK, "run folder")
    assert (
        "2 of 4 steps to go" in line(lines, OK, "time")
        and "not ready: 1 problem to solve" in lines[-1]
    )
    assert tree(begun) == before and not list(begun.glob(".doctor-*"))


def test_a_checkpoint_of_other_settings_is_refused_before_the_dry_run(shards, begun):
    lines = doctor(*COMMON, "optim.lr=0.5", f"data.shards={shards}", f"run_dir={begun}", status=1)
    assert "lr 0.0003, asked for is 0.5" in line(lines, REFUSED, "run folder")
    assert not any("images/s" in text for text in lines)


def test_missing_shards(tmp_path):
    lines = doctor(
        *COMMON, f"data.shards={tmp_path / 'none'}", f"run_dir={tmp_path / 'run'}", status=1
    )
    assert (
        "build the shards first" in line(lines, REFUSED, "data") and list(tmp_path.iterdir()) == []
    )


def test_a_truncated_shard_and_a_run_folder_in_use_are_both_named(tmp_path):
    folder = write_shards(tmp_path / "shards", 8)
    tar = folder / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    with run_folder.own(tmp_path / "run", "pretrain"):
        lines = doctor(*COMMON, f"data.shards={folder}", f"run_dir={tmp_path / 'run'}", status=1)
    assert "train-000001.tar: found" in line(lines, REFUSED, "data")
    assert f"in use by process {os.getpid()} on" in line(lines, REFUSED, "run folder")
    assert "not ready: 2 problems to solve" in lines[-1]


def test_two_ranks_of_stage_2_report_both_and_their_all_reduce(shards, begun, tmp_path):
    lines = doctor(
        "correspond",
        f"backbone={committed(begun)[-2]}",
        "optim.global_batch_size=4",
        "carb.dim=16",
        "runtime.device=cpu",
        f"data.shards={shards}",
        f"run_dir={tmp_path / 'run'}",
        ranks=2,
        status=0,
    )
    assert "2 x cpu on 1 host" in line(lines, OK, "ranks") and "on 2 ranks" in line(
        lines, OK, "sameness"
    )
    assert "over 2 ranks" in line(lines, OK, "all-reduce") and "GB/s" in line(
        lines, OK, "all-reduce"
    )
    assert (
        len([text for text in lines if text.startswith("ready")]) == 1
        and list(tmp_path.iterdir()) == []
    )


def test_a_save_that_fails_is_refused(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("SCEMAE_FAULTS", "full@manifest:step=2")
    lines = doctor(
        *COMMON, f"data.shards={shards}", f"run_dir={tmp_path / 'run'}", "--steps", 1, status=1
    )
    assert (
        "the checkpoint of step 2 was not saved" in line(lines, REFUSED, "dry run")
        and list(tmp_path.iterdir()) == []
    )


def test_a_disk_too_small(shards, tmp_path):
    with small_disk(tmp_path / "disk", "40m") as disk:
        lines = doctor(*COMMON, f"data.shards={shards}", f"run_dir={disk / 'run'}", status=1)
        assert list(disk.iterdir()) == []
    assert "39 MiB free" in line(lines, REFUSED, "disk") or "40 MiB free" in line(
        lines, REFUSED, "disk"
    )


def test_an_interface_that_is_not_there(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib9")
    lines = doctor(*COMMON, f"data.shards={shards}", f"run_dir={tmp_path / 'run'}", status=1)
    assert "Unable to find address for: ib9" in line(lines, REFUSED, "network")


def test_options_are_checked():
    for arguments, sentence in (
        (["run_dir=x"], "found no stage"),
        (["pretrain", "--steps", "many"], "--steps: found 'many'"),
        (["pretrain", "--fast"], "found --fast, which is no option"),
    ):
        done = scemae("doctor", *arguments, check=False)
        assert done.returncode == 1 and sentence in done.stderr


def test_the_signal_must_outlast_an_interval_a_save_and_what_is_still_being_written():
    assert signal_needed(MEASURED, 100) == 81  # 1.5 x (50 + 4)
    assert (
        signal_needed(MEASURED, 2) == 11
    )  # 1.5 x (1 + 2 of the 3 seconds of a save just begun + 4), rounded up
    assert signal(MEASURED, LOOP, 81).verdict == OK
    refusal = signal(MEASURED, LOOP, 60)
    assert refusal.verdict == REFUSED and "loop.log_every=50" in refusal.text
    assert log_every_that_fits(MEASURED, LOOP, 5) is None


def test_what_a_run_takes():
    assert training_seconds(MEASURED, STEPS, 0) == 500 + 2 * 1  # 1 s of each save is waited for
    assert training_seconds(MEASURED, STEPS, 500) == 250 + 1
    assert (
        jobs_needed(502, MEASURED, Limits(minutes=5, signal_seconds=70)) == 3
    )  # each trains 300 - 30 - 70 s
    assert jobs_needed(502, MEASURED, Limits(minutes=1, signal_seconds=30)) is None
    assert duration(MEASURED, STEPS, 0, Limits(1, 30), 2).verdict == REFUSED
    assert "0.30 node hours on 2 nodes" in duration(MEASURED, STEPS, 0, Limits(), 2).text  # 532 s


def test_the_first_step_is_a_warm_up():
    rows = [
        {"step": 1, "time": 110.0, "loss": 1.0, "data_wait": 0.9, "seconds": 5.0},
        {"step": 2, "time": 111.0, "loss": 1.0, "data_wait": 0.1, "seconds": 0.1},
        {"step": 3, "time": 112.0, "loss": 1.0, "data_wait": 0.3, "seconds": 0.1},
        {"step": 3, "time": 114.0, "save_stall": 2.0, "save_seconds": 1.5},
    ]
    assert measure(rows, 8, 100.0) == Measured(8, 0.2, 10, 1, 2, 1.5, 0)


def facts(rank, host, **changed):
    plain = RankFacts(
        rank,
        host,
        "10.0.0.1",
        "cpu",
        {0, 1},
        0,
        1,
        8.0,
        {},
        ["lo", "eth0"],
        {"torch": "2", "deepspeed": "1"},
        "abc",
        {"optim.lr": "0.1"},
        "d",
        100.0,
    )
    return replace(plain, **changed)


def verdicts(*ranks):
    return {finding.subject: finding for finding in compare(list(ranks)) if finding.verdict != OK}


def test_ranks_that_are_alike_give_no_warning():
    assert verdicts(facts(0, "a"), facts(1, "a"), facts(2, "b")) == {}


@pytest.mark.parametrize(
    ("changed", "verdict", "subject", "text"),
    [
        (
            {"versions": {"torch": "3", "deepspeed": "1"}},
            REFUSED,
            "sameness",
            "torch: 2 on rank 0 (a), 3 on rank 1 (b)",
        ),
        ({"commit": "abd"}, REFUSED, "sameness", "commit: abc on rank 0"),
        (
            {"settings": {"optim.lr": "0.2"}},
            REFUSED,
            "sameness",
            "optim.lr: 0.1 on rank 0 (a), 0.2 on rank 1 (b)",
        ),
        ({"data": "e"}, REFUSED, "sameness", "data"),
        ({"clock": 103.0}, WARNING, "clocks", "b 3.0 s ahead of a"),
        ({"threads": 3}, WARNING, "threads", "set OMP_NUM_THREADS=2"),
        ({"taken": 1.6}, WARNING, "busy", "b: other processes use 1.6 of 2 cores, the run wants 1"),
        ({"address": "127.0.1.1"}, WARNING, "network", "set MASTER_ADDR"),
        (
            {"forced": {"GLOO_SOCKET_IFNAME": "ib0"}},
            REFUSED,
            "network",
            "GLOO_SOCKET_IFNAME=ib0: b has only lo, eth0",
        ),
    ],
)
def test_a_rank_that_differs_is_named(changed, verdict, subject, text):
    found = verdicts(facts(0, "a"), facts(1, "b", **changed))
    assert (
        list(found) == [subject]
        and found[subject].verdict == verdict
        and text in found[subject].text
    )


def test_cores_that_nobody_needs_may_be_taken():
    assert verdicts(facts(0, "a", cores=set(range(8)), threads=2, taken=6.4)) == {}


def test_the_time_of_others_is_counted_on_the_cores_of_this_run_alone(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 10 1 2 1000 50 3 4 5 7 7\ncpu1 20 0 0 900 0 0 0 0 0 0\n"
        "cpu10 99 0 0 900 0 0 0 0 0 0\nintr 5\n"
    )
    assert (
        _ticks({0}, str(stat)) == 25
        and _ticks({0, 1}, str(stat)) == 45
        and _ticks({0}, str(tmp_path / "none")) == 0
    )


def test_a_small_shared_memory_is_named_where_gpus_share_a_host():
    found = verdicts(*(facts(rank, "a", device="cuda", gpus=2, shm_gib=0.06) for rank in (0, 1)))
    assert found["/dev/shm"].verdict == WARNING and "0.06 GiB" in found["/dev/shm"].text
