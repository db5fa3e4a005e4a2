"""What a user reads before a command runs: help, version, explanations, and refusals, all light."""

import json
import re
import subprocess
import sys

import pytest

from scemae import __version__
from scemae.cli import run_command
from scemae.commands.arguments import faces, shards
from scemae.commands.docstrings import docstring_of
from scemae.commands.explain import explain
from scemae.commands.table import COMMANDS
from scemae.config.dotted import setting_names
from scemae.config.schema import SCHEMAS
from scemae.errors import ConfigError
from scemae.faces.layouts import WORLDS
from scemae.shards.image import QUALITY
from scemae.shards.write import FEW

HEAVY = ["torch", "deepspeed", "ray", "hydra", "numpy", "scipy", "cv2", "matplotlib"]


def run(words, heavy=HEAVY):
    """Output, status and heavy modules of a command in a new process."""
    code = (
        "import json, sys\nfrom scemae.cli import main\nstatus = 0\n"
        f"try: main({[str(word) for word in words]})\n"
        "except SystemExit as end: status = end.code or 0\n"
        f"print(json.dumps([status, [m for m in {heavy} if m in sys.modules]]))"
    )
    # a command of ranks ends with os._exit: ask for its modules there too
    code = "import os, sys\nos._exit = sys.exit\n" + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    return "\n".join(lines), done.stderr, *json.loads(last)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_no_help_imports_anything_heavy(command):
    text, _, status, heavy = run([command, "--help"])
    assert f"scemae {command}" in text and (status, heavy) == (0, [])


def test_help_of_a_command_is_the_same_in_either_order():
    assert run(["help", "match"])[0] == run(["match", "--help"])[0]
    assert run(["help"])[0] == run(["--help"])[0]


@pytest.mark.parametrize("word", ["--version", "-V", "version"])
def test_version(word):
    assert run([word]) == (f"scemae {__version__}", "", 0, [])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["detect", "a.jpg", "--out", "o"], "found no --regressor, which the command needs"),
        (["match", "a", "b", "--backbone", "c"], "a: no such file or folder"),
        (["detect", "a", "--backbone=b", "--regressor=c", "--out=d"], "a: no such file or folder"),
        (["export", "runs/none", "out"], "runs/none: no such file or folder"),
        (["report", "runs/none"], "runs/none: no such file or folder"),
        (["replay", "runs/none"], "runs/none: no such file or folder"),
        (["verify-resume", "runs/none"], "runs/none: no such file or folder"),
        (["shards", "build", "folder", "none", "out"], "none: no such file or folder"),
        (["correspond", "run_dir=r", "backbone=none"], "backbone: none: no such folder; give the"),
        (["pretrain", "run_dir=r", "data.shards=none"], "data.shards: none: no such folder; build"),
        (
            ["evaluate", "run_dir=r", "backbone=.", "projector=none", "matching.shards=."],
            "projector: none: no such folder",
        ),
    ],
)
def test_what_is_missing_is_refused_before_torch_is_imported(words, sentence, tmp_path):
    _, complaint, status, heavy = run(words, ["torch", "deepspeed", "ray"])
    assert sentence in complaint and len(complaint.splitlines()) == 1
    assert (status, heavy) == (1, [])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["match", "FILE", "FILE", "--run=FOLDER"], "FOLDER: found no finished checkpoint in it"),
        (["match", "FILE", "FILE"], "found no trained model; give --run RUN"),
        (["fit", "FOLDER", "--run", "FILE", "--out", "o"], "FILE: is a file; give a run folder"),
        (["export", "FOLDER", "out"], "FOLDER: found no finished checkpoint in it"),
        (["report", "FOLDER"], "FOLDER: found no config.yaml in it"),
        (["evaluate", "run_dir=r", "run=FILE", "matching.shards=FOLDER"], "run: FILE: is a file"),
        (["evaluate", "run_dir=r", "run=none", "matching.shards=FOLDER"], "run: none: no such f"),
        (["evaluate", "run_dir=r", "run=FOLDER", "matching.shards=FOLDER"], "no finished checkpoi"),
        (["tables", "FOLDER", "run_dir=r"], "FOLDER: found no finished checkpoint in it"),
        (["tables", "FILE", "run_dir=r"], "FILE: is a file; give run folders"),
        (["pretrain", "run_dir=r", "data.shards=FILE"], "data.shards: FILE: is a file; build the"),
        (["pretrain", "run_dir=FILE", "data.shards=FOLDER"], "run_dir: FILE: is a file; give a ne"),
    ],
)
def test_a_file_or_an_empty_folder_is_refused_before_torch_is_imported(words, sentence, tmp_path):
    (tmp_path / "FILE").touch()
    (tmp_path / "FOLDER").mkdir()
    places = [re.sub("FILE|FOLDER", lambda name: str(tmp_path / name[0]), one) for one in words]
    _, complaint, status, heavy = run(places, ["torch", "deepspeed", "ray"])
    assert sentence in complaint.replace(f"{tmp_path}/", "") and len(complaint.splitlines()) == 1
    assert (status, heavy) == (1, [])


def test_one_missing_photograph_of_several_is_left_to_detect():
    words = ["detect", __file__, "none.jpg", "--backbone=none", "--regressor=c", "--out=d"]
    assert "none: no such file or folder" in run(words)[1]


@pytest.mark.parametrize(
    ("words", "guess"),
    [
        (["pretrian"], "did you mean `pretrain`"),
        (["match", "--bakbone", "x"], "found --bakbone, which is no option, did you mean '--back"),
        (["match", "bakbone=x"], "found bakbone=, which is no option, did you mean 'backbone'"),
        (["shards", "bild"], "did you mean 'build'"),
        (["shards", "build", "celebb", "x", "y"], "did you mean 'celeba'"),
        (["shards", "verify", "x", "--decod3"], "did you mean '--decode'"),
        (["faces", "x", "--layout", "alfw_m"], "did you mean 'aflw_m'"),
        (["pretrain", "optm.lr=3"], "did you mean 'optim.lr'"),
        (["pretrain", "lr=3"], "did you mean 'optim.lr'"),
        (["pretrain", "--optm.lr", "3"], "did you mean '--optim.lr'"),
        (["sweep", "--pgae", "x"], "did you mean '--page'"),
        (["pretrain", "model=deit_smal"], "did you mean 'deit_small'"),
        (["pretrain", "run_dir=r", "optim.name=adamww"], "did you mean 'adamw'"),
        (["sweep", "run_dir=r", "search=tpee"], "did you mean 'tpe'"),
    ],
)
def test_what_is_misspelt_gets_the_closest_name(words, guess):
    with pytest.raises(ConfigError) as refusal:
        run_command(words)
    assert guess in str(refusal.value)


def test_a_setting_is_explained_with_type_default_and_where_it_comes_from():
    text, _, status, heavy = run(["pretrain", "--explain", "optim.lr"])
    assert (status, heavy) == (0, [])
    assert "learning rate after the warm-up" in text and "float" in text
    assert "0.0003   (configs/pretrain.yaml)" in text and "configs/method/moco.yaml" in text


def test_a_default_is_found_in_the_file_of_its_group_and_in_the_schema():
    assert "384   (configs/model/deit_small.yaml)" in explain("pretrain", "model.width")
    assert "[]   (configs/pretrain.yaml)" in explain("pretrain", "data.append")
    assert "must be given" in explain("pretrain", "run_dir=x")


def test_explain_alone_lists_the_sections_and_a_section_its_settings():
    text = explain("correspond", "")
    assert all(f"\n  {name} " in text for name in ("run_dir", "carb", "optim"))
    assert "share of attentive tokens" in explain("correspond", "carb")


def test_a_misspelt_setting_gets_a_list_of_close_ones():
    with pytest.raises(ConfigError, match="'model.widht', close are model.width, "):
        explain("pretrain", "model.widht")


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_setting_can_be_explained(name):
    for key in setting_names(SCHEMAS[name]):
        assert explain(name, key).startswith(f"{key}: ")


def test_doctor_explains_the_settings_of_its_stage(capsys):
    run_command(["doctor", "correspond", "--explain", "carb.eta"])
    assert "share of attentive" in capsys.readouterr().out


def test_choices_and_defaults_in_the_help_are_those_of_the_commands():
    assert faces.LAYOUTS == ("celeba", *WORLDS, "butterflies")
    assert (shards.QUALITY, shards.FEW) == (QUALITY, FEW)
    from scemae.runs import verify

    assert docstring_of("scemae.runs.verify") == verify.__doc__
