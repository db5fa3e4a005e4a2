"""TF32 is off unless it is asked for, and provenance.json says whether it was on."""

import json
from types import SimpleNamespace

import pytest
import torch

from scemae.config.load import load_config
from scemae.distributed import engine, tf32
from scemae.distributed.process_group import Place, choose_device, precision
from scemae.errors import ConfigError
from scemae.evaluation.landmarks.features import vit_trunk
from scemae.evaluation.landmarks.probe import Probe
from scemae.methods import mae
from scemae.runs import run_folder
from scemae.training import run_plan
from tests.support import TINY

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def torch_as_it_starts():
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
    yield
    tf32.allow(False)


def settings(kind):
    return load_config("pretrain", [*TINY, "run_dir=none", f"runtime.precision={kind}"])


def test_choosing_a_device_turns_rounding_off():
    assert tf32.state() == "convolutions", "torch's own default"
    choose_device("cpu")
    assert tf32.state() == "off"


@pytest.mark.parametrize("kind,found", [("fp32", "off"), ("bf16", "off"), ("tf32", "on")])
def test_training_rounds_where_it_was_asked_to(monkeypatch, kind, found):
    class Started(Exception):
        pass

    def stop(**_):
        raise Started

    monkeypatch.setattr(engine.deepspeed, "initialize", stop)
    with pytest.raises(Started):
        engine.start(
            torch.nn.Linear(2, 2), settings(kind).optim, settings(kind).runtime, Place(0, 1, CPU), 1
        )
    assert tf32.state() == found and precision("tf32", CPU) == torch.float32


def test_errors_measured_during_a_training_that_rounds_are_not_rounded(monkeypatch):
    probe, seen = Probe(None, 1, None), []
    probe._shards, probe._points, probe._benchmark = (
        object(),
        torch.zeros(1, 3, 1, 2),
        SimpleNamespace(landmarks=1),
    )
    monkeypatch.setattr(Probe, "_maps_of", lambda *_: seen.append(tf32.state()) or [])
    monkeypatch.setattr(
        "scemae.evaluation.landmarks.probe.matching.checked", lambda *_: torch.zeros(3, 1, 1, 1)
    )
    monkeypatch.setattr(
        "scemae.evaluation.landmarks.probe.match_couples", lambda *_: torch.zeros(1, 1, 2)
    )
    monkeypatch.setattr("scemae.evaluation.landmarks.probe.score", lambda *_: {})
    model = mae.build(
        mae.Settings(settings("fp32").model, settings("fp32").decoder, 0.75, False), seed=0
    )
    tf32.allow(True)
    probe.errors(vit_trunk(model.encoder), CPU, lambda maps, side: None)
    assert seen == ["off"] and tf32.state() == "on"


def test_commands_that_measure_refuse_tf32():
    with pytest.raises(ConfigError, match="runtime.precision: found tf32"):
        load_config("evaluate", ["run_dir=none", "runtime.precision=tf32"])


def test_a_run_does_not_resume_in_another_precision():
    kinds = {
        kind: run_plan.settings(
            {}, settings(kind).data, settings(kind).optim, settings(kind).runtime, Place(0, 1, CPU)
        )
        for kind in ("fp32", "tf32", "bf16")
    }
    assert [found["precision"] for found in kinds.values()] == ["float32", "tf32", "bfloat16"]


def test_provenance_says_whether_products_were_rounded(tmp_path):
    tf32.allow(False)
    run_folder.describe(tmp_path, "pretrain", settings("fp32"))
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert provenance["tf32"] == provenance["starts"][0]["tf32"] == "off"
