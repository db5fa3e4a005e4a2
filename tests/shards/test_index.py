"""Tars that other programs wrote, used as they are."""

import io
import json
import os
import pickle
import re
import shutil
import tarfile

import msgspec
import numpy as np
import pytest

from scemae.data.decode import decode
from scemae.data.frame_sources import StreamedFrames
from scemae.data.storage.manifest import read_manifest, write_manifest
from scemae.data.storage.shard_set import open_shards, stream_shards
from scemae.errors import ShardError
from scemae.shards.check import verify
from tests.object_server import serve
from tests.support import TINY, as_earlier_version, digest, picture, scemae, write_shards

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
    first = (tmp_path / "00000.index").stat().st_mtime_ns
    assert "20 images in 2 tars" in scemae("shards", "index", tmp_path).stdout
    assert (tmp_path / "00000.index").stat().st_mtime_ns == first


@pytest.fixture(params=["folder", "url"])
def place(request, foreign, tmp_path):
    """The tars, and what is given to `shards index`; where the indexes go."""
    tars, out = copied(foreign, tmp_path / "tars"), tmp_path / "out"
    yield tars, str(tars) if request.param == "folder" else tars.as_uri(), out


def index(place, *words, **options):
    tars, given, out = place
    return scemae("shards", "index", given, "--out", out, "--workers", 1, *words, **options)


def times(out):
    return {path.name: path.stat().st_mtime_ns for path in sorted(out.glob("*.index"))}


def test_an_interrupted_call_goes_on_where_it_was(place, foreign, tmp_path):
    tars, _, out = place
    whole = (tars / "00001.tar").read_bytes()
    (tars / "00001.tar").write_bytes(whole[:-9000])
    assert index(place, check=False).returncode == 1
    before = times(out)
    assert "00000.index" in before and "00001.index" not in before
    assert not (out / "manifest.json").exists()
    (tars / "00001.tar").write_bytes(whole)
    assert "22 images in 3 tars" in index(place).stdout
    assert times(out)["00000.index"] == before["00000.index"]
    scemae("shards", "index", foreign, "--out", tmp_path / "at once")
    here, there = read_manifest(out), read_manifest(tmp_path / "at once")
    assert here.shards == there.shards and here.excluded == there.excluded


def test_parts_share_the_tars(place, foreign, tmp_path):
    out = place[2]
    said = index(place, "--part", "1/2").stdout
    assert "part 1/2, 2 tars, is indexed" in said and not (out / "manifest.json").exists()
    assert [*times(out)] == ["00000.index", "other.index"]
    index(place, "--part", "2/2")
    before = times(out)
    assert "22 images in 3 tars" in index(place).stdout and times(out) == before
    scemae("shards", "index", foreign, "--out", tmp_path / "at once")
    assert read_manifest(out).shards == read_manifest(tmp_path / "at once").shards
    assert "whole" in verify(out)


def test_a_tar_that_changed_is_indexed_again(place):
    tars, _, out = place
    index(place)
    before = times(out)
    data = (tars / "00001.tar").read_bytes()
    (tars / "00001.tar").write_bytes(data.replace(b"face 11", b"face 99"))
    index(place)
    changed = [name for name, time in times(out).items() if time != before[name]]
    assert changed == ["00001.index"]


@pytest.mark.parametrize("to_a_url", [False, True])
@pytest.mark.parametrize("damage", ["record", "index", "no index"])
def test_a_record_that_is_damaged_or_alone_counts_for_nothing(place, damage, to_a_url):
    tars, given, out = place
    if to_a_url and given == str(tars):
        pytest.skip("tars of a folder need a folder")
    place = tars, given, out.as_uri() if to_a_url else out
    index(place)
    manifest = read_manifest(out)
    if damage == "record":
        (out / ".build" / "00001.tar.json").write_text('{"shard": 3}')
    elif damage == "index":
        (out / "00001.index").write_bytes(b"none")
    else:
        (out / "00001.index").unlink()
    index(place)
    assert read_manifest(out) == manifest and "whole" in verify(out)


def test_an_unfinished_build_of_ones_own_is_left_alone(place):
    out = place[2]
    (out / ".build").mkdir(parents=True)
    (out / ".build" / "plan.json").write_text("{}")
    done = index(place, check=False)
    assert "found shards of `scemae shards build`" in done.stderr and not [*out.glob("*.index")]


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
        {"suffixes": b""},
        {"keys": b"../x\n"},
        {"keys": b"one\ntwo\n"},
        {"jpg": (10**9).to_bytes(4, "little")},
        {"offsets": (513).to_bytes(8, "little")},
        {"offsets": (2**40).to_bytes(8, "little")},
        {"offsets": (2**63 - 512).to_bytes(8, "little")},
        {"offsets": (2**63).to_bytes(8, "little")},
        {"offsets": (2**64 - 512).to_bytes(8, "little")},
        {"suffixes": b"jpg/..\n"},
    ],
)
def test_an_altered_index_is_refused(tmp_path, change):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as tar:
        tar.write({"__key__": "one", "jpg": encoded(1)})
    scemae("shards", "index", tmp_path)
    manifest = read_manifest(tmp_path)
    path = tmp_path / manifest.shards[0].index_file
    columns = msgspec.msgpack.decode(path.read_bytes())
    path.write_bytes(msgspec.msgpack.encode(columns | change))
    manifest.shards[0].index_sha256 = digest(path)
    write_manifest(tmp_path, manifest)
    with pytest.raises(ShardError, match="scemae shards index"):
        open_shards(str(tmp_path)).jpeg(0)


def test_shards_of_ones_own_are_left_alone_at_a_url_too(tmp_path):
    folder = write_shards(tmp_path / "train", 4)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for place in (folder, f"file://{folder}"):
        done = scemae("shards", "index", place, check=False)
        assert "found shards of `scemae shards build`, which need no other index" in done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("é" * 600, 4, "3,600 characters with those that are no letters"),
        ("one", 2**28 + 1, "268,435,457 bytes, at most"),
    ],
)
def test_what_could_not_be_read_later_is_refused(tmp_path, name, size, words):
    info = tarfile.TarInfo(f"{name}.jpg")
    info.size = size
    head = info.tobuf(tarfile.PAX_FORMAT)
    (tmp_path / "a.tar").write_bytes(head)
    os.truncate(tmp_path / "a.tar", len(head) + -(-size // 512) * 512 + 1024)  # a hole
    done = scemae("shards", "index", tmp_path, check=False)
    assert words in done.stderr and not (tmp_path / "manifest.json").exists()


def test_an_index_of_an_earlier_version_reads_the_same_and_is_packed_when_made_again(
    foreign, tmp_path
):
    folder = shutil.copytree(foreign, tmp_path / "tars")
    scemae("shards", "index", folder)
    manifest, now = read_manifest(folder), open_shards(str(folder))
    keys, images = [*now.keys], [*map(now.jpeg, range(len(now)))]
    earlier = open_shards(str(as_earlier_version(folder)))
    assert [*earlier.keys] == keys and earlier.digests == now.digests
    assert [*map(earlier.jpeg, range(len(now)))] == images
    scemae("shards", "index", folder)
    assert read_manifest(folder) == manifest and manifest.excluded
    scemae("shards", "index", folder)  # what is known already
    assert read_manifest(folder) == manifest


def test_a_flipped_byte_inside_an_image_is_found_when_it_is_read(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as tar:
        tar.write({"__key__": "one", "jpg": encoded(1)})
    scemae("shards", "index", tmp_path)
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[data.find(encoded(1)) + 300] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ShardError, match="the bytes of one.jpg are not those of its index"):
        open_shards(str(tmp_path)).jpeg(0)


def tree(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def jpegs(shards):
    return [shards.jpeg(i) for i in range(len(shards))]


def copied(foreign, folder):
    """The tars alone."""
    folder.mkdir()
    for tar in foreign.glob("*.tar"):
        (folder / tar.name).write_bytes(tar.read_bytes())
    return folder


def test_manifest_and_indexes_may_lie_elsewhere_and_the_tars_are_only_read(foreign, tmp_path):
    scemae("shards", "index", foreign)
    tars = copied(foreign, tmp_path / "tars")
    before, place = tree(tars), tmp_path / "a" / "place"
    out = scemae("shards", "index", tars, "--out", place).stdout
    assert f"{place}: 22 images in 3 tars" in out and tree(tars) == before
    assert sorted(tree(place)) == ["00000.index", "00001.index", "manifest.json",
                                   "other.index"]  # fmt: skip
    there, beside = open_shards(str(place)), open_shards(str(foreign))
    assert jpegs(there) == jpegs(beside) and there.digest == beside.digest
    assert jpegs(pickle.loads(pickle.dumps(there))) == jpegs(beside)
    assert "whole" in scemae("shards", "verify", place, "--decode").stdout
    assert f"option       tars: {tars}" in scemae("shards", "info", place).stdout
    stamp = (place / "00000.index").stat().st_mtime_ns
    (tars / "00001.tar").unlink()
    assert "12 images in 2" in scemae("shards", "index", tars, "--out", place).stdout
    assert (place / "00000.index").stat().st_mtime_ns == stamp
    (tars / "other.tar").unlink()
    with pytest.raises(ShardError, match=f"{tars}/other.tar: cannot be opened"):
        open_shards(str(place))


@pytest.mark.parametrize("out", ["folder", "url"])
@pytest.mark.parametrize("cache_gb", [None, 0.1])
def test_tars_behind_a_url_are_found_by_a_manifest_elsewhere(foreign, tmp_path, out, cache_gb):
    """The manifest lies in a folder, or behind another URL; the tars are copied, or streamed."""
    scemae("shards", "index", foreign)
    tars = copied(foreign, tmp_path / "tars")
    place = str(tmp_path / "place") if out == "folder" else f"file://{tmp_path / 'place'}"
    scemae("shards", "index", f"file://{tars}", "--out", place, "--workers", 2)
    assert {path.suffix for path in tars.iterdir()} == {".tar"}
    cache = str(tmp_path / "cache")
    there = stream_shards([place], cache, cache_gb)[0] if cache_gb else open_shards(place, cache)
    beside = open_shards(str(foreign))
    assert jpegs(there) == jpegs(beside) and there.digest == beside.digest
    again = pickle.loads(pickle.dumps(there))
    assert jpegs(again) == jpegs(beside) and again.annotation(0) == beside.annotation(0)
    if out == "folder":
        assert "22 samples" in scemae("shards", "info", place).stdout
        assert "22 samples in 3 shards" in scemae("shards", "verify", place).stdout
        with pytest.raises(ShardError, match="are read through a folder; set data.cache_dir"):
            open_shards(place)


def test_tars_of_a_web_server_are_indexed_into_a_folder_and_trained_on(foreign, tmp_path):
    tars = copied(foreign, tmp_path / "tars")
    words = ["pretrain", *TINY, "optim.global_batch_size=4", "optim.epochs=1", "data.frame=96"]
    words += ["loop.log_every=1", "loop.save_every=1", "runtime.device=cpu"]
    with serve(tars.parent) as server:
        pattern = f"{server.url}/tars/{{00000..00001}}.tar"
        scemae("shards", "index", pattern, "--out", tmp_path / "place")
        scemae(*words, f"run_dir={tmp_path / 'run'}", f"data.shards={tmp_path / 'place'}",
               f"data.cache_dir={tmp_path / 'cache'}", "data.cache_gb=1")  # fmt: skip
    scemae("shards", "index", tmp_path / "tars" / "{00000..00001}.tar")
    done = scemae("verify-resume", tmp_path / "run", "--all", "--shards", tars)
    assert "verified" in done.stdout


@pytest.mark.parametrize(
    ("tars", "out", "sentence"),
    [
        ("tars", "file:///tmp/x", "the tars are in a folder, which others cannot read"),
        ("tars", "file", "file: cannot be made"),
        ("tars", "own", "found shards of `scemae shards build`"),
        ("https://me:word@host/a.tar", "x", "found a password or a query in the URL"),
    ],
)
def test_a_place_that_cannot_be_is_refused(foreign, tmp_path, tars, out, sentence):
    copied(foreign, tmp_path / "tars")
    (tmp_path / "file").write_bytes(b"")
    write_shards(tmp_path / "own", 2)
    where = tars if "://" in tars else tmp_path / tars
    place = out if "://" in out else tmp_path / out
    done = scemae("shards", "index", where, "--out", place, check=False)
    assert (
        done.returncode == 1
        and sentence in done.stderr
        and "word" not in done.stderr.replace("password", "")
    )


def test_a_manifest_names_no_command_and_behind_a_url_no_folder(foreign, tmp_path):
    scemae("shards", "index", foreign, "--out", tmp_path / "place")
    with pytest.raises(ShardError, match="names tars in the folder .* may name only URLs"):
        open_shards(f"file://{tmp_path / 'place'}", str(tmp_path / "cache"))
    path = tmp_path / "place" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["options"]["tars"] = f"pipe:touch {tmp_path / 'run'}; cat"
    path.write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="a file may name only folders and file, http"):
        open_shards(str(tmp_path / "place"), str(tmp_path / "cache"))
    assert not (tmp_path / "run").exists()


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
        client.create_bucket(Bucket="mine")
        scemae("shards", "index", "s3://laion/faces", "--out", "s3://mine/laion")
        mine = stream_shards(["s3://mine/laion"], str(tmp_path / "mine"), 0.1)[0]
        assert [mine.jpeg(i) for i in range(22)] == [here.jpeg(i) for i in range(22)]
        none = scemae("shards", "index", "s3://nowhere/faces", check=False)
        assert none.returncode == 1 and none.stderr.count("\n") == 1
    finally:
        server.stop()
