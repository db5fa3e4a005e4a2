"""Tars that other programs wrote, used as they are."""

import io
import json
import re
import tarfile

import numpy as np
import pytest

from scemae.data.decode import StreamedFrames, decode
from scemae.data.storage.shard_set import open_shards, stream_shards
from scemae.errors import ShardError
from tests.object_server import serve
from tests.support import TINY, digest, picture, scemae

webdataset = pytest.importorskip("webdataset")


def encoded(seed, kind="JPEG", size=(64, 48)):
    buffer = io.BytesIO()
    picture(seed, size).save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Two tars by webdataset, as img2dataset lays them out, and one by tarfile with long names."""
    root = tmp_path_factory.mktemp("foreign")
    for number in range(2):
        with webdataset.TarWriter(str(root / f"{number:05d}.tar")) as tar:
            for i in range(10 * number, 10 * number + 10):
                kind = ("jpg", "JPEG") if i % 3 else ("png", "PNG")
                tar.write(
                    {
                        "__key__": f"{i:09d}",
                        kind[0]: encoded(i, kind[1]),
                        "json": {"caption": f"face {i}", "size": "large"},
                        "txt": f"face {i}",
                    }
                )
            tar.write({"__key__": f"{number}-words-alone", "txt": "no picture"})
    with tarfile.open(root / "other.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for i, name in enumerate(("a folder/é 1.JPG", f"{'deep/' * 30}face.seg.png", "z.b/c.jpeg")):
            info, data = tarfile.TarInfo(name), encoded(20 + i)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return root


def test_webdataset_and_the_index_find_the_same_images(foreign):
    out = scemae("shards", "index", foreign).stdout
    assert "22 images in 3 tars; left out: 3 samples without .jpg" in out
    shards = open_shards(str(foreign))
    found = {}
    for tar in sorted(foreign.glob("*.tar")):
        for sample in webdataset.WebDataset(str(tar), shardshuffle=False):
            for kind in ("jpg", "jpeg", "png"):
                if kind in sample:
                    found[sample["__key__"]] = sample[kind]
    assert [shards.jpeg(i) for i in range(len(shards))] == list(found.values())
    assert shards.keys[0] == "000000000" and shards.keys[20] == "a%20folder%2F%C3%A9%201"
    assert shards.annotation(0) == {"file": "000000000.png"}
    assert "whole" in scemae("shards", "verify", foreign, "--decode").stdout
    assert "22 samples" in scemae("shards", "info", foreign).stdout


def test_a_png_becomes_the_frame_that_pillow_gives(foreign):
    scemae("shards", "index", foreign)
    shards = open_shards(str(foreign))
    found, frames = StreamedFrames(shards, 48).frames(np.array([0]))
    assert found.tolist() == [0]
    assert (frames[0] == np.asarray(picture(0, (64, 48)))[:, 8:56]).all()
    assert decode(shards.jpeg(1), 32).shape == (32, 32, 3)


def test_training_runs_on_them_from_a_server_too(foreign, tmp_path):
    scemae("shards", "index", foreign)
    words = ["pretrain", *TINY, "optim.global_batch_size=4", "optim.epochs=1", "data.frame=96"]
    words += ["loop.log_every=1", "loop.save_every=1", "runtime.device=cpu"]
    scemae(*words, f"run_dir={tmp_path / 'local'}", f"data.shards={foreign}")
    with serve(foreign.parent) as server:
        scemae(
            *words,
            f"run_dir={tmp_path / 'remote'}",
            f"data.shards={server.url}/{foreign.name}",
            f"data.cache_dir={tmp_path / 'cache'}",
            "data.cache_gb=1",
        )
    done = scemae("verify-resume", tmp_path / "remote", "--all", "--against", tmp_path / "local",
                  "--shards", foreign)  # fmt: skip
    assert "verified" in done.stdout


def test_a_brace_pattern_takes_some_and_an_added_tar_comes_in_later(foreign, tmp_path):
    for tar in foreign.glob("0*.tar"):
        (tmp_path / tar.name).write_bytes(tar.read_bytes())
    assert (
        "10 images in 1 tars" in scemae("shards", "index", tmp_path / "{00000..00000}.tar").stdout
    )
    first = (tmp_path / "00000.index.json").stat().st_mtime_ns
    assert "20 images in 2 tars" in scemae("shards", "index", tmp_path).stdout
    assert (tmp_path / "00000.index.json").stat().st_mtime_ns == first


def test_a_tar_that_is_replaced_is_found(foreign, tmp_path):
    tar = tmp_path / "00000.tar"
    tar.write_bytes((foreign / "00000.tar").read_bytes())
    scemae("shards", "index", tmp_path)
    data = tar.read_bytes()
    tar.write_bytes(data.replace(b"000000003.png", b"000000333.png"))
    with pytest.raises(ShardError, match="where its index names 000000003.png"):
        open_shards(str(tmp_path)).jpeg(3)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, r"found no \*.tar in it"),
        ({"a.tar": b"no tar at all" * 100}, "not a whole tar file"),
        ({"a b.tar": None}, "found no plain name of a tar"),
        ({"words.tar": {"a.txt": b"word"}}, "found no image in 1 tars"),
        ({"twice.tar": {"a.jpg": b"1", "b.jpg": b"2", "./a.png": b"3", "a.jpeg": b"4"}}, "twice"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(foreign, tmp_path, files, sentence):
    for name, content in files.items():
        if isinstance(content, dict):
            with tarfile.open(tmp_path / name, "w") as tar:
                for member, data in content.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        else:
            (tmp_path / name).write_bytes(content or (foreign / "00000.tar").read_bytes())
    done = scemae("shards", "index", tmp_path, check=False)
    assert done.returncode == 1
    assert re.search(sentence, done.stderr)


@pytest.mark.parametrize(
    "change",
    [
        {"suffixes": []},
        {"keys": ["../x"]},
        {"jpg": [[512, 10**9]]},
        {"jpg": [[513, 4]]},
        {"suffixes": ["jpg/.."]},
    ],
)
def test_an_altered_index_is_refused(tmp_path, change):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as tar:
        tar.write({"__key__": "one", "jpg": encoded(1)})
    scemae("shards", "index", tmp_path)
    index = json.loads((tmp_path / "a.index.json").read_text()) | change
    (tmp_path / "a.index.json").write_text(json.dumps(index))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["shards"][0]["index_sha256"] = digest(tmp_path / "a.index.json")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="scemae shards index"):
        open_shards(str(tmp_path)).jpeg(0)


def test_a_flipped_byte_inside_an_image_is_found_when_it_is_read(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as tar:
        tar.write({"__key__": "one", "jpg": encoded(1)})
    scemae("shards", "index", tmp_path)
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[data.find(encoded(1)) + 300] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ShardError, match="the bytes of one.jpg are not those of its index"):
        open_shards(str(tmp_path)).jpeg(0)


def test_tars_of_a_bucket_get_their_manifest_there(foreign, tmp_path, monkeypatch):
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="laion")
        for tar in foreign.glob("*.tar"):
            client.upload_file(str(tar), "laion", f"faces/{tar.name}")
        some = scemae("shards", "index", "s3://laion/faces/{00000..00001}.tar").stdout
        assert "s3://laion/faces: 20 images in 2 tars" in some
        assert "22 images in 3 tars" in scemae("shards", "index", "s3://laion/faces").stdout
        scemae("shards", "index", foreign)
        there = stream_shards(["s3://laion/faces"], str(tmp_path), 0.1)[0]
        here = open_shards(str(foreign))
        assert [there.jpeg(i) for i in range(22)] == [here.jpeg(i) for i in range(22)]
        assert there.digest == here.digest
        none = scemae("shards", "index", "s3://nowhere/faces", check=False)
        assert none.returncode == 1 and none.stderr.count("\n") == 1
    finally:
        server.stop()
