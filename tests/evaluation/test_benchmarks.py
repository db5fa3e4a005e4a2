"""Benchmark facts, evaluation frames and scores against step-by-step versions."""

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scemae.data.storage.index import own_index
from scemae.data.storage.index_file import write_index
from scemae.data.storage.manifest import Manifest, Shard, write_manifest
from scemae.data.storage.shard_set import open_shards
from scemae.errors import ConfigError, ShardError
from scemae.evaluation.landmarks.benchmark_frames import (
    denormalise_landmarks,
    load_frames,
    normalise_landmarks,
    to_frame,
)
from scemae.evaluation.landmarks.benchmarks import benchmark_names, check_counts, find_benchmark
from scemae.evaluation.landmarks.regression import iod_errors
from scemae.evaluation.scores import bootstrap, compare, score_detection
from scemae.shards.sources import aflw, celeba, w300
from tests.support import FACES, needs_faces

NEW = """
title: Mine
landmarks: 3
points: [left eye, right eye, chin]
eyes: [1, 2]
frame: stretch
offset: -1
official: {train: 20, test: 10}
splits: {train: mine-train, test: mine-test}
"""


def write_split(
    folder: Path, samples: list[tuple[bytes, dict]], options: dict | None = None
) -> Path:
    """One real shard of (JPEG, annotation) samples with index and manifest."""
    folder.mkdir(parents=True)
    keys, sizes, tar = [], [], io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as file:
        for i, (jpeg, annotation) in enumerate(samples):
            note = json.dumps(annotation).encode()
            keys.append(f"{i:06d}")
            sizes.append((len(jpeg), len(note)))
            for ext, data in (("jpg", jpeg), ("json", note)):
                info = tarfile.TarInfo(f"{i:06d}.{ext}")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    (folder / "x-000000.tar").write_bytes(tar.getvalue())
    digest = hashlib.sha256(tar.getvalue()).hexdigest()
    shard = Shard("x-000000.tar", len(samples), len(tar.getvalue()), digest, "")
    write_index(folder, shard, own_index(keys, sizes))
    write_manifest(folder, Manifest("celeba", "x", len(samples), [shard], options=options or {}))
    return folder


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth random picture, so that JPEG and resizing keep its shapes."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


POINTS = [[69, 111], [108, 111], [88, 135], [73, 152], [105, 152]]


def test_celeba_frames_equal_pil_step_by_step(tmp_path):
    samples = [
        (jpeg(picture(178, 218, i)), {"file": "a", "landmarks": POINTS, "identity": i})
        for i in range(5)
    ]
    del samples[1][1]["identity"]
    frames = load_frames(
        open_shards(str(write_split(tmp_path / "s", samples))), find_benchmark("mafl"), limit=4
    )
    assert frames.images.shape == (4, 3, 136, 136) and frames.identities.tolist() == [0, -1, 2, 3]
    for i in range(4):
        slow = (
            Image.open(io.BytesIO(samples[i][0]))
            .crop((0, 30, 178, 208))
            .resize((136, 136), Image.BILINEAR)
        )
        assert np.array_equal(frames.images[i].permute(1, 2, 0).numpy(), np.array(slow))
    assert np.allclose(frames.landmarks[0, 0], [69 * 136 / 178, 81 * 136 / 178])


def test_landmarks_of_resized_shards_are_already_in_their_frame(tmp_path):
    stored = picture(178, 218).crop((0, 30, 178, 208)).resize((136, 136), Image.BILINEAR)
    folder = write_split(
        tmp_path / "s",
        [(jpeg(stored), {"landmarks": POINTS})],
        {"frame": "celeba-178", "size": 136},
    )
    frames = load_frames(open_shards(str(folder)), find_benchmark("mafl"))
    assert np.array_equal(
        frames.images[0].permute(1, 2, 0).numpy(), np.array(Image.open(io.BytesIO(jpeg(stored))))
    )
    assert np.allclose(frames.landmarks[0], POINTS)
    with pytest.raises(ConfigError, match="without resizing"):
        load_frames(open_shards(str(folder)), find_benchmark("aflw_m"))


def test_stretched_frames_count_from_one_only_where_the_files_do():
    _, matlab = to_frame(picture(150, 150), np.array([[76.0, 51.0]]), find_benchmark("aflw_m"))
    frame, plain = to_frame(picture(200, 100), np.array([[100.0, 50.0]]), find_benchmark("aflw_r"))
    assert frame.size == (136, 136)
    assert np.allclose(matlab, [[75 * 136 / 150, 50 * 136 / 150]]) and np.allclose(
        plain, [[68, 68]]
    )


def test_300w_box_rule_puts_the_marked_pixels_under_the_landmarks():
    image = np.zeros((400, 500, 3), np.uint8)
    image[198:203, 248:253] = 255  # centre (250, 200) from 0: (251, 201) from 1
    frame, points = to_frame(
        Image.fromarray(image),
        np.array([[251.0, 201.0]]),
        find_benchmark("300w"),
        box=[199.0, 149.0, 302.0, 252.0],
    )  # 104 wide: scale 1/2; centre 251.5
    # By hand: centre x floor(125.75) = 125, so left 75; centre y floor(100.75) = 100, less 50, less
    # 2: top 48.
    assert np.allclose(points, [[(251 / 2 - 75 - 1) * 1.36, (201 / 2 - 48 - 1) * 1.36]])
    bright = np.argwhere(np.array(frame)[..., 0] > 127)[:, ::-1].mean(axis=0)
    assert np.abs(bright - points[0]).max() < 0.75


def test_300w_windows_outside_the_image_are_black():
    white = Image.fromarray(np.full((60, 60, 3), 255, np.uint8))
    frame, _ = to_frame(
        white, np.zeros((68, 2)), find_benchmark("300w"), box=[1.0, 1.0, 52.0, 52.0]
    )
    pixels = np.array(frame)[..., 0]
    assert (
        pixels[:25, :].max() == 0
        and pixels[:, :25].max() == 0
        and pixels[60:80, 60:80].min() == 255
    )


def test_benchmarks_stand_in_the_order_of_the_papers_table():
    assert benchmark_names() == ["mafl", "aflw_m", "aflw_r", "aflw_rc", "300w"]
    assert [find_benchmark(name).title for name in benchmark_names()] == [
        "MAFL",
        "AFLW_M",
        "AFLW_RO",
        "AFLW_RC",
        "300W",
    ]
    assert find_benchmark("mafl") is find_benchmark("mafl")  # read once
    with pytest.raises(
        ConfigError, match="found 'wflw', needed one of mafl, aflw_m, aflw_r, aflw_rc, 300w"
    ):
        find_benchmark("wflw")


def test_splits_and_counts_are_those_of_the_shard_builders():
    built = aflw.OFFICIAL | w300.OFFICIAL | dict(zip(("mafl-train", "mafl-test"), celeba.FULL_MAFL))
    found = [find_benchmark(name) for name in benchmark_names()]
    assert {
        known.splits[part]: known.official[part] for known in found for part in ("train", "test")
    } == built


@pytest.mark.parametrize("name", ["mafl", "aflw_m", "aflw_r", "aflw_rc", "300w"])
def test_errors_are_shares_of_the_distance_between_each_sets_own_eyes(name):
    known, random = find_benchmark(name), torch.Generator().manual_seed(0)
    truth, predicted = (torch.rand(4, known.landmarks, 2, generator=random) for _ in range(2))
    found = iod_errors(predicted, truth, known.eyes)
    left, right = {5: (0, 1), 68: (36, 45)}[known.landmarks]  # 300W: outer corners, counted from 0
    for i in range(4):
        (ax, ay), (bx, by) = truth[i, left].tolist(), truth[i, right].tolist()
        for k in range(known.landmarks):
            dx, dy = (predicted[i, k] - truth[i, k]).tolist()
            assert found[i, k] == pytest.approx(
                100 * np.hypot(dx, dy) / np.hypot(ax - bx, ay - by), rel=1e-4
            )


def test_a_new_data_set_is_one_file(tmp_path):
    (tmp_path / "mine.yaml").write_text(NEW)
    known = find_benchmark(str(tmp_path / "mine.yaml"))
    assert known.eyes == (1, 2) and known.points[2] == "chin" and known.targets == {}
    assert find_benchmark(known.name) is known
    image = picture(100, 50)
    folder = write_split(
        tmp_path / "s", [(jpeg(image), {"landmarks": [[1, 1], [51, 26], [100, 50]]})]
    )
    frames = load_frames(open_shards(str(folder)), known)
    assert np.allclose(frames.landmarks[0], [[0, 0], [68, 68], [134.64, 133.28]])
    assert check_counts(open_shards(str(folder)).manifest, known, "test") == "subset: 1 of 10"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("landmarks: 3", "", "found no field landmarks; a benchmark has title, landmarks, eyes"),
        ("title:", "titel: x\ntitle:", "found the unknown field titel"),
        ("title: Mine", "title: 3", "title: found 3, a name"),
        ("landmarks: 3", "landmarks: many", "landmarks: found 'many'"),
        ("[1, 2]", "[1, 3]", r"eyes: found \[1, 3\]"),
        ("[1, 2]", "[1, 1]", "two different points"),
        ("stretch", "warp", "found 'warp', one of celeba, stretch, box, photograph"),
        ("stretch", "[box]", "frame: found"),
        ("offset: -1", "offset: no", "offset: found False, a number of pixels"),
        ("test: 10", "tset: 10", "official: found .* for train and test"),
        ("test: 10", "test: -1", "official: found"),
        ("test: mine-test", "test: ''", "splits: found"),
        (", chin]", "]", "one name for each landmark"),
        (NEW, "- 3", "found no field title"),
        (NEW, "a: [", "cannot be read as YAML"),
        ("offset: -1", "targets: {T: x}", "targets: found"),
        ("offset: -1", "column: 0", "column: found 0"),
    ],
)
def test_a_wrong_file_gives_a_one_sentence_error(tmp_path, old, new, words):
    assert old in NEW
    (tmp_path / "mine.yaml").write_text(NEW.replace(old, new))
    with pytest.raises(ConfigError, match=words) as caught:
        find_benchmark(str(tmp_path / "mine.yaml"))
    assert "\n" not in str(caught.value) and "mine.yaml" in str(caught.value)


def test_counts_tell_the_official_set_from_a_subset_and_refuse_a_false_one():
    known = find_benchmark("aflw_m")
    whole = Manifest(
        "aflw_m", "aflw-test", 2995, [], options={"subset": False, "official_samples": 2995}
    )
    assert check_counts(whole, known, "test") is None
    part = replace(whole, samples=972, options={"subset": True, "official_samples": 2995})
    assert check_counts(part, known, "test") == "subset: 972 of 2,995"
    assert (
        check_counts(replace(part, samples=2995), known, "test")
        == "2,995 images, not the official ones"
    )
    with pytest.raises(
        ShardError, match="found 2,994 samples, .* test set of AFLW_M, 2,995 .1 were left out"
    ):
        check_counts(
            replace(whole, samples=2994, left_out=[{"file": "a", "reason": "b"}]), known, "test"
        )
    with pytest.raises(ShardError, match="AFLW_M's train set is aflw-train, of 10,122"):
        check_counts(whole, known, "train")


def test_original_labels_are_not_taken_for_corrected_ones():
    shards = Manifest(
        "aflw_r", "aflwr-test", 2991, [], options={"subset": False, "official_samples": 2991}
    )
    assert check_counts(shards, find_benchmark("aflw_r"), "test") is None
    with pytest.raises(ShardError, match="AFLW_RC's test set is aflwrc-test"):
        check_counts(shards, find_benchmark("aflw_rc"), "test")


def test_shards_without_official_counts_are_a_subset():
    assert (
        check_counts(Manifest("generated", "train", 60, []), find_benchmark("mafl"), "train")
        == "subset: 60 of 19,000"
    )


@pytest.mark.parametrize(
    "annotation, size",
    [
        ({}, (178, 218)),
        ({"landmarks": POINTS[:4]}, (178, 218)),
        ({"landmarks": POINTS}, (178, 178)),
    ],
)
def test_unusable_samples_are_named(tmp_path, annotation, size):
    folder = write_split(tmp_path / "s", [(jpeg(picture(*size)), annotation)])
    with pytest.raises(ShardError, match="sample 000000 cannot be evaluated"):
        load_frames(open_shards(str(folder)), find_benchmark("mafl"))


def test_normalised_landmarks_span_the_crop():
    corners = torch.tensor([[20.0, 20.0], [115.0, 67.5]])
    assert normalise_landmarks(corners).tolist() == [[-1, -1], [1, 0]]
    assert torch.allclose(denormalise_landmarks(normalise_landmarks(corners)), corners)


def test_bootstrap_interval_is_the_normal_one_for_many_values():
    values = np.random.default_rng(0).normal(3, 2, 2000)
    found = bootstrap(values, seed=1)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert found.mean == pytest.approx(values.mean()) and found.n == 2000
    assert found.low == pytest.approx(values.mean() - half, abs=0.01)
    assert found.high == pytest.approx(values.mean() + half, abs=0.01)
    assert bootstrap(values, seed=1) == found


def test_a_paired_comparison_decides_where_unpaired_intervals_overlap():
    random = np.random.default_rng(0)
    hard = random.gamma(2, 3, 500)
    first, second = hard, hard + random.normal(0.1, 0.3, 500)
    found = compare(first, second)
    assert bootstrap(first).high > bootstrap(second).low  # the intervals overlap
    assert found.is_decided and found.difference.high < 0 and found.wins > 0.5
    assert not compare(first, first).is_decided and compare(first, first).ties == 1


def test_a_score_is_the_mean_over_images():
    score = score_detection(np.array([1.0, 2.0, 3.0]), find_benchmark("mafl"), draws=100)
    assert score.error.mean == 2.0 and score.benchmark == "mafl"


@needs_faces
def test_landmarks_of_real_300w_faces_stay_inside_the_crop():
    with tarfile.open(FACES / "native_300W.tar") as tar:
        names = [name for name in tar.getnames() if name.endswith(".jpg")][:20]
        for name in names:
            text = tar.extractfile(name[:-4] + ".pts").read().decode()
            raw = np.array(text.split("{")[1].split("}")[0].split(), float).reshape(-1, 2)
            image = Image.open(io.BytesIO(tar.extractfile(name).read())).convert("RGB")
            box = [*raw.min(axis=0), *raw.max(axis=0)]
            _, points = to_frame(image, raw, find_benchmark("300w"), box=box)
            assert (
                points[:, 0].min() > 20 and points[:, 0].max() < 116
            )  # 52 of 100 px wide, in the middle
            assert (points.min(axis=0) + points.max(axis=0)) / 2 == pytest.approx([68, 70.7], abs=2)
