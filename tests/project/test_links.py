"""Commands never write through a link that somebody else has put at a name that they write."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scemae.cluster import chain
from scemae.data.framing import Box
from scemae.data.storage.manifest import Manifest, write_manifest
from scemae.distributed import watchdog
from scemae.distributed.process_group import Place
from scemae.errors import ConfigError, FileError, ScemaeError
from scemae.evaluation.landmarks.regression import LandmarkRegressor, RegressionConfig
from scemae.evaluation.landmarks.regressor_file import save_regressor
from scemae.evaluation.measuring import units
from scemae.evaluation.photographs import marked
from scemae.faces.write import write_jpeg
from scemae.files import disk, mapped_arrays
from scemae.files.json_lines import Rows
from scemae.runs import generations, metrics_log, run_folder, trackers
from scemae.runs.checkpoints import checkpoint
from scemae.runs.checkpoints.tensor_file import write_tensors
from scemae.runs.generations import Generation
from scemae.shards import claim, write
from scemae.sweep import coordinator, trials
from scemae.sweep.processes import trial_process
from scemae.sweep.trials import FINISHED, ResultsTable, Trial, TrialRecord

KEPT = b"mine"
TRIAL = Trial(7, {}, "paper")
PANEL = marked.Panel(Image.new("RGB", (178, 218)), Box(0, 30, 178), np.zeros((0, 2)), "", True, [])


def contents(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def plant(link: Path, victim: Path, leads_to: str) -> None:
    """Make `link` lead to a file, a folder or a free name in the folder `victim`."""
    for step in (1, 2):
        (victim / "folder" / "checkpoints" / f"step-{step:08d}.g0001").mkdir(parents=True)
        (
            victim / "folder" / "checkpoints" / f"step-{step:08d}.g0001" / "manifest.json"
        ).write_bytes(KEPT)
    (victim / "folder" / "0001").mkdir()
    (victim / "file").write_bytes(KEPT)
    (victim / "folder" / "file").write_bytes(KEPT)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(victim / leads_to)


def claimed(run: Path) -> Generation:
    return generations.claim(run, None, None)


def beaten(run: Path) -> None:
    with generations.beating(Generation(1, run / "generations" / "0001")):
        pass


def tidied(run: Path) -> None:
    """Remove an old checkpoint, and half-written ones."""
    for step in (1, 2) if not (run / "checkpoints").is_symlink() else ():
        folder = run / "checkpoints" / f"step-{step:08d}.g0001"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / checkpoint.MANIFEST).write_text("{}")
    checkpoint.tidy(run, Generation(1, run), 1, 0)
    checkpoint.clear_partial(run, Generation(2, run))


def adopted(run: Path) -> None:
    (run / "from").mkdir()
    (run / "from" / "weights").write_bytes(b"weights")
    checkpoint.copy_by_links(run / "from", checkpoint.path_of(run, 1, 1), run)


def described(run: Path) -> None:
    run_folder.describe(run, "pretrain", RegressionConfig())


def watched(run: Path) -> None:
    watchdog.Watchdog(run, 0, 1, 60).close()


def written(run: Path) -> None:
    writer = metrics_log.Writer(run, Generation(1, run), Place(0, 1, torch.device("cpu")), 0)
    writer.write(1, loss=1.0)
    writer.close()


def tracked(run: Path) -> None:
    trackers.Tracking("wandb", run, {}).close()


def evaluated(run: Path) -> None:
    save_regressor(
        run / "regressors" / "a.safetensors",
        LandmarkRegressor(4, 5, RegressionConfig()),
        "mafl",
        RegressionConfig(),
        {},
        stride=4,
    )


def measured(run: Path) -> None:
    unit = units.Unit(run / "measured" / "a.npz", "a", lambda advance: {"a": np.zeros(1)})
    units.measure_units([unit], Generation(1, run), Place(0, 1, torch.device("cpu")))


def swept(run: Path) -> None:
    """Write a trial of a sweep and the table of results."""
    trials.refuse_links(run)
    trials.write_trial(run, TRIAL)
    ResultsTable(run, []).rewrite(iter([]))


def ended(run: Path) -> None:
    for act in (
        lambda: trials.drop_checkpoints(run, TRIAL),
        lambda: trial_process.clear(TRIAL.folder(run)),
        lambda: trials.end_trial(run, TRIAL, FINISHED),
    ):
        try:
            act()
        except (ScemaeError, OSError):
            pass


def submitted(run: Path) -> None:
    chain.make_jobs(run)
    (run / "jobs" / "new").touch()


def snapshot(run: Path) -> None:
    chain.copy_code(run)
    chain.write(run, "local", [])


def drawn(run: Path) -> None:
    write_jpeg(run / "a.jpg", np.zeros((8, 8, 3), np.uint8), 90)


def built(run: Path) -> None:
    """Write an empty shard in a folder that this build has claimed."""
    with claim.claimed(run, {"split": "train"}):
        write.write_shard(write.ShardTask(0, run, "train-000000", [], None, False, False))


CASES: list[tuple[str, str, Callable[[Path], object]]] = [
    ("generations", "folder", claimed),
    ("generations", "new", claimed),
    ("generations/0001/beat", "file", beaten),
    ("generations/0001/beat", "new", beaten),
    ("generations/0001/ended", "file", beaten),
    ("checkpoints", "folder/checkpoints", tidied),
    ("checkpoints/step-00000000.g0001", "folder/checkpoints/step-00000001.g0001", tidied),
    ("checkpoints/step-00000000.g0001.partial", "folder", tidied),
    ("checkpoints", "folder/checkpoints", adopted),
    ("checkpoints/step-00000001.g0001.partial", "folder", adopted),
    ("config.yaml", "file", described),
    ("provenance.json", "new", described),
    ("rank-0000.log", "file", watched),
    ("failed-0000.txt", "file", lambda run: run_folder.write_failure(run, 0, "why")),
    ("metrics.jsonl", "file", written),
    ("tensorboard", "folder", written),
    ("tracker.json", "file", tracked),
    ("wandb", "folder", tracked),
    ("ledger.jsonl", "file", lambda run: Rows(run / "ledger.jsonl").write({"step": 1})),
    ("regressors", "folder", evaluated),
    ("regressors/a.safetensors", "file", evaluated),
    ("regressors/a.safetensors.partial", "file", evaluated),
    ("measured", "folder", measured),
    ("measured/a.npz", "new", measured),
    ("claims", "folder", measured),
    (
        "claims/a.npz",
        "new",
        lambda run: list(
            units._claim_units([units.Unit(run / "a.npz", "", dict, 0)], run / "claims")
        ),
    ),
    (
        "pairs-x",
        "file",
        lambda run: mapped_arrays.write_arrays(run / "pairs-x", {}, {"a": np.zeros(1)}),
    ),
    (
        "tokens",
        "folder",
        lambda run: mapped_arrays.write_arrays(run / "tokens" / "pairs", {}, {"a": np.zeros(1)}),
    ),
    ("match.png", "file", lambda run: marked.draw([PANEL], run / "match.png")),
    ("match.png.partial", "file", lambda run: marked.draw([PANEL], run / "match.png")),
    ("jobs", "folder", submitted),
    ("jobs/77_0_log.out", "file", submitted),
    ("code", "folder", snapshot),
    ("code.partial", "folder", snapshot),
    ("chain.json", "file", snapshot),
    ("a.jpg", "file", drawn),
    (".build", "folder", built),
    (".build/plan.json", "new", built),
    (".build/train-000000.json", "file", built),
    ("train-000000.tar", "file", built),
    ("train-000000.index", "file", built),
    ("manifest.json", "file", lambda run: write_manifest(run, Manifest("a", "train", 0, []))),
    ("trials", "folder", swept),
    ("trials/000007", "folder", swept),
    ("trials/000007/run", "folder", swept),
    ("trials/000007/run", "folder", ended),
    ("trials/000007/run/checkpoints", "folder", ended),
    ("trials/000007/tokens", "folder", ended),
    ("trials/000007/end.json", "file", ended),
    ("results.csv", "file", lambda run: ResultsTable(run, []).rewrite(iter([]))),
    ("results.partial", "file", lambda run: ResultsTable(run, []).rewrite(iter([]))),
    (
        "results.csv",
        "new",
        lambda run: ResultsTable(run, []).append(TrialRecord(7, {}, "paper", FINISHED)),
    ),
    ("token", "file", coordinator._token),
    ("token", "new", coordinator._token),
    ("token.partial", "file", coordinator._token),
    ("weights", "file", lambda run: write_tensors(run / "weights", {}, {})),
]


@pytest.mark.parametrize(
    ("name", "leads_to", "act"),
    CASES,
    ids=[f"{name}->{leads_to}-{getattr(act, '__name__', '')}" for name, leads_to, act in CASES],
)
def test_a_planted_link_is_not_written_through(tmp_path, name, leads_to, act):
    run, victim = tmp_path / "run", tmp_path / "victim"
    plant(run / name, victim, leads_to)
    before = contents(victim)
    try:
        act(run)
    except (ScemaeError, OSError):
        pass  # refusing is as good as writing elsewhere
    assert contents(victim) == before


def test_building_a_folder_aside_keeps_a_folder_of_the_user(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "notes").write_bytes(KEPT)
    with disk.building(tmp_path / "out") as aside:
        (aside / "made").touch()
    with pytest.raises(OSError, match="not empty"), disk.building(tmp_path / "out"):
        pass
    assert contents(tmp_path) == {
        "out.partial": b"",
        "out.partial/notes": KEPT,
        "out": b"",
        "out/made": b"",
    }


@pytest.mark.parametrize(("mode", "owner"), [(0o666, 0), (0o640, 0), (0o600, 12345)])
def test_a_secret_that_others_can_read_is_refused(tmp_path, mode, owner):
    (tmp_path / "token").write_text("0" * 64)
    (tmp_path / "token").chmod(mode)
    if owner and os.geteuid():
        pytest.skip("only root can give a file to somebody else")
    if owner:
        os.chown(tmp_path / "token", owner, -1)
    with pytest.raises(FileError, match="may know .*mode 600; remove it"):
        coordinator._token(tmp_path)


def test_a_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path):
    path = coordinator._token(tmp_path)
    secret = path.read_text()
    assert coordinator._token(tmp_path) == path and path.read_text() == secret and len(secret) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("")  # as if the process that made it was killed
    assert len(coordinator._token(tmp_path).read_text()) == 64


def test_a_folder_named_code_of_the_user_is_not_replaced(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_bytes(KEPT)
    with pytest.raises(ConfigError, match="found something that `scemae submit` did not make"):
        chain.copy_code(tmp_path)
    assert contents(tmp_path) == {"code": b"", "code/mine.py": KEPT}
    shutil.rmtree(tmp_path / "code")
    for _ in range(2):  # a copy made by `scemae submit` is replaced
        chain.copy_code(tmp_path)
    assert chain.is_copy(tmp_path / "code") and [path.name for path in tmp_path.iterdir()] == [
        "code"
    ]


def test_a_build_removes_only_its_own_half_written_files(tmp_path):
    for name in ("notes.partial-1", "train-000000.tar.partial-77", "manifest.json.partial-0ab1"):
        (tmp_path / name).write_bytes(KEPT)
    with claim.claimed(tmp_path, {"split": "train"}):
        assert {path.name for path in tmp_path.iterdir()} == {".build", "notes.partial-1"}


def test_a_link_among_the_files_of_a_checkpoint_is_refused(tmp_path):
    (tmp_path / "secret").write_bytes(KEPT)
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "weights").symlink_to(tmp_path / "secret")
    with pytest.raises(ScemaeError, match="found a link"):
        checkpoint.copy_by_links(tmp_path / "from", checkpoint.path_of(tmp_path, 1, 1), tmp_path)
    assert os.stat(tmp_path / "secret").st_nlink == 1
