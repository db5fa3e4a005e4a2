"""A command continues where its output fails: full disks, closed streams, closed readers."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scemae import cli
from scemae.distributed.process_group import Place
from scemae.distributed.watchdog import Watchdog
from scemae.errors import RunFolderError
from scemae.process import streams
from scemae.process.streams import Forgiving
from scemae.runs import metrics_log, run_folder
from scemae.runs.generations import Generation
from tests.support import TINY, Started, picture, write_shards

FULL = Path("/dev/full")  # each write fails with ENOSPC


def shell(line, **environment):
    """A shell line in which $SCEMAE is the command."""
    command = f"{sys.executable} -m scemae"
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "SCEMAE": command, "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.mark.parametrize(
    "ending",
    [">/dev/full 2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-", "2>&1 | true; exit ${PIPESTATUS[0]}"],
    ids=["full disk", "closed outputs", "closed", "reader left"],
)
def test_work_is_done_where_nothing_can_be_said(ending, tmp_path):
    (tmp_path / "pictures").mkdir()
    picture(1).save(tmp_path / "pictures" / "a.jpg")
    done = shell(
        f"$SCEMAE shards build folder {tmp_path / 'pictures'} {tmp_path / 'shards'} "
        f"--workers=1 {ending}"
    )
    assert done.returncode == 0 and len(list((tmp_path / "shards").rglob("*.tar"))) == 1, (
        done.stderr
    )


def test_training_goes_on_where_nothing_can_be_said(tmp_path):
    shards = write_shards(tmp_path / "shards", 8)
    run = Started(
        [
            "pretrain",
            *TINY,
            "optim.global_batch_size=4",
            "optim.epochs=1",
            "loop.log_every=1",
            "loop.save_every=2",
            "runtime.device=cpu",
            f"data.shards={shards}",
            f"run_dir={tmp_path / 'run'}",
        ],
        FULL,
        FULL,
    )
    assert run.wait(100) == 0 and list((tmp_path / "run" / "checkpoints").glob("step-00000002*"))


def test_an_answer_that_cannot_be_written_is_a_failure_unless_nobody_reads_it():
    done = shell("$SCEMAE --help >/dev/full")
    assert (
        done.returncode == 1
        and "stdout: No space left on device; the output is incomplete" in done.stderr
    )
    done = shell("$SCEMAE pretrain --help | true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_name_that_the_terminal_cannot_print_comes_out_as_an_escape_code():
    done = shell("$SCEMAE $'M\\xc3\\xbc\\xff'", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (
        done.returncode == 1 and r"`M\xfc\udcff`" in done.stderr and "Traceback" not in done.stderr
    )


def test_a_run_folder_whose_weights_could_not_be_read_again_is_refused(tmp_path):
    with (
        pytest.raises(RunFolderError, match="not UTF-8"),
        run_folder.own(tmp_path / "a\udcff", "pretrain"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_name_that_cannot_be_written_is_named_in_a_sentence(capsys, monkeypatch):
    monkeypatch.setattr(cli, "run_command", lambda words: words[1].encode())
    assert cli._status_of(["report", "a\udcff"]) == 1
    assert r"found 'a\udcff', which cannot be written as utf-8" in capsys.readouterr().err


def test_what_was_lost_is_said_once_there_is_room(tmp_path):
    file = Forgiving(os.open("/dev/full", os.O_WRONLY), closefd=True)
    assert file.write(b"0123456789") == 10 and (file.lost, file.reason) == (
        10,
        os.strerror(errno.ENOSPC),
    )
    room = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(room, file.fileno())  # now there is room
    file.write(b"more\n")
    assert (
        tmp_path / "log"
    ).read_text() == "\n[10 bytes of messages were lost here: No space left on device]\nmore\n"


def test_a_pipe_that_must_not_wait_and_is_full_costs_messages_alone():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    file = Forgiving(writer, closefd=True)
    assert file.write(b"x" * 2**20) == 2**20 and 0 < file.lost < 2**20
    os.close(reader)


def test_the_streams_of_a_test_or_a_notebook_are_left_alone(capsys):
    before = sys.stdout
    streams.guard()
    assert sys.stdout is before and streams.incomplete(sys.stdout) == ""


def test_a_watchdog_watches_on_where_its_log_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "open_to_append", lambda path: os.open(FULL, os.O_WRONLY))
    dog = Watchdog(tmp_path, 0, 1, 600)
    dog.log("a line")
    dog.close()


def test_a_log_that_cannot_be_made_costs_its_lines_alone(tmp_path, capsys):
    (tmp_path / "planted").symlink_to(tmp_path / "another's")
    with streams.log_file(tmp_path / "planted") as log:
        log.write("a line\n")
    assert (
        "the lines for it are lost" in capsys.readouterr().err
        and not (tmp_path / "another's").exists()
    )


def test_training_goes_on_without_tensorboard_events(tmp_path, monkeypatch, capsys):
    import torch
    from torch.utils import tensorboard

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tensorboard, "SummaryWriter", full)
    writer = metrics_log.Writer(
        tmp_path, Generation(1, tmp_path), Place(0, 1, torch.device("cpu")), 0
    )
    writer.write(1, loss=2.0)
    writer.close()
    assert (
        "no TensorBoard events" in capsys.readouterr().err
        and '"loss": 2.0' in (tmp_path / "metrics.jsonl").read_text()
    )


def test_a_fork_server_goes_on_when_its_output_is_closed(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "scemae.sweep.processes.fork_server", "--spawn"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "ready" in process.stdout.readline()
    process.stdout.close()
    process.stdin.write('{"argv": ["--help"], "env": {}, "log": "%s"}\n' % (tmp_path / "log"))
    process.stdin.flush()
    until = time.monotonic() + 60
    while not (tmp_path / "log").exists() or not (tmp_path / "log").read_text():
        assert process.poll() is None and time.monotonic() < until, process.stderr.read()
        time.sleep(0.05)
    process.stdin.close()
    assert process.wait(60) == 0 and "usage: scemae" in (tmp_path / "log").read_text(), (
        process.stderr.read()
    )
