"""`scemae sweep`: errors before anything starts, and one real sweep with Ray to its best.yaml."""

import copy
import csv
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import save_file

from scemae.config.dotted import get_setting
from scemae.config.load import load_config
from scemae.errors import CheckpointError, ConfigError, RunFolderError, ShardError
from scemae.runs.checkpoints import checkpoint
from scemae.runs.metrics_log import read_metrics
from scemae.sweep import spec as sweeps
from scemae.sweep import sweep_checks, sweep_folder
from scemae.sweep.trials import FINISHED, STOPPED, read_records
from tests.support import scemae, write_shards
from tests.sweep.small_sweep import IMAGES, STEPS, words


def checked(made, run, *others):
    sweep = sweeps.load(words(made, run, *others))
    sweep_checks.check(sweep)
    return sweep


def test_a_sweep_that_can_run_passes_and_nothing_is_written(made, tmp_path):
    for others in (
        [],
        ["space=carb_ordered"],
        ["space=eta_clusters", "search=grid"],
        ["space=carb_more", "search=random"],
    ):
        checked(made, tmp_path / "run", *others)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("others", "error", "sentence"),
    [
        (
            ["correspond.probe_shards=null"],
            ConfigError,
            "found no correspond.probe_shards, by which trials are judged",
        ),
        (["correspond.backbone=nowhere"], CheckpointError, "nowhere: found no finished checkpoint"),
        (["correspond.data.shards=nowhere"], ShardError, "nowhere"),
        (["correspond.loop.probe_pairs=99"], ConfigError, "99 are needed"),
        (
            ["correspond.carb.etta=1"],
            ConfigError,
            "found no setting 'carb.etta', did you mean 'carb.eta'",
        ),
        (["correspond.data.mix=[a:1]"], ConfigError, "data.mix: found ['a:1'], and trials train"),
        (["correspond.data.subset=a"], ConfigError, "data.subset: found a, and trials train"),
        (["correspond.optim.lr=-1"], ConfigError, "optim.lr: found -1"),
        (["trial.ranks=2", "trial.gpus=1"], ConfigError, "a rank needs a GPU of its own"),
        (["search=grid"], ConfigError, "has no step, and search=grid needs one"),
        (
            ["space.constraints=['carb.eta > 0.9']"],
            ConfigError,
            "keeps its constraints (carb.eta > 0.9)",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    made, tmp_path, others, error, sentence
):
    with pytest.raises(error) as caught:
        checked(made, tmp_path / "run", *others)
    assert (
        sentence in str(caught.value)
        and "\n" not in str(caught.value)
        and not list(tmp_path.iterdir())
    )


def test_a_space_with_a_point_that_cannot_run_names_it(made, tmp_path):
    with pytest.raises(ConfigError) as caught:
        checked(made, tmp_path, "space.parameters.carb.eta.high=0.95")  # of 144 tokens
    text = str(caught.value)
    assert "137 attentive and 7 inattentive ones; at least 1 and 16 (carb.clusters)" in text
    assert "the space allows carb.eta=0.95, carb.clusters=16" in text
    assert "give a constraint" in text
    checked(
        made,
        tmp_path,
        "space.parameters.carb.eta.high=0.95",
        "space.parameters.carb.clusters.high=7",
    )
    with pytest.raises(
        ConfigError,
        match=r"carb: found eta .* needed are 0 < eta < 1.*; the space allows carb.eta=1",
    ):
        checked(
            made,
            tmp_path,
            "space.parameters.carb.eta.high=1.5",
            "space.parameters.carb.eta.step=null",
        )


def claimed(made, run, *others):
    sweep = checked(made, run, *others)
    sweep_folder.claim(sweep)
    return sweep


@pytest.mark.parametrize(
    ("others", "difference"),
    [
        (["seed=1"], "seed 0, this one has seed 1"),
        (["correspond.seed=1"], "trial.seed 0, this one has trial.seed 1"),
        (["search=random"], 'search "tpe", this one has search "random"'),
        (["space.parameters.carb.eta.high=0.4"], "found a sweep with parameters"),
        (["space=carb_ordered"], "constraints []"),
        (["correspond.optim.lr=0.1"], "optim.lr 0.001, this one has optim.lr 0.1"),
        (["objectives=[same]"], 'objectives ["different"], this one has objectives ["same"]'),
        (["halving.enabled=false"], "found a sweep with halving"),
        (["trial.ranks=2"], "trial.ranks 1, this one has trial.ranks 2"),
    ],
)
def test_the_folder_of_another_sweep_is_refused_with_what_differs(
    made, tmp_path, others, difference
):
    first = claimed(made, tmp_path)
    before = (tmp_path / sweep_folder.FILE).read_bytes()
    with pytest.raises(RunFolderError) as caught:
        claimed(made, tmp_path, *others)
    assert difference in str(caught.value) and "give another run_dir" in str(caught.value)
    assert (tmp_path / sweep_folder.FILE).read_bytes() == before and claimed(
        made, tmp_path
    ).identity == first.identity


def test_other_weights_and_other_images_are_another_sweep(made, tmp_path):
    claimed(made, tmp_path / "run")
    write_shards(tmp_path / "others", 30)
    changed = shutil.copytree(made / "mae", tmp_path / "mae")
    folder = checkpoint.newest(changed)
    weights = {
        name: 2 * part
        for name, part in checkpoint.read_weights(checkpoint.newest(made / "mae")).items()
    }
    save_file(weights, folder / checkpoint.WEIGHTS)
    state = checkpoint.read_state(folder)
    state.files[0]["sha256"] = checkpoint.weights_digest(folder)
    checkpoint.write_state(folder, state)
    for others, what in (
        (f"correspond.backbone={changed}", "backbone"),
        (f"correspond.data.shards={tmp_path / 'others'}", "data"),
        (f"correspond.probe_shards={tmp_path / 'others'}", "validation"),
    ):
        with pytest.raises(RunFolderError, match=f"found a sweep with {what} "):
            claimed(made, tmp_path / "run", others)


def test_paths_and_the_number_of_trials_may_change_between_starts(made, tmp_path):
    first = claimed(made, tmp_path / "run")
    moved = shutil.copytree(made, tmp_path / "moved")
    again = claimed(
        moved,
        tmp_path / "run",
        "trials=3",
        "concurrency=1",
        "retries=9",
        "keep=0",
        "correspond.runtime.workers=1",
    )
    assert again.identity == first.identity and again.size == 3
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    reopened = sweep_folder.reopen(tmp_path / "elsewhere")
    assert reopened.identity == first.identity and reopened.size == 3
    assert reopened.arguments(reopened.trial(1)) == [
        word.replace(str(tmp_path / "run"), str(tmp_path / "elsewhere"))
        for word in again.arguments(again.trial(1))
    ]


def test_the_folder_of_another_command_or_a_damaged_one_is_refused(made, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "provenance.json").write_text("{}")
    with pytest.raises(RunFolderError, match="found a run of another command in it"):
        claimed(made, tmp_path / "run")
    claimed(made, tmp_path / "sweep")
    (tmp_path / "sweep" / sweep_folder.FILE).write_text("{")
    with pytest.raises(RunFolderError, match="cannot be read"):
        claimed(made, tmp_path / "sweep")


@pytest.mark.parametrize(("grace", "every"), [(0.3333, 2), (0.5, 4), (1.0, 10), (0.01, 2)])
def test_trials_are_evaluated_and_saved_at_shares_of_their_training(made, tmp_path, grace, every):
    found = sweeps.load(
        words(made, tmp_path, f"halving.grace={grace}", f"correspond.loop.log_every={every}")
    )
    slow = next(step for step in range(every, 999, every) if step >= grace * STEPS)
    assert found.loop_settings(found.paper) == {"probe_every": slow, "save_every": slow, "keep": 1}
    given = sweeps.load(
        words(made, tmp_path, "correspond.loop.log_every=2", "correspond.loop.probe_every=4")
    )
    assert "probe_every" not in given.loop_settings(given.paper)


def test_a_trials_command_has_its_values_and_a_folder_of_its_own(made, tmp_path):
    found = sweeps.load(words(made, tmp_path, "space=carb_more"))
    trial = found.trial(3)
    stage, *overrides = found.arguments(trial)
    asked = load_config(stage, overrides)
    assert {
        name: get_setting(asked, name) for name in found.names
    } == trial.values and asked.carb.dim == 8
    assert asked.run_dir == str(tmp_path / "trials" / "000003" / "run") and asked.loop.keep == 1
    assert Path(asked.store.dir) == tmp_path / "trials" / "000003" / "tokens"  # eta is its own
    assert Path(asked.store.third_dir) == made / "mae" / "tokens" and asked.store.keep_third
    weights = sweeps.load(
        words(
            made,
            tmp_path,
            "space=own",
            "space.stage=correspond",
            "space.parameters.carb={r_att_att: {low: 1, high: 9}}",
        )
    )
    # All trials select the same tokens.
    assert load_config(stage, weights.arguments(weights.trial(3))[1:]).store.dir is None


def test_a_sweep_with_open_shards_can_be_copied_by_ray(made, tmp_path):
    found = sweeps.load(words(made, tmp_path, "space=carb"))
    assert found.images == IMAGES and copy.deepcopy(found).images == IMAGES
    assert pickle.loads(pickle.dumps(found)).images == IMAGES


def test_with_another_users_backbone_trials_share_tokens_in_the_sweeps_folder(made, tmp_path):
    shutil.copytree(made / "mae", tmp_path / "mae")
    (tmp_path / "mae" / "tokens").mkdir(exist_ok=True)  # it came along
    given = words(
        made,
        tmp_path / "sweep",
        "space=own",
        "space.stage=correspond",
        "space.parameters.carb={r_att_att: {low: 1, high: 9}}",
    )
    found = sweeps.load([word.replace(str(made / "mae"), str(tmp_path / "mae")) for word in given])
    asked = [
        load_config("correspond", found.arguments(found.trial(number))[1:]).store.dir
        for number in (1, 2)
    ]
    assert asked == 2 * [str(tmp_path / "sweep" / "tokens")]


# With Ray.

SWEEP = ["trials=3", "search=tpe", "concurrency=1", "halving.enabled=true"]


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Another Ray of the same user on this machine; its process."""
    folder, mark = Path(f"/tmp/stranger-{os.getpid()}"), f"SCEMAE_STRANGER={os.getpid()}"
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        f"--temp-dir={folder}",
        "--port=0",
        "--include-dashboard=false",
        "--num-cpus=1",
        "--object-store-memory=80000000",
        "--node-ip-address=127.0.0.1",
    ]
    with open(tmp_path_factory.mktemp("stranger") / "log", "w+") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=dict([*os.environ.items(), mark.split("=")]),
        )
        until = time.monotonic() + 120
        while "Ray runtime started" not in Path(log.name).read_text():
            assert process.poll() is None and time.monotonic() < until, Path(log.name).read_text()
            time.sleep(0.2)
    yield process
    for pid in processes(mark):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def run_sweep(made, run, *others):
    """`scemae sweep`; it must leave no process that has its TMPDIR, and nothing in there."""
    temp, here = Path(f"/tmp/dt{os.getpid()}"), run.parent / "here"
    temp.mkdir()
    here.mkdir(exist_ok=True)
    # Modules of other people in the folder where the sweep is started.
    for name in ("ray", "optuna", "torch", "deepspeed", "scipy"):
        (here / f"{name}.py").write_text(f"open({str(here / 'ran')!r}, 'a').write({name!r})")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "scemae", "sweep", *words(made, run, *others)],
            capture_output=True,
            text=True,
            timeout=280,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temp)},
            cwd=here,
        )
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        assert not (here / "ran").exists(), (here / "ran").read_text()
        assert processes(f"TMPDIR={temp}") == []
        assert list(temp.iterdir()) == []
    finally:
        for pid in processes(f"TMPDIR={temp}"):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(temp)
    return done.stdout


def processes(word):
    """The pids of all that live with `word` in their environment."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if f"{word}\0".encode() in Path(f"/proc/{entry}/environ").read_bytes():
                found.append(int(entry))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def swept(made, stranger, tmp_path_factory):
    """A finished sweep, and what it printed."""
    run = tmp_path_factory.mktemp("swept") / "sweep"
    return run, run_sweep(made, run, *SWEEP)


def table(run, *columns):
    with open(run / "results.csv", encoding="utf8", newline="") as file:
        return [[row[name] for name in columns or row] for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_sweep_accounts_for_every_trial_and_leaves_nothing_behind(swept, stranger):
    run, printed = swept
    records = list(read_records(run))
    assert [one.number for one in records] == list(range(3)) and {
        one.outcome for one in records
    } <= {FINISHED, STOPPED}
    assert (
        records[0].origin == "paper"
        and records[0].outcome == FINISHED
        and records[0].values["carb.eta"] == 0.1
    )
    assert all(one.starts == 1 and one.step <= one.trained <= one.total for one in records)
    assert sorted(table(run, "trial")) == [["0"], ["1"], ["2"]] and "3 of 3" in printed
    assert {"sweep.html", "best.yaml", "results.csv"} <= {path.name for path in run.iterdir()}
    assert stranger.poll() is None and "the paper's setting:" in printed


@pytest.mark.slow
def test_the_best_trial_run_alone_has_its_score_to_the_last_bit(swept, made, tmp_path):
    run, _ = swept
    best = min(
        (one for one in read_records(run) if one.outcome == FINISHED),
        key=lambda one: one.scores["different"],
    )
    command = (run / "best.yaml").read_text().splitlines()[1].removeprefix("# scemae ")
    scemae(*command.replace("run_dir=RUN", f"run_dir={tmp_path / 'run'}").split())
    found = [row for row in read_metrics(tmp_path / "run") if "probe_different" in row][-1]
    assert (
        found["step"] == STEPS
        and {name: found[f"probe_{name}"] for name in best.scores} == best.scores
    )


@pytest.mark.slow
def test_a_moved_sweep_goes_on_with_more_trials_to_the_same_table(swept, made, stranger, tmp_path):
    run, _ = swept
    before = {one.number: one for one in read_records(run)}
    moved = shutil.copytree(run, tmp_path / "moved")
    for number in (1, 2):  # as if it had been ended before them: the same seed draws them again
        shutil.rmtree(moved / "trials" / f"{number:06d}")
    scemae("sweep", *words(made, moved, *SWEEP, "trials=4"))
    after = {one.number: one for one in read_records(moved)}
    assert list(after) == list(range(4)) and after[0] == before[0]
    assert all(one.has_ended and one.starts == 1 for one in after.values())
    assert stranger.poll() is None
    names = sweep_folder.reopen(run).names
    columns = ["trial", "origin", "outcome", *names, "different", "same", "cycle"]
    assert table(moved, *columns)[:3] == table(run, *columns)
    assert len({tuple(row) for row in table(moved, "carb.eta", "carb.r_att_att")}) == 4
    assert json.loads((moved / sweep_folder.FILE).read_text()) == json.loads(
        (run / sweep_folder.FILE).read_text()
    )
    assert len(table(moved)) == 4 and not math.isnan(float(table(moved, "different")[0][0]))
