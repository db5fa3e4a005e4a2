"""`scemae sweep --array` on a real Slurm: elements asked to stop, killed, or at their time limit.

Each test takes minutes.
"""

import csv
import json
import os
import re
from pathlib import Path

import pytest

from scemae.cluster import chain
from scemae.sweep.trials import FINISHED, read_records
from tests.rig.rig import Rig
from tests.support import scemae, write_backbone, write_shards

TRIALS = 5
pytestmark = pytest.mark.rig_long


@pytest.fixture(scope="module")
def rig():
    cluster = Rig(Path(f"/tmp/scemae-rig-{os.getpid()}-array"))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An untrained backbone, and shards of 24 pictures."""
    folder = tmp_path_factory.mktemp("array-rig")
    write_backbone(folder / "mae")
    write_shards(folder / "shards", 24)
    return folder


def words(made, run, steps):
    """A random search of TRIALS trials."""
    return [
        f"run_dir={run}",
        f"correspond.backbone={made / 'mae'}",
        f"correspond.data.shards={made / 'shards'}",
        f"correspond.probe_shards={made / 'shards'}",
        "correspond.loop.probe_pairs=4",
        "correspond.views=1",
        "correspond.carb.dim=8",
        "correspond.data.jpeg_noise=false",
        "correspond.optim.global_batch_size=24",
        f"correspond.optim.epochs={steps}",
        "correspond.loop.log_every=5",
        "correspond.loop.save_every=50",
        "correspond.runtime.device=cpu",
        f"trials={TRIALS}",
        "search=random",
        "halving.enabled=false",
    ]


def submit(rig, made, run, steps, *others):
    """`scemae sweep --array` of two elements; their job id and the page's."""
    rig.run("scemae", "sweep", *words(made, run, steps), "--array", "jobs=2", *others)
    return [stage.job_id for stage in chain.read(run)[1]]


def records(run):
    return list(read_records(run))


def restarts(rig, array):
    """How often each element was queued again."""
    return [int(rig.job(f"{array}_{k}")["Restarts"]) for k in range(2)]


def ends_whole(rig, page, run, seconds=400):
    """Check that the page's job completes and every trial finished, none trained twice in full."""
    rig.completed(page, seconds)
    found = records(run)
    assert [(one.number, one.outcome) for one in found] == [
        (number, FINISHED) for number in range(TRIALS)
    ], found
    assert all(one.trained < 2 * one.total for one in found) and (run / "sweep.html").is_file()
    return found


def table(run):
    """results.csv by trial, without what depends on the clock, and each trial's starts."""
    with open(run / "results.csv", encoding="utf8", newline="") as file:
        found = sorted(csv.DictReader(file), key=lambda row: int(row["trial"]))
    return [
        {name: value for name, value in row.items() if name not in ("seconds", "starts")}
        for row in found
    ]


def test_an_array_whose_element_is_asked_to_stop_gives_the_table_of_a_sweep_with_ray(
    rig, made, tmp_path
):
    run, ray = tmp_path / "array", tmp_path / "ray"
    array, page = submit(rig, made, run, 400)
    rig.wait(
        f"{array}_0",
        lambda: any(one.number % 2 == 0 and one.step > 10 for one in records(run)),
        200,
    )
    with pytest.raises(
        AssertionError, match=rf"found job {array} \(sweep\) \w+; wait for it, `scancel` it"
    ):
        submit(rig, made, run, 400)
    rig.run("scancel", "--signal=TERM", f"{array}_0")
    found = ends_whole(rig, page, run)
    assert restarts(rig, array) == [
        1,
        0,
    ] and "ended with status 75, requeued (restart 1)" in rig.log(f"{array}_0")
    assert all(one.trained == one.total for one in found) and max(one.starts for one in found) == 2
    assert re.search(
        rf"^sweep +{array} +COMPLETED +{TRIALS} trials have ended",
        rig.run("scemae", "submit", "--status", run),
        re.M,
    )
    with_ray = rig.sbatch(
        "--nodes=1",
        "--cpus-per-task=1",
        f"--output={ray}.out",
        "cluster/sweep.sh",
        *words(made, ray, 400),
    )
    rig.completed(with_ray, 400)
    assert len(table(run)) == TRIALS and table(run) == table(ray)
    again = scemae("sweep", *words(made, run, 400))  # with Ray, here: it finds nothing left to do
    assert (
        f"{TRIALS} of {TRIALS} trials have ended, 0 resume" in again.stdout
        and records(run) == found
    )


def test_an_element_that_is_killed_queues_again_and_goes_on(rig, made, tmp_path):
    run = tmp_path / "array"
    array, page = submit(rig, made, run, 400)
    rig.wait(
        f"{array}_1", lambda: any(one.number % 2 and one.step > 50 for one in records(run)), 200
    )
    owner = json.loads(
        (run / "generations/0001/parts/0001/generations/0001/owner.json").read_text()
    )
    rig.exec(owner["host"], "kill", "-9", str(owner["pid"]))
    found = ends_whole(rig, page, run)
    assert restarts(rig, array) == [0, 1] and [
        one.starts for one in found if one.number % 2 == 0
    ] == [1, 1, 1]
    assert max(one.starts for one in found) == 2


def test_elements_that_reach_their_time_limit_go_on(rig, made, tmp_path):
    run = tmp_path / "array"  # Slurm looks every 30 s and may signal a minute early
    array, page = submit(
        rig,
        made,
        run,
        40000,
        "cluster.time=2",
        "cluster.signal=30",
        "trials=2",
        "correspond.loop.log_every=50",
        "correspond.loop.save_every=1000",
    )
    rig.completed(page, 1500)
    assert [(one.outcome, one.step) for one in records(run)] == [(FINISHED, 40000)] * 2
    assert min(restarts(rig, array)) >= 1 and all(one.trained == one.total for one in records(run))
