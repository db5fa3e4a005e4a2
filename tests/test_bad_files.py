"""Files of others, each with something wrong in it: one sentence that names the file, and the field where there is one."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from scemae import checkpoint, config, restore, rivals, subjects
from scemae.data.manifest import read_manifest, write_manifest
from scemae.data.reader import open_shards
from scemae.errors import CheckpointError, ShardError
from scemae.models.projector import Projector
from scemae.tensor_file import write_tensors
from tests.support import digest, write_backbone, write_shards


def put(value: Any, place: str, new: Any) -> Any:
    """`value` with `new` at a dotted place, "shards.0.file" say; "" is the whole, and None there removes it."""
    if not place:
        return new
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    inner = value
    for part in path:
        inner = inner[part]
    inner[last] = new
    return value


def alter(path: Path, place: str, new: Any) -> None:
    path.write_text(json.dumps(put(json.loads(path.read_text()), place, new)))


def reindexed(folder: Path, change: Any) -> Path:
    """The shards of `folder` with the index of the first one changed, and a manifest that knows its digest."""
    path = folder / "train-000000.index.json"
    index = json.loads(path.read_text())
    changed = change(index)
    path.write_text(json.dumps(index if changed is None else changed))
    manifest = read_manifest(folder)
    manifest.shards[0].index_sha256 = digest(path)
    write_manifest(folder, manifest)
    return folder


@pytest.mark.parametrize(("place", "new", "words"), [
    ("", [], "manifest.json: found"), ("", None, "manifest.json: found"), ("format_version", [1], "shard format"),
    ("samples", "4", r"\$.samples"), ("samples", -4, r"\$.samples"), ("samples", 2**62, r"\$.samples"),
    ("samples", 5, "says 5 samples"), ("shards", {}, r"\$.shards"), ("shards.0", 7, r"\$.shards"),
    ("shards.0.bytes", 2**62, "bytes"), ("shards.0.bytes", 1e999, "manifest.json: found"), ("shards.0.samples", 2.5, "samples"),
    ("shards.0.sha256", "0" * 63, "sha256"), ("shards.0.sha256", 0, "sha256"), ("shards.1.file", "train-000000.tar", "more than once"),
    ("shards.0.file", "../../x.tar", "plain file name"), ("shards.0.file", "/etc/x.tar", "plain file name"),
    ("shards.0.file", "a\0.tar", "plain file name"), ("shards.0.file", "manifest.json", "plain file name"),
    ("shards.0.file", "a;b.tar", "plain file name"), ("left_out", [1], "left_out"), ("left_out", [{"file": 1}], "left_out"),
    ("excluded", {"x": "1"}, "excluded"), ("options", [], "options"), ("options", {"official_samples": "x"}, "official_samples"),
    ("options", {"frame": 7}, "frame"), ("dataset", None, "dataset")])
def test_a_manifest_with_something_wrong_is_named_with_its_field(tmp_path, place, new, words):
    folder = write_shards(tmp_path / "shards", 4)
    alter(folder / "manifest.json", place, new)
    with pytest.raises(ShardError, match=words) as error:
        open_shards(str(folder))
    assert "manifest.json" in str(error.value)


def test_a_manifest_of_another_version_is_read_with_fields_that_are_new_and_without_those_that_were(tmp_path):
    folder = write_shards(tmp_path / "shards", 4)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"colour": "grey"}
    del manifest["options"], manifest["excluded"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert len(open_shards(str(folder))) == 4


@pytest.mark.parametrize(("place", "new", "words"), [
    ("", [], "index.json: found"), ("keys", 3, r"\$.keys"), ("keys.0", "a/b", r"\$.keys"), ("keys.0", "\u001b[2J", r"\$.keys"),
    ("keys.1", "000000", "more than once"), ("keys", [], "lists 0 samples"), ("jpg", [], "0 JPEGs"),
    ("jpg.0", [512], r"\$.jpg"), ("jpg.0", ["512", 3], r"\$.jpg"), ("jpg.0", [-512, 3], r"\$.jpg"), ("jpg.0", [2**62, 3], r"\$.jpg"),
    ("jpg.0.0", 513, "begins at byte 513"), ("jpg.1.0", 512, "begins at byte 512"), ("jpg.0.1", 2**40, "member of"),
    ("jpg.1.1", 4, "begins at byte"), ("json.1.1", 2**20, "end at byte")])
def test_an_index_with_something_wrong_is_refused_when_it_is_opened(tmp_path, place, new, words):
    folder = reindexed(write_shards(tmp_path / "shards", 4), lambda index: put(index, place, new))
    with pytest.raises(ShardError, match=words) as error:
        open_shards(str(folder))
    assert "train-000000.index.json" in str(error.value)


@pytest.mark.parametrize("change", [
    lambda index: [places.reverse() for places in index.values()],                     # other keys, each with its own
    lambda index: index["json"].reverse(), lambda index: index["jpg"].reverse(),       # annotations or pictures moved
    lambda index: [index.update(jpg=index["json"], json=index["jpg"])],                # one taken for the other
    lambda index: [places.pop() for places in index.values()]])                        # one left out
def test_an_index_that_moves_annotations_to_other_faces_is_refused(tmp_path, change):
    folder = write_shards(tmp_path / "shards", 4)
    with pytest.raises(ShardError, match="train-000000.index.json"):
        open_shards(str(reindexed(folder, lambda index: change(index) and None)))


def test_a_key_that_is_not_the_one_in_the_tar_is_refused_when_it_is_read(tmp_path):
    shards = open_shards(str(reindexed(write_shards(tmp_path / "shards", 4), lambda index: index["keys"].reverse())))
    for read in (shards.jpeg, shards.annotation):
        with pytest.raises(ShardError, match=r"train-000000.tar: found '000000.(jpg|json)' where its index names 000001"):
            read(0)
    assert shards.jpeg(2)


@pytest.mark.parametrize(("text", "words"), [
    ('[1]', "Expected `object`"), ('{"landmarks": 3}', "landmarks"), ('{"landmarks": [[1, 2, 3]]}', "landmarks"),
    ('{"landmarks": [["1", 2]]}', "landmarks"), ('{"landmarks": [[NaN, 2]]}', "000000.json"),
    ('{"landmarks": [[1e300, 2]]}', "landmarks"), ('{"landmarks": [[1e999, 2]]}', "000000.json"), ('{"identity": "me"}', "identity"),
    ('{"identity": 1e30}', "identity"), ('{"box": {"x": 1}}', "box"), ('{"box": [null]}', "box"), ('{"file": 1}', "file"), ("{", "000000.json")])
def test_an_annotation_with_something_wrong_is_named_with_its_field(tmp_path, text, words):
    folder = write_shards(tmp_path / "shards", 4)
    start, size = json.loads((folder / "train-000000.index.json").read_text())["json"][0]
    with open(folder / "train-000000.tar", "r+b") as tar:
        tar.seek(start)
        tar.write(text.encode().ljust(size))
    with pytest.raises(ShardError, match=words) as error:
        open_shards(str(folder)).annotation(0)
    assert "train-000000.tar: 000000.json" in str(error.value)


@pytest.mark.parametrize("name", ["manifest.json", "train-000000.index.json", "train-000000.tar"])
@pytest.mark.parametrize("lead", ["/dev/zero", "pipe"])
def test_shards_that_lead_to_a_device_or_a_pipe_are_not_opened(tmp_path, name, lead):
    path = write_shards(tmp_path / "shards", 4) / name
    path.unlink()
    os.symlink(lead, path) if lead == "/dev/zero" else os.mkfifo(path)
    with pytest.raises(ShardError, match=f"{name}: found no regular file"):
        open_shards(str(path.parent))


def test_of_several_splits_those_that_fit_are_advised(tmp_path):
    for split in ("mafl-test", "mafl-train", "train", "val"):
        write_shards(tmp_path / split, 2)
    with pytest.raises(ShardError, match=f"give {tmp_path}/train to train on, or {tmp_path}/mafl-test to test on"):
        open_shards(str(tmp_path))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders of stage 1, by method: "mae" and "dve"."""
    folder = tmp_path_factory.mktemp("runs")
    write_backbone(folder / "mae")
    method = rivals.find("dve", 1)
    settings = method.Settings(width=16, depth=1, blocks=1, dim=8)
    write_run(folder / "dve", method.build(settings, image_size=96, seed=0), {"method": rivals.described("dve", settings)})
    return folder


def write_run(run, module, settings, stage="pretrain"):
    """A run folder with one checkpoint of `module`."""
    folder = checkpoint.path_of(run, 1, 1)
    folder.mkdir(parents=True)
    arrays = {name: value.contiguous().numpy() for name, value in module.state_dict().items()}
    written = write_tensors(folder / checkpoint.WEIGHTS, arrays, {"format": "pt"})
    (run / "generations" / "0001").mkdir(parents=True)
    (run / "generations" / "0001" / "base.json").write_text('{"step": 0}')
    checkpoint.write_state(folder, checkpoint.TrainState(1, 0, 1, 0, stage, settings, "", 1, 1, files=[asdict(written)]))
    return folder


def forged(run, target, place, new):
    """A copy of a run whose checkpoint's manifest says `new` at `place`, with a hash that knows it."""
    shutil.copytree(run, target)
    path = next(target.glob("checkpoints/*/manifest.json"))
    raw = put(json.loads(path.read_text()), place, new)
    if isinstance(raw, dict):
        raw["manifest_hash"] = checkpoint.hash_of({**raw, "manifest_hash": ""})
    path.write_text(json.dumps(raw))
    return target


BAD_STATES = [
    ("", [], "manifest.json"), ("", 3, "manifest.json"), ("global_step", "1", "global_step"), ("global_step", -1, "global_step"),
    ("global_step", 2**62, "global_step"), ("files", [{"file": "x"}], "files"), ("files.0.file", "../../x", "file"), ("skips", {"x": "y"}, "skips"),
    ("settings", [], "settings"), ("settings.model", 3, "model"), ("settings.model", {}, "model"), ("settings.model.width", "x", "width"),
    ("settings.model.width", 40000, "width"), ("settings.model.width", 4800, "holds another model"), ("settings.model.width", -48, "width"),
    ("settings.model.depth", 10**9, "depth"), ("settings.model.depth", 5, "holds another model"), ("settings.model.heads", 0, "heads"),
    ("settings.model.image_size", 10**9, "image_size"), ("settings.model.patch_size", 0, "patch_size"), ("settings.model.patch_size", 12, "holds another"),
    ("settings.optim", {"global_batch_size": "x"}, "global_batch_size"), ("files", [], "cannot be read")]


@pytest.mark.parametrize(("place", "new", "words"), BAD_STATES)
def test_a_checkpoint_with_something_wrong_in_its_manifest_is_named(runs, tmp_path, place, new, words):
    with pytest.raises(CheckpointError, match=words) as error:
        subjects.from_backbone(forged(runs / "mae", tmp_path / "run", place, new), [])
    assert "step-00000001.g0001" in str(error.value)


@pytest.mark.parametrize(("place", "new", "words"), [
    ("settings.method", 7, "method"), ("settings.method.name", [], "name"), ("settings.method.settings", [1], "settings"),
    ("settings.method.settings.width", "x", "width"), ("settings.method.settings.width", 40000, "holds another model"),
    ("settings.method.settings.width", 10**12, "give no network"), ("settings.method.settings.width", 17, "give no network"),
    ("settings.method.settings.depth", 10**9, "depth"), ("settings.method.settings.dim", 10**9, "holds another model")])
def test_a_rivals_checkpoint_with_something_wrong_is_named_and_nothing_large_is_made(runs, tmp_path, place, new, words):
    with pytest.raises(CheckpointError, match=words) as error:
        subjects.load_trunk(forged(runs / "dve", tmp_path / "run", place, new))
    assert "step-00000001.g0001" in str(error.value)


@pytest.mark.parametrize(("place", "new", "words"), [
    ("settings.carb", None, "carb"), ("settings.carb.dim", 10**9, "holds another model"), ("settings.carb.dim", -1, "give no network"),
    ("settings.carb.dim", 10**18, "give no network"), ("settings.carb.projector", "x", "projector"), ("settings.width", 40000, "holds another"),
    ("settings.backbone", 3, "backbone"), ("settings.backbone", "", "other weights")])
def test_a_projectors_checkpoint_with_something_wrong_is_named_and_nothing_large_is_made(runs, tmp_path, place, new, words):
    carb = config.load("correspond", ["run_dir=-", "backbone=-", "data.shards=-", "carb.dim=8"]).carb
    backbone = checkpoint.newest(runs / "mae")
    settings = {"carb": asdict(carb), "width": 48, "backbone": checkpoint.weights_digest(backbone)}
    write_run(tmp_path / "carb", Projector("linear", 48, 8), settings, "correspond")
    assert restore.load_projector(tmp_path / "carb", backbone)[1] == carb
    with pytest.raises(CheckpointError, match=words):
        restore.load_projector(forged(tmp_path / "carb", tmp_path / "run", place, new), backbone)
