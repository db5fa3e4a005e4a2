"""A resumed run is the uninterrupted run, bit for bit, under every ZeRO stage.

That the number of ranks does not change the losses: tests/training/test_survive.py.
"""

import shutil
import signal
import time

import pytest
import torch

from scemae.runs.checkpoints.checkpoint import committed, read_state, read_weights
from scemae.runs.metrics_log import read_metrics
from tests.support import TINY, Started, scemae, write_backbone, write_shards

COMMON = [
    *TINY,
    "optim.global_batch_size=6",
    "optim.epochs=2",
    "optim.warmup_epochs=1",
    "loop.log_every=1",
    "loop.save_every=3",
    "loop.keep=9",
    "runtime.device=cpu",
    "runtime.micro_batch_size=2",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(
        tmp_path_factory.mktemp("resume") / "shards", 18
    )  # 6 steps: two epochs of 3


def losses(run_dir):
    return {row["step"]: row["loss"] for row in read_metrics(run_dir) if "loss" in row}


def resumed_from_the_middle(whole, again):
    """A copy of the run as it stood after step 3."""
    shutil.copytree(whole, again)
    for folder in committed(again)[2:]:
        shutil.rmtree(folder)
    return again


@pytest.fixture(scope="module")
def finished(shards, tmp_path_factory):
    """A finished run of one rank under ZeRO 0, and its command without run_dir."""
    command = ["pretrain", *COMMON, f"data.shards={shards}", "runtime.zero_stage=0"]
    run = tmp_path_factory.mktemp("finished") / "run"
    scemae(*command, f"run_dir={run}")
    return command, run


def check_resumed(command, whole, again, ranks):
    """Resume from the middle of `whole`, and compare."""
    before = losses(whole)
    printed = scemae(
        *command, f"run_dir={resumed_from_the_middle(whole, again)}", ranks=ranks
    ).stdout
    assert "resumed at step 3" in printed
    assert losses(again) == before and sorted(before) == [1, 2, 3, 4, 5, 6]
    first, second = (read_weights(committed(run)[-1]) for run in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert read_state(committed(again)[-1]).global_step == 6


def test_resumed_run_of_one_rank_equals_uninterrupted_run(finished, tmp_path):
    command, whole = finished
    check_resumed(command, whole, tmp_path / "again", ranks=1)


# Stage 2 on two ranks: tests/training/test_survive.py, where the end is bit-equal after six kills.
@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_resumed_run_of_two_ranks_equals_uninterrupted_run(shards, tmp_path, stage):
    command = ["pretrain", *COMMON, f"data.shards={shards}", f"runtime.zero_stage={stage}"]
    scemae(*command, f"run_dir={tmp_path / 'whole'}", ranks=2)
    check_resumed(command, tmp_path / "whole", tmp_path / "again", ranks=2)


def test_a_finished_run_stays_as_it_is(finished):
    command, run = finished
    before = read_metrics(run), committed(run)
    scemae(*command, f"run_dir={run}")
    assert (read_metrics(run), committed(run)) == before


def test_a_run_in_lanes_goes_on_with_other_ranks_and_refuses_another_order(shards, tmp_path):
    lanes = ["data.order=lanes", "data.lanes=3", "data.block=2", "data.window=2"]
    command = ["pretrain", *COMMON, f"data.shards={shards}", *lanes]
    whole = tmp_path / "whole"
    scemae(*command, f"run_dir={whole}")
    again = resumed_from_the_middle(whole, tmp_path / "again")
    refused = scemae(*command, "data.window=1", f"run_dir={again}", check=False)
    assert refused.returncode == 1 and "data window 2, asked for is 1" in refused.stderr
    scemae(*command, f"run_dir={again}", ranks=2)
    done = scemae("verify-resume", again, "--all", "--against", whole).stdout
    assert "steps 1 to 6 of 2 starts" in done and "2.00 epochs" in done


def test_stage_2_resumes_too(shards, tmp_path):
    command = [
        "correspond",
        f"backbone={write_backbone(tmp_path / 'mae')}",
        f"data.shards={shards}",
        "optim.global_batch_size=6",
        "optim.epochs=2",
        "loop.log_every=1",
        "loop.save_every=3",
        "loop.keep=9",
        "carb.dim=16",
    ]
    scemae(*command, f"run_dir={tmp_path / 'whole'}")
    again = resumed_from_the_middle(tmp_path / "whole", tmp_path / "again")
    scemae(*command, f"run_dir={again}")
    assert losses(again) == losses(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("model.width=96", "settings was model width 48, asked for is 96"),
        ("seed=1", "seed was 0, asked for is 1"),
        ("optim.lr=1", "settings was optim lr 0.0003, asked for is 1.0"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(finished, change, what):
    command, run = finished
    refused = scemae(*command, f"run_dir={run}", change, check=False)
    assert refused.returncode == 1 and what in refused.stderr and "Traceback" not in refused.stderr


def test_a_stop_signal_saves_and_ends_with_status_75(shards, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    process = Started(
        ["pretrain", *COMMON, f"data.shards={shards}", f"run_dir={run}", "optim.epochs=500"],
        out,
        out,
    )
    while not read_metrics(run):
        time.sleep(0.1)
        assert process.poll() is None, out.read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75 and "all is saved" in out.read_text()
    assert read_state(committed(run)[-1]).global_step == read_metrics(run)[-1]["step"]


@pytest.mark.slow
def test_two_ranks_begin_with_the_weights_of_another_run(finished, tmp_path):
    command, run = finished
    new = tmp_path / "new"
    scemae(*command, f"run_dir={new}", f"init_from={run}", ranks=2)
    assert committed(new)[0].name == "step-00000000.g0001"
    first, last = read_weights(committed(new)[0]), read_weights(committed(run)[-1])
    assert first.keys() == last.keys() and all(torch.equal(first[key], last[key]) for key in last)
