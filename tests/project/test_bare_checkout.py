"""A checkout that is not installed, without the packages that only some commands need."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.support import REPO, TINY, picture, write_shards

RUN = """
import json, runpy, sys
for words in json.loads(sys.argv[1]):
    module, *sys.argv[1:] = words
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            sys.exit(end.code)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what git would carry to another machine."""
    folder = tmp_path_factory.mktemp("bare") / "checkout"
    folder.mkdir()
    names = subprocess.run(
        ["git", "-C", REPO, "ls-files", "-z", "-c", "-o", "--exclude-standard", "--deduplicate"],
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    for name in sorted({os.fsdecode(name) for name in names if name}):
        if (REPO / name).is_symlink() or (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, folder / name, follow_symlinks=False)
    return folder


def run(checkout, *commands, seconds=240):
    """`python -m MODULE ARGUMENTS` for each command, in a process that sees no installed scemae."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout / "tests/bare"),
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    words = json.dumps([[str(word) for word in command] for command in commands])
    return subprocess.run(
        [sys.executable, "-c", RUN, words],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def test_the_stand_in_hides_what_a_borrowed_machine_lacks(checkout):
    code = (
        "import importlib.metadata as m, importlib.util as u, scemae.shards, scemae.cluster\n"
        "for name in ('scemae', 'webdataset', 'lightly'):\n"
        "    assert not any(d.name == name for d in m.distributions()), name\n"
        "assert not u.find_spec('webdataset') and u.find_spec('deepspeed')\n"
        "print(scemae.__file__, scemae.shards.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=checkout,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(checkout / "tests/bare")},
    )
    assert done.stdout.split() == [
        str(checkout / "scemae/__init__.py"),
        str(checkout / "scemae/shards/__init__.py"),
    ], done.stderr


def test_all_stages_run_in_a_bare_checkout(checkout, tmp_path):
    shards = write_shards(tmp_path / "shards", 12)
    short = [
        "runtime.device=cpu",
        "optim.global_batch_size=4",
        "optim.epochs=0.7",
        "loop.log_every=1",
        "loop.save_every=2",
        f"data.shards={shards}",
        f"probe_shards={shards}",
        "loop.probe_every=2",
        "loop.probe_pairs=2",
    ]
    done = run(
        checkout,
        ["scemae", "shards", "verify", shards],
        [
            "scemae",
            "pretrain",
            *TINY,
            *short,
            "optim.warmup_epochs=0",
            f"run_dir={tmp_path / 'mae'}",
        ],
        [
            "scemae",
            "correspond",
            *short,
            f"run_dir={tmp_path / 'carb'}",
            f"backbone={tmp_path / 'mae'}",
        ],
        [
            "scemae",
            "evaluate",
            f"run_dir={tmp_path / 'eval'}",
            f"backbone={tmp_path / 'mae'}",
            f"projector={tmp_path / 'carb'}",
            f"matching.shards={shards}",
            "matching.couples=2",
            "stride=8",
            "runtime.device=cpu",
        ],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    made = json.loads((tmp_path / "mae/provenance.json").read_text())["packages"]
    assert (
        made["scemae"] == "0.1.0" and made["webdataset"] == "absent" and made["torch"][0].isdigit()
    )


def test_building_shards_says_that_it_needs_webdataset(checkout, tmp_path):
    (tmp_path / "photographs").mkdir()
    picture(0).save(tmp_path / "photographs" / "a.jpg")
    done = run(checkout, ["scemae", "shards", "build", "folder", tmp_path, tmp_path / "out"])
    assert done.returncode == 1 and "found no package webdataset" in done.stderr


def test_gpu_tests_are_collected_in_a_bare_checkout(checkout):
    quickly = ["-p", "no:cacheprovider", "--assert=plain"]
    done = run(checkout, ["pytest", "--collect-only", "-q", "-m", "gpu", *quickly])
    assert done.returncode == 0 and "error" not in done.stdout.lower(), done.stdout[-3000:]
    for name in (
        "test_cuda_sees_no_wait_in_a_step",
        "tests/project/test_gpu.py::",
        "test_the_gpus_pixels_are",
    ):
        assert name in done.stdout
