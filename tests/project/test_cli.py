"""The commands as a user sees them: their help, and one sentence for each mistake."""

import os
import re
import subprocess
import sys

import pytest

from scemae.cli import COMMANDS, run_command
from scemae.commands import demo
from scemae.commands.parse import parse
from scemae.errors import ConfigError
from scemae.runs import run_folder
from tests.support import TINY, scemae, write_backbone, write_shards

COMMON = [
    *TINY,
    "optim.global_batch_size=4",
    "optim.epochs=1",
    "loop.log_every=1",
    "loop.save_every=2",
    "runtime.device=cpu",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("cli") / "shards", 8)


def refused(*arguments, **options):
    """The sentence of a command that must fail: one line, no traceback."""
    done = scemae(*arguments, check=False, **options)
    lines = [line for line in done.stderr.splitlines() if line.startswith("scemae ")]
    assert done.returncode == 1 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def test_help_names_every_command():
    text = scemae("--help").stdout
    assert all(re.search(rf"^  {name} ", text, re.M) for name in COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command):
    text = scemae(command, "--help").stdout
    assert f"scemae {command}" in text and len(text.splitlines()) > 5


def test_help_and_import_load_nothing_heavy():
    code = (
        "import sys, scemae.cli; scemae.cli.main(['--help'])\n"
        "print([m for m in ('torch', 'deepspeed', 'hydra', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_cfg_prints_the_resolved_config_and_starts_nothing(tmp_path):
    text = scemae("pretrain", "--cfg", "model=deit_tiny", f"run_dir={tmp_path / 'run'}").stdout
    assert "width: 192" in text and not (tmp_path / "run").exists()


def test_unknown_commands_and_options_are_named_with_a_suggestion():
    assert "found no command `pretrian`, did you mean `pretrain`" in refused("pretrian")
    assert "found --fast, which is no option" in refused("pretrain", "--fast")


def test_missing_shards(tmp_path):
    assert "no such folder; build the shards first" in refused(
        "pretrain", *COMMON, f"data.shards={tmp_path / 'none'}", f"run_dir={tmp_path / 'run'}"
    )


def test_a_folder_without_shards(tmp_path):
    assert "found no manifest.json" in refused(
        "pretrain", *COMMON, f"data.shards={tmp_path}", f"run_dir={tmp_path / 'run'}"
    )


def test_a_truncated_shard_is_found_at_the_start(tmp_path):
    folder = write_shards(tmp_path / "shards", 8)
    tar = folder / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    sentence = refused("pretrain", *COMMON, f"data.shards={folder}", f"run_dir={tmp_path / 'run'}")
    assert "train-000001.tar: found" in sentence and "the manifest says" in sentence


def test_fewer_images_than_a_global_batch(shards, tmp_path):
    assert "optim.global_batch_size=9: found only 8 images" in refused(
        "pretrain",
        *COMMON,
        "optim.global_batch_size=9",
        f"data.shards={shards}",
        f"run_dir={tmp_path / 'run'}",
    )


def test_a_global_batch_smaller_than_the_number_of_ranks(shards, tmp_path):
    done = scemae(
        "pretrain",
        *COMMON,
        "optim.global_batch_size=1",
        f"data.shards={shards}",
        f"run_dir={tmp_path / 'run'}",
        ranks=2,
        check=False,
    )
    assert done.returncode != 0 and "optim.global_batch_size=1: found 2 ranks" in done.stderr


def test_cuda_where_there_is_none(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "found no CUDA device" in refused(
        "pretrain",
        *COMMON,
        "runtime.device=cuda",
        f"data.shards={shards}",
        f"run_dir={tmp_path / 'run'}",
    )


def test_a_run_folder_in_use(shards, tmp_path):
    with run_folder.own(tmp_path / "run", "pretrain"):
        assert f"in use by process {os.getpid()} on" in refused(
            "pretrain", *COMMON, f"data.shards={shards}", f"run_dir={tmp_path / 'run'}"
        )


def test_half_an_environment_of_a_launcher(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    assert "found RANK set but not WORLD_SIZE" in refused(
        "pretrain", *COMMON, f"data.shards={shards}", f"run_dir={tmp_path / 'run'}"
    )


def test_a_backbone_without_checkpoint_or_of_another_stage(shards, tmp_path):
    common = [
        f"data.shards={shards}",
        f"run_dir={tmp_path / 'carb'}",
        "optim.global_batch_size=4",
        "optim.epochs=1",
        "carb.dim=16",
    ]
    assert "found no finished checkpoint" in refused("correspond", f"backbone={tmp_path}", *common)
    write_backbone(tmp_path / "mae")
    assert "inattentive ones; at least 1 and 200" in refused(
        "correspond", f"backbone={tmp_path / 'mae'}", *common, "carb.clusters=200"
    )
    scemae("correspond", f"backbone={tmp_path / 'mae'}", *common)
    assert "found a checkpoint of `scemae correspond`" in refused(
        "evaluate",
        f"backbone={tmp_path / 'carb'}",
        f"matching.shards={shards}",
        f"run_dir={tmp_path / 'eval'}",
    )
    weights = next((tmp_path / "mae").glob("checkpoints/*/weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "cannot be read" in refused("correspond", f"backbone={tmp_path / 'mae'}", *common)


def test_a_demo_of_too_few_faces_is_refused_and_a_small_one_probes_fewer_couples(tmp_path):
    with pytest.raises(ConfigError, match="--faces: found 399, at least 400 are needed"):
        run_command(["demo", str(tmp_path / "out"), "--faces=399"])
    assert not (tmp_path / "out").exists()
    words = [word for command in demo.commands(tmp_path, 400, 1) for word in command]
    assert words.count("loop.probe_pairs=8") == 2
    assert "loop.probe_pairs" not in " ".join(sum(demo.commands(tmp_path, 6000, 1), []))


def test_the_next_commands_of_a_demo_are_valid_and_name_what_is_there(tmp_path):
    for name in ("000001", "000002"):
        (tmp_path / "faces" / "img_align_celeba").mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / "img_align_celeba" / f"{name}.jpg").touch()
    found = demo.next_commands(tmp_path)
    assert [command[0] for command in found] == ["match", "explore", "export", "goodput"]
    (tmp_path / "evaluate" / "regressors").mkdir(parents=True)
    (tmp_path / "evaluate" / "regressors" / "MAE_+_CARB.safetensors").touch()
    match, detect, *_ = found = demo.next_commands(tmp_path)
    for command in found:
        parse(command[0], command[1:])
    assert detect[1] == str(tmp_path / "faces" / "img_align_celeba" / "000001.jpg")
    assert parse("match", match[1:]).run == tmp_path
    for line in demo.NEXT.splitlines():
        if line.startswith("  scemae "):
            _, name, *words = line.split()
            parse(name, words)
