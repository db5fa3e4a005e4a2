"""DeepSpeed settings that are easy to get wrong: bf16, offload, launchers."""

import os
import subprocess
import sys

import pytest
import torch

from scemae.checkpoint import committed, read_weights
from scemae.metrics import read_metrics
from tests.support import TINY, scemae, write_shards

COMMON = [*TINY, "optim.global_batch_size=6", "optim.epochs=1", "optim.warmup_epochs=0", "loop.log_every=1", "loop.save_every=3",
          "runtime.device=cpu", "runtime.micro_batch_size=3"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("engine") / "shards", 18)


def run(shards, folder, *options):
    scemae("pretrain", *COMMON, f"data.shards={shards}", f"run_dir={folder}", *options)
    return [row["loss"] for row in read_metrics(folder) if "loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_trains_from_fp32_master_weights(shards, tmp_path, stage):
    exact = run(shards, tmp_path / "fp32", f"runtime.zero_stage={stage}")
    rounded = run(shards, tmp_path / "bf16", "runtime.precision=bf16", f"runtime.zero_stage={stage}")
    assert rounded == pytest.approx(exact, rel=0.02)
    weights = read_weights(committed(tmp_path / "bf16")[-1])
    assert any((w != w.bfloat16().float()).any() for w in weights.values()), "the fp32 master weights were not saved"


@pytest.mark.slow
def test_offloaded_optimizer_state_gives_the_same_losses(shards, tmp_path):
    assert run(shards, tmp_path / "off", "runtime.offload=true") == pytest.approx(run(shards, tmp_path / "on"), rel=1e-5)


@pytest.mark.slow
def test_the_deepspeed_launcher_starts_it_too(shards, tmp_path):
    launcher = [os.path.join(os.path.dirname(sys.executable), "deepspeed"), "--num_gpus=2", "--module", "scemae"]
    command = ["pretrain", *COMMON, f"data.shards={shards}", f"run_dir={tmp_path / 'run'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu",
                   "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]}
    done = subprocess.run([*launcher, *command], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "2 x cpu" in done.stdout
    losses = [row["loss"] for row in read_metrics(tmp_path / "run") if "loss" in row]
    assert len(losses) == 3 and torch.isfinite(torch.tensor(losses)).all()
