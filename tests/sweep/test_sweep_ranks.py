"""The processes of trials: started, watched, stopped, ended with their parent; and one trial."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scemae.errors import LaunchError
from scemae.runs.checkpoints import checkpoint
from scemae.runs.metrics_log import read_metrics
from scemae.sweep.processes import rank_processes
from scemae.sweep.processes.fork_server import become_independent
from scemae.sweep.processes.rank_processes import ForkServerClient, Ranks
from scemae.sweep.processes.trial_process import (
    ASKED,
    KILLED,
    STOP_FILE,
    TrialCommand,
    TrialProcess,
)
from scemae.sweep.trials import FAILED, FINISHED, RUNNING, Trial, read_run, write_trial

STEPS = 90  # of a trial, a few milliseconds each


@pytest.fixture(scope="module")
def servers():
    """One that forks and one that spawns, started by a process that is a rank itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", "7")
        patch.setenv("MASTER_PORT", "1")
        patch.setenv("SCEMAE_TEST", "inherited")
        found = {spawns: ForkServerClient(spawns=spawns, threads=1) for spawns in (True, False)}
    yield found
    for server in found.values():
        server.close()


@pytest.fixture(params=[True, False], ids=["spawned", "forked"])
def server(servers, request):
    return servers[request.param]


@pytest.fixture
def warm(servers):
    """The one that forks."""
    return servers[False]


def arguments(made, run, *others):
    """A stage 2 of STEPS steps, evaluated and saved every ten steps."""
    return [
        "correspond",
        f"run_dir={run}",
        f"backbone={made / 'mae'}",
        f"data.shards={made / 'shards'}",
        f"probe_shards={made / 'shards'}",
        "loop.probe_pairs=2",
        "views=1",
        "carb.dim=8",
        "data.jpeg_noise=false",
        "optim.global_batch_size=24",
        f"optim.epochs={STEPS}",
        "loop.log_every=2",
        "loop.probe_every=10",
        "loop.save_every=10",
        "loop.keep=1",
        "runtime.device=cpu",
        *others,
    ]


LONG = [
    "goodput",
    "nowhere",
]  # with HELD a command that goes on for ever, before it has set up anything
HELD = {"SCEMAE_FAULTS": "hang@command"}


def wait(condition, seconds=90):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
    return found


def status_of(ranks):
    wait(lambda: ranks.poll() is not None)
    return ranks.poll()


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def environments(mark):
    """By pid, the environment of every process that was started with SCEMAE_MARK=mark."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{entry}/environ").read_text().split("\0")
        except OSError:
            continue
        if f"SCEMAE_MARK={mark}" in words:
            found[int(entry)] = dict(word.split("=", 1) for word in words if "=" in word)
    return found


def test_the_exit_status_and_the_output_of_a_rank_are_kept(server, tmp_path):
    log = tmp_path / "log.txt"
    assert status_of(Ranks(server, ["--help"], 1, log, {})) == 0
    first = log.read_text()
    assert "scemae" in first and "pretrain" in first
    assert status_of(Ranks(server, ["nonsense"], 1, log, {})) == 1
    assert log.read_text().startswith(first) and "found no command `nonsense`" in log.read_text()


def test_a_rank_that_was_killed_says_by_what(server, tmp_path):
    for number in (signal.SIGKILL, signal.SIGTERM):
        ranks = Ranks(server, LONG, 1, tmp_path / "log.txt", HELD)
        assert ranks.poll() is None
        ranks.signal(number)
        assert status_of(ranks) == -number
        ranks.signal(number)  # it is gone: nothing happens


def test_each_rank_of_a_trial_has_its_own_place_and_not_ours(servers, tmp_path):
    mark = f"{os.getpid()}-places"
    ranks = Ranks(servers[True], LONG, 2, tmp_path / "log.txt", {**HELD, "SCEMAE_MARK": mark})
    found = list(wait(lambda: len(reported := environments(mark)) == 2 and reported).values())
    ranks.stop(0)
    assert (
        sorted(one["RANK"] for one in found)
        == sorted(one["LOCAL_RANK"] for one in found)
        == ["0", "1"]
    )
    assert all(
        (one["WORLD_SIZE"], one["LOCAL_WORLD_SIZE"], one["MASTER_ADDR"]) == ("2", "2", "127.0.0.1")
        for one in found
    )
    assert found[0]["MASTER_PORT"] == found[1]["MASTER_PORT"] != "1"
    alone = Ranks(servers[True], LONG, 1, tmp_path / "log.txt", {**HELD, "SCEMAE_MARK": mark})
    (one,) = wait(lambda: environments(mark)).values()
    alone.stop(0)
    assert not one.keys() & set(rank_processes.LAUNCHER_VARIABLES)
    assert (one["SCEMAE_TEST"], one["OMP_NUM_THREADS"]) == ("inherited", "1")


def test_two_ranks_train_together(warm, made, tmp_path):
    ranks = Ranks(
        warm, arguments(made, tmp_path / "run", "optim.epochs=4"), 2, tmp_path / "log.txt", {}
    )
    assert status_of(ranks) == 0, (tmp_path / "log.txt").read_text()
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["world_size"] == 2


def test_when_a_rank_dies_the_others_get_some_time_and_are_then_killed(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr(rank_processes, "PATIENCE", 0.5)
    first = server.start(LONG, HELD, tmp_path / "log.txt")
    ranks = Ranks(server, LONG, 2, tmp_path / "log.txt", HELD)
    os.kill(ranks._pids[1], signal.SIGTERM)
    began = time.monotonic()
    assert status_of(ranks) == -signal.SIGTERM
    assert time.monotonic() - began > 0.4 and not lives(ranks._pids[0])
    assert lives(first)  # of another trial
    os.kill(first, signal.SIGKILL)
    wait(lambda: first in server.ended)


def test_ranks_that_are_asked_to_stop_save_first(warm, made, tmp_path):
    run = tmp_path / "run"
    ranks = Ranks(
        warm,
        arguments(made, run, "optim.epochs=100000", "loop.save_every=100000"),
        1,
        tmp_path / "log.txt",
        {},
    )
    wait(lambda: read_metrics(run))
    ranks.stop(60)
    assert ranks.poll() == 75
    assert (
        checkpoint.read_state(checkpoint.committed(run)[-1]).global_step
        == read_metrics(run)[-1]["step"]
        > 0
    )


def test_ranks_that_do_not_stop_in_time_are_killed(warm, tmp_path):
    ranks = Ranks(warm, LONG, 1, tmp_path / "log.txt", HELD)
    began = time.monotonic()
    ranks.stop(0)
    assert ranks.poll() == -signal.SIGKILL and time.monotonic() - began < 10


@pytest.mark.parametrize("spawns", [True, False], ids=["spawned", "forked"])
def test_ranks_die_with_a_fork_server_that_is_killed(tmp_path, spawns):
    server = ForkServerClient(spawns=spawns, threads=1)
    ranks = Ranks(server, LONG, 2, tmp_path / "log.txt", HELD)
    pids = ranks._pids
    assert all(map(lives, pids)) and ranks.poll() is None and server.is_alive
    os.kill(server._process.pid, signal.SIGKILL)
    wait(lambda: not any(map(lives, [*pids, server._process.pid])))
    assert not server.is_alive and ranks.poll() == -signal.SIGKILL
    with pytest.raises(LaunchError, match="the process that starts trials is gone"):
        server.start(["--help"], {}, tmp_path / "log.txt")


def test_a_fork_server_that_is_closed_asks_its_ranks_to_end_first(tmp_path):
    server = ForkServerClient(spawns=True, threads=1)
    ranks = Ranks(server, LONG, 2, tmp_path / "log.txt", HELD)
    server.close()
    assert not any(map(lives, ranks._pids)) and status_of(ranks) == -signal.SIGTERM


def test_a_fork_server_whose_parent_is_killed_has_its_ranks_save_and_ends(made, tmp_path):
    run = tmp_path / "run"
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from scemae.sweep.processes.rank_processes import ForkServerClient\n"
        "server = ForkServerClient(spawns=False, threads=1)\n"
        "pid = server.start(sys.argv[2:], {}, Path(sys.argv[1]))\n"
        "print(server._process.pid, pid, flush=True)\ntime.sleep(600)"
    )
    command = arguments(made, run, "optim.epochs=100000", "loop.save_every=100000")
    worker = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "log.txt", *command],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pids = list(map(int, worker.stdout.readline().split()))
    wait(lambda: read_metrics(run))
    os.killpg(worker.pid, signal.SIGKILL)  # Ray ends a worker with its process group
    worker.wait()
    wait(lambda: not any(map(lives, pids)))
    assert (
        checkpoint.read_state(checkpoint.committed(run)[-1]).global_step
        == read_metrics(run)[-1]["step"]
        > 0
    )


def test_a_fork_server_that_does_not_start_says_why(monkeypatch, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such library >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(
        LaunchError, match="the process that starts trials ended with 3: no such library"
    ):
        ForkServerClient(spawns=False, threads=1)


# One trial.


def command_of(made, sweep, *others, number=1):
    trial = Trial(number, {"carb.eta": 0.1}, "random")
    write_trial(sweep, trial)
    return TrialCommand(
        sweep,
        trial,
        arguments(made, trial.folder(sweep) / "run", *others),
        1,
        {"SCEMAE_JOB": "sweep-test"},
    )


def evaluations_of(process):
    """All evaluations of a start: (step, outcome) of each, and the last record."""
    reported = []
    while True:
        record, outcome = process.next_evaluation()
        reported.append((record.curve[-1][0] if record.curve else 0, outcome))
        if outcome != RUNNING:
            return reported, record


@pytest.fixture(scope="module")
def undisturbed(servers, made, tmp_path_factory):
    """The evaluations and the record of a trial that is not disturbed."""
    return evaluations_of(
        TrialProcess(command_of(made, tmp_path_factory.mktemp("undisturbed")), servers[False])
    )


def first_evaluation(process):
    record, outcome = process.next_evaluation()
    assert outcome == RUNNING, record
    return record


def test_evaluations_come_in_order_and_the_last_with_the_end(undisturbed):
    reported, record = undisturbed
    assert reported[-1] == (STEPS, FINISHED) and {outcome for _, outcome in reported[:-1]} == {
        RUNNING
    }
    # Each evaluation is reported, however fast they came.
    assert [step for step, _ in reported] == [step for step, _ in record.curve]
    assert [step for step, _ in record.curve] == list(range(10, STEPS + 1, 10))
    assert (record.starts, record.trained, record.total) == (1, STEPS, STEPS)
    assert record.curve[-1][1] == record.scores
    assert set(record.scores) == {"different", "same", "cycle"}


def test_a_trial_that_was_killed_goes_on_from_its_checkpoint_to_the_same_scores(
    undisturbed, warm, made, tmp_path
):
    command = command_of(made, tmp_path)
    process = TrialProcess(command, warm)
    first_evaluation(process)
    owner = json.loads((command.folder / "run" / "generations" / "0001" / "owner.json").read_text())
    os.kill(owner["pid"], signal.SIGKILL)
    _, record = evaluations_of(process)
    assert (
        record.reason == "killed by SIGKILL"
        and process.next_evaluation()[1] == KILLED
        and 0 < record.step < STEPS
    )
    reported, again = evaluations_of(TrialProcess(command, warm))
    assert reported[-1] == (STEPS, FINISHED)
    assert reported[0][0] >= record.curve[-1][0]  # the last evaluation is reported again
    assert (
        again.starts == 2
        and STEPS <= again.trained < 2 * STEPS
        and again.curve == undisturbed[1].curve
    )


@pytest.mark.parametrize("every", [2, 10], ids=["between evaluations too", "at evaluations only"])
def test_a_trial_that_was_asked_to_stop_saves_and_loses_nothing(
    undisturbed, warm, made, tmp_path, monkeypatch, every
):
    command = command_of(made, tmp_path, f"loop.log_every={every}")  # a run stops where it logs
    stop = tmp_path / "stop"
    monkeypatch.setenv(STOP_FILE, str(stop))
    process = TrialProcess(command, warm)
    first_evaluation(process)
    stop.touch()
    reported, record = evaluations_of(process)
    run = command.folder / "run"
    assert (
        reported[-1][1] == ASKED
        and checkpoint.read_state(checkpoint.committed(run)[-1]).global_step == record.step < STEPS
    )
    assert evaluations_of(TrialProcess(command, warm))[0][-1][1] == ASKED
    assert read_run(tmp_path, command.trial).starts == 1  # no second start
    stop.unlink()
    reported, again = evaluations_of(TrialProcess(command, warm))
    assert reported[-1] == (STEPS, FINISHED) and (again.starts, again.trained) == (2, STEPS)
    assert again.curve == undisturbed[1].curve


def test_a_trial_that_was_closed_is_gone_and_can_go_on(warm, made, tmp_path):
    command = command_of(made, tmp_path)
    process = TrialProcess(command, warm)
    first_evaluation(process)
    pid = json.loads((command.folder / "run" / "generations" / "0001" / "owner.json").read_text())[
        "pid"
    ]
    process.close()
    assert not lives(pid) and evaluations_of(TrialProcess(command, warm))[0][-1] == (
        STEPS,
        FINISHED,
    )


def test_a_trial_that_fails_gives_its_reason(warm, made, tmp_path):
    _, record = evaluations_of(TrialProcess(command_of(made, tmp_path, "carb.clusters=500"), warm))
    assert (
        record.reason.startswith("scemae correspond: carb:")
        and "at least 1 and 500 (carb.clusters)" in record.reason
    )
    reported, record = evaluations_of(
        TrialProcess(
            command_of(made, tmp_path, "probe_shards=null", "optim.epochs=2", number=2), warm
        )
    )
    assert (
        reported[-1][1] == FAILED
        and record.reason == "it has no score at its last step; see log.txt"
    )


def test_a_run_without_its_last_evaluation_makes_it_once(warm, made, tmp_path):
    sweep, trial = tmp_path, Trial(1, {}, "random")
    command = arguments(made, trial.folder(sweep) / "run", "optim.epochs=4", "loop.probe_every=2")
    assert status_of(Ranks(warm, command, 1, tmp_path / "log.txt", {})) == 0
    whole = read_run(sweep, trial)
    metrics = trial.folder(sweep) / "run" / "generations" / "0001" / "metrics.jsonl"
    rows = [
        row
        for row in map(json.loads, metrics.read_text().splitlines())
        if row["step"] != 4 or "probe_same" not in row
    ]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [step for step, _ in read_run(sweep, trial).curve] == [2]
    for starts in (2, 3):
        assert status_of(Ranks(warm, command, 1, tmp_path / "log.txt", {})) == 0
        again = read_run(sweep, trial)
        assert (again.curve, again.trained, again.starts) == (whole.curve, 4, starts)
    assert (
        sum("probe_same" in row and row["step"] == 4 for row in read_metrics(metrics.parents[2]))
        == 1
    )


def test_a_rank_whose_server_died_before_it_could_ask_the_kernel_is_killed():
    pid = os.fork()
    if not pid:
        become_independent(server=-1)  # no parent of this process
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
