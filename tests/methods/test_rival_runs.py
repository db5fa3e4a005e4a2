"""Runs of the rivals: resumed exactly like the paper's stages; what they cannot do is refused."""

from types import SimpleNamespace

import pytest
import torch

from scemae.config.load import load_config
from scemae.config.schema.training import Method
from scemae.errors import ConfigError
from scemae.methods import registry
from scemae.runs.checkpoints.checkpoint import committed, read_weights
from tests.runs.test_resume import losses, resumed_from_the_middle
from tests.support import scemae, write_shards

SMALL = ["method.settings.trunk=resnet10t", "method.settings.hidden=16", "method.settings.dim=8"]
FAST = [
    "optim.global_batch_size=6",
    "optim.epochs=2",
    "loop.log_every=1",
    "loop.save_every=3",
    "loop.keep=9",
    "data.jpeg_noise=false",
    "runtime.device=cpu",
    "runtime.micro_batch_size=4",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(
        tmp_path_factory.mktemp("rivals") / "shards", 18
    )  # 6 steps: two epochs of 3


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "zero_stage"), [(1, 0), (2, 2)])
def test_moco_resumes_with_its_queue_momentum_encoder_and_statistics(
    shards, tmp_path, ranks, zero_stage
):
    command = [
        "pretrain",
        "method=moco",
        *SMALL,
        *FAST,
        "method.settings.queue=16",
        f"data.shards={shards}",
        f"runtime.zero_stage={zero_stage}",
    ]
    scemae(*command, f"run_dir={tmp_path / 'whole'}", ranks=ranks)
    again = resumed_from_the_middle(tmp_path / "whole", tmp_path / "again")
    before = losses(again)
    assert "resumed at step 3" in scemae(*command, f"run_dir={again}", ranks=ranks).stdout
    assert losses(again) == before and sorted(before) == [1, 2, 3, 4, 5, 6]
    first, second = (read_weights(committed(tmp_path / name)[-1]) for name in ("whole", "again"))
    assert first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )
    kept = " ".join(first)
    assert (
        "queue" not in kept
        and "memory_bank.keys" in kept
        and "running_var" in kept
        and "trunk_momentum" in kept
    )


@pytest.mark.slow
def test_a_rivals_second_stage_resumes_on_its_frozen_trunk(shards, tmp_path):
    scemae(
        "pretrain",
        "method=byol",
        *SMALL,
        *FAST,
        f"data.shards={shards}",
        f"run_dir={tmp_path / 'byol'}",
        "optim.epochs=1",
        "optim.warmup_epochs=0",
        "probe_shards=" + str(shards),
        "loop.probe_every=3",
        "loop.probe_pairs=2",
    )
    command = [
        "correspond",
        "method=lead",
        f"backbone={tmp_path / 'byol'}",
        *FAST,
        f"data.shards={shards}",
        "method.settings.dim=8",
        "method.settings.side=6",
    ]
    scemae(*command, f"run_dir={tmp_path / 'whole'}")
    again = resumed_from_the_middle(tmp_path / "whole", tmp_path / "again")
    before = losses(again)
    scemae(*command, f"run_dir={again}")
    assert losses(again) == before
    other = scemae(
        "correspond",
        *FAST,
        f"backbone={tmp_path / 'byol'}",
        f"data.shards={shards}",
        f"run_dir={tmp_path / 'x'}",
        check=False,
    )
    assert (
        other.returncode == 1
        and "CARB selects the tokens of a ViT; give a backbone of method=mae" in other.stderr
    )


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["method=moco", "runtime.precision=bf16"],
            "method=moco: found bf16, in which the small steps of a momentum encoder",
        ),
        (["method=moco", "runtime.zero_stage=3"], "method=moco: found runtime.zero_stage=3"),
        (
            ["method=moco", "method.settings.size=3"],
            "method.settings.size: found no such setting of moco, which has trunk, hidden",
        ),
        (
            ["method=moco", "method.settings.queue=many"],
            "method.settings.queue: found 'many', moco needs a int",
        ),
        (["method=cl"], "method: found 'cl', stage 1 has byol, dve, mae, moco"),
    ],
)
def test_what_a_rival_cannot_do_is_said_at_the_start(shards, tmp_path, overrides, sentence):
    done = scemae(
        "pretrain",
        *overrides,
        *FAST,
        f"data.shards={shards}",
        f"run_dir={tmp_path / 'run'}",
        check=False,
    )
    assert done.returncode == 1 and sentence in done.stderr.replace("\n", " "), done.stderr


def test_a_new_method_is_one_file_and_one_config(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text('''
"""A method of one's own."""
from dataclasses import dataclass
STAGE = 1
@dataclass
class Settings:
    width: int = 8
''')
    monkeypatch.setattr(registry.methods, "__path__", [*registry.methods.__path__, str(tmp_path)])
    found = registry.find("mine", 1)
    given = SimpleNamespace(method=Method("mine", {"width": 4}))
    assert registry.settings_of(found, given).width == 4
    with pytest.raises(ConfigError, match="stage 2 has carb, cl, lead"):
        registry.find("mine", 2)


def test_every_method_has_a_config_that_its_file_accepts():
    for stage, command in ((1, "pretrain"), (2, "correspond")):
        for name in ("mae", "moco", "byol", "dve") if stage == 1 else ("carb", "cl", "lead"):
            required = ["run_dir=x"] + (["backbone=y"] if stage == 2 else [])
            loaded = load_config(command, [*required, f"method={name}"])
            assert registry.settings_of(registry.find(name, stage), loaded)
