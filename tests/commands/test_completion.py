"""Completion in real shells: what a user gets who types a part of a command and presses Tab."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time

import pytest

from scemae.commands.arguments.completion import SHELLS
from scemae.commands.completion import script
from scemae.commands.table import COMMANDS

START = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
# A line, and what stands there after Tab.
TYPED = [
    ("scemae pretr", "scemae pretrain"),
    ("scemae help verify-r", "scemae help verify-resume"),
    ("scemae shards build cel", "scemae shards build celeba"),
    ("scemae match a.jpg b.jpg --bac", "scemae match a.jpg b.jpg --backbone"),
    ("scemae pretrain run_dir=x optim.l", "scemae pretrain run_dir=x optim.lr="),
    ("scemae correspond experiment=lda", "scemae correspond experiment=lda_correspond"),
    ("scemae sweep correspond.carb.et", "scemae sweep correspond.carb.eta="),
    ("scemae pretrain data.shards=some_f", "scemae pretrain data.shards=some_folder"),
    ("scemae report some_f", "scemae report some_folder"),
]


def needs(shell):
    return pytest.mark.skipif(not shutil.which(shell), reason=f"no {shell} here")


def wait_for(path, terminal, seconds=20):
    """The text of a file that a shell is about to write; what it prints meanwhile is read."""
    printed, until = b"", time.monotonic() + seconds
    while not path.exists() and time.monotonic() < until:
        if select.select([terminal], [], [], 0.1)[0]:
            printed += os.read(terminal, 65536)
    assert path.exists(), printed[-2000:]
    return path.read_text()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "some_folder").mkdir()
    for shell in SHELLS:
        (tmp_path / f"script.{shell}").write_text(script(shell))
    return tmp_path


def typed(shell, line, folder):
    """The line that stands in a real interactive shell after Tab: `show` is put before it."""
    begin = "autoload -U compinit; compinit -u -D; " if shell == "zsh" else ""
    show = 'show() { printf "%s" "$*" >part; mv part shown; }'
    process, terminal = pty.fork()
    if not process:
        os.chdir(folder)
        os.environ.update(TERM="dumb", HOME=str(folder))
        os.execvp(shell, START[shell])
    try:
        os.write(terminal, f"{begin}{show}; source ./script.{shell}; show ready\n".encode())
        wait_for(folder / "shown", terminal)
        (folder / "shown").unlink()
        os.write(terminal, f"{line}\t".encode())
        time.sleep(0.5)  # a shell draws the completed line; nothing says when it is done
        os.write(terminal, b"\x01show \n")
        return wait_for(folder / "shown", terminal).rstrip("/ ")
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)


@pytest.mark.parametrize(("line", "whole"), TYPED)
@pytest.mark.parametrize("shell", [pytest.param(one, marks=needs(one)) for one in ("bash", "zsh")])
def test_tab_completes_the_line(shell, line, whole, folder):
    assert typed(shell, line, folder) == whole


@needs("fish")
@pytest.mark.parametrize(("line", "whole"), TYPED)
def test_fish_offers_the_word(line, whole, folder):
    code = f"source script.fish; complete -C '{line}'"
    done = subprocess.run(["fish", "-c", code], cwd=folder, capture_output=True, text=True)
    words = [word.split("\t")[0].rstrip("/") for word in done.stdout.splitlines()]
    assert words == [whole.split()[-1]]


@needs("bash")
def test_a_press_of_tab_is_fast(folder):
    code = (
        "source script.bash; COMP_LINE='scemae sweep corr' COMP_POINT=17 COMP_CWORD=2\n"
        "COMP_WORDS=(scemae sweep corr); time _scemae; echo ${#COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", code], cwd=folder, capture_output=True, text=True)
    spent = dict(re.findall(r"(user|sys)\s+0m([\d.]+)s", done.stderr))
    assert int(done.stdout) > 30 and float(spent["user"]) + float(spent["sys"]) < 0.2


def test_every_script_has_every_command_and_values_of_groups():
    for shell in SHELLS:
        text = script(shell)
        assert all(f" {name}" in text for name in COMMANDS)
        assert "experiment=demo_sweep" in text and "cluster=local" in text
