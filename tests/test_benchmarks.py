"""Benchmark facts, evaluation frames and scores against step-by-step versions."""

import hashlib
import io
import json
import os
import tarfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scemae.data.manifest import Index, Manifest, Shard, write_json, write_manifest
from scemae.data.reader import open_shards
from scemae.errors import ConfigError, ShardError
from scemae.landmarks.benchmarks import (
    BENCHMARKS, denormalise_landmarks, find_benchmark, load_frames, normalise_landmarks, to_frame)
from scemae.landmarks.scores import bootstrap, compare, score_detection, to_json

FACES = Path(os.environ.get("SCEMAE_FACES", Path(__file__).parents[2] / "shared" / "faces"))


def write_split(folder: Path, samples: list[tuple[bytes, dict]], options: dict | None = None) -> Path:
    """One real shard of (JPEG, annotation) samples with index and manifest."""
    folder.mkdir(parents=True)
    index, tar = Index(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as file:
        for i, (jpeg, annotation) in enumerate(samples):
            index.keys.append(f"{i:06d}")
            for ext, data, where in (("jpg", jpeg, index.jpg), ("json", json.dumps(annotation).encode(), index.json)):
                info = tarfile.TarInfo(f"{i:06d}.{ext}")
                info.size = len(data)
                where.append([file.offset + tarfile.BLOCKSIZE, len(data)])
                file.addfile(info, io.BytesIO(data))
    (folder / "x-000000.tar").write_bytes(tar.getvalue())
    write_json(folder / "x-000000.index.json", asdict(index))
    digests = [hashlib.sha256((folder / name).read_bytes()).hexdigest()
               for name in ("x-000000.tar", "x-000000.index.json")]
    shard = Shard("x-000000.tar", len(samples), len(tar.getvalue()), *digests)
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
    samples = [(jpeg(picture(178, 218, i)), {"file": "a", "landmarks": POINTS, "identity": i}) for i in range(5)]
    del samples[1][1]["identity"]
    frames = load_frames(open_shards(str(write_split(tmp_path / "s", samples))), BENCHMARKS["mafl"], limit=4)
    assert frames.images.shape == (4, 3, 136, 136) and frames.identities.tolist() == [0, -1, 2, 3]
    for i in range(4):
        slow = Image.open(io.BytesIO(samples[i][0])).crop((0, 30, 178, 208)).resize((136, 136), Image.BILINEAR)
        assert np.array_equal(frames.images[i].permute(1, 2, 0).numpy(), np.array(slow))
    assert np.allclose(frames.landmarks[0, 0], [69 * 136 / 178, 81 * 136 / 178])


def test_landmarks_of_resized_shards_are_already_in_their_frame(tmp_path):
    stored = picture(178, 218).crop((0, 30, 178, 208)).resize((136, 136), Image.BILINEAR)
    folder = write_split(tmp_path / "s", [(jpeg(stored), {"landmarks": POINTS})], {"frame": "celeba-178", "size": 136})
    frames = load_frames(open_shards(str(folder)), BENCHMARKS["mafl"])
    assert np.array_equal(frames.images[0].permute(1, 2, 0).numpy(), np.array(Image.open(io.BytesIO(jpeg(stored)))))
    assert np.allclose(frames.landmarks[0], POINTS)
    with pytest.raises(ConfigError, match="without resizing"):
        load_frames(open_shards(str(folder)), BENCHMARKS["aflw_m"])


def test_stretched_frames_count_from_one_only_where_the_files_do():
    _, matlab = to_frame(picture(150, 150), np.array([[76.0, 51.0]]), BENCHMARKS["aflw_m"])
    frame, plain = to_frame(picture(200, 100), np.array([[100.0, 50.0]]), BENCHMARKS["aflw_r"])
    assert frame.size == (136, 136)
    assert np.allclose(matlab, [[75 * 136 / 150, 50 * 136 / 150]]) and np.allclose(plain, [[68, 68]])


def test_300w_box_rule_puts_the_marked_pixels_under_the_landmarks():
    image = np.zeros((400, 500, 3), np.uint8)
    image[198:203, 248:253] = 255                                   # centre (250, 200) from 0: (251, 201) from 1
    frame, points = to_frame(Image.fromarray(image), np.array([[251.0, 201.0]]), BENCHMARKS["300w"],
                             box=[199.0, 149.0, 302.0, 252.0])      # 104 wide: scale 1/2; centre 251.5
    # By hand: centre floor(125.75) = 125, left 75; 125 for y from floor(100.75) = 100, less 50, less 2: top 48.
    assert np.allclose(points, [[(251 / 2 - 75 - 1) * 1.36, (201 / 2 - 48 - 1) * 1.36]])
    bright = np.argwhere(np.array(frame)[..., 0] > 127)[:, ::-1].mean(axis=0)
    assert np.abs(bright - points[0]).max() < 0.75


def test_300w_windows_outside_the_image_are_black():
    white = Image.fromarray(np.full((60, 60, 3), 255, np.uint8))
    frame, _ = to_frame(white, np.zeros((68, 2)), BENCHMARKS["300w"], box=[1.0, 1.0, 52.0, 52.0])
    pixels = np.array(frame)[..., 0]
    assert pixels[:25, :].max() == 0 and pixels[:, :25].max() == 0 and pixels[60:80, 60:80].min() == 255


def test_300w_uses_the_outer_eye_corners_and_every_benchmark_its_own_points():
    assert BENCHMARKS["300w"].eyes == (36, 45) and BENCHMARKS["300w"].landmarks == 68
    assert all(BENCHMARKS[name].eyes == (0, 1) for name in ("mafl", "aflw_m", "aflw_r"))
    with pytest.raises(ConfigError, match="mafl"):
        find_benchmark("wflw")


@pytest.mark.parametrize("annotation, size", [
    ({}, (178, 218)), ({"landmarks": POINTS[:4]}, (178, 218)), ({"landmarks": POINTS}, (178, 178))])
def test_unusable_samples_are_named(tmp_path, annotation, size):
    folder = write_split(tmp_path / "s", [(jpeg(picture(*size)), annotation)])
    with pytest.raises(ShardError, match="sample 000000 cannot be evaluated"):
        load_frames(open_shards(str(folder)), BENCHMARKS["mafl"])


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


def test_paired_comparison_sees_what_unpaired_intervals_hide():
    random = np.random.default_rng(0)
    hard = random.gamma(2, 3, 500)
    first, second = hard, hard + random.normal(0.1, 0.3, 500)
    found = compare(first, second)
    assert bootstrap(first).high > bootstrap(second).low                # the intervals overlap
    assert found.is_decided and found.difference.high < 0 and found.wins > 0.5
    assert not compare(first, first).is_decided and compare(first, first).ties == 1


def test_scores_are_json():
    score = score_detection(np.array([1.0, 2.0, 3.0]), BENCHMARKS["mafl"], draws=100)
    read = json.loads(to_json(score))
    assert read["error"]["mean"] == 2.0 and read["benchmark"] == "mafl"


@pytest.mark.skipif(not FACES.exists(), reason="no real faces here")
def test_landmarks_of_real_300w_faces_stay_inside_the_crop():
    with tarfile.open(FACES / "native_300W.tar") as tar:
        names = [name for name in tar.getnames() if name.endswith(".jpg")][:20]
        for name in names:
            text = tar.extractfile(name[:-4] + ".pts").read().decode()
            raw = np.array(text.split("{")[1].split("}")[0].split(), float).reshape(-1, 2)
            image = Image.open(io.BytesIO(tar.extractfile(name).read())).convert("RGB")
            box = [*raw.min(axis=0), *raw.max(axis=0)]
            _, points = to_frame(image, raw, BENCHMARKS["300w"], box=box)
            assert points[:, 0].min() > 20 and points[:, 0].max() < 116         # 52 of 100 px wide, in the middle
            assert (points.min(axis=0) + points.max(axis=0)) / 2 == pytest.approx([68, 70.7], abs=2)
