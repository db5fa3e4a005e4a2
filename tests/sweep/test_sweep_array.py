"""`scemae sweep --array` without a cluster: errors, dry runs, and elements run one by one."""

import csv
import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from scemae.cli import run_command
from scemae.cluster import chain, status
from scemae.errors import ConfigError, LaunchError, RunFolderError
from scemae.runs import generation_files, generations
from scemae.runs.checkpoints import checkpoint
from scemae.sweep import ranking, sweep_folder
from scemae.sweep import spec as sweeps
from scemae.sweep.array_worker import run_array_element
from scemae.sweep.trials import (
    FAILED,
    FINISHED,
    STOPPED,
    Trial,
    TrialRecord,
    end_trial,
    read_records,
    write_trial,
)
from tests.support import scemae
from tests.sweep import small_sweep
from tests.sweep.small_sweep import STEPS

PATIENCE = 240  # seconds: the machine may be busy
# A trial that runs until it is ended.
OPEN = ["correspond.optim.epochs=100000", "correspond.loop.save_every=100000"]


def words(made, run, *others):
    """A random search of three trials."""
    alone = ["trials=3", "search=random", "halving.enabled=false"]
    return small_sweep.words(made, run, *alone, *others)


def records(run):
    return list(read_records(run))


def table(run):
    """Rows of results.csv by trial, without what depends on the clock and on interruptions."""
    with open(run / "results.csv", encoding="utf8", newline="") as file:
        found = {int(row.pop("trial")): row for row in csv.DictReader(file)}
    return {
        number: {name: value for name, value in row.items() if name not in ("seconds", "starts")}
        for number, row in sorted(found.items())
    }


# What is asked for.


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        (
            ["search=tpe"],
            "found search=tpe, whose trials follow from those before; give search=random or grid",
        ),
        (["halving.enabled=true"], "do not see each other's trials; give halving.enabled=false"),
        (["jobs=0"], "jobs: found 0"),
        (["--page", "x"], "found --page, which does not go with --array"),
        (["cluster.time=2"], "cluster: found time 2 minutes and signal 120 seconds"),
        (["correspond.probe_shards=null"], "found no correspond.probe_shards"),
        (["space.parameters.carb.eta.high=0.95"], "the space allows carb.eta=0.95"),
    ],
)
def test_what_an_array_cannot_do_is_refused_before_anything_starts(
    made, tmp_path, others, sentence
):
    with pytest.raises(ConfigError) as caught:
        run_command(["sweep", "--array", *words(made, tmp_path / "run", *others)])
    assert (
        sentence in str(caught.value)
        and "\n" not in str(caught.value)
        and not list(tmp_path.iterdir())
    )


def test_a_dry_run_prints_both_jobs_and_writes_nothing(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))  # no sbatch here
    run_command(
        [
            "sweep",
            "--array",
            "--dry-run",
            *words(
                made,
                tmp_path / "run",
                "jobs=2",
                "trial.ranks=2",
                "trial.cpus=3",
                "trial.gpus=2",
                "cluster.account=faces",
                "cluster.time=30",
            ),
        ]
    )
    printed = capsys.readouterr().out
    elements, page = printed.split("#!/bin/bash")[1:]
    for line in (
        "--nodes=1",
        "--ntasks-per-node=1",
        "--cpus-per-task=6",
        "--gpus-per-node=2",
        "--account=faces",
        "--time=30",
        "--requeue",
        "--signal=TERM@120",
    ):
        assert f"#SBATCH {line}\n" in elements
    assert (
        "--dependency=afterany:JOB_OF_SWEEP\n" in page
        and "gpus" not in page
        and "TERM@" not in page
    )
    assert (
        "# as an array of 2: element k runs trials k, k + 2, ... below 3" in printed
        and not list(tmp_path.iterdir())
    )


def test_without_a_cluster_or_with_a_running_sweep_nothing_is_submitted(
    made, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="found no sbatch on PATH; .* or give cluster=local"):
        run_command(["sweep", "--array", *words(made, tmp_path / "run")])
    assert not (tmp_path / "run").exists()
    # As `scemae sweep` with Ray does.
    with generations.beating(generations.claim(tmp_path / "run", None, None)):
        with pytest.raises(RunFolderError, match="in use by process"):
            run_command(["sweep", "--array", *words(made, tmp_path / "run", "cluster=local")])
    assert (
        not list((tmp_path / "run").glob("trials/*")) and not (tmp_path / "run" / "code").exists()
    )


def test_help_and_wrong_arguments_of_an_element(made, tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        run_command(["sweep", "--array", "--help"])
    assert "random and grid search as an array of jobs" in capsys.readouterr().out
    begin(made, tmp_path)
    for wrong in (
        [],
        [str(tmp_path)],
        [str(tmp_path), "part=2", "of=2", "start=1"],
        [str(tmp_path), "part=0", "of=2", "start=7"],
        [str(tmp_path / "none"), "part=0", "of=1", "start=1"],
        [str(tmp_path), "part=x", "of=1", "start=1"],
    ):
        with pytest.raises(ConfigError, match="SWEEP part=K of=N start=G was needed"):
            run_command(["sweep", "--alone", *wrong])


def test_an_array_needs_neither_ray_nor_optuna_and_only_checks_and_ranks_need_torch():
    modules = "cluster.array sweep.array_worker sweep.coordinator sweep.queue sweep.page.results"
    imports = "".join(f"import scemae.{name}\n" for name in ("sweep.command", *modules.split()))
    heavy = {"ray", "optuna", "submitit", "torch"}
    code = f"import sys\n{imports}print({heavy} & set(sys.modules))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "set()"
    )


@pytest.mark.parametrize(
    ("left", "state"),
    [
        ({0: "success", 1: "success"}, "COMPLETED"),
        ({0: "success", 1: "error"}, "FAILED"),
        ({0: "success"}, "UNKNOWN"),
        ({}, "UNKNOWN"),
    ],
)
def test_the_state_of_an_array_unknown_to_the_scheduler_follows_from_its_result_files(
    tmp_path, monkeypatch, left, state
):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "jobs").mkdir()
    for name in ("77_0_submitted", "77_1_submitted", "770_0_submitted"):
        (tmp_path / "jobs" / f"{name}.pkl").touch()
    for k, outcome in left.items():
        (tmp_path / "jobs" / f"77_{k}_0_result.pkl").write_bytes(pickle.dumps((outcome, None)))
    assert status.state_of(tmp_path, "batch", "77")[0] == state


def test_what_a_job_left_is_not_unpickled(tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "jobs").mkdir()
    for value, state in (
        (("success", Trap()), "COMPLETED"),
        (Trap(), "UNKNOWN"),
        (("error", "a trace"), "FAILED"),
    ):
        (tmp_path / "jobs" / "77_0_result.pkl").write_bytes(pickle.dumps(value))
        assert status.state_of(tmp_path, "local", "77")[0] == state
    for broken in (b"", b"no pickle", b"\x80\x05" + b"(" * 10**6):
        (tmp_path / "jobs" / "77_0_result.pkl").write_bytes(broken)
        assert status.state_of(tmp_path, "local", "77")[0] == "UNKNOWN"
    assert not (tmp_path / "ran").exists()


def test_a_job_id_that_is_no_number_never_reaches_a_command(tmp_path):
    assert status.state_of(tmp_path, "batch", "-o/etc/passwd") == ("UNKNOWN", "its id is no number")


# Which trials are kept.


def score_of(number, outcome, *scores):
    return TrialRecord(
        number, {}, "random", outcome, 30, 30, dict(zip(("different", "cycle"), scores))
    )


@pytest.mark.parametrize("objectives", [["different"], ["different", "cycle"]])
@pytest.mark.parametrize("most", [1, 3])
def test_the_best_trials_found_one_by_one_are_the_best_of_all(objectives, most):
    generator = np.random.default_rng(most)
    ended = [
        score_of(number, outcome, *scores)
        for number, (outcome, scores) in enumerate(
            zip(
                generator.choice([FINISHED, FINISHED, STOPPED, FAILED], 60),
                generator.integers(0, 20, (60, 2)).astype(float),
            )
        )
    ]
    ended += [score_of(60, FINISHED, math.nan, 1.0), score_of(61, FINISHED, math.inf, 0.0)]
    best = ranking.BestTrials(objectives, most)
    for i in generator.permutation(len(ended)):
        best.add(ended[i])
    slow = {0, *(one.number for one in ranking.ranked(ended, "different")[:most])}
    if len(objectives) > 1:
        slow |= {one.number for one in ranking.pareto_front(ended, objectives)}
    assert best.kept == slow


@pytest.mark.parametrize("keep", [0, 2])
def test_the_page_of_an_array_leaves_checkpoints_to_the_best_and_to_those_that_run(
    made, tmp_path, keep
):
    sweep = begin(made, tmp_path, "trials=7", f"keep={keep}")
    for number, score in enumerate((9.0, 4.0, 6.0, 1.0, 5.0, 2.0)):
        trial = sweep.trial(number)
        write_trial(tmp_path, trial)
        for part in ("run/checkpoints/step-00000030.g0001", "tokens"):
            (trial.folder(tmp_path) / part).mkdir(parents=True)
        if number != 5:  # it runs
            add_evaluation(trial.folder(tmp_path) / "run", score)
            end_trial(tmp_path, trial, FAILED if score == 1.0 else FINISHED)
    run_command(["sweep", "--page", str(tmp_path)])
    left = {int(path.parent.parent.name) for path in tmp_path.glob("trials/*/run/checkpoints")}
    assert left == ({0, 1, 4, 5} if keep else set(range(6)))
    assert [path.parent.name for path in tmp_path.glob("trials/*/tokens")] == ["000005"]
    assert list(table(tmp_path)) == [0, 1, 2, 3, 4] and (tmp_path / "sweep.html").is_file()


def add_evaluation(run, score):
    """A start of a run without training, with one evaluation at its last step."""
    start = generations.claim(run, None, None)
    start.record_base(0)
    (start.folder / generation_files.METRICS).write_text(
        f'{{"step": 30, "probe_different": {score}}}\n'
    )


# Elements that run.


def begin(made, run, *others):
    """A sweep whose array has begun, as start 1."""
    sweep = sweeps.load(words(made, run, *others))
    sweep_folder.claim(sweep)
    with generations.beating(generations.claim(run, None, None)):  # until all is submitted
        return sweep


@pytest.fixture
def element():
    """Starts an element of an array in a process of its own, killed at the end of the test."""
    begun = []

    def start_one(run, part=0, of=1, start=1):
        words = ["sweep", "--alone", str(run), f"part={part}", f"of={of}", f"start={start}"]
        begun.append(
            subprocess.Popen(
                [sys.executable, "-m", "scemae", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )
        return begun[-1]

    yield start_one
    for process in begun:
        process.kill()  # its server and ranks die with it
        process.communicate()


def wait(condition, process, seconds=PATIENCE):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.05)


def has_trained(run):
    return lambda: any(record.step >= 4 for record in records(run))


def trained_rank(run, process, number=0, start=1):
    """The process id of a trial's rank; waits until this start of it has trained two steps."""
    folder = generations.path_of(Trial(number, {}, "").folder(run) / "run", start)
    metrics = folder / "metrics.jsonl"
    wait(lambda: metrics.exists() and metrics.stat().st_size > 0, process)
    return json.loads((folder / "owner.json").read_text())["pid"]


def is_gone(pid):
    return not Path(f"/proc/{pid}").exists() or ") Z " in Path(f"/proc/{pid}/stat").read_text()


@pytest.mark.slow
def test_an_element_asked_to_stop_goes_on_with_the_next_step_and_then_with_its_other_trials(
    made, tmp_path, element
):
    begin(
        made, tmp_path, "trials=2", "correspond.optim.epochs=400", "correspond.loop.save_every=400"
    )
    first = element(tmp_path)
    wait(has_trained(tmp_path), first)
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=PATIENCE)
    assert (
        first.returncode == 75
        and "asked to stop; trial 0 has saved, the same command resumes it" in errors
    )
    reached = records(tmp_path)[0].step
    run = tmp_path / "trials" / "000000" / "run"
    assert checkpoint.read_state(checkpoint.committed(run)[-1]).global_step == reached < 400
    other = tmp_path / "trials" / "000001" / "run"
    other.mkdir(parents=True)
    (other / "provenance.json").write_text('{"stage": "pretrain"}')  # so trial 1 fails
    again = element(tmp_path)
    printed, _ = again.communicate(timeout=PATIENCE)
    resumed, failed = records(tmp_path)
    assert (resumed.outcome, resumed.step, resumed.trained, resumed.starts) == (
        FINISHED,
        400,
        400,
        2,
    )
    assert failed.outcome == FAILED and "found a run of `scemae pretrain` in it" in failed.reason
    assert f"trial 1 failed: {failed.reason}" in printed and again.returncode == 0
    assert not (tmp_path / "results.csv").exists()  # the page's job alone writes it


@pytest.mark.slow
def test_an_element_resumes_killed_ranks_retries_times_and_writes_nothing_once_superseded(
    made, tmp_path, element
):
    begin(made, tmp_path, "trials=3", "retries=1", *OPEN)
    process = element(tmp_path)
    for starts in (1, 2):
        os.kill(trained_rank(tmp_path, process, start=starts), signal.SIGKILL)
    pid = trained_rank(tmp_path, process, number=1)
    # As if another machine had found it silent, started this element again, and resumed the trial.
    generations.path_of(tmp_path / "generations" / "0001" / "parts" / "0000", 2).mkdir()
    generations.path_of(tmp_path / "trials" / "000001" / "run", 2).mkdir()
    printed, errors = process.communicate(timeout=PATIENCE)
    assert errors.count("trial 0: killed by SIGKILL; it resumes from its last checkpoint") == 2
    assert "trial 0 failed: lost 2 times: killed by SIGKILL" in printed
    lost, running = records(tmp_path)
    assert (lost.outcome, lost.reason) == (FAILED, "lost 2 times: killed by SIGKILL")
    taken = "another start of this sweep has taken it over; this one ends"
    assert process.returncode == 1 and taken in errors
    assert not running.has_ended and is_gone(pid)
    # The same for an element of an array that a later start of the sweep has taken over.
    generations.path_of(tmp_path, 2).mkdir()
    late = element(tmp_path)
    assert taken in late.communicate(timeout=PATIENCE)[1] and late.returncode == 1
    assert [one.number for one in records(tmp_path) if one.has_ended] == [0]


def test_an_element_refuses_to_start_beside_itself(made, tmp_path):
    sweep = begin(made, tmp_path)
    with generations.beating(
        generations.claim(tmp_path / "generations" / "0001" / "parts" / "0000", None, None)
    ):
        with pytest.raises(RunFolderError, match="in use by process"):
            run_array_element(
                sweep, 0, 1, generations.Generation(1, generations.path_of(tmp_path, 1))
            )
    assert not (tmp_path / "trials").exists()


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """A local array of two elements over three trials, one after the other, and what it printed."""
    run = tmp_path_factory.mktemp("whole") / "sweep"
    return run, scemae(
        "sweep", *words(made, run, "jobs=2", "keep=1", "cluster=local"), "--array"
    ).stdout


@pytest.mark.slow
def test_a_local_array_runs_all_trials_and_ends_with_table_page_and_best(whole):
    run, printed = whole
    found = records(run)
    assert [(one.number, one.outcome, one.starts, one.step, one.trained) for one in found] == [
        (n, FINISHED, 1, STEPS, STEPS) for n in range(3)
    ]
    assert (
        list(table(run)) == list(range(3))
        and (run / "sweep.html").is_file()
        and (run / "best.yaml").is_file()
    )
    best = min(found, key=lambda one: one.scores["different"]).number
    assert {int(path.parent.parent.name) for path in run.glob("trials/*/run/checkpoints")} == {
        0,
        best,
    }
    assert re.findall(r"^(\w+): log", printed, re.M) == ["sweep", "sweep", "page"]
    state = scemae("submit", "--status", run).stdout
    assert re.search(r"^sweep .*COMPLETED +3 trials have ended$", state, re.M)
    assert re.search(r"^page .*COMPLETED .*sweep.html$", state, re.M)


@pytest.mark.slow
def test_an_element_runs_its_share_and_a_second_time_nothing(whole, element):
    run, printed = whole
    logs = [Path(path).read_text() for path in re.findall(r"^sweep: log (.+)$", printed, re.M)]
    ran = [re.findall(r"^trial (\d) finished: different \d", log, re.M) for log in logs]
    assert ran == [["0", "2"], ["1"]]
    again = element(run, part=0, of=2)
    assert again.communicate(timeout=PATIENCE)[0] == "" and again.returncode == 0
    assert all(one.starts == 1 for one in records(run))


@pytest.mark.slow
def test_trials_of_an_array_are_what_their_commands_give_alone(whole, tmp_path):
    run, _ = whole
    sweep = sweep_folder.reopen(run)
    for number in (0, 2):
        values = sweep.paper if number == 0 else sweep.space.draw(0, number)
        scemae(
            "correspond",
            *sweep.base,
            *(f"{name}={value}" for name, value in values.items()),
            f"run_dir={tmp_path / str(number)}",
            "loop.probe_every=10",
        )
        shown = [
            row
            for row in generations.rows(tmp_path / str(number), generation_files.METRICS)
            if "probe_different" in row
        ][-1]
        assert records(run)[number].values == values
        assert records(run)[number].scores == {
            name: shown[f"probe_{name}"] for name in records(run)[number].scores
        }


@pytest.mark.slow
def test_ray_goes_on_where_an_array_stopped_and_an_array_where_ray_did(whole, made, tmp_path):
    run = shutil.copytree(whole[0], tmp_path / "run")
    identity = sweep_folder.reopen(run).identity
    for number in (1, 2):  # as if the array had been ended after trial 0
        shutil.rmtree(run / "trials" / f"{number:06d}")
    scemae("sweep", *words(made, run, "trials=2"))  # with Ray
    assert list(table(run)) == [0, 1]
    scemae("sweep", *words(made, run, "jobs=1", "cluster=local"), "--array")
    assert table(run) == table(whole[0]) and [one.starts for one in records(run)] == [1, 1, 1]
    assert sweep_folder.reopen(run).identity == identity and len(generations.numbers(run)) == 3
    assert [stage.name for stage in chain.read(run)[1]] == ["sweep", "page"]
