"""Users without a home, a name or a writable folder, as in containers; and how threads wait."""

import getpass
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from scemae.process import library_caches


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A user without entry in passwd and without HOME; temporary files are in tmp_path."""

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", *library_caches.CACHES):
        monkeypatch.setenv(name, "")  # so that what is set by the code under test is undone
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"scemae-home-{os.getuid()}"


@pytest.mark.parametrize("given", [None, "/nonexistent"])
def test_a_user_without_a_home_gets_a_private_folder_and_a_name(nobody, monkeypatch, given):
    if given:
        monkeypatch.setenv("HOME", given)
    monkeypatch.setenv("MPLCONFIGDIR", "/mine")
    library_caches.settle()
    assert (
        Path.home() == Path("~").expanduser() == nobody and nobody.stat().st_mode & 0o777 == 0o700
    )
    assert getpass.getuser() == f"uid{os.getuid()}"
    assert os.environ["XDG_CACHE_HOME"] == str(nobody) and os.environ["MPLCONFIGDIR"] == "/mine"
    library_caches.settle()
    assert Path.home() == nobody


def test_a_home_that_cannot_be_written_to_stays_and_caches_go_elsewhere(
    nobody, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", "/proc")  # not even root may
    monkeypatch.setattr(os, "access", lambda path, mode: path != "/proc")
    library_caches.settle()
    assert os.environ["HOME"] == "/proc" and os.environ["TRITON_HOME"] == str(nobody)


def test_a_folder_that_another_may_have_prepared_is_not_used(nobody, tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o700)
    nobody.symlink_to(tmp_path / "theirs")
    library_caches.settle()
    assert Path.home().parent == tmp_path and Path.home() not in (nobody, tmp_path / "theirs")


def test_a_usual_user_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    before = dict(os.environ)
    library_caches.settle()
    assert dict(os.environ) == before


def omp(code, **environment):
    """Run `code` in Python with only these variables set by the user; the finished process."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**kept, **environment}
    )


def test_threads_spin_for_a_thousand_rounds_and_then_sleep():
    messages = omp("import scemae.cli, torch", OMP_DISPLAY_ENV="verbose").stderr
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in messages and "GOMP_SPINCOUNT = '1000'" in messages


def test_how_threads_wait_is_the_users_to_say():
    code = (
        "import scemae, os; print(os.environ['OMP_WAIT_POLICY'], os.environ.get('GOMP_SPINCOUNT'))"
    )
    assert (omp(code).stdout, omp(code, OMP_WAIT_POLICY="ACTIVE").stdout) == (
        "PASSIVE 1000\n",
        "ACTIVE None\n",
    )
    assert omp(code, GOMP_SPINCOUNT="7").stdout == "PASSIVE 7\n"
