"""The probe: couples of different people, cached maps, and the error that needs no labels."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import xxhash

from scemae.data import tps_warps
from scemae.data.geometry import CROP, UNIT
from scemae.data.storage.index_file import read_index
from scemae.data.storage.manifest import read_manifest, write_manifest
from scemae.data.storage.shard_set import open_shards
from scemae.distributed.launchers import NAMES
from scemae.distributed.process_group import process_group
from scemae.errors import ConfigError
from scemae.evaluation.landmarks import probe as probe_module
from scemae.evaluation.landmarks import probe_errors
from scemae.evaluation.landmarks.benchmark_frames import Frames, load_frames
from scemae.evaluation.landmarks.benchmarks import find_benchmark
from scemae.evaluation.landmarks.features import vit_trunk
from scemae.evaluation.landmarks.matching import match, matching_errors
from scemae.evaluation.landmarks.pairs import DIFFERENT, SAME, SOURCE, build_pairs, render_pairs
from scemae.evaluation.landmarks.probe import Probe, choose_couples, draw_warps, grid_points
from scemae.evaluation.landmarks.probe_errors import ContentMatches, match_couples, score
from scemae.files.mapped_arrays import read_arrays
from scemae.models.projector import Projector
from scemae.models.vit import Encoder
from scemae.runs.metrics_log import read_metrics
from tests.data.test_tps_warps import smooth_frames
from tests.support import TINY, scemae, small_disk, write_shards

CPU, COUPLES, BACKBONE = torch.device("cpu"), 3, "b" * 64


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("probe") / "val", 9)


@pytest.fixture(scope="module", autouse=True)
def place():
    with process_group("cpu") as place:
        yield place


def trunk(calls=None):
    """A small frozen ViT that adds the number of its frames to `calls`."""
    torch.manual_seed(0)
    found = vit_trunk(Encoder(48, 4, 3).eval().requires_grad_(False))
    encode = found.encode
    if calls is None:
        return found
    return replace(
        found, encode=lambda frames, stride: calls.append(len(frames)) or encode(frames, stride)
    )


def projected():
    torch.manual_seed(1)
    projector = Projector("linear", 48, 16)
    return lambda maps, side: projector(maps[0])


def kept(shards, place, folder, calls, backbone=BACKBONE):
    """The probe of a run that keeps maps in `folder`, and its errors."""
    probe, mine = Probe(str(shards), COUPLES), trunk(calls)
    probe.keep(mine, place, folder, backbone)
    return probe.errors(mine, CPU, projected())


def computed(shards):
    return Probe(str(shards), COUPLES).errors(trunk(), CPU, projected())


def people(folder, share):
    """The shards in `folder`, of which each `share` samples in turn show one person."""
    for shard in read_manifest(folder).shards:
        index = read_index(folder, shard)
        with open(folder / shard.file, "r+b") as tar:
            for key, (offset, size) in zip(index.all_keys(), index.json.tolist()):
                tar.seek(offset)
                note = json.loads(tar.read(size)) | {"identity": int(key) // share}
                tar.seek(offset)
                tar.write(json.dumps(note).encode().ljust(size))
    return folder


def test_kept_maps_give_the_errors_of_maps_computed_now(shards, place, tmp_path):
    assert (
        kept(shards, place, tmp_path, []) == kept(shards, place, tmp_path, []) == computed(shards)
    )


def test_a_second_run_does_not_call_the_trunk(shards, place, tmp_path, monkeypatch):
    calls, again = [], []
    kept(shards, place, tmp_path, calls)
    monkeypatch.delattr(
        "scemae.evaluation.landmarks.probe.load_frames"
    )  # nor does it decode an image
    kept(shards, place, tmp_path, again)
    assert sum(calls) == 3 * COUPLES and again == []
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["pairs"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "length"])
def test_a_damaged_file_is_found_and_made_again(shards, place, tmp_path, capsys, damage):
    whole = kept(shards, place, tmp_path, [])
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    good = bytes(data)
    data[{"flipped": len(data) // 2, "length": 17}.get(damage, 0)] ^= 64
    path.write_bytes({"cut": good[:-100], "empty": b""}.get(damage, bytes(data)))
    calls = []
    assert kept(shards, place, tmp_path, calls) == whole and sum(calls) == 3 * COUPLES
    assert path.read_bytes() == good and "damaged" in capsys.readouterr().err


def test_other_weights_or_precision_or_couples_are_other_files(shards, place, tmp_path):
    kept(shards, place, tmp_path, [])
    kept(shards, place, tmp_path, [], backbone="c" * 64)
    Probe(str(shards), COUPLES - 1).keep(trunk(), place, tmp_path, BACKBONE)
    half = trunk()
    half.network.to(torch.bfloat16)
    Probe(str(shards), COUPLES).keep(half, place, tmp_path, BACKBONE)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(shards, place, tmp_path, capsys):
    (tmp_path / "tokens").write_text("a file")
    assert kept(shards, place, tmp_path / "tokens", []) == computed(shards)
    assert capsys.readouterr().err.count("not kept") == 1


def test_a_full_disk_costs_nothing_but_time(shards, place, tmp_path, capsys):
    with small_disk(tmp_path / "disk", "256k") as disk:
        assert kept(shards, place, disk, []) == computed(shards)
        assert "No space left" in capsys.readouterr().err and not list(disk.iterdir())


def slow_couples(identities, couples):
    """Repeat: the first image left, with the first one after it of another person."""
    left, found = list(range(len(identities))), []
    while left and len(found) < 2 * couples:
        a = left.pop(0)
        others = [i for i in left if identities[i] != identities[a] or identities[i] < 0]
        if others:
            left.remove(others[0])
            found.append((a, others[0]))
    return found


def test_couples_are_of_different_people_and_none_is_left_that_could_be_one():
    random = np.random.default_rng(0)
    for people in (2, 3, 10):
        identities = (random.integers(0, people, 40) - 1).tolist()  # -1 among them
        chosen = choose_couples(identities, 20)
        found = list(zip(chosen[0::2], chosen[1::2]))
        assert len(chosen) == len(set(chosen)) and sorted(found) == slow_couples(identities, 20)
        assert all(identities[a] != identities[b] or identities[b] < 0 for a, b in found)
    assert choose_couples(range(9), 3) == list(range(6))


def test_a_probe_skips_neighbours_of_one_person_and_refuses_too_few_people(tmp_path):
    folder = people(write_shards(tmp_path / "val", 8, shards=1), 3)
    probe = Probe(str(folder), 3)
    assert probe._chosen == [0, 3, 1, 4, 2, 5]
    probe.load()
    assert [
        int(key) for key in probe._views.keys
    ] == probe._chosen and probe._views.same_identity == 0
    with pytest.raises(ConfigError, match="make 3 couples of different people, 4 are needed"):
        Probe(str(folder), 4)
    with pytest.raises(ConfigError, match="make 0 couples"):
        Probe(str(people(write_shards(tmp_path / "one", 8), 8)), 1)


@pytest.mark.parametrize("split", ["mafl-test", "aflwrc-test", "Test"])
def test_a_test_split_is_refused(tmp_path, split):
    folder = write_shards(tmp_path / "shards", 4)
    write_manifest(folder, replace(read_manifest(folder), split=split))
    with pytest.raises(
        ConfigError, match=rf"found the split {split} .*must not see the test set; give .*val"
    ):
        Probe(str(folder), 2)


def test_where_all_are_different_people_the_errors_are_the_official_tests(shards):
    frames = load_frames(open_shards(str(shards)), find_benchmark("mafl"), limit=2 * COUPLES)
    official = matching_errors(
        lambda views: projected()([part.half().float() for part in trunk().maps(views, 4)], 24),
        build_pairs(frames, couples=COUPLES),
    )["features"]
    found = computed(shards)
    assert found["probe_same"] == pytest.approx(official.same.mean(), abs=1e-3)
    assert found["probe_different"] == pytest.approx(official.different.mean(), abs=1e-3)


def sphere(places):
    """Places (c, 2, 96, 96) in [-0.5, 0.5] as features: the nearest has the highest cosine."""
    x, y = places.unbind(1)
    return torch.stack([x, y, (1 - x**2 - y**2).sqrt()], dim=1)


def lattice():
    line = torch.linspace(-0.5, 0.5, 136, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y])[None]


def gridded(couples):
    """Pairs of smooth frames whose only landmarks are the grid's, after five of each face."""
    frames = smooth_frames(2 * couples)
    landmarks = torch.cat(
        [frames.landmarks, (grid_points() + CROP).expand(2 * couples, -1, -1)], dim=1
    )
    return render_pairs(
        Frames(frames.images, landmarks, frames.keys, frames.identities),
        list(range(2 * couples)),
        draw_warps(2 * couples),
        0,
    )


def scored(maps, truth):
    """The errors of maps (c, 3, d, 96, 96) on points (c, 3, 5 + g, 2) of the crop."""
    by_content = ContentMatches()
    by_content.add(maps, truth[:, SOURCE, :5])
    return score(match_couples(maps, truth[:, SOURCE], 5), by_content.found(), truth)


def test_content_is_the_features_less_the_mean_of_each_place_over_the_first_couples(
    shards, monkeypatch
):
    """Against the slow way: all maps at once, and the official matcher."""
    monkeypatch.setattr(probe_module, "BATCH", 1)
    monkeypatch.setattr(probe_errors, "MEANS_OF", 2)
    frames = load_frames(open_shards(str(shards)), find_benchmark("mafl"), limit=2 * COUPLES)
    pairs = build_pairs(frames, couples=COUPLES)
    views = pairs.views.flatten(0, 1).float() / 255
    maps = projected()([part.half().float() for part in trunk().maps(views, 4)], 24)
    means = maps[: 3 * 2].mean(0)
    source, _, other = (maps - means).unflatten(0, (-1, 3)).unbind(1)
    truth = pairs.landmarks - CROP
    found = match(source, other, truth[:, SOURCE])
    slow = (found - truth[:, DIFFERENT]).norm(dim=-1).mean() * UNIT / 96
    assert computed(shards)["probe_content"] == pytest.approx(float(slow), abs=1e-3)


def test_a_perfect_matcher_comes_back_to_where_the_grid_lies():
    pairs, views = gridded(30), []
    for image, warps in (
        (0, 2),
        (0, 1),
        (1, 1),
    ):  # v1(A), v2(A), v2(B): the place in the original that each pixel is sampled from
        places = lattice().expand(30, -1, -1, -1)
        for w in range(warps):
            places = tps_warps.resample(places, tps_warps.warp_grid(pairs.warps[image::2, w]))
        views.append(sphere(places[..., CROP:-CROP, CROP:-CROP]))
    truth = pairs.landmarks - CROP
    found = scored(torch.stack(views, dim=1), truth)
    assert (
        found["probe_same"] < 0.12 and found["probe_cycle"] < 0.4
    )  # two roundings to pixels on the way


def test_features_of_position_alone_find_each_point_at_its_own_place():
    pairs = gridded(30)
    maps = sphere(lattice()[..., CROP:-CROP, CROP:-CROP]).expand(30, 3, -1, -1, -1)
    truth = pairs.landmarks - CROP
    found = scored(maps, truth)
    places = (truth[:, view, 5:].flatten(0, 1) for view in (SOURCE, SAME))
    slow = [
        (before - after).norm() * UNIT / 96
        for before, after in zip(*places)
        if before.min() >= 0 and after.min() >= 0 and before.max() <= 95 and after.max() <= 95
    ]
    assert (
        found["probe_cycle"] == pytest.approx(float(torch.stack(slow).mean()), abs=1e-5)
        and 2 < found["probe_cycle"] < 5
    )


def test_without_shards_there_are_no_errors(place, tmp_path):
    probe = Probe(None, 64)
    probe.load()
    probe.keep(trunk(), place, tmp_path, BACKBONE)
    assert probe.errors(trunk(), CPU) == {} and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_runs_of_any_number_of_ranks_share_the_maps(shards, tmp_path, monkeypatch):
    for name in NAMES:  # these are no ranks of ours
        monkeypatch.delenv(name)
    small = [
        "optim.global_batch_size=4",
        "optim.epochs=0.4",
        "loop.log_every=1",
        "loop.save_every=1",
        f"data.shards={shards}",
        f"probe_shards={shards}",
        "loop.probe_every=1",
        "loop.probe_pairs=3",
    ]
    scemae("pretrain", *TINY, *small, f"run_dir={tmp_path / 'mae'}", "optim.warmup_epochs=0")
    small += [f"backbone={tmp_path / 'mae'}", "carb.dim=16"]
    first = scemae(
        "correspond", *small, f"run_dir={tmp_path / 'two'}", "runtime.zero_stage=3", ranks=2
    )
    second = scemae("correspond", *small, f"run_dir={tmp_path / 'one'}")
    assert "probe: maps of 3 couples" in first.stderr and "probe: maps" not in second.stderr
    rows = [
        [row for row in read_metrics(tmp_path / run) if "probe_cycle" in row]
        for run in ("mae", "two", "one")
    ]
    assert [len(found) for found in rows] == [1, 1, 1]
    assert rows[1][0]["probe_different"] == pytest.approx(rows[2][0]["probe_different"], abs=0.5)


@pytest.mark.parametrize(
    "about",
    [
        {"type": "|O", "shape": [1], "first": 0},
        {"type": "<f4", "shape": [2**40], "first": 0},
        {"type": "<f4", "shape": "x"},
        [],
    ],
)
def test_a_kept_file_of_somebody_else_is_made_again(about, tmp_path):
    header = json.dumps({"facts": {"a": 1}, "arrays": {"points": about}}).encode()
    body = len(header).to_bytes(8, "little") + header + bytes(64)
    (tmp_path / "kept").write_bytes(
        xxhash.xxh3_128_digest(body) + body
    )  # a digest that anybody can compute
    assert read_arrays(tmp_path / "kept", {"a": 1}) is None
