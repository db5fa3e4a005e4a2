"""Shards built straight into a bucket: a real S3 server (moto), and folders behind file: URLs."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from scemae.data.storage import url_store
from scemae.data.storage.remote_folder import RemoteFolder
from scemae.data.storage.shard_set import open_shards, stream_shards
from scemae.errors import ShardError
from scemae.shards import lease
from scemae.shards.build import place_of
from scemae.shards.claim import Part
from scemae.shards.sources import folder as folder_source
from scemae.shards.write import write_split
from tests.object_server import serve
from tests.support import picture, scemae


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(30):
        picture(i, (40, 36)).save(folder / f"{i:03d}.jpg")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@contextmanager
def buckets(monkeypatch, *names):
    """A client of an S3 server on this machine with these buckets."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        to_s3(monkeypatch, f"http://{host}:{port}")
        client = boto3.client("s3", region_name="us-east-1")
        for name in names:
            client.create_bucket(Bucket=name)
        yield client
    finally:
        server.stop()


def to_s3(monkeypatch, endpoint):
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "something",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


def build(photographs, out, *words, check=True):
    return scemae(
        "shards",
        "build",
        "folder",
        photographs,
        out,
        "--samples-per-shard",
        4,
        "--max-bad-fraction",
        0.5,
        *(words if "--workers" in words else (*words, "--workers", 1)),
        check=check,
    )


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}


def split_of(photographs):
    return folder_source.splits(photographs)[0]


@pytest.fixture
def impatient(monkeypatch):
    """Claims are renewed 50 times a second, and dead after half a second."""
    monkeypatch.setattr(lease, "RENEWED", 0.02)
    monkeypatch.setattr(lease, "STALE", 0.5)


def test_a_bucket_gets_the_bytes_that_a_folder_gets_in_parts_too(
    photographs, tmp_path, monkeypatch
):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    build(photographs, tmp_path / "here")
    there = tmp_path / "there"
    for part in ("2/3", "1/3"):
        assert "is written" in build(photographs, f"file://{there}", "--part", part).stdout
    assert not (there / "train" / "manifest.json").exists()
    last = build(photographs, f"file://{there}", "--workers", 2).stdout
    assert f"file://{there}/train: 30 samples in 8 shards (6 finished earlier" in last
    assert files_of(there / "train") == files_of(tmp_path / "here" / "train")
    assert not [*(there / "train" / ".build").glob("claim-*")]
    assert not [*(tmp_path / "temporary").glob("scemae*")]
    assert "8 finished earlier and kept, 0 written" in build(photographs, f"file://{there}").stdout


def test_a_real_bucket_is_built_trained_from_and_refused_in_a_sentence(
    photographs, tmp_path, monkeypatch
):
    with buckets(monkeypatch, "own") as client:
        build(photographs, "s3://own/faces", "--part", "1/2")
        assert "30 samples in 8 shards (4 finished" in build(photographs, "s3://own/faces").stdout
        build(photographs, tmp_path / "here")
        for name, data in files_of(tmp_path / "here" / "train").items():
            assert client.get_object(Bucket="own", Key=f"faces/train/{name}")["Body"].read() == data
        there = stream_shards(["s3://own/faces/train"], str(tmp_path / "cache"), 0.1)[0]
        here = open_shards(str(tmp_path / "here" / "train"))
        assert [there.jpeg(i) for i in range(30)] == [here.jpeg(i) for i in range(30)]
        assert "30 samples in 8 shards" in scemae("shards", "verify", "s3://own/faces").stdout
        keys = scemae("shards", "info", "s3://own/faces/train", "--keys").stdout.split()
        assert keys == [*here.keys]
        other = build(photographs, "s3://own/faces", "--shuffle", 1, check=False).stderr
        assert "s3://own/faces/train: holds shards of another build (source_digest" in other
        none = build(photographs, "s3://nowhere/faces", check=False)
        assert none.returncode == 1 and none.stderr.count("\n") == 1
        assert "found no such bucket; make it, or check the address" in none.stderr


def test_a_large_tar_is_put_in_pieces(tmp_path, monkeypatch):
    data = os.urandom(20_000_000)
    (tmp_path / "a.tar").write_bytes(data)
    with buckets(monkeypatch, "own") as client:
        RemoteFolder("s3://own/x", to_write=True).upload("a.tar", tmp_path / "a.tar")
        found = client.get_object(Bucket="own", Key="x/a.tar")
        assert found["Body"].read() == data and found["ETag"].endswith('-3"')  # of three pieces


def test_what_an_interrupted_build_has_put_is_kept(photographs, tmp_path):
    """Killed after some shards: the next goes on, once it has seen that nobody renews the claim."""
    script = (
        "import os, signal, sys\n"
        "from scemae.shards import write\n"
        "from scemae.shards.build import place_of\n"
        "from scemae.shards.sources import folder\n"
        "from pathlib import Path\n"
        "put = write._write_files\n"
        "def stop_at_the_fourth(task, scratch):\n"
        "    if task.number == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return put(task, scratch)\n"
        "write._write_files = stop_at_the_fourth\n"
        "split = folder.splits(Path(sys.argv[1]))[0]\n"
        "write.write_split(split, place_of(sys.argv[2], 'train'), samples_per_shard=4)\n"
    )
    out = tmp_path / "out"
    dead = subprocess.run([sys.executable, "-c", script, photographs, f"file://{out}"])
    assert dead.returncode == -signal.SIGKILL
    assert (out / "train" / ".build" / lease.WHOLE).exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "RENEWED", 0.02)
        patch.setattr(lease, "STALE", 0.5)
        manifest, kept = write_split(
            split_of(photographs),
            place_of(f"file://{out}", "train"),
            samples_per_shard=4,
            max_bad_fraction=0.5,
        )
    assert (kept, manifest.samples) == (3, 30)
    build(photographs, tmp_path / "here")
    assert files_of(out / "train") == files_of(tmp_path / "here" / "train")


@pytest.mark.parametrize("damage", ["record", "tar", "index"])
def test_a_shard_whose_files_are_not_all_there_is_written_again(photographs, tmp_path, damage):
    out, split = tmp_path / "out", split_of(photographs)
    words = {"samples_per_shard": 4, "max_bad_fraction": 0.5}
    write_split(split, place_of(f"file://{out}", "train"), **words)
    whole, folder = files_of(out / "train"), out / "train"
    if damage == "record":
        (folder / ".build" / "train-000002.json").write_text("{")
    elif damage == "tar":
        (folder / "train-000002.tar").write_bytes(b"short")
    else:
        (folder / "train-000002.index").unlink()
    assert write_split(split, place_of(f"file://{out}", "train"), **words)[1] == 7
    assert files_of(folder) == whole


@pytest.mark.parametrize(
    ("held", "wanted", "sentence"),
    [
        ("", None, "it is being written by process"),
        ("", Part(0, 2), "it is being written by process"),
        ("1/2", Part(0, 2), "part 1/2 is being written by process"),
        ("1/2", None, "part 1/2 is being written by process"),
        ("1/2", Part(1, 2), None),
    ],
)
def test_a_claim_that_is_renewed_is_respected(
    photographs, tmp_path, impatient, held, wanted, sentence
):
    place = place_of(f"file://{tmp_path}", "train")
    with lease.leased(place, ".build", held):
        if sentence is None:
            write_split(split_of(photographs), place, part=wanted, max_bad_fraction=0.5)
        else:
            with pytest.raises(ShardError, match=sentence):
                write_split(split_of(photographs), place, part=wanted)
    assert not [*(tmp_path / "train" / ".build").glob("claim-*")]


def test_of_many_that_wait_for_a_dead_claim_one_gets_it(monkeypatch, impatient):
    with buckets(monkeypatch, "own") as client:
        dead = json.dumps({"host": "a", "pid": 1, "token": "0" * 16})
        client.put_object(Bucket="own", Key="x/.build/claim-1-of-2.json", Body=dead)
        holding, held, refused = [], [], []

        def build_it():
            try:
                with lease.leased(RemoteFolder("s3://own/x", to_write=True), ".build", "1/2"):
                    holding.append(1)
                    held.append(len(holding))
                    time.sleep(3)
                    holding.pop()
            except ShardError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=build_it) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert held == [1] and len(refused) == 3
        assert all("part 1/2 is being written by process" in why for why in refused)


def test_a_builder_whose_claim_was_taken_over_leaves_it_alone(tmp_path, impatient):
    place = RemoteFolder(f"file://{tmp_path}", to_write=True)
    claim = tmp_path / ".build" / lease.WHOLE
    with lease.leased(place, ".build", ""):
        claim.write_text(json.dumps({"host": "b", "pid": 2, "token": "1" * 16}))
        time.sleep(0.5)
    assert json.loads(claim.read_text())["host"] == "b"


def test_a_server_that_refuses_and_one_that_cannot_be_written_to(
    photographs, tmp_path, monkeypatch
):
    (tmp_path / "own").mkdir()
    with serve(tmp_path) as server:
        server.fault = lambda path, before: 403
        to_s3(monkeypatch, server.url)
        refused = build(photographs, "s3://own/faces", check=False).stderr
        assert "access was refused, also with credentials read anew; use credentials" in refused
        web = build(photographs, f"{server.url}/own", check=False).stderr
        assert "found http:, which cannot be written to; give a folder, or a URL of s3" in web
        assert refused.count("\n") == web.count("\n") == 1


def test_without_obstore_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr(url_store, "find_spec", lambda name: None)
    with pytest.raises(ShardError, match="s3://own/x/train: found no obstore, .*pip install"):
        place_of("s3://own/x", "train")
