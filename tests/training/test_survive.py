"""Runs that are broken on purpose end with the samples and weights of an undisturbed run."""

import json
import os
import re
import shutil
import signal
import time
from contextlib import suppress

import pytest

from scemae.runs.checkpoints.checkpoint import committed, place_of
from scemae.runs.generations import base_steps, path_of, rows
from scemae.runs.metrics_log import read_metrics
from tests.chaos import RECIPE, check_start, kill_at, output, same_end, start_ranks, wait_all
from tests.support import flipped, scemae, small_disk, write_shards

SHORT = [
    *RECIPE,
    "optim.epochs=6",
    "loop.log_every=3",
    "loop.save_every=3",
    "loop.keep=3",
    "runtime.hang_seconds=60",
]  # 15 steps


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("survive") / "shards", 18)


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """The run that nobody disturbed, on two ranks."""
    run = tmp_path_factory.mktemp("whole") / "run"
    scemae(*command(shards), f"run_dir={run}", ranks=2)
    return run


def command(shards, *more):
    return ["pretrain", *SHORT, f"data.shards={shards}", *more]


def ledger_losses(run):
    return {row["step"]: row["loss"] for row in rows(run, "ledger.jsonl") if "loss" in row}


def finish(arguments, run, ranks=2, **environment):
    """Start, expect the end; what the ranks said."""
    out = run.parent / f"{run.name}-out"
    statuses = wait_all(
        start_ranks([*arguments, f"run_dir={run}"], ranks, folder=out, **environment)
    )
    assert statuses == [0] * ranks, output(out)[-3000:]
    return output(out)


def verified(run, whole):
    return scemae("verify-resume", run, "--all", "--against", whole).stdout


@pytest.mark.slow
def test_a_hang_and_kills_in_the_middle_of_saves_leave_a_checkpoint_to_go_on_from(
    shards, whole, tmp_path
):
    run, out = tmp_path / "run", tmp_path / "out"
    arguments = command(shards, "runtime.zero_stage=2")
    began = time.monotonic()
    processes = start_ranks(
        [*arguments, "runtime.hang_seconds=7", f"run_dir={run}"],
        2,
        folder=out,
        SCEMAE_FAULTS="hang@data:step=8,rank=1",
    )
    assert wait_all(processes) == [75, 75]
    assert time.monotonic() - began < 60
    named = r"no progress for 7 s: rank 1 on \S+ got no further than step 8, data"
    assert re.search(named, output(out)), output(out)[-2000:]
    assert "Thread" in (path_of(run, 1) / "rank-0001.log").read_text(), "a stack dump"
    newest = check_start(run, out, 3)
    for point, rank, step in (
        ("snapshot", 0, 6),
        ("snapshot", 1, 9),
        ("fsync", 0, 9),
        ("fsync", 1, 12),
        ("rename", 0, 12),
    ):
        newest = kill_at(point, rank, step, arguments, run, 2, newest=newest)
    assert newest >= 9
    finish(arguments, run)
    assert "steps 1 to 15 of 7 starts" in verified(run, whole) and same_end(run, whole)
    assert ledger_losses(run) == ledger_losses(whole)


@pytest.mark.slow
def test_ranks_and_zero_stages_may_change_in_the_middle_of_an_epoch(shards, whole, tmp_path):
    run, out = tmp_path / "run", tmp_path / "run-out"
    for ranks, stage, until in ((2, 1, 6), (3, 3, 9), (2, 2, 12)):
        statuses = wait_all(
            start_ranks(
                [
                    *command(shards, f"runtime.zero_stage={stage}", "loop.log_every=1"),
                    f"run_dir={run}",
                ],
                ranks,
                folder=out,
                SCEMAE_FAULTS=f"kill@data:step={until},rank=0",
            )
        )
        assert statuses == [-9] + [75] * (ranks - 1), output(out)[-3000:]
    finish(command(shards, "runtime.zero_stage=0"), run, 1)
    bases = list(base_steps(run).values())
    assert len(bases) == 4 and bases == sorted(bases) and bases[-1] in (6, 9), (
        "each start resumed from the middle"
    )
    assert "step for step the samples of" in verified(run, whole)
    assert ledger_losses(run) == pytest.approx(ledger_losses(whole), rel=1e-6)


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_rolled_back_skipped_declared_and_kept(shards, whole, tmp_path):
    run = tmp_path / "run"
    said = finish(command(shards), run, SCEMAE_FAULTS="nan@loss:step=8,rank=1")
    assert "the loss became nan on rank 1 at step 8; back to step-00000006.g0001, without 8" in said
    proof = verified(run, whole)
    assert (
        "left out: step 8: the loss became nan on rank 1" in proof
        and "steps 1 to 15 of 2 starts" in proof
    )
    dump = run / "capsules" / "step-00000008"
    assert "all is finite here" in scemae("replay", dump).stdout
    os.environ["SCEMAE_FAULTS"] = "nan@loss:step=8,rank=1"
    try:
        assert "loss nan" in scemae("replay", dump).stdout
    finally:
        del os.environ["SCEMAE_FAULTS"]


@pytest.mark.slow
def test_more_bad_steps_than_allowed_end_the_run(shards, tmp_path):
    processes = start_ranks(
        [*command(shards, "loop.max_skips=1"), f"run_dir={tmp_path / 'run'}"],
        2,
        folder=tmp_path / "out",
        SCEMAE_FAULTS="nan@loss:step=4,rank=1 nan@loss:step=7,rank=0",
    )
    assert wait_all(processes) == [1, 1]
    assert re.search(
        "became nan on rank 0 at step 7; 1 steps were skipped before, loop.max_skips allows 1",
        output(tmp_path / "out"),
    )


@pytest.mark.slow
def test_a_rank_that_fails_for_good_takes_the_others_along_for_the_same_reason(shards, tmp_path):
    processes = start_ranks(
        [*command(shards), f"run_dir={tmp_path / 'run'}"],
        2,
        folder=tmp_path / "out",
        SCEMAE_FAULTS="full@data:step=5,rank=1",
    )
    assert wait_all(processes) == [1, 1]
    assert "rank 1 failed: OSError" in output(tmp_path / "out")


@pytest.mark.slow
def test_samples_that_are_no_jpegs_are_replaced_alike_on_any_number_of_ranks(tmp_path):
    broken = flipped(write_shards(tmp_path / "shards", 18), sample=4)
    for ranks in (1, 2):
        finish(
            command(broken, "data.max_bad_fraction=0.5", "optim.epochs=2"),
            tmp_path / str(ranks),
            ranks,
        )
    assert "replaced: 000004 by 000005, no whole JPEG" in verified(tmp_path / "2", tmp_path / "1")


@pytest.mark.slow
def test_too_many_samples_that_are_no_jpegs_end_the_run(tmp_path):
    broken = flipped(write_shards(tmp_path / "shards", 18), sample=4)
    done = scemae(*command(broken), f"run_dir={tmp_path / 'run'}", check=False)
    assert done.returncode == 1
    assert re.search(
        r"found \d samples that are no whole JPEG since this start \(the latest: 000004\)",
        done.stderr,
    )


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_checkpoints_and_not_the_run(shards, whole, tmp_path):
    with small_disk(tmp_path / "disk", "24m") as disk:
        run, out = disk / "run", tmp_path / "out"
        processes = start_ranks(
            [*command(shards, "optim.epochs=2000"), f"run_dir={run}"], 2, folder=out
        )
        while not committed(run) or place_of(committed(run)[-1])[0] < 3:
            time.sleep(0.1)
        with suppress(
            OSError
        ):  # the run takes some of what was free a moment ago: then it is full all the more
            (disk / "other").write_bytes(bytes(shutil.disk_usage(disk).free))  # to the last byte
        while "was not saved" not in output(out):
            time.sleep(0.1)
            assert processes[0].poll() is None, output(out)[-2000:]
        last = committed(run)[-1]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert wait_all(processes) == [75, 75]
        assert "the last save failed" in output(out) and committed(run)[-1] == last
        (disk / "other").unlink()
        again = start_ranks(
            [*command(shards, "optim.epochs=2000"), f"run_dir={run}"], 1, folder=out
        )
        while not any(
            row["step"] > place_of(last)[0] and row["generation"] == 2 for row in read_metrics(run)
        ):
            time.sleep(0.1)
        for process in again:
            process.send_signal(signal.SIGTERM)
        assert wait_all(again) == [75]
        assert "verified" in scemae("verify-resume", run, "--all").stdout


@pytest.mark.slow
def test_a_last_save_that_fails_is_no_success(shards, tmp_path):
    run = tmp_path / "run"
    os.environ["SCEMAE_FAULTS"] = "full@write:step=15"
    try:
        done = scemae(*command(shards), f"run_dir={run}", check=False)
    finally:
        del os.environ["SCEMAE_FAULTS"]
    assert (
        done.returncode == 1
        and "the checkpoint of step 15 was not saved (rank 0: No space left on device)"
        in done.stderr
    )
    finish(command(shards), run, 1)
    assert "steps 1 to 15 of 2 starts" in scemae("verify-resume", run, "--all").stdout


def test_a_ledger_that_was_altered_is_found(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    path = path_of(run, 1) / "ledger.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]

    def refused(changed):
        path.write_text("".join(json.dumps(line) + "\n" for line in changed))
        done = scemae("verify-resume", run, "--all", check=False)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        return done.stderr

    assert "found no row for step 5" in refused(lines[:4] + lines[5:])
    assert "found step 5 2 times" in refused(lines[:5] + lines[4:])
    swapped = [
        {**line, "digest": lines[5]["digest"]} if line["step"] == 5 else line for line in lines
    ]
    assert "step 5: the run consumed different samples" in refused(swapped)


def test_children_of_a_rank_do_not_inherit_its_signal_handlers(shards):
    from scemae.process.stop_signals import StopRequest

    before = {number: signal.getsignal(number) for number in StopRequest.SIGNALS}
    try:
        stop = StopRequest()
        child = os.fork()
        if not child:
            os._exit(0 if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop.requested and signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
