"""The job scripts on a real Slurm of four virtual nodes: signals, preemption, dead ranks and nodes.

Tests without a mark take half a minute each; those marked rig_long (time limits, preemptions, dying
nodes) one to four minutes.
"""

import os
import re
import sys
import time
from pathlib import Path

import pytest

from scemae.cluster import chain
from scemae.runs.checkpoints.checkpoint import committed, damage, place_of
from scemae.runs.generations import path_of
from scemae.runs.metrics_log import read_metrics
from tests.chaos import same_end
from tests.rig.rig import Rig
from tests.support import TINY, picture, scemae, write_shards

IMAGES, BATCH = 24, 6  # 4 steps an epoch


@pytest.fixture(scope="session")
def rig():
    """One cluster for all tests of this process."""
    cluster = Rig(Path(f"/tmp/scemae-rig-{os.getpid()}"))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("rig") / "shards", IMAGES)


def settings(shards, steps, save_every=10):
    """A tiny stage 1 of `steps` steps; on two cores four ranks do about ten a second."""
    return [
        *TINY,
        f"data.shards={shards}",
        f"optim.global_batch_size={BATCH}",
        f"optim.epochs={steps * BATCH / IMAGES}",
        "optim.warmup_epochs=1",
        "loop.log_every=2",
        f"loop.save_every={save_every}",
        "runtime.device=cpu",
    ]


def submit(rig, run, shards, steps, *options, save_every=10):
    """`sbatch cluster/pretrain.sh` on 2 nodes x 2 ranks; returns the job id."""
    return rig.sbatch(
        "--nodes=2",
        "--ntasks-per-node=2",
        f"--output={run}.out",
        *options,
        "cluster/pretrain.sh",
        f"run_dir={run}",
        *settings(shards, steps, save_every),
    )


def reaches(rig, job_id, run, step, seconds=90):
    """Wait until the run's metrics show `step`."""
    rig.wait(job_id, lambda: any(row.get("step", 0) >= step for row in read_metrics(run)), seconds)


def last_step(run):
    """The step of the newest checkpoint."""
    return place_of(committed(run)[-1])[0]


def finishes_after_restart(rig, job_id, run, steps, seconds=240):
    """Check that the job completes, was restarted, and that its newest checkpoint is the last."""
    record = rig.completed(job_id, seconds)
    assert int(record["Restarts"]) >= 1 and last_step(run) == steps, rig.log(job_id)


def equals_the_undisturbed_run(run, whole):
    """Check that samples, keys and pixels of each step and the final weights are bit-equal."""
    printed = scemae("verify-resume", run, "--all", "--against", whole).stdout
    print(printed, scemae("goodput", run).stdout, sep="\n")
    assert f"step for step the samples of {whole}" in printed and same_end(run, whole)


@pytest.fixture(scope="session")
def whole(shards, tmp_path_factory):
    """Undisturbed runs by their number of steps, of four ranks on this machine without Slurm."""
    made = {}

    def make(steps):
        if steps not in made:
            made[steps] = tmp_path_factory.mktemp("whole") / str(steps)
            scemae("pretrain", *settings(shards, steps, 100), f"run_dir={made[steps]}", ranks=4)
        return made[steps]

    return make


def preempt(rig, grace):
    """Preempt all nodes of partition main, `grace` seconds after the signal."""
    rig.run("scontrol", "update", "partition=main", f"GraceTime={grace}")
    rig.sbatch(
        "--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 3"
    )


def test_the_nodes_of_a_job_share_the_tables(rig, tmp_path):
    write_shards(tmp_path / "shards" / "mafl-test", 12)
    run = tmp_path / "tables"
    job_id = rig.sbatch(
        "--nodes=2",
        f"--output={run}.out",
        "cluster/tables.sh",
        f"run_dir={run}",
        f"shards=[{tmp_path / 'shards'}]",
        "matching.chunk=1",
        "matching.couples=6",
        "runtime.device=cpu",
    )
    assert rig.completed(job_id)["Restarts"] == "0"
    assert (
        "| raw pixels |" in (run / "tables.md").read_text()
        and len(list((run / "measured").glob("*.npz"))) == 6
    )
    assert len(list((run / "generations" / "0001" / "claims").iterdir())) == 6


def test_a_job_that_is_asked_to_stop_saves_queues_again_and_finishes(rig, shards, tmp_path):
    """Three ranks on two nodes, so that one node has two; a job of pretrain.sh."""
    run = tmp_path / "run"
    job_id = submit(rig, run, shards, 60, "--ntasks=3")
    reaches(rig, job_id, run, 4)
    rig.run("scancel", "--signal=TERM", job_id)
    finishes_after_restart(rig, job_id, run, 60)
    assert "ended with status 75, requeued (restart 1)" in rig.log(job_id)
    assert rig.log(job_id).count("3 x cpu") == 2


def test_a_chain_runs_to_the_end(rig, shards, tmp_path):
    run, ids = submit_chain(rig, shards, tmp_path, 8)
    assert "WAITING" not in rig.run("scemae", "submit", "--status", run)
    for job_id in ids:  # left alone, no job is queued again
        assert rig.completed(job_id)["Restarts"] == "0"
    printed = rig.run("scemae", "submit", "--status", run)
    for stage, job_id, step in zip(("pretrain", "correspond"), ids, (8, 4)):
        line = rf"^{stage} +{job_id} +COMPLETED +saved at step {step} of {step}$"
        assert re.search(line, printed, re.M), printed


def test_an_array_builds_the_parts_and_the_last_job_the_manifest(rig, tmp_path):
    photographs, out, run = tmp_path / "photographs", tmp_path / "out", tmp_path / "run"
    photographs.mkdir()
    for i in range(12):
        picture(i, (40, 40)).save(photographs / f"{i:02d}.jpg")
    words = [photographs, out, "--samples-per-shard", "1", "--workers", "1"]
    listed = ",".join(["folder", *map(str, words)])
    rig.run("scemae", "submit", f"run_dir={run}", "stages=[shards]", "parts=3", "cluster.time=5",
            "cluster.cpus_per_task=1", f"shards=[{listed}]")  # fmt: skip
    array, manifest = [stage.job_id for stage in chain.read(run)[1]]
    rig.completed(manifest, 300)
    for k in range(3):
        assert f"part {k + 1}/3 is written (0 of its shards" in rig.log(f"{array}_{k}")
    assert "12 samples in 12 shards (12 finished earlier and kept" in rig.log(manifest)
    scemae("shards", "build", "folder", photographs, tmp_path / "here", *words[2:])
    for path in filter(Path.is_file, (tmp_path / "here" / "train").iterdir()):
        assert path.read_bytes() == (out / "train" / path.name).read_bytes()


def test_a_failed_stage_ends_the_chain(rig, tmp_path):
    _, ids = submit_chain(rig, tmp_path / "none", tmp_path, 8)
    first, second = (rig.ends(job_id) for job_id in ids)
    assert (first["JobState"], first["ExitCode"], first["Restarts"]) == ("FAILED", "1:0", "0"), (
        rig.log(ids[0])
    )
    assert second["JobState"] == "CANCELLED"
    assert "no such folder; build the shards first" in rig.log(ids[0])


def submit_chain(rig, shards, tmp_path, steps):
    """`scemae submit` of both stages on two nodes, a rank each; the chain's folder and job ids."""
    run = tmp_path / "chain"
    both = [
        f"data.shards={shards}",
        f"optim.global_batch_size={BATCH}",
        "loop.log_every=2",
        "loop.save_every=2",
        "runtime.device=cpu",
    ]
    printed = rig.run(
        "scemae",
        "submit",
        f"run_dir={run}",
        "stages=[pretrain,correspond]",
        "cluster.nodes=2",
        "cluster.cpus_per_task=1",
        "cluster.partition=main",
        *(f"pretrain.{word}" for word in settings(shards, steps)),
        *(f"correspond.{word}" for word in [*both, "optim.epochs=1", "carb.dim=16"]),
    )
    return run, re.findall(r"^\w+: job (\d+)", printed, re.M)


@pytest.mark.rig_long
def test_a_job_that_reaches_its_time_limit_goes_on(rig, shards, whole, tmp_path):
    # Slurm checks every 30 s and may signal a minute early: after 30 to 90 s of the 120.
    run = tmp_path / "run"
    job_id = submit(rig, run, shards, 1400, "--time=2", "--signal=TERM@30", save_every=100)
    finishes_after_restart(rig, job_id, run, 1400, seconds=500)
    equals_the_undisturbed_run(run, whole(1400))


@pytest.mark.rig_long
@pytest.mark.parametrize("grace", [0, 15])
def test_a_preempted_job_goes_on(rig, shards, whole, tmp_path, grace):
    run = tmp_path / "run"
    job_id = submit(rig, run, shards, 300)
    reaches(rig, job_id, run, 40)
    preempt(rig, grace)
    finishes_after_restart(rig, job_id, run, 300)
    equals_the_undisturbed_run(run, whole(300))


@pytest.mark.rig_long
def test_a_job_that_is_requeued_by_hand_goes_on(rig, shards, whole, tmp_path):
    run = tmp_path / "run"
    job_id = submit(rig, run, shards, 300)
    reaches(rig, job_id, run, 40)
    rig.run("scontrol", "requeue", job_id)
    finishes_after_restart(rig, job_id, run, 300)
    equals_the_undisturbed_run(run, whole(300))


@pytest.mark.rig_long
def test_a_job_whose_rank_is_killed_goes_on(rig, shards, whole, tmp_path):
    run = tmp_path / "run"
    job_id = submit(rig, run, shards, 200)
    reaches(rig, job_id, run, 40)
    inside = rig.nodes(job_id)[1]
    rig.exec(inside, "pkill", "-9", "-o", "-f", "scemae pretrain")
    finishes_after_restart(rig, job_id, run, 200)
    equals_the_undisturbed_run(run, whole(200))


@pytest.mark.rig_long
def test_a_job_with_a_rank_that_hangs_names_it_queues_again_and_finishes(
    rig, shards, whole, tmp_path
):
    run = tmp_path / "run"
    once = tmp_path / "once"
    job_id = rig.run(
        "sbatch",
        "--parsable",
        "--nodes=2",
        "--ntasks-per-node=2",
        f"--output={run}.out",
        "cluster/pretrain.sh",
        f"run_dir={run}",
        *settings(shards, 200),
        "runtime.hang_seconds=20",
        SCEMAE_FAULTS=f"hang@data:step=60,rank=2,once={once}",
    ).strip()
    rig.wait(job_id, once.exists, 90)
    finishes_after_restart(rig, job_id, run, 200)
    assert re.search(
        r"no progress for 20 s: rank 2 on n\d got no further than step 60, data", rig.log(job_id)
    )
    equals_the_undisturbed_run(run, whole(200))


@pytest.mark.rig_long
@pytest.mark.parametrize("which", [0, 1], ids=["first node", "second node"])
def test_a_job_whose_node_crashes_goes_on(rig, shards, whole, tmp_path, which):
    run = tmp_path / "run"
    job_id = submit(rig, run, shards, 200)
    reaches(rig, job_id, run, 40)
    node = rig.nodes(job_id)[which]
    rig.node("crash", node)
    try:
        finishes_after_restart(rig, job_id, run, 200)
        equals_the_undisturbed_run(run, whole(200))
    finally:
        rig.node("boot", node)


STREAMED = [
    *TINY,
    "optim.global_batch_size=12",
    "optim.epochs=10",
    "loop.log_every=2",
    "loop.save_every=10",
    "runtime.device=cpu",
    "runtime.tier=streaming",
    "data.order=lanes",
    "data.lanes=4",
    "data.block=6",
    "data.window=3",
]  # 200 steps of 240 images


@pytest.fixture(scope="session")
def bucket(rig, tmp_path_factory):
    """An S3 endpoint on the login machine, where some answers fail: environment, shards, bytes."""
    pytest.importorskip("obstore")
    folder = tmp_path_factory.mktemp("store")
    shards = write_shards(folder / "bucket" / "train", 240, shards=7)
    with rig.started(sys.executable, "-m", "tests.object_server", folder, "0.0.0.0", 9123):
        environment = {
            "AWS_ENDPOINT_URL": "http://ctl:9123",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_REGION": "us-east-1",
        }
        yield environment, shards, sum(path.stat().st_size for path in shards.glob("*.tar"))


@pytest.mark.rig_long
def test_a_job_that_streams_from_a_bucket_survives_the_crash_of_a_node(rig, bucket, tmp_path):
    environment, shards, size = bucket
    run, plain = tmp_path / "run", tmp_path / "plain"
    scemae("pretrain", *STREAMED, f"data.shards={shards}", f"run_dir={plain}", ranks=4)
    for name in ("n1", "n2", "n3", "n4"):  # files are shared, so each gets a disk of its own
        rig.exec(name, "mkdir", "-p", str(tmp_path / "disk"))
        rig.exec(name, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "disk"))
    job_id = rig.sbatch(
        *("--nodes=2", "--ntasks-per-node=2", f"--output={run}.out", "cluster/pretrain.sh"),
        *(f"run_dir={run}", *STREAMED, "data.shards=s3://bucket/train"),
        *(f"data.cache_dir={tmp_path / 'disk'}", f"data.cache_gb={0.45 * size / 1e9}"),
        **environment,
    )
    reaches(rig, job_id, run, 40)
    node = rig.nodes(job_id)[1]
    rig.node("crash", node)
    try:
        finishes_after_restart(rig, job_id, run, 200)
    finally:
        rig.node("boot", node)
    printed = scemae(
        "verify-resume", run, "--all", "--against", plain, "--shards", shards
    ).stdout  # fmt: skip
    assert f"step for step the samples of {plain}" in printed and same_end(run, plain)


@pytest.mark.rig_long
@pytest.mark.parametrize("which", [0, 1], ids=["first node", "second node"])
def test_a_job_whose_node_is_cut_off_goes_on(rig, shards, whole, tmp_path, which):
    run = tmp_path / "run"
    job_id = submit(rig, run, shards, 200)
    reaches(rig, job_id, run, 40)
    node = rig.nodes(job_id)[which]
    rig.node("cut", node)  # its ranks live on, and nobody reaches them
    try:
        finishes_after_restart(rig, job_id, run, 200)
        equals_the_undisturbed_run(run, whole(200))
    finally:
        rig.node("heal", node)


@pytest.mark.rig_long
def test_ranks_that_live_on_behind_a_cut_never_change_the_run(rig, shards, whole, tmp_path):
    """The old ranks, cut off on their node, continue a save after the new ranks have saved."""
    run = tmp_path / "run"
    faults = {
        "SCEMAE_FAULTS": f"late@manifest:step=100,once={tmp_path / 'once'}",
        "SCEMAE_LATE": "75",
    }
    job_id = rig.run(
        "sbatch",
        "--parsable",
        "--nodes=1",
        "--ntasks-per-node=4",
        f"--output={run}.out",
        "cluster/pretrain.sh",
        f"run_dir={run}",
        *settings(shards, 300),
        **faults,
    ).strip()
    rig.wait(job_id, lambda: (tmp_path / "once").exists(), 90)
    old = rig.nodes(job_id)[0]
    rig.node("cut", old)
    try:
        finishes_after_restart(rig, job_id, run, 300)
        equals_the_undisturbed_run(run, whole(300))
        before = [(path.name, damage(path)) for path in committed(run)]
        first = path_of(run, 1)
        for _ in range(1200):  # until they wake up, find themselves superseded and end
            if (first / "ended").exists():
                break
            time.sleep(0.1)
        assert (
            "another start of this run has taken it over" in (first / "rank-0000.log").read_text()
        )
        assert [(path.name, damage(path)) for path in committed(run)] == before
        assert all(problem is None for _, problem in before)
        equals_the_undisturbed_run(run, whole(300))
    finally:
        rig.node("heal", old)


@pytest.mark.rig_long
def test_a_cancelled_job_stays_cancelled(rig, shards, tmp_path):
    run = tmp_path / "run"
    job_id = submit(rig, run, shards, 400)
    reaches(rig, job_id, run, 10)
    rig.run("scancel", job_id)
    time.sleep(15)
    assert rig.job(job_id)["JobState"] == "CANCELLED" and rig.job(job_id)["Restarts"] == "0"


@pytest.mark.rig_long
def test_a_chain_goes_on_when_a_stage_is_preempted(rig, shards, tmp_path):
    run, ids = submit_chain(rig, shards, tmp_path, 200)
    reaches(rig, ids[0], run / "pretrain", 20)
    preempt(rig, 15)
    finishes_after_restart(rig, ids[0], run / "pretrain", 200)
    assert "verified" in scemae("verify-resume", run / "pretrain", "--all").stdout
    rig.completed(ids[1])
