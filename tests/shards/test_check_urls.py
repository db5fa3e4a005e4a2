"""`shards verify` and `shards info` of shards at a URL."""

import json
import os
import tempfile

import pytest

from scemae.config.locations import Typed
from scemae.data.storage.remote_folder import RemoteFolder
from scemae.data.storage.shard_set import open_shards
from scemae.errors import ShardError, UnreachableError
from scemae.shards import check
from scemae.shards.check import verify
from scemae.shards.describe import describe
from tests.object_server import serve
from tests.support import scemae, small_disk, write_shards


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


def test_keys_are_printed_as_a_subset_takes_them(bucket):
    expected = [*open_shards(str(bucket / "test")).keys, *open_shards(str(bucket / "train")).keys]
    for place in (bucket, f"file://{bucket}"):
        assert scemae("shards", "info", place, "--keys").stdout.splitlines() == expected


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


def test_what_cannot_be_read_is_not_called_damaged(bucket, monkeypatch):
    monkeypatch.setattr(check, "THREADS", 1)
    flip(bucket / "train" / "train-000000.tar", at=700)
    with serve(bucket) as server:
        server.fault = lambda path, before: 403 if path.endswith("train-000001.tar") else None
        with pytest.raises(ShardError) as error:
            verify(f"{server.url}/train")
    said, _, wrong = str(error.value).partition("1 of its parts are wrong: ")
    assert "train-000001.tar: access was refused" in said and "run the same command again" in said
    assert "resume" not in said and "train-000001" not in wrong
    assert "train-000000.tar: its SHA-256" in wrong


def test_who_may_read_need_not_list(bucket, monkeypatch):
    def refused(self):
        raise UnreachableError("may not be listed")

    monkeypatch.setattr(RemoteFolder, "names", refused)
    assert "whole" in verify(f"file://{bucket}/train")


def test_a_full_folder_for_temporary_files_is_named(bucket, tmp_path, monkeypatch):
    with small_disk(tmp_path / "small", "8k") as small:
        monkeypatch.setattr(tempfile, "tempdir", str(small))
        with pytest.raises(ShardError, match=f"{small}: cannot be written to .*set TMPDIR"):
            verify(f"file://{bucket}/train")


def test_a_file_that_is_far_too_large_is_not_downloaded_whole(bucket):
    index = bucket / "train" / "train-000000.index"
    os.truncate(index, 2**31)
    os.truncate(bucket / "train" / "train-000001.tar", 2**31)
    with serve(bucket) as server, pytest.raises(ShardError) as error:
        verify(f"{server.url}/train")
    assert "train-000000.index: found more than 67,108,864 bytes" in str(error.value)
    assert "train-000001.tar: found at least " in str(error.value)


@pytest.mark.parametrize("location", ["pipe:cat /etc/passwd", Typed("hf://datasets/x/y")])
def test_a_program_is_not_started(location):
    with pytest.raises(ShardError, match="copy these to a folder, and give that"):
        verify(location)


def test_a_bucket_that_there_is_not_is_named(tmp_path):
    with pytest.raises(ShardError, match="none: cannot be opened .*check the address"):
        verify(f"file://{tmp_path}/none")
