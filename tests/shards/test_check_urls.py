"""`shards verify` and `shards info` of shards at a URL."""

import json

import pytest

from scemae.errors import ShardError
from scemae.shards.check import describe, verify
from tests.object_server import serve
from tests.support import scemae, write_shards


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder `bucket` and its splits, as a server shows them; temporary files in `temporary`."""
    for name, count in (("train", 6), ("test", 3)):
        write_shards(tmp_path / "bucket" / name, count)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return tmp_path / "bucket"


def flip(path, at=600):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_all_splits_of_a_bucket_are_verified_and_described(bucket, tmp_path):
    url = f"file://{bucket}"
    lines = scemae("shards", "verify", url, "--decode").stdout.splitlines()
    assert [line.partition(": ")[::2] for line in lines] == [
        (f"{url}/test", "3 samples in 2 shards, 0.0 MB, whole"),
        (f"{url}/train", "6 samples in 2 shards, 0.1 MB, whole"),
    ]
    local, remote = describe(bucket), describe(url)
    for line in remote.replace("file://", "").splitlines():
        assert line in local
    assert "digest" in remote and not [*(tmp_path / "temporary").iterdir()]


@pytest.mark.parametrize("name", ["train-000001.tar", "train-000001.index", "manifest.json"])
def test_what_is_wrong_is_named_with_its_url(bucket, name):
    flip(bucket / "train" / name, at=60)
    with pytest.raises(ShardError, match=f"file://{bucket}/train/{name}: ") as error:
        verify(f"file://{bucket}")
    assert ("SHA-256 is not the manifest's" in str(error.value)) == (name != "manifest.json")


def test_a_short_a_missing_and_an_unlisted_tar_are_named(bucket):
    tar = bucket / "train" / "train-000000.tar"
    (bucket / "train" / "extra.tar").write_bytes(tar.read_bytes())
    tar.write_bytes(tar.read_bytes()[:-512])
    (bucket / "train" / "train-000001.tar").unlink()
    with pytest.raises(
        ShardError, match=r"2 of its parts are wrong: .*train-000000.tar: found"
    ) as error:
        verify(f"file://{bucket}/train")
    assert "train-000001.tar: not found" in str(error.value)
    assert f"1 tars are in no manifest (file://{bucket}/train/extra.tar)" in str(error.value)


def test_a_web_server_is_read_once_and_only_what_the_manifest_lists(bucket):
    with serve(bucket) as server:
        assert "6 samples in 2 shards, 0.1 MB, whole" in verify(f"{server.url}/train")
        assert set(server.gets.values()) == {1} and len(server.gets) == 5
        flip(bucket / "train" / "train-000000.tar", at=700)
        with pytest.raises(ShardError, match=f"{server.url}/train/train-000000.tar: its SHA-256"):
            verify(f"{server.url}/train")
        with pytest.raises(ShardError, match="manifest.json: not found; check the address"):
            verify(server.url)


def test_a_manifest_of_ones_own_verifies_the_tars_elsewhere(bucket, tmp_path):
    with serve(bucket) as server:
        own = tmp_path / "own"
        scemae("shards", "index", f"{server.url}/train/train-{{000000..000001}}.tar", "--out", own)
        assert "6 samples in 2 shards, 0.1 MB, whole" in verify(own)
        assert json.loads((own / "manifest.json").read_text())["options"]["tars"] in describe(own)
        flip(bucket / "train" / "train-000001.tar", at=700)
        with pytest.raises(ShardError, match=f"{server.url}/train/train-000001.tar: its SHA-256"):
            verify(own)


def test_a_bucket_that_there_is_not_and_a_program_are_refused(tmp_path):
    for location in (f"file://{tmp_path}/none", "pipe:cat /etc/passwd"):
        with pytest.raises(ShardError):
            verify(location)
