"""A resumed run is the uninterrupted run, bit for bit, under every ZeRO stage."""

import shutil
import signal
import time

import pytest
import torch

from scemae.runs.checkpoints.checkpoint import committed, read_state, read_weights
from scemae.runs.metrics_log import read_metrics
from tests.support import TINY, Started, scemae, write_shards

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


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "ranks"), [(0, 1), (1, 2), (2, 2), (3, 2)])
def test_resumed_run_equals_uninterrupted_run(shards, tmp_path, stage, ranks):
    command = ["pretrain", *COMMON, f"data.shards={shards}", f"runtime.zero_stage={stage}"]
    scemae(*command, f"run_dir={tmp_path / 'whole'}", ranks=ranks)
    before = losses(tmp_path / "whole")
    again = resumed_from_the_middle(tmp_path / "whole", tmp_path / "again")
    printed = scemae(*command, f"run_dir={again}", ranks=ranks).stdout
    assert "resumed at step 3" in printed
    assert losses(again) == before and sorted(before) == [1, 2, 3, 4, 5, 6]
    first, second = (read_weights(committed(tmp_path / name)[-1]) for name in ("whole", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert read_state(committed(again)[-1]).global_step == 6


def test_the_number_of_ranks_does_not_change_the_losses(shards, tmp_path):
    found = []
    for ranks in (1, 2, 3):
        run = tmp_path / str(ranks)
        scemae(
            "pretrain",
            *COMMON,
            f"data.shards={shards}",
            f"run_dir={run}",
            "optim.epochs=1",
            "runtime.zero_stage=1",
            "optim.global_batch_size=5",
            "runtime.micro_batch_size=4",
            ranks=ranks,
        )
        found.append(list(losses(run).values()))
    assert found[1] == pytest.approx(found[0], rel=2e-6) and found[2] == pytest.approx(
        found[0], rel=2e-6
    )


def test_a_finished_run_stays_as_it_is(shards, tmp_path):
    command = [
        "pretrain",
        *COMMON,
        f"data.shards={shards}",
        f"run_dir={tmp_path / 'run'}",
        "optim.epochs=1",
    ]
    scemae(*command)
    before = read_metrics(tmp_path / "run"), committed(tmp_path / "run")
    scemae(*command)
    assert (read_metrics(tmp_path / "run"), committed(tmp_path / "run")) == before


def test_stage_2_resumes_too(shards, tmp_path):
    scemae(
        "pretrain",
        *COMMON,
        f"data.shards={shards}",
        f"run_dir={tmp_path / 'mae'}",
        "optim.epochs=1",
    )
    command = [
        "correspond",
        f"backbone={tmp_path / 'mae'}",
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
def test_a_checkpoint_of_another_model_is_refused(shards, tmp_path, change, what):
    command = [
        "pretrain",
        *COMMON,
        f"data.shards={shards}",
        f"run_dir={tmp_path / 'run'}",
        "optim.epochs=1",
    ]
    scemae(*command)
    refused = scemae(*command, change, check=False)
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
