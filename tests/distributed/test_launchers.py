"""Launchers: which environments are accepted, who can connect, and signals while ranks wait."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scemae.distributed.launchers import NAMES, Launch
from scemae.distributed.process_group import INTERFACES, data_threads, process_group
from scemae.errors import LaunchError
from tests.support import REPO, TINY, Started, places

GOOD = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("RANK", "4", "RANK: found '4', a whole number from 0 to 3 was needed with WORLD_SIZE=4"),
        ("RANK", "-1", "RANK: found '-1'"),
        ("RANK", "", "RANK: found ''"),
        ("WORLD_SIZE", "abc", "WORLD_SIZE: found 'abc', a whole number of 1 or more"),
        ("WORLD_SIZE", "0", "WORLD_SIZE: found '0'"),
        ("LOCAL_RANK", "x", "LOCAL_RANK: found 'x'"),
        ("LOCAL_RANK", "4", "LOCAL_RANK: found '4'"),
        ("LOCAL_WORLD_SIZE", "two", "LOCAL_WORLD_SIZE: found 'two'"),
        ("MASTER_PORT", "70000", "MASTER_PORT: found '70000', a whole number from 1 to 65535"),
        ("MASTER_PORT", "1²", "MASTER_PORT: found '1²'"),
        ("MASTER_ADDR", " ", "MASTER_ADDR: found nothing"),
    ],
)
def test_an_impossible_value_is_refused_in_a_sentence(name, value, sentence):
    with pytest.raises(LaunchError, match="^" + sentence.replace("²", ".")):
        Launch.read({**GOOD, name: value})


@pytest.mark.parametrize("missing", NAMES)
def test_an_incomplete_environment_is_refused(missing):
    with pytest.raises(LaunchError, match=f"but not {missing}"):
        Launch.read({name: value for name, value in GOOD.items() if name != missing})


@pytest.mark.parametrize(
    ("changed", "is_one_host"),
    [
        ({}, False),
        ({"LOCAL_WORLD_SIZE": "4"}, True),
        ({"LOCAL_WORLD_SIZE": "2"}, False),
        ({"MASTER_ADDR": "127.0.0.1"}, True),
        ({"MASTER_ADDR": "localhost"}, True),
    ],
)
def test_ranks_of_one_host_are_known(changed, is_one_host):
    assert Launch.read({**GOOD, **changed}) == Launch(
        1, 4, 1, changed.get("MASTER_ADDR", "n1"), 29500, is_one_host
    )
    assert Launch.read({"HOME": "/root"}) is None


def test_ranks_that_cannot_be_are_refused_by_the_command_before_torch_starts():
    code = (
        "import sys; from scemae import cli; status = cli._status_of(sys.argv[1:])\n"
        "print(status, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "pretrain", "run_dir=x", "data.shards=x"],
        capture_output=True,
        text=True,
        env={**os.environ, **GOOD, "WORLD_SIZE": "1"},
    )
    assert done.stdout == "1 False\n" and done.stderr.startswith("scemae pretrain: RANK: found '1'")


def test_a_share_of_the_cores_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "many")
    with pytest.raises(LaunchError, match="LOCAL_WORLD_SIZE: found 'many'"):
        data_threads("auto")


def listening(pid="self"):
    """The addresses that a process listens on, as /proc has them: hexadecimal, with the port."""
    mine = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            mine.add(os.readlink(link))
        except OSError:  # closed meanwhile
            continue
    lines = [
        line.split()
        for file in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{file}").read_text().splitlines()[1:]
    ]
    return [words[1] for words in lines if words[3] == "0A" and f"socket:[{words[9]}]" in mine]


LOOPBACK = "0100007F:"


def test_a_single_process_listens_on_loopback_at_most_and_leaves_the_environment_as_it_was(
    monkeypatch,
):
    for name in (*NAMES, *INTERFACES):
        monkeypatch.delenv(name, raising=False)
    listened = set(listening())
    with process_group("cpu") as place:
        assert (place.rank, place.world_size) == (0, 1) and os.environ["WORLD_SIZE"] == "1"
        assert all(address.startswith(LOOPBACK) for address in set(listening()) - listened)
    assert not {*NAMES, *INTERFACES} & set(os.environ) and set(listening()) == listened


def lone(rank, shards, folder, port=None):
    """One rank of two, started without the other."""
    environment = {**places(2)[rank], **({"MASTER_PORT": port} if port else {})}
    (folder / "out").touch()
    return Started(
        [
            "pretrain",
            *TINY,
            "runtime.device=cpu",
            f"data.shards={shards}",
            f"run_dir={folder / 'run'}",
        ],
        folder / "out",
        folder / "errors",
        **environment,
    ), int(environment["MASTER_PORT"])


def wait_for(condition, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGINT), (1, signal.SIGTERM)])
def test_a_rank_that_waits_for_the_others_stops_at_once(rank, number, tmp_path):
    if rank == 0:
        process, port = lone(0, tmp_path, tmp_path)
        wait_for(
            lambda: any(
                int(address.partition(":")[2], 16) == port for address in listening(process.pid)
            )
        )
        assert all(address.startswith(LOOPBACK) for address in listening(process.pid))
    else:  # it has connected to what looks like a store, and waits for an answer
        with socket.create_server(("127.0.0.1", 0)) as server:
            process, _ = lone(1, tmp_path, tmp_path, str(server.getsockname()[1]))
            server.settimeout(60)
            server.accept()
    asked = time.monotonic()
    process.send_signal(number)
    assert (
        process.wait(30) == 75 and time.monotonic() - asked < 8
    )  # about one second; more on a busy machine
    said = [
        line
        for line in (tmp_path / "errors").read_text().splitlines()
        if line.startswith("scemae: ")
    ]
    assert said == [
        "scemae: asked to stop while starting or waiting for other ranks; "
        "run the same command again"
    ]


BUSY_IN_C = """\
import hashlib, os, signal, sys, time
from scemae.process import stop_signals as stop
stop.AGAIN = 0.3
asked = stop.StopRequest({doing!r})
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in C: no handler runs
"""


@pytest.mark.parametrize(
    ("doing", "signals", "status"),
    [
        ("starting", [signal.SIGTERM], 75),
        ("starting", [signal.SIGUSR2], 75),
        (None, [signal.SIGINT, signal.SIGINT], 130),
    ],
)
def test_signals_are_handled_while_the_main_thread_is_inside_c(doing, signals, status):
    with subprocess.Popen(
        [sys.executable, "-c", BUSY_IN_C.format(doing=doing)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        for number in signals:
            time.sleep(0.5)
            process.send_signal(number)
        assert process.wait(20) == status
        assert len(process.stderr.read().splitlines()) == 1


def test_once_training_has_begun_a_signal_sets_the_flag_and_no_more():
    code = (
        "import os, signal, time; from scemae.process import stop_signals as stop\n"
        "stop.PATIENCE = 0.1; asked = stop.StopRequest('starting'); asked.begin()\n"
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.5); print(asked.requested)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n")


FAKES = {
    "scontrol": 'case "$2" in hostnames) echo n1;; '
    '*) echo "JobState=RUNNING EligibleTime=2026-01-01T00:00:00";; esac',
    "srun": 'while [[ "$1" == --* ]]; do shift; done; '
    'SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_LOCALID=0 exec "$@"',
    "program": 'echo "$MASTER_ADDR"',
}


@pytest.mark.parametrize(
    ("nodes", "command", "address"),
    [(1, "pretrain", "127.0.0.1"), (2, "pretrain", "n1"), (1, "sweep", "n1")],
)
def test_ranks_of_a_job_on_one_node_meet_at_loopback(nodes, command, address, tmp_path):
    for name, body in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", REPO / "cluster" / "ranks.sh", command],
        capture_output=True,
        text=True,
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_NNODES": str(nodes),
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SCEMAE_COMMAND": "program",
        },
    )
    assert (done.returncode, done.stdout) == (0, f"{address}\n"), done.stderr
