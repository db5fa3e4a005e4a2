"""Modules in the current folder are imported neither by a command nor by what it starts."""

import os
import subprocess
import sys

import pytest

from tests.support import REPO

CHILD = (
    "import subprocess, sys; subprocess.run([sys.executable, '-c', "
    "'import json, sys; print(json.__file__, sys.path[0])'])"
)
NAMES = ("json", "re", "pathlib", "traceback", "torch", "yaml", "ray", "optuna", "omegaconf")


@pytest.fixture
def trap(tmp_path):
    """A folder of modules that each write their name to the file `ran` when imported."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'a').write('{name} ')"
        )
    return tmp_path


def run(*words, cwd, **environment):
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONSAFEPATH")
    }
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**kept, **environment},
    )


def test_a_command_imports_nothing_from_the_folder_where_it_is_started(trap):
    done = run("-m", "scemae", "pretrain", "--cfg", "run_dir=x", "data.shards=y", cwd=trap)
    assert done.returncode == 0 and "run_dir: x" in done.stdout, done.stderr
    assert not (trap / "ran").exists(), (trap / "ran").read_text()


def test_what_a_command_starts_imports_nothing_from_there_either(trap):
    code = (
        "import sys; del sys.path[0]; from scemae.process import import_path\n"
        f"import_path.leave_out_current_folder(); {CHILD}"
    )
    done = run("-c", code, cwd=trap)
    assert str(trap) not in done.stdout and done.stdout, done.stderr
    assert not (trap / "ran").exists(), (trap / "ran").read_text()


def path_after(monkeypatch, here, path, given, is_found=True):
    """sys.path and PYTHONPATH of a process that was started in `here` with these."""
    from scemae.process import import_path

    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", list(path))
    monkeypatch.setattr(import_path, "_is_found", lambda: is_found)
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.setenv("PYTHONPATH", given) if given else monkeypatch.delenv(
        "PYTHONPATH", raising=False
    )
    import_path.leave_out_current_folder()
    assert os.environ["PYTHONSAFEPATH"] == "1"
    return sys.path, os.environ.get("PYTHONPATH")


@pytest.mark.parametrize(
    ("path", "given", "left", "handed_on"),
    [
        (["HERE", "/lib"], "", ["/lib"], None),
        (["", "/lib"], "", ["/lib"], None),
        (["/bin", "/lib"], "", ["/bin", "/lib"], None),
        (["/bin", "HERE", "/a", "/lib"], ":/a", ["/bin", "/a", "/lib"], "/a"),
        (["/bin", "HERE", "/lib"], "HERE", ["/bin", "HERE", "/lib"], "HERE"),
    ],
)
def test_the_current_folder_stays_on_the_path_only_where_it_was_named(
    monkeypatch, tmp_path, path, given, left, handed_on
):
    def placed(words):
        return [word.replace("HERE", str(tmp_path)) for word in words]

    found = path_after(monkeypatch, tmp_path, placed(path), given.replace("HERE", str(tmp_path)))
    assert found == (placed(left), handed_on and handed_on.replace("HERE", str(tmp_path)))


def test_a_checkout_that_is_not_installed_is_named_to_what_it_starts(monkeypatch):
    found = path_after(monkeypatch, REPO, [str(REPO), "/lib"], "/a", is_found=False)
    assert found == (["/lib", str(REPO)], f"/a:{REPO}")
