"""Trackers get every row, find their run again, and cost a sentence at most where they fail."""

import json
import sys
import time

import pytest
import torch

from scemae.cli import run_command
from scemae.config.load import load_config
from scemae.distributed.process_group import Place
from scemae.errors import ConfigError
from scemae.runs import trackers
from scemae.runs.generations import Generation
from scemae.runs.metrics_log import Writer
from scemae.training.doctor import rehearsal
from tests.support import scemae, write_shards

# Stands for the package trackio: same calls, and what it gets is written as lines of JSON.
PACKAGE = """
import json, os
def put(**found):
    with open(os.path.join(os.path.dirname(__file__), "calls.jsonl"), "a") as file:
        file.write(json.dumps(found) + "\\n")
def init(**options): put(init=options)
def log(values, step): put(step=step, **values)
def finish(): put(finish=True)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable package `trackio`; the function reads the calls that it got."""
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "trackio.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    yield lambda: list(map(json.loads, (folder / "calls.jsonl").read_text().splitlines()))
    sys.modules.pop("trackio", None)


def settings(run_dir, tracker):
    words = [f"run_dir={run_dir}", f"runtime.tracker={tracker}", "data.shards=s3://KEY:WORD@b/x"]
    return load_config("pretrain", words, typed=True)


def written(run_dir, tracker, steps, number=1):
    """Write a row for each step, as one start of a run does."""
    folder = run_dir / "generations" / f"{number:04d}"
    folder.mkdir(parents=True)
    tracking = trackers.start(run_dir, settings(run_dir, tracker))
    place = Place(0, 1, torch.device("cpu"))
    writer = Writer(run_dir, Generation(number, folder), place, 0, tracking=tracking)
    for step in steps:
        writer.write(step, loss=1 / step, late=True)
    writer.close()
    return [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_tracker_gets_every_row_and_the_next_start_continues_its_run(package, tmp_path):
    written(tmp_path / "demo" / "mae", "trackio", [10, 20])
    written(tmp_path / "demo" / "mae", "trackio", [30], number=2)
    first, *rows, end = package()[:4]
    assert rows == [{"step": step, "loss": 1 / step, "late": 1.0} for step in (10, 20)]
    assert end == {"finish": True} and first["init"]["config"]["optim.lr"] > 0
    assert first["init"]["name"].startswith("demo/mae-")
    again = package()[4]["init"]
    assert again["name"] == first["init"]["name"] and again["resume"] == "allow"


def test_no_secret_of_a_location_reaches_a_tracker(package, tmp_path):
    written(tmp_path / "run", "trackio", [1])
    assert "s3://" in str(package()) and "WORD" not in str(package())


class Failing:
    id = "x"

    def __init__(self, run):
        pass

    def log(self, step, values):
        raise ConnectionError("no route to https://me:WORD@host")

    def close(self):
        raise AssertionError


class Silent(Failing):
    def log(self, step, values):
        time.sleep(60)


def unopened(run):
    raise SystemExit("not logged in")


@pytest.mark.parametrize(
    ("tracker", "why"),
    [(unopened, "not logged in"), (Failing, "no route to"), (Silent, "not answered for 0.3 s")],
)
def test_a_tracker_that_fails_costs_one_sentence(tracker, why, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.3)
    monkeypatch.setitem(trackers.TRACKERS, "wandb", tracker)
    began = time.perf_counter()
    rows = written(tmp_path / "run", "wandb", range(1, 50))
    assert [row["step"] for row in rows] == list(range(1, 50))
    assert time.perf_counter() - began < 20
    told = capsys.readouterr().err
    assert told.count("runtime.tracker=wandb") == 1 and why in told and "WORD" not in told


def test_a_run_that_was_told_to_stop_does_not_wait_for_its_tracker(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trackers, "SOON_SECONDS", 0.2)
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Silent)
    tracking = trackers.start(tmp_path, settings(tmp_path, "wandb"))
    tracking.write(1, {"loss": 1.0})
    began = time.perf_counter()
    tracking.close(soon=True)
    assert time.perf_counter() - began < 20 and "for 0.2 s" in capsys.readouterr().err


def test_a_tracker_that_is_far_behind_is_given_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trackers, "MOST_ROWS", 5)
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Silent)
    assert len(written(tmp_path / "run", "wandb", range(1, 50))) == 49
    assert "5 rows behind" in capsys.readouterr().err


def test_a_package_that_is_missing_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr("scemae.config.inputs.find_spec", lambda name: None)
    words = [f"run_dir={tmp_path / 'run'}", "runtime.tracker=mlflow"]
    with pytest.raises(ConfigError, match=r"is not installed; run `pip install 'scemae\[mlflow\]'"):
        run_command(["pretrain", *words])
    with pytest.raises(ConfigError, match="runtime.tracker: found comet, one of none, wandb"):
        load_config("pretrain", [words[0], "runtime.tracker=comet"])
    assert not (tmp_path / "run").exists()


def test_a_dry_run_has_no_tracker(tmp_path):
    config = rehearsal.shorten(settings(tmp_path, "wandb"), tmp_path, 2, False)
    assert trackers.start(tmp_path, config) is None
    assert trackers.start(tmp_path, settings(tmp_path, "none")) is None


@pytest.mark.slow
def test_only_the_first_rank_of_a_run_has_a_tracker(package, tmp_path):
    shards = write_shards(tmp_path / "shards", 8)
    words = ["experiment=demo_pretrain", f"data.shards={shards}", "optim.global_batch_size=8"]
    words += ["optim.epochs=2", "loop.log_every=1", "loop.save_every=2", "loop.probe_every=0"]
    scemae("pretrain", *words, f"run_dir={tmp_path / 'run'}", "runtime.tracker=trackio", ranks=2)
    assert [call["step"] for call in package() if "loss" in call] == [1, 2]
    assert len([call for call in package() if "init" in call]) == 1


@pytest.mark.parametrize("name", list(trackers.TRACKERS))
def test_the_real_package_without_a_network_continues_its_run(name, tmp_path, monkeypatch, capsys):
    pytest.importorskip(name)
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 300)  # MLflow makes a database first
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run = tmp_path / "run"
    written(run, name, [1, 2])
    known = (run / trackers.FILE).read_text()
    written(run, name, [3], number=2)
    assert (run / trackers.FILE).read_text() == known and name in json.loads(known)
    assert "runtime.tracker" not in capsys.readouterr().err
    if name == "mlflow":
        from mlflow.tracking import MlflowClient

        losses = MlflowClient().get_metric_history(json.loads(known)[name], "loss")
        assert [(one.step, one.value) for one in losses] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
