"""`--key value` and `key=value` mean the same, whichever kind of command reads them."""

from pathlib import Path

import pytest

from scemae.commands.parse import parse
from scemae.errors import ConfigError

MATCH = ["match", "a.jpg", "b.jpg"]


def settings(name, *words):
    return parse(name, list(words)).settings


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ([*MATCH, "backbone=runs/mae"], [*MATCH, "--backbone", "runs/mae"]),
        ([*MATCH, "--backbone=m", "out=o"], [*MATCH, "--backbone", "m", "--out", "o"]),
        ([*MATCH, "backbone=m", "box=1,2,3,4", "box=centre"], None),
        (["export", "runs/mae", "o", "onnx=true"], ["export", "runs/mae", "o", "--onnx"]),
        (["export", "runs/mae", "o", "onnx=false"], ["export", "runs/mae", "o"]),
        (["report", "r", "no_pictures=true"], ["report", "r", "--no-pictures"]),
        (
            ["adopt", "w", "o", "model=deit_base", "mean=[0.5,0.5,0.5]"],
            ["adopt", "w", "o", "--model", "deit_base", "--mean", "0.5", "0.5", "0.5"],
        ),
        (
            ["shards", "build", "celeba", "in", "out", "workers=3", "keep_mafl_train=true"],
            ["shards", "build", "celeba", "in", "out", "--workers", "3", "--keep-mafl-train"],
        ),
    ],
)
def test_options_may_be_given_as_settings(given, same):
    found = parse(given[0], given[1:])
    if same is None:
        assert found.box == ["1,2,3,4", "centre"]
    else:
        assert found == parse(same[0], same[1:])


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (["--run_dir", "r"], ["run_dir=r"]),
        (["--run-dir=r", "--optim.lr", "3e-4"], ["run_dir=r", "optim.lr=3e-4"]),
        (["--norm-pix"], ["norm_pix=true"]),
        (["--norm_pix", "false", "seed=1"], ["norm_pix=false", "seed=1"]),
        (["--norm_pix", "seed=1"], ["norm_pix=true", "seed=1"]),
        (["--seed", "-1"], ["seed=-1"]),
        (["--experiment", "demo_pretrain", "--cfg"], ["experiment=demo_pretrain"]),
        (["--model", "deit_tiny"], ["model=deit_tiny"]),
    ],
)
def test_settings_may_be_given_as_options(given, same):
    assert settings("pretrain", *given) == same


def test_settings_of_a_stage_inside_another_command():
    given = ["--run-dir", "r", "--correspond.backbone", "runs/mae", "--dry-run", "--array"]
    found = parse("sweep", given)
    assert found.settings == ["run_dir=r", "correspond.backbone=runs/mae"]
    assert found.dry_run and found.array
    assert settings("doctor", "correspond", "--carb.eta", "0.2", "--steps", "3") == ["carb.eta=0.2"]


def test_a_setting_without_a_value_is_refused():
    for words in (["--run_dir"], ["--run_dir", "--cfg"]):
        with pytest.raises(ConfigError, match="found --run_dir without a value; give run_dir=VAL"):
            parse("pretrain", words)
    with pytest.raises(ConfigError, match="onnx: found 'maybe', true or false was needed"):
        parse("export", ["a", "b", "onnx=maybe"])


def test_an_argument_that_is_given_by_its_place_is_not_taken_by_its_name():
    with pytest.raises(ConfigError, match="found out=, which is given by its place: faces alone"):
        parse("faces", ["out=faces"])


def test_files_and_values_that_look_like_settings_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("out=1.jpg").touch()
    words = ["out=1.jpg", "./out=2.jpg", "--backbone", "out=3", "--out", "projector=4"]
    found = parse("match", words)
    assert [str(found.first), str(found.second)] == ["out=1.jpg", "out=2.jpg"]
    assert [str(found.backbone), str(found.out)] == ["out=3", "projector=4"]
    assert found.projector is None
    behind = parse("match", ["--backbone=m", "--", "out=5.jpg", "--out"])
    assert [str(behind.first), str(behind.second)] == ["out=5.jpg", "--out"]


def test_an_abbreviated_option_is_still_understood():
    assert str(parse("match", ["a", "b", "--back", "m"]).backbone) == "m"
