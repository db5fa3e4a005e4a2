"""Checkpoints are complete or absent, damage is found, old starts cannot touch new ones' files."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from scemae.config.schema.training import Optim, Runtime
from scemae.distributed import engine as engines
from scemae.distributed import zero_state
from scemae.distributed.launchers import NAMES
from scemae.distributed.process_group import process_group
from scemae.errors import CheckpointError
from scemae.files import disk
from scemae.runs.checkpoints import checkpoint, resume
from scemae.runs.checkpoints.checkpoint import TrainState, committed, place_of
from scemae.runs.checkpoints.save import Saver, save_now
from scemae.runs.checkpoints.tensor_file import write_tensors
from scemae.runs.generations import claim
from tests.support import REPO, program, small_disk

OPTIM = Optim(
    name="adamw",
    lr=0.1,
    betas=[0.9, 0.99],
    weight_decay=0.1,
    warmup_epochs=0,
    min_lr=0,
    clip_grad=0,
    epochs=1,
    global_batch_size=1,
)


@pytest.fixture(scope="module")
def place():
    with process_group("cpu") as found:
        yield found


def make_engine(place, stage=1, seed=0, precision="fp32", offload=False):
    torch.manual_seed(seed)
    module = torch.nn.Sequential(
        torch.nn.Linear(3, 5), torch.nn.LayerNorm(5), torch.nn.Linear(5, 1)
    )
    runtime = Runtime(
        device="cpu",
        precision=precision,
        zero_stage=stage,
        offload=offload,
        compile=False,
        micro_batch_size=1,
        workers=1,
        tier="auto",
        hang_seconds=60,
    )
    return engines.start(module, OPTIM, runtime, place, 1)


def step(engine, times=1):
    for turn in range(times):
        images = torch.linspace(-1, 1, 6).view(2, 3) + turn
        loss = engine(images.to(next(engine.module.parameters()).dtype)).float().square().mean()
        engine.backward(loss)
        engine.step()
    return loss.item()


def state(at):
    return TrainState(at, 0, 1, 1, "pretrain", {"model": "small"}, "digest", 1)


@pytest.fixture
def engine(place):
    return make_engine(place)


class Start:
    """One start of a run in this process, which may have a successor without knowing it."""

    def __init__(self, run_dir, place, keep=2, keep_every=0):
        for old in (run_dir / "generations").glob("*"):
            (old / "ended").touch()
        self.run_dir, self.place = run_dir, place
        self.generation = claim(run_dir, None, None)
        self.saver = Saver(
            run_dir,
            place,
            self.generation,
            keep=keep,
            keep_every=keep_every,
            whole_weights=engines.full_weights,
        )

    def adopt_newest(self):
        found = resume.adopt_newest(self.run_dir, self.place, self.generation, state(0), 10**6)
        if found is None:
            self.generation.record_base(0)
        return found

    def save(self, engine, at):
        save_now(self.saver, engine, state(at))


@pytest.fixture
def first(tmp_path, place):
    """A first start that has begun from scratch."""
    begun = Start(tmp_path, place)
    assert begun.adopt_newest() is None
    return begun


def names(run_dir):
    return [path.name for path in committed(run_dir)]


KINDS = {  # ZeRO stage, precision, offload
    "0": (0, "fp32", False),
    "1": (1, "fp32", False),
    "2": (2, "fp32", False),
    "3": (3, "fp32", False),
    "1 offload": (1, "fp32", True),
    "2 offload": (2, "fp32", True),
    "3 offload": (3, "fp32", True),
    "1 bf16": (1, "bf16", False),
    "2 bf16": (2, "bf16", False),
    "3 bf16": (3, "bf16", False),
}


def make_kind(place, kind, seed=0):
    stage, precision, offload = KINDS[kind]
    return make_engine(place, stage, seed, precision, offload)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("0", "1"),
        ("1", "3"),
        ("3", "2"),
        ("2", "0"),
        ("3", "3"),
        ("1 offload", "2"),
        ("3", "1 offload"),
        ("2 offload", "3 offload"),
        ("1 bf16", "3 bf16"),
        ("3 bf16", "2 bf16"),
        ("2 bf16", "1 bf16"),
    ],
)
def test_any_zero_stage_goes_on_from_any_other_to_the_bit(tmp_path, place, before, after):
    run, old = Start(tmp_path, place), make_kind(place, before)
    run.adopt_newest()
    step(old, 3)
    run.save(old, 3)
    new = make_kind(place, after, seed=1)
    step(new)  # so that it has moments and weights to lose
    found = resume.resume(new, run.adopt_newest() or committed(tmp_path)[-1], state(0), place)
    assert found.global_step == 3
    assert [step(old) for _ in range(3)] == [step(new) for _ in range(3)]
    one, other = (engines.full_weights(each, True) for each in (old, new))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_groups_keep_their_own_weight_decay_and_step_count(first, tmp_path, place):
    engine = make_engine(place, 3)
    step(engine, 2)
    first.save(engine, 2)
    new = make_engine(place, 3, seed=1)
    resume.resume(new, committed(tmp_path)[-1], state(0), place)
    assert [group["weight_decay"] for group in new.optimizer.param_groups] == [0.1, 0.0]
    step(new)
    steps = [values["step"].item() for values in new.optimizer.optimizer.state.values() if values]
    assert set(steps) == {3.0}


def test_a_checkpoint_is_what_its_manifest_says_and_holds_no_pickle(first, tmp_path, engine):
    step(engine)
    first.save(engine, 1)
    folder = committed(tmp_path)[0]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {entry["file"] for entry in manifest["files"]} == {p.name for p in folder.iterdir()} - {
        "manifest.json"
    }
    assert all(
        disk.file_digest(folder / entry["file"]) == entry["sha256"] for entry in manifest["files"]
    )
    assert {
        "global_step",
        "world_size",
        "zero_stage",
        "seed",
        "order_version",
        "config_hash",
        "generation",
        "format_version",
    } <= set(manifest)
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_what_write_tensors_writes_safetensors_reads(tmp_path):
    arrays = {
        "a": torch.randn(3, 2).numpy(),
        "b": torch.randn(1).numpy(),
        "c": torch.zeros(0).numpy(),
    }
    written = write_tensors(tmp_path / "x.safetensors", arrays, {"format": "pt"})
    read = load_file(tmp_path / "x.safetensors")
    assert all(
        (read[name].numpy() == array).all() and read[name].shape == array.shape
        for name, array in arrays.items()
    )
    assert (written.bytes, written.sha256) == (
        (tmp_path / "x.safetensors").stat().st_size,
        disk.file_digest(tmp_path / "x.safetensors"),
    )


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a flipped bit": (
        lambda folder: flip(next(folder.glob("moments-*"))),
        "its SHA-256 is not its manifest's",
    ),
    "a truncated file": (
        lambda folder: (folder / "weights.safetensors").write_bytes(
            (folder / "weights.safetensors").read_bytes()[:-9]
        ),
        "its manifest says",
    ),
    "a missing rank's file": (
        lambda folder: next(folder.glob("moments-*")).unlink(),
        "No such file",
    ),
    "an emptied manifest": (
        lambda folder: (folder / "manifest.json").write_text(""),
        "cannot be read",
    ),
    "an altered manifest": (
        lambda folder: (folder / "manifest.json").write_text(
            json.dumps({**json.loads((folder / "manifest.json").read_text()), "global_step": 508})
        ),
        "it was altered",
    ),
    "a folder in place of a file": (
        lambda folder: [
            (folder / "weights.safetensors").unlink(),
            (folder / "weights.safetensors").mkdir(),
        ],
        "weights.safetensors: ",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_and_the_one_before_taken(first, tmp_path, place, engine, kind, capfd):
    harm, sentence = DAMAGES[kind]
    first.save(engine, 1)
    first.save(engine, 2)
    harm(committed(tmp_path)[-1])
    found = Start(tmp_path, place).adopt_newest()
    assert place_of(found)[0] == 1
    warning = capfd.readouterr().err
    assert sentence in warning and "step-00000002.g0001" in warning and "going back" in warning


def test_if_none_is_whole_it_stops_and_never_starts_from_scratch(first, tmp_path, place, engine):
    first.save(engine, 1)
    first.save(engine, 2)
    for folder in committed(tmp_path):
        flip(folder / "weights.safetensors")
    with pytest.raises(CheckpointError, match="found 2 checkpoints and none of them whole"):
        Start(tmp_path, place).adopt_newest()


def test_if_the_checkpoints_are_gone_it_stops_too(first, tmp_path, place, engine):
    first.save(engine, 1)
    (first.generation.folder / "ledger.jsonl").write_text(
        '{"step": 1, "loss": 1.0, "digest": ""}\n'
    )
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="found no checkpoint although 1 steps were trained"):
        Start(tmp_path, place).adopt_newest()


def test_other_formats_are_refused_with_a_clear_message(first, tmp_path, place, engine):
    first.save(engine, 1)
    path = committed(tmp_path)[-1] / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 3}))
    with pytest.raises(CheckpointError, match="found checkpoint format 3, this version reads 2"):
        checkpoint.read_state(path.parent)
    (tmp_path / "old" / "checkpoints" / "step-00000500").mkdir(parents=True)
    (tmp_path / "old" / "checkpoints" / "step-00000500" / "state.json").touch()
    with pytest.raises(CheckpointError, match="found checkpoint format 1, this version reads 2"):
        checkpoint.newest(tmp_path / "old")


def test_the_newest_stay_and_every_nth(tmp_path, place, engine):
    run = Start(tmp_path, place, keep=2, keep_every=3)
    run.adopt_newest()
    for at in range(8):
        run.save(engine, at)
    assert [place_of(path)[0] for path in committed(tmp_path)] == [0, 3, 6, 7]


def test_what_a_superseded_start_saves_and_prunes_never_touches_the_runs_state(
    first, tmp_path, place, engine
):
    first.save(engine, 1)
    first.save(engine, 2)
    second = Start(tmp_path, place)  # the first one's node is cut off; it lives on
    assert second.adopt_newest().name == "step-00000002.g0002"
    step(engine)
    second.save(engine, 3)
    before = {path.name: checkpoint.damage(path) for path in committed(tmp_path)}
    for at in (3, 4, 5, 6):
        first.save(engine, at)  # saves, and would prune 2 and 3
    checkpoint.tidy(tmp_path, first.generation, 1, 0)
    assert {path.name: checkpoint.damage(path) for path in committed(tmp_path)} == before
    assert before == {"step-00000002.g0002": None, "step-00000003.g0002": None}
    third = Start(tmp_path, place)
    assert third.adopt_newest().name == "step-00000003.g0003"


def test_an_old_start_that_prunes_in_the_middle_of_a_take_over_cannot_hurt_it(
    first, tmp_path, place, engine, monkeypatch
):
    first.save(engine, 1)
    first.save(engine, 2)
    second, adopt = Start(tmp_path, place), checkpoint.adopt

    def pruned_first(folder, *rest):
        monkeypatch.setattr(checkpoint, "adopt", adopt)
        first.save(engine, 3)
        checkpoint.remove(folder)
        return adopt(folder, *rest)

    monkeypatch.setattr(checkpoint, "adopt", pruned_first)
    assert second.adopt_newest().name == "step-00000003.g0002"


def test_steps_that_an_old_start_commits_after_the_take_over_do_not_count(
    first, tmp_path, place, engine
):
    second = Start(tmp_path, place)
    second.adopt_newest()  # from scratch too: the first had saved nothing
    first.save(engine, 5)
    assert names(tmp_path) == []
    assert Start(tmp_path, place).adopt_newest() is None


def test_a_finished_run_stays_as_it_is(first, tmp_path, place, engine):
    first.save(engine, 7)
    second = Start(tmp_path, place)
    assert (
        resume.adopt_newest(tmp_path, place, second.generation, state(0), 7).name
        == "step-00000007.g0001"
    )
    assert names(tmp_path) == ["step-00000007.g0001"]


@pytest.mark.parametrize("point", ["write", "fsync", "manifest", "rename"])
def test_a_failed_save_costs_that_save_alone(first, tmp_path, engine, monkeypatch, point, capfd):
    first.save(engine, 1)
    monkeypatch.setenv("SCEMAE_FAULTS", f"full@{point}:step=2")
    assert "No space left" in (first.saver.begin(engine, state(2)) or first.saver.finish())
    assert "the checkpoint of step 2 was not saved" in capfd.readouterr().err
    first.save(engine, 3)
    whole = [path for path in committed(tmp_path) if checkpoint.damage(path) is None]
    # Renamed, but not known to be durable: that one is whole, and may count.
    assert [place_of(path)[0] for path in whole] == ([2, 3] if point == "rename" else [1, 3])
    assert not list(tmp_path.rglob("*.partial"))


def test_weights_that_are_no_numbers_are_not_saved(first, tmp_path, engine):
    first.save(engine, 1)
    zero_state.held(engine)[0].weights[0] = float("nan")
    zero_state.finish_load(engine, 1)
    assert "not finite" in (first.saver.begin(engine, state(2)) or first.saver.finish())
    assert names(tmp_path) == ["step-00000001.g0001"]


def test_a_real_full_disk_leaves_the_last_checkpoint_whole(tmp_path, place, engine):
    with small_disk(tmp_path / "disk", "2m") as disk:
        run = Start(disk, place)
        run.adopt_newest()
        run.save(engine, 1)
        (disk / "other").write_bytes(bytes(1 << 20))
        failure = run.saver.begin(engine, state(2)) or run.saver.finish()
        assert "MiB free" in failure or "No space" in failure
        assert [checkpoint.damage(path) for path in committed(disk)] == [None]
        (disk / "other").unlink()
        run.save(engine, 3)
        assert place_of(committed(disk)[-1])[0] == 3


SAVE_ONCE = """
import sys; from pathlib import Path; sys.path.insert(0, {repo!r})
from tests.runs.test_checkpoint import Start, make_engine, process_group
with process_group("cpu") as place:
    run = Start(Path({run!r}), place)
    run.adopt_newest()
    run.save(make_engine(place), 1)
    import os; os._exit(0)
"""


def test_files_are_synced_before_the_rename_and_folders_after(tmp_path):
    code = SAVE_ONCE.format(repo=str(REPO), run=str(tmp_path / "run"))
    alone = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [
            program("strace"),
            "-f",
            "--seccomp-bpf",  # no other call of the process is slowed down
            "-y",
            "-e",
            "trace=fsync,rename,renameat,renameat2",
            "-o",
            tmp_path / "calls",
            sys.executable,
            "-c",
            code,
        ],
        capture_output=True,
        text=True,
        env=alone,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    calls = [
        line.split(None, 1)[1]
        for line in (tmp_path / "calls").read_text().splitlines()
        if "checkpoints" in line
    ]
    kinds = [
        ("sync " if call.startswith("fsync") else "rename ")
        + call.split("checkpoints")[-1].split('"')[0].split(">")[0]
        for call in calls
    ]
    aside, final = "/step-00000001.g0001.partial", "/step-00000001.g0001"
    commit = kinds.index(f"rename {final}")
    before, after = kinds[:commit], kinds[commit + 1 :]
    synced = [kind for kind in before if kind.startswith("sync")]
    assert f"sync {aside}/weights.safetensors" in synced
    assert f"sync {aside}/moments-0001-of-0001.safetensors" in synced
    assert any(kind.startswith(f"sync {aside}/manifest.json.partial") for kind in synced)
    assert synced[-1] == f"sync {aside}", "the folder is synced last, with all names in it"
    assert after[0] == "sync ", "then the folder above, so that the new name lasts"


def test_loading_more_than_once_changes_nothing(first, tmp_path, place, engine):
    step(engine, 2)
    first.save(engine, 2)
    folder = committed(tmp_path)[-1]
    for _ in range(2):
        resume.resume(engine, folder, replace(state(0)), place)
    assert all(
        torch.equal(load_file(folder / "weights.safetensors")[name], value)
        for name, value in engines.full_weights(engine, True).items()
    )
