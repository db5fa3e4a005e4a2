"""Invalid files of others are refused in one sentence that names the file and the field."""

import io
import json
import os
import shutil
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import xxhash

from scemae.cluster import chain
from scemae.config.load import configs_dir, load_config
from scemae.data.storage.index_file import read_index
from scemae.data.storage.manifest import read_manifest, write_manifest
from scemae.data.storage.shard_set import open_shards
from scemae.errors import CheckpointError, ConfigError, RunFolderError, ScemaeError, ShardError
from scemae.evaluation import subjects
from scemae.evaluation.landmarks.benchmarks import find_benchmark
from scemae.evaluation.landmarks.pairs import load_pairs
from scemae.evaluation.landmarks.regressor_file import load_regressor
from scemae.evaluation.projection import load_trunk
from scemae.evaluation.report import report
from scemae.files import arrays, disk, documents, mapped_arrays
from scemae.methods import carb as carb_method
from scemae.methods import mae, registry
from scemae.runs import generations, goodput, lineage, verify
from scemae.runs.checkpoints import checkpoint
from scemae.runs.checkpoints.tensor_file import write_tensors
from scemae.shards.describe import describe
from scemae.sweep import sweep_folder, trials
from scemae.sweep.coordinator import address_of
from scemae.training import replay
from tests.support import as_earlier_version, digest, write_backbone, write_shards


def put(value: Any, place: str, new: Any) -> Any:
    """`value` with `new` at a dotted place such as "shards.0.file"; "" is the whole value, and
    None removes the place."""
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
    """Change the JSON index of the first shard in `folder`, and its digest in the manifest."""
    as_earlier_version(folder)
    path = folder / "train-000000.index.json"
    index = json.loads(path.read_text())
    changed = change(index)
    path.write_text(json.dumps(index if changed is None else changed))
    manifest = read_manifest(folder)
    manifest.shards[0].index_sha256 = digest(path)
    write_manifest(folder, manifest)
    return folder


@pytest.mark.parametrize(
    ("place", "new", "words"),
    [
        ("", [], "manifest.json: cannot be read"),
        ("", None, "manifest.json: cannot be read"),
        ("format_version", [1], "shard format"),
        ("samples", "4", r"\$.samples"),
        ("samples", -4, r"\$.samples"),
        ("samples", 2**62, r"\$.samples"),
        ("samples", 5, "says 5 samples"),
        ("shards", {}, r"\$.shards"),
        ("shards.0", 7, r"\$.shards"),
        ("shards.0.bytes", 2**62, "bytes"),
        ("shards.0.bytes", 1e999, "manifest.json: cannot be read"),
        ("shards.0.samples", 2.5, "samples"),
        ("shards.0.sha256", "0" * 63, "sha256"),
        ("shards.0.sha256", 0, "sha256"),
        ("shards.1.file", "train-000000.tar", "more than once"),
        ("shards.0.file", "../../x.tar", "plain file name"),
        ("shards.0.file", "/etc/x.tar", "plain file name"),
        ("shards.0.file", "a\0.tar", "NUL"),
        ("shards.0.file", "manifest.json", "plain file name"),
        ("shards.0.file", "a;b.tar", "plain file name"),
        ("left_out", [1], "left_out"),
        ("left_out", [{"file": 1}], "left_out"),
        ("excluded", {"x": "1"}, "excluded"),
        ("options", [], "options"),
        ("options", {"official_samples": "x"}, "official_samples"),
        ("options", {"frame": 7}, "frame"),
        ("dataset", None, "dataset"),
    ],
)
def test_an_invalid_manifest_is_named_with_its_field(tmp_path, place, new, words):
    folder = write_shards(tmp_path / "shards", 4)
    alter(folder / "manifest.json", place, new)
    with pytest.raises(ShardError, match=words) as error:
        open_shards(str(folder))
    assert "manifest.json" in str(error.value)


def test_a_manifest_of_another_version_is_read_with_fields_that_are_new_and_without_those_that_were(
    tmp_path,
):
    folder = write_shards(tmp_path / "shards", 4)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"colour": "grey"}
    del manifest["options"], manifest["excluded"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert len(open_shards(str(folder))) == 4


@pytest.mark.parametrize(
    ("place", "new", "words"),
    [
        ("", [], "index.json: cannot be read"),
        ("keys", 3, r"\$.keys"),
        ("keys.0", "a/b", r"\$.keys"),
        ("keys.0", "\u001b[2J", r"\$.keys"),
        ("keys.1", "000000", "more than once"),
        ("keys", [], "lists 0 samples"),
        ("jpg", [], "0 images"),
        ("jpg.0", [512], r"\$.jpg"),
        ("jpg.0", ["512", 3], r"\$.jpg"),
        ("jpg.0", [-512, 3], r"\$.jpg"),
        ("jpg.0", [2**62, 3], r"\$.jpg"),
        ("jpg.0.0", 513, "begins at byte 513"),
        ("jpg.1.0", 512, "begins at byte 512"),
        ("jpg.0.1", 2**40, "member of"),
        ("jpg.1.1", 4, "begins at byte"),
        ("json.1.1", 2**20, "end at byte"),
    ],
)
def test_an_invalid_json_index_is_refused_when_it_is_opened(tmp_path, place, new, words):
    folder = reindexed(write_shards(tmp_path / "shards", 4), lambda index: put(index, place, new))
    with pytest.raises(ShardError, match=words) as error:
        open_shards(str(folder))
    assert "train-000000.index.json" in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keys": b""}, "do not hold 2 samples"),
        ({"keys": b"000000\n000000\n"}, "000000' more than once"),
        ({"keys": b"000000\na/b\n"}, "a key that no tar"),
        ({"keys": b"000000\n\n"}, "a key that no tar"),
        ({"keys": b"000000\n" + b"k" * 96 + b"\n"}, "a key that no tar"),
        ({"keys": b"000000\n000001\nx"}, "a key that no tar"),
        ({"keys": 3}, r"\$.keys"),
        ({"jpg": bytes(4)}, "do not hold 2 samples"),
        ({"json": bytes(7)}, "do not hold 2 samples"),
        ({"jpg": bytes(8)}, "lists members that end at byte"),
        ({"jpg": b"\xff" * 8}, "member of 4,294,967,295 bytes"),
        ({"offsets": bytes(16)}, "do not hold 2 samples"),
        ({"suffixes": b"jpg\njpg\n"}, "do not hold 2 samples"),
        ({"xxh3": bytes(8)}, "do not hold 2 samples"),
        (b"no columns", "cannot be read"),
        (msgspec.msgpack.encode([b"no columns"]), "cannot be read"),
    ],
)
def test_an_invalid_index_is_refused_when_it_is_opened(tmp_path, change, words):
    folder = write_shards(tmp_path / "shards", 4)
    path = folder / "train-000000.index"
    if isinstance(change, dict):
        columns = msgspec.msgpack.decode(path.read_bytes())
        change = msgspec.msgpack.encode(columns | change)
    path.write_bytes(change)
    manifest = read_manifest(folder)
    manifest.shards[0].index_sha256 = digest(path)
    write_manifest(folder, manifest)
    with pytest.raises(ShardError, match=words) as error:
        open_shards(str(folder))
    assert "train-000000.index: " in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        # the samples in another order
        lambda index: [places.reverse() for places in index.values()],
        # only annotations, or only images, in another order
        lambda index: index["json"].reverse(),
        lambda index: index["jpg"].reverse(),
        # annotations and images exchanged
        lambda index: [index.update(jpg=index["json"], json=index["jpg"])],
        # one sample missing
        lambda index: [index[name].pop() for name in ("keys", "jpg", "json")],
    ],
)
def test_an_index_that_moves_annotations_to_other_faces_is_refused(tmp_path, change):
    folder = write_shards(tmp_path / "shards", 4)
    with pytest.raises(ShardError, match="train-000000.index.json"):
        open_shards(str(reindexed(folder, lambda index: change(index) and None)))


def test_a_key_that_is_not_the_one_in_the_tar_is_refused_when_it_is_read(tmp_path):
    shards = open_shards(
        str(reindexed(write_shards(tmp_path / "shards", 4), lambda index: index["keys"].reverse()))
    )
    for read in (shards.jpeg, shards.annotation):
        with pytest.raises(
            ShardError,
            match=r"train-000000.tar: found '000000.(jpg|json)' where its index names 000001",
        ):
            read(0)
    assert shards.jpeg(2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "Expected `object`"),
        ('{"landmarks": 3}', "landmarks"),
        ('{"landmarks": [[1, 2, 3]]}', "landmarks"),
        ('{"landmarks": [["1", 2]]}', "landmarks"),
        ('{"landmarks": [[NaN, 2]]}', "000000.json"),
        ('{"landmarks": [[1e300, 2]]}', "landmarks"),
        ('{"landmarks": [[1e999, 2]]}', "000000.json"),
        ('{"identity": "me"}', "identity"),
        ('{"identity": 1e30}', "identity"),
        ('{"box": {"x": 1}}', "box"),
        ('{"box": [null]}', "box"),
        ('{"file": 1}', "file"),
        ("{", "000000.json"),
    ],
)
def test_an_invalid_annotation_is_named_with_its_field(tmp_path, text, words):
    folder = write_shards(tmp_path / "shards", 4)
    start, size = read_index(folder, read_manifest(folder).shards[0]).json[0].tolist()
    with open(folder / "train-000000.tar", "r+b") as tar:
        tar.seek(start)
        tar.write(text.encode().ljust(size))
    with pytest.raises(ShardError, match=words) as error:
        open_shards(str(folder)).annotation(0)
    assert "train-000000.tar: 000000.json" in str(error.value)


@pytest.mark.parametrize("name", ["manifest.json", "train-000000.index", "train-000000.tar"])
@pytest.mark.parametrize("lead", ["/dev/zero", "pipe"])
def test_shards_that_link_to_a_device_or_a_pipe_are_not_opened(tmp_path, name, lead):
    path = write_shards(tmp_path / "shards", 4) / name
    path.unlink()
    os.symlink(lead, path) if lead == "/dev/zero" else os.mkfifo(path)
    with pytest.raises(ShardError, match=f"{name}: found no regular file"):
        open_shards(str(path.parent))


def test_the_message_names_the_splits_that_would_fit(tmp_path):
    for split in ("mafl-test", "mafl-train", "train", "val"):
        write_shards(tmp_path / split, 2)
    with pytest.raises(
        ShardError, match=f"give {tmp_path}/train to train on, or {tmp_path}/mafl-test to test on"
    ):
        open_shards(str(tmp_path))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders of stage 1, by method: "mae" and "dve"."""
    folder = tmp_path_factory.mktemp("runs")
    write_backbone(folder / "mae")
    method = registry.find("dve", 1)
    settings = method.Settings(width=16, depth=1, blocks=1, dim=8)
    write_run(folder / "dve", method.build(settings, seed=0), registry.described(method, settings))
    return folder


def write_run(run, module, settings, stage="pretrain"):
    """A run folder with one checkpoint of `module`."""
    folder = checkpoint.path_of(run, 1, 1)
    folder.mkdir(parents=True)
    arrays = {name: value.contiguous().numpy() for name, value in module.state_dict().items()}
    written = write_tensors(folder / checkpoint.WEIGHTS, arrays, {"format": "pt"})
    (run / "generations" / "0001").mkdir(parents=True)
    (run / "generations" / "0001" / "base.json").write_text('{"step": 0}')
    checkpoint.write_state(
        folder,
        checkpoint.TrainState(1, 0, 1, 0, stage, settings, "", 1, 1, files=[asdict(written)]),
    )
    return folder


def forged(run, target, place, new):
    """A copy of a run with `new` at `place` of its checkpoint's manifest, and a matching hash."""
    shutil.copytree(run, target)
    path = next(target.glob("checkpoints/*/manifest.json"))
    raw = put(json.loads(path.read_text()), place, new)
    if isinstance(raw, dict):
        raw["manifest_hash"] = disk.json_digest({**raw, "manifest_hash": ""})
    path.write_text(json.dumps(raw))
    return target


BAD_STATES = [
    ("", [], "manifest.json"),
    ("", 3, "manifest.json"),
    ("global_step", "1", "global_step"),
    ("global_step", -1, "global_step"),
    ("global_step", 2**62, "global_step"),
    ("files", [{"file": "x"}], "files"),
    ("files.0.file", "../../x", "file"),
    ("skips", {"x": "y"}, "skips"),
    ("settings", [], "settings"),
    ("settings.model", 3, "model"),
    ("settings.model", {}, "model"),
    ("settings.model.width", "x", "width"),
    ("settings.model.width", 40000, "width"),
    ("settings.model.width", 4800, "holds another model"),
    ("settings.model.width", -48, "width"),
    ("settings.model.depth", 10**9, "depth"),
    ("settings.model.depth", 5, "holds another model"),
    ("settings.model.heads", 0, "heads"),
    ("settings.model.image_size", 10**9, "image_size"),
    ("settings.model.patch_size", 0, "patch_size"),
    ("settings.model.patch_size", 12, "holds another"),
    ("settings.optim", {"global_batch_size": "x"}, "global_batch_size"),
    ("files", [], "cannot be read"),
]


@pytest.mark.parametrize(("place", "new", "words"), BAD_STATES)
def test_a_checkpoint_with_an_invalid_manifest_is_named(runs, tmp_path, place, new, words):
    with pytest.raises(CheckpointError, match=words) as error:
        subjects.from_backbone(forged(runs / "mae", tmp_path / "run", place, new), [])
    assert "step-00000001.g0001" in str(error.value)


@pytest.mark.parametrize(
    ("place", "new", "words"),
    [
        ("settings.method", 7, "method"),
        ("settings.method.name", [], "name"),
        ("settings.method.settings", [1], "settings"),
        ("settings.method.settings.width", "x", "width"),
        ("settings.method.settings.width", 40000, "holds another model"),
        ("settings.method.settings.width", 10**12, "give no network"),
        ("settings.method.settings.width", 17, "give no network"),
        ("settings.method.settings.depth", 10**9, "depth"),
        ("settings.method.settings.dim", 10**9, "holds another model"),
    ],
)
def test_an_invalid_checkpoint_of_a_rival_is_named_and_takes_no_memory(
    runs, tmp_path, place, new, words
):
    with pytest.raises(CheckpointError, match=words) as error:
        load_trunk(forged(runs / "dve", tmp_path / "run", place, new))
    assert "step-00000001.g0001" in str(error.value)


@pytest.mark.parametrize(
    ("place", "new", "words"),
    [
        ("settings.carb", None, "carb"),
        ("settings.carb.dim", 10**9, "holds another model"),
        ("settings.carb.dim", -1, "give no network"),
        ("settings.carb.dim", 10**18, "give no network"),
        ("settings.carb.projector", "x", "projector"),
        ("settings.backbone", 3, "backbone"),
        ("settings.backbone", "", "other weights"),
    ],
)
def test_an_invalid_checkpoint_of_a_projector_is_named_and_takes_no_memory(
    runs, tmp_path, place, new, words
):
    carb = load_config(
        "correspond", ["run_dir=-", "backbone=-", "data.shards=-", "carb.dim=8"]
    ).carb
    backbone = checkpoint.newest(runs / "mae")
    settings = {"carb": asdict(carb), "width": 48, "backbone": checkpoint.weights_digest(backbone)}
    encoder = mae.load_encoder(backbone)[0]
    module = carb_method.build(carb_method.Settings(carb), encoder, seed=0)
    write_run(tmp_path / "carb", module, settings, "correspond")
    found = registry.load_stage_2(tmp_path / "carb", backbone, encoder)
    assert found.settings.carb == carb
    with pytest.raises(CheckpointError, match=words):
        run = forged(tmp_path / "carb", tmp_path / "run", place, new)
        registry.load_stage_2(run, backbone, encoder)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run folder of training with rows, and one of an evaluation, as plain files."""
    run = tmp_path_factory.mktemp("evaluated") / "run"
    write_backbone(run)
    start = run / "generations" / "0001"
    rows = [
        {"step": 1, "time": 1e9 + 1, "loss": 1.0},
        {
            "step": 2,
            "time": 1e9 + 2,
            "loss": float("nan"),
            "seconds": 1.0,
            "images_per_second": 8.0,
            "data_wait": 0.5,
        },
    ]
    (start / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "ti'
    )
    (start / "ledger.jsonl").write_text('{"step": 1, "loss": 2.0, "digest": "00"}\n')
    return run


def altered(run, target, name, change):
    """A copy of a run with one file changed: by a function of its text, or to other bytes."""
    shutil.copytree(run, target)
    path = next(target.glob(name))
    path.write_bytes(change if isinstance(change, bytes) else change(path.read_text()).encode())
    return target


def test_rows_with_nan_and_a_torn_end_are_read(evaluated):
    assert [row["step"] for row in generations.rows(evaluated, "metrics.jsonl")] == [1, 2]
    assert goodput.read(evaluated).images == 8 and lineage.read_run(evaluated).stage == "pretrain"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("provenance.json", b'{"stage": "pretr', "provenance.json: cannot be read"),
        ("provenance.json", b"[]", "provenance.json"),
        ("provenance.json", b'{"stage": 3}', r"\$.stage"),
        ("provenance.json", b'{"images": "x"}', r"\$.images"),
        ("provenance.json", b'{"starts": 1}', r"\$.starts"),
        ("provenance.json", b'{"hardware": {}}', "hardware"),
        ("provenance.json", b"\xff\xfe", "provenance.json"),
        ("config.yaml", b"3", "config.yaml"),
        ("config.yaml", b"a: &a [*a, *a]", "alias"),
        ("config.yaml", b"[" * 10**5, "config.yaml"),
        ("config.yaml", b"a: !!python/object:os.system x", "config.yaml"),
        ("config.yaml", lambda text: text.replace("width: 48", "width: x"), "model.width"),
        ("config.yaml", b"a: \xff", "config.yaml"),
        ("config.yaml", b"model: {width: 4}\ndata: 3", "config.yaml: data"),
        ("config.yaml", b"model: {width: 4}\noptim: {lr: fast}", "optim.lr"),
    ],
)
def test_invalid_settings_or_provenance_of_a_run_are_named_with_the_field(
    evaluated, tmp_path, name, change, words
):
    with pytest.raises(RunFolderError, match=words) as error:
        lineage.read_run(altered(evaluated, tmp_path / "run", name, change))
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("base.json", b"[]", "base.json"),
        ("base.json", b"{}", "step"),
        ("base.json", b'{"step": "1"}', r"\$.step"),
        ("base.json", b'{"step": -1}', r"\$.step"),
        ("metrics.jsonl", b"[1]\n", "line 1"),
        ("metrics.jsonl", b'{"step": 1}\n{"loss": 1}\n', "step"),
        ("metrics.jsonl", b'{"step": true}\n', "step"),
        ("metrics.jsonl", b'{"step": 1.5}\n', "step"),
        ("metrics.jsonl", b'{"step": 1, "loss": []}\n', "line 1"),
        ("metrics.jsonl", b'{"step": 1, "time": null}\n', "time"),
        ("metrics.jsonl", b'{"step": 1, "time": 1e300}\n', "time"),
        ("metrics.jsonl", b'{"step": 1, "time": 1, "seconds": NaN}\n', "step 1"),
        ("metrics.jsonl", b'{"step": 1, "time": 1, "seconds": 1}\n', "images_per_second"),
    ],
)
def test_invalid_files_of_a_start_are_named_with_the_field(
    evaluated, tmp_path, name, change, words
):
    with pytest.raises(RunFolderError, match=words) as error:
        goodput.read(altered(evaluated, tmp_path / "run", f"generations/0001/{name}", change))
    assert name in str(error.value)


@pytest.mark.parametrize(
    "owner",
    [b"", b"[]", b'{"pid": "../../etc", "started": "now"}', b'{"started": 1e999}', b'{"pid": -1}'],
)
def test_an_unreadable_owner_counts_as_unknown(evaluated, tmp_path, owner):
    run = altered(evaluated, tmp_path / "run", "generations/0001/owner.json", owner)
    assert (
        generations.seconds_of(run / "generations" / "0001") == 0.0 and not goodput.read(run).starts
    )


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"step": 2, "digest": 3}', "digest"),
        ('{"step": 2, "replaced": []}', "replaced"),
        ('{"step": "2"}', "step"),
        ('{"step": 9007199254740992}', "found no row for step 2"),
    ],
)
def test_invalid_rows_of_a_ledger_are_named_and_a_far_step_takes_no_memory(
    evaluated, tmp_path, row, words
):
    run = altered(
        evaluated, tmp_path / "run", "generations/0001/ledger.jsonl", lambda text: text + row + "\n"
    )
    with pytest.raises(ScemaeError, match=words):
        verify.read_rows(run)


ESTIMATE = {"mean": 1.0, "low": 0.5, "high": 2.0, "n": 4}
RESULTS = {
    "matching": {
        "shards": "s",
        "data_digest": "d",
        "couples": 4,
        "couples_of_one_identity": 0,
        "pairs_hash": "p",
        "stride": 8,
        "methods": {"raw": {"same": ESTIMATE, "different": ESTIMATE}},
        "comparisons": [],
    }
}


@pytest.mark.parametrize(
    ("place", "new", "words"),
    [
        ("", [], "results.json"),
        ("matching", 3, "matching"),
        ("matching.methods", [], "methods"),
        ("matching.methods.raw", {}, "same"),
        ("matching.methods.raw.same.mean", "x", "mean"),
        ("matching.couples", 1e30, "couples"),
        ("matching.shards", None, "shards"),
        ("matching.comparisons", [{}], "comparisons"),
    ],
)
def test_invalid_results_are_named_with_the_field(tmp_path, place, new, words):
    run = lineage.RecordedRun("evaluate", tmp_path, {}, {})
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    assert lineage.read_results(run) == RESULTS
    alter(tmp_path / "results.json", place, new)
    with pytest.raises(RunFolderError, match=words) as error:
        lineage.read_results(run)
    assert "results.json" in str(error.value)


TRIAL = {"number": 3, "values": {"optim.lr": 0.1}, "origin": "random"}
END = {"outcome": "finished", "step": 4, "curve": [[4, {"same": float("nan")}]]}


@pytest.mark.parametrize(
    ("name", "place", "new", "words"),
    [
        ("trial.json", "", [], "trial.json"),
        ("trial.json", "number", "3", "number"),
        ("trial.json", "number", 4, "found the number 4"),
        ("trial.json", "values", [], "values"),
        ("end.json", "outcome", "glory", "outcome"),
        ("end.json", "curve", [[1]], "curve"),
        ("end.json", "curve", 3, "curve"),
        ("end.json", "scores", {"same": "x"}, "scores"),
        ("end.json", "", 3, "end.json"),
    ],
)
def test_an_invalid_trial_is_named_with_the_field(tmp_path, name, place, new, words):
    folder = tmp_path / "trials" / "000003"
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps(TRIAL))
    (folder / "end.json").write_text(json.dumps(END))
    assert [record.step for record in trials.read_records(tmp_path)] == [4]
    alter(folder / name, place, new)
    with pytest.raises(RunFolderError, match=words) as error:
        list(trials.read_records(tmp_path))
    assert name in str(error.value)


STAGE = {
    "name": "pretrain",
    "arguments": [],
    "folder": "x",
    "nodes": 1,
    "ranks": 1,
    "gpus": 0,
    "saves": True,
    "job_id": "12",
}


@pytest.mark.parametrize(
    ("place", "new", "words"),
    [
        ("", 3, "chain.json"),
        ("kind", "cloud", "kind"),
        ("stages", {}, "stages"),
        ("stages.0", {}, "stages"),
        ("stages.0.job_id", "--help", "job_id"),
        ("stages.0.job_id", "(a+)+$", "job_id"),
        ("stages.0.nodes", "1", "nodes"),
    ],
)
def test_an_invalid_chain_is_named_with_the_field(tmp_path, place, new, words):
    (tmp_path / "chain.json").write_text(json.dumps({"kind": "local", "stages": [STAGE]}))
    assert chain.read(tmp_path)[1][0].job_id == "12"
    alter(tmp_path / "chain.json", place, new)
    with pytest.raises(ConfigError, match=words) as error:
        chain.read(tmp_path)
    assert "chain.json" in str(error.value)


@pytest.mark.parametrize(
    ("read", "name", "text", "words"),
    [
        (lambda path: sweep_folder.read_sweep_file(path), "sweep.json", "[]", "sweep.json"),
        (lambda path: sweep_folder.read_sweep_file(path), "sweep.json", "{}", "identity"),
        (lambda path: address_of(path.parent), "ray.json", '{"address": 3}', "address"),
        (lambda path: address_of(path.parent), "ray.json", '{"address": "x; y"}', "address"),
        (lambda path: replay.read_facts(path.parent), "capsule.json", '{"step": 1}', "rank"),
        (
            lambda path: replay.read_facts(path.parent),
            "capsule.json",
            '{"step": 1, "rank": 0, "what": "", "checkpoint": "../x", "keys": []}',
            "checkpoint",
        ),
        (lambda path: replay.read_batch(path), "batch.safetensors", "x" * 100, "batch.safetensors"),
        (lambda path: find_benchmark(str(path)), "mine.yaml", "title: &a x\nframe: *a", "alias"),
        (
            lambda path: find_benchmark(str(path)),
            "mine.yaml",
            (Path(configs_dir()) / "benchmark/mafl.yaml")
            .read_text()
            .replace("landmarks: 5", "landmarks: 1000000000"),
            "landmarks",
        ),
        (lambda path: load_pairs(path, None), "pairs.npz", "PK", "pairs.npz"),
        (lambda path: load_regressor(path), "r.safetensors", "x", "r.safetensors"),
    ],
)
def test_other_invalid_files_are_named(tmp_path, read, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ScemaeError, match=words) as error:
        read(tmp_path / name)
    assert name in str(error.value)


def npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (shape, kind, data) in members.items():
            buffer = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                buffer, {"descr": kind, "fortran_order": False, "shape": shape}
            )
            archive.writestr(f"{name}.npy", buffer.getvalue() + data)
    return path


@pytest.mark.parametrize(
    ("shape", "kind", "data"),
    [
        ((10**12,), "<f8", b""),
        ((2**62, 2**62), "<f8", b""),
        ((1,), "|O", b"x" * 8),
        ((2,), "<f8", bytes(15)),
        ((2,), "<f8", bytes(17)),
        ((-1,), "<f8", b""),
    ],
)
def test_an_array_unlike_its_header_is_refused_before_memory_is_taken(tmp_path, shape, kind, data):
    with pytest.raises(
        RunFolderError,
        match=r"x.npz: cannot be read as arrays \(a (has the shape|is no array of plain)[^\n]*\); "
        "make it again$",
    ):
        arrays.read(
            npz(tmp_path / "x.npz", a=(shape, kind, data)),
            error=RunFolderError,
            remedy="make it again",
        )


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"nonsense",
        b"\x93NUMPY",
        b"\x93NUMPY\1\0\xff\xff",
        b"\x93NUMPY\2\0\xff\xff\xff\xff",
        b"\x93NUMPY\1\0\4\0None",
        b"\x93NUMPY\1\0\x84\3" + b"(" * 900,
        b"\x93NUMPY\1\0\x46\0"
        b"{'descr': '<f8', 'fortran_order': False, 'shape': ('a',), 'more': 1, }".ljust(70),
    ],
)
def test_an_archive_member_without_an_array_header_is_named_with_its_file(tmp_path, header):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", header)
    with pytest.raises(
        RunFolderError,
        match=r"x.npz: cannot be read as arrays \(a is no array of plain numbers or text\); "
        "make it again$",
    ):
        arrays.read(tmp_path / "x.npz", error=RunFolderError, remedy="make it again")


def test_arrays_are_read_as_numpy_wrote_them(tmp_path):
    written = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.array(["x", "ü"]),
        "c": np.array(7),
        "d": np.zeros((0, 3), np.float32),
    }
    np.savez_compressed(tmp_path / "x.npz", **written)
    found = arrays.read(tmp_path / "x.npz", error=RunFolderError, remedy="")
    assert all(
        np.array_equal(found[name], value) and found[name].dtype == value.dtype
        for name, value in written.items()
    )


@pytest.mark.parametrize(
    "about",
    [
        {"type": "O", "shape": [1], "first": 0},
        {"type": "<f8", "shape": [10**12], "first": 0},
        {"type": "<f8", "shape": [-1], "first": 0},
        {"type": "nonsense", "shape": [1], "first": 0},
        3,
    ],
)
def test_cached_arrays_unlike_their_header_are_computed_again(tmp_path, about):
    header = json.dumps({"facts": {}, "arrays": {"a": about}}).encode().ljust(104)
    rest = len(header).to_bytes(8, "little") + header + bytes(64)
    (tmp_path / "x").write_bytes(xxhash.xxh3_128_digest(rest) + rest)
    assert mapped_arrays.read_arrays(tmp_path / "x", {}) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: {frame: 4096}\noptim: {global_batch_size: 16777216}", "bytes, at most"),
        ("data: {frame: 0}\noptim: {global_batch_size: 4}", "frame"),
        ("data: {frame: 96}\noptim: {global_batch_size: 1000000000000}", "global_batch_size"),
        ("data: 3\noptim: {global_batch_size: 4}", "data"),
        ("data: {frame: 96}\noptim: {global_batch_size: 4}\nviews: x", "views"),
    ],
)
def test_verify_refuses_a_batch_size_beyond_all_bounds(tmp_path, text, words):
    shards = write_shards(tmp_path / "shards", 2)
    (tmp_path / "config.yaml").write_text(
        "seed: 0\n" + text.replace("{frame", f"{{shards: {shards}, frame")
    )
    with pytest.raises(RunFolderError, match=words) as error:
        verify.read_plan(tmp_path, None)
    assert "config.yaml" in str(error.value)


def test_arrays_that_do_not_fit_the_results_cost_one_picture_of_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PICTURES", {"matches": lambda source: np.zeros(3)[7]})
    source = SimpleNamespace(run_dir=tmp_path)
    assert "its files do not fit together (IndexError" in report.show(source).missing["matches"]


def test_a_replay_builds_no_projector_larger_than_its_checkpoint(runs, tmp_path):
    carb = load_config(
        "correspond", ["run_dir=-", "backbone=-", "data.shards=-", "carb.dim=8"]
    ).carb
    encoder = mae.load_encoder(checkpoint.newest(runs / "mae"))[0]
    module = carb_method.build(carb_method.Settings(carb), encoder, seed=0)
    folder = write_run(tmp_path / "carb", module, {}, "correspond")
    settings = replay.DumpedConfig(
        0, replay.CropScale((0.2, 1.0)), backbone=str(runs / "mae"), carb=replace(carb, dim=10**9)
    )
    with pytest.raises(CheckpointError, match="holds another model"):
        replay._correspond(settings, folder, None)


@pytest.mark.parametrize(
    "text",
    ["data: {scale: [0.2, {a: 1}]}", "data: {scale: [[1], 1]}", "optim: {betas: [0.9, {b: 0}]}"],
)
def test_a_setting_whose_list_contains_no_numbers_is_refused(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="found .* needed|mine.yaml"):
        load_config(
            "pretrain", ["run_dir=r", "data.shards=s", f"experiment={tmp_path / 'mine.yaml'}"]
        )


def test_an_annotation_without_a_file_is_described(tmp_path):
    folder = write_shards(tmp_path / "shards", 2)
    path = folder / "train-000000.tar"
    path.write_bytes(path.read_bytes().replace(b'"file"', b'"none"'))
    assert "first sample 000000," in describe(folder)


def test_a_deeply_nested_row_of_json_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"step": 1}\n' + '{"a":' * 5000 + "1" + "}" * 5000 + "\n")
    with pytest.raises(RunFolderError, match="rows.jsonl, line 2"):
        list(documents.read_rows(tmp_path / "rows.jsonl", dict[str, Any], error=RunFolderError))


def test_a_benchmark_with_a_number_beyond_all_bounds_is_refused(tmp_path):
    text = (configs_dir() / "benchmark" / "mafl.yaml").read_text()
    (tmp_path / "faces.yaml").write_text(
        text + f"\noffset: 1{'0' * 400}\n"
        if "offset" not in text
        else text.replace("offset:", f"offset: 1{'0' * 400} #")
    )
    with pytest.raises(ConfigError, match="64 bits.*line"):
        find_benchmark(str(tmp_path / "faces.yaml"))
