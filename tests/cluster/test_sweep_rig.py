"""Sweeps on two nodes of a real Slurm: killed trials and Ray processes, dying nodes, requeues.

Tests without a mark take under a minute; those marked rig_long one to four minutes.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scemae.sweep.trials import FINISHED, read_records
from tests.rig.rig import Rig
from tests.support import write_backbone, write_shards

TRIALS = 8


@pytest.fixture(scope="module")
def rig():
    cluster = Rig(Path(f"/tmp/scemae-rig-{os.getpid()}-sweep"))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Settings of a tiny sweep: a random search of eight trials, about ten seconds each."""
    folder = tmp_path_factory.mktemp("sweep-rig")
    shards, backbone = write_shards(folder / "shards", 48), write_backbone(folder / "mae")
    return [
        f"correspond.backbone={backbone}",
        f"correspond.data.shards={shards}",
        f"correspond.probe_shards={shards}",
        "correspond.loop.probe_pairs=4",
        "correspond.views=1",
        "correspond.carb.dim=8",
        "correspond.data.jpeg_noise=false",
        "correspond.optim.global_batch_size=24",
        "correspond.loop.log_every=5",
        "correspond.optim.epochs=600",
        "correspond.loop.save_every=50",
        "correspond.runtime.device=cpu",
        f"trials={TRIALS}",
        "search=random",
        "halving.enabled=false",
    ]


def submit(rig, run, words, *options, nodes=2):
    """`sbatch cluster/sweep.sh`; returns the job id."""
    return rig.sbatch(
        f"--nodes={nodes}",
        "--cpus-per-task=1",
        f"--output={run}.out",
        *options,
        "cluster/sweep.sh",
        f"run_dir={run}",
        *words,
    )


def records(run):
    return list(read_records(run))


def ended(run):
    return sum(record.has_ended for record in records(run))


def ends_whole(rig, job_id, run, seconds=400, restarts=None):
    """Check that the job completes and every trial finished, none trained twice in full.

    The table must have each trial once.
    """
    record = rig.completed(job_id, seconds)
    found = records(run)
    assert [one.number for one in found] == list(range(TRIALS)) and {
        one.outcome for one in found
    } == {FINISHED}, rig.log(job_id)
    assert all(one.trained < 2 * one.total for one in found), [
        (one.number, one.trained, one.total) for one in found
    ]
    with open(run / "results.csv", encoding="utf8") as file:
        assert sorted(int(row["trial"]) for row in csv.DictReader(file)) == list(range(TRIALS))
    if restarts is not None:
        assert int(record["Restarts"]) >= restarts
    return found


def test_a_sweep_on_two_nodes_outlives_the_kill_of_a_trial(rig, words, tmp_path):
    run = tmp_path / "run"
    job_id = submit(rig, run, [*words, "trials=4", "correspond.optim.epochs=200"])
    rig.wait(job_id, lambda: any(one.step > 50 for one in records(run)), 120)
    victim = next(one.number for one in records(run) if one.step > 50)
    owner = json.loads(
        (
            run / "trials" / f"{victim:06d}" / "run" / "generations" / "0001" / "owner.json"
        ).read_text()
    )
    rig.exec(owner["host"], "kill", "-9", str(owner["pid"]))
    rig.completed(job_id, 200)
    found = records(run)
    assert len(found) == 4 and {one.outcome for one in found} == {FINISHED}, rig.log(job_id)
    assert [one.number for one in found if one.starts > 1] == [victim] and found[
        victim
    ].trained < 2 * found[victim].total
    assert f"trial {victim}: killed by SIGKILL; it resumes from its last checkpoint" in rig.log(
        job_id
    )


@pytest.mark.rig_long
@pytest.mark.parametrize(
    ("node", "victim"),
    [(1, "raylet"), (0, "gcs_server"), (0, "raylet"), (0, "scemae.sweep.tune_driver")],
)
def test_a_sweep_outlives_the_kill_of_a_part_of_ray(rig, words, tmp_path, node, victim):
    run = tmp_path / "run"
    job_id = submit(rig, run, words)
    rig.wait(job_id, lambda: ended(run) >= 2, 150)
    before = {one.number: one for one in records(run) if one.has_ended}
    rig.exec(rig.nodes(job_id)[node], "pkill", "-9", "-f", victim)
    found = ends_whole(rig, job_id, run)
    assert all(
        found[number].starts == one.starts and found[number].scores == one.scores
        for number, one in before.items()
    )
    assert rig.job(job_id)["Restarts"] == "0", rig.log(job_id)


@pytest.mark.rig_long
@pytest.mark.parametrize("which", [0, 1], ids=["head node", "worker node"])
def test_a_sweep_outlives_the_crash_of_a_node(rig, words, tmp_path, which):
    run = tmp_path / "run"
    job_id = submit(rig, run, words)
    rig.wait(job_id, lambda: ended(run) >= 2, 150)
    node = rig.nodes(job_id)[which]
    rig.node("crash", node)
    try:
        ends_whole(rig, job_id, run, restarts=1 if which == 0 else 0)
    finally:
        rig.node("boot", node)


@pytest.mark.rig_long
def test_a_sweep_that_is_requeued_goes_on(rig, words, tmp_path):
    run = tmp_path / "run"
    job_id = submit(rig, run, words)
    rig.wait(job_id, lambda: ended(run) >= 2, 150)
    rig.run("scontrol", "requeue", job_id)
    ends_whole(rig, job_id, run, restarts=1)


@pytest.mark.rig_long
def test_a_sweep_asked_to_stop_saves_its_trials_and_goes_on(rig, words, tmp_path):
    run = tmp_path / "run"
    job_id = submit(rig, run, words)
    rig.wait(job_id, lambda: ended(run) >= 2, 150)
    rig.run("scancel", "--signal=TERM", job_id)
    found = ends_whole(rig, job_id, run, restarts=1)
    repeated = [(one.number, one.trained) for one in found if one.trained != one.total]
    assert not repeated
    assert "ended with status 75, requeued (restart 1)" in rig.log(job_id)


@pytest.mark.rig_long
def test_a_sweep_goes_on_after_its_time_limit(rig, words, tmp_path):
    run = tmp_path / "run"
    job_id = submit(
        rig, run, [*words, "correspond.optim.epochs=2000"], "--time=2", "--signal=TERM@30"
    )
    found = ends_whole(rig, job_id, run, seconds=800, restarts=1)
    assert all(one.trained == one.total for one in found), [
        (one.number, one.trained) for one in found
    ]


@pytest.mark.rig_long
def test_two_sweeps_on_the_same_nodes_and_another_ray_leave_each_other_alone(rig, words, tmp_path):
    other = tmp_path / "other"
    first, second = tmp_path / "first", tmp_path / "second"
    stranger = [
        "env",
        f"RAY_TMPDIR={other}",
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--port=6379",
        "--include-dashboard=false",
        f"--temp-dir=/tmp/other-{os.getpid()}",
        "--num-cpus=1",
        "--object-store-memory=80000000",
        "--node-ip-address=127.0.0.1",
        "--block",
    ]
    job = rig.sbatch(
        "--nodes=1",
        "--nodelist=n1",
        "--cpus-per-task=1",
        f"--output={other}.out",
        "--wrap=" + " ".join(stranger),
    )
    rig.wait(job, lambda: "Ray runtime started" in rig.log(job), 60)
    ids = [
        submit(rig, run, [*words, "trials=3", "correspond.optim.epochs=200"], "--nodelist=n1,n2")
        for run in (first, second)
    ]
    for run, job_id in zip((first, second), ids):
        rig.completed(job_id, 300)
        assert [one.outcome for one in records(run)] == [FINISHED] * 3, rig.log(job_id)
    assert rig.job(job)["JobState"] == "RUNNING"
    alive = subprocess.run(
        ["pgrep", "-f", f"other-{os.getpid()}.*raylet|raylet.*other-{os.getpid()}"],
        capture_output=True,
        text=True,
    )
    rig.run("scancel", job)
    assert alive.stdout.strip(), rig.log(job)


@pytest.mark.rig_long
def test_a_node_that_comes_late_works_too(rig, words, tmp_path):
    run = tmp_path / "run"
    job_id = submit(rig, run, words, nodes=1)
    rig.wait(job_id, lambda: ended(run) >= 1, 150)
    late = rig.sbatch(
        "--nodes=1",
        f"--exclude={rig.nodes(job_id)[0]}",
        "--cpus-per-task=1",
        f"--output={run}-late.out",
        f"--wrap=SCEMAE_CPUS=1 scemae sweep --join {run}",
    )
    ends_whole(rig, job_id, run)
    rig.completed(late, 60)
    hosts = {path.read_text().split()[1] for path in run.glob("trials/*/run/generations/*/beat")}
    assert len(hosts) == 2, rig.log(late)
