"""Shards at a URL: no file is used that differs from the manifest, and no wait is endless."""

import json
import os
import sys

import pytest

from scemae.config.locations import Typed
from scemae.data.storage import download, fetch
from scemae.data.storage.shard_set import open_shards
from scemae.errors import FileError, ShardError
from tests.support import write_shards


@pytest.fixture
def remote(tmp_path):
    return write_shards(tmp_path / "remote", 4)


def opened(remote, tmp_path):
    return open_shards(f"file://{remote}", str(tmp_path / "cache"))


def replace_bytes(path, old, new):
    path.write_bytes(path.read_bytes().replace(old, new))


@pytest.mark.parametrize("name", ["train-000000.tar", "train-000000.index"])
def test_a_remote_file_of_the_same_size_and_other_content_is_refused(remote, tmp_path, name):
    data = bytearray((remote / name).read_bytes())
    data[20] ^= 1
    (remote / name).write_bytes(data)
    with pytest.raises(ShardError, match=f"{name}: its SHA-256 is not the manifest's"):
        opened(remote, tmp_path)
    assert not [path for path in (tmp_path / "cache").rglob(f"{name}*")]


def test_an_old_copy_is_not_used_under_a_new_digest(remote, tmp_path):
    first = opened(remote, tmp_path)
    other = write_shards(tmp_path / "other", 4)
    replace_bytes(other / "train-000001.tar", b"105, 152", b"105, 153")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["shards"][1]["sha256"] = fetch.disk.file_digest(other / "train-000001.tar")
    (other / "manifest.json").write_text(json.dumps(manifest))
    os.rename(remote, tmp_path / "gone")
    os.rename(other, remote)
    second = opened(remote, tmp_path)
    assert first.annotation(3)["landmarks"][4] == [105, 152] and second.annotation(3)["landmarks"][
        4
    ] == [105, 153]
    assert os.path.samefile(
        first.folder / "train-000000.tar", second.folder / "train-000000.tar"
    )  # the same: not copied again


@pytest.mark.parametrize(("mode", "taken"), [(0o755, 0), (0o777, 4)])
def test_a_copy_in_a_folder_that_others_can_write_to_is_compared_with_its_digest(
    remote, tmp_path, mode, taken
):
    folder = opened(remote, tmp_path).folder
    folder.chmod(mode)
    replace_bytes(folder / "train-000000.tar", b"105, 152", b"105, 153")
    replace_bytes(folder / "train-000001.tar", b"105, 152", b"105, 153")
    again = opened(remote, tmp_path)
    assert sum(again.annotation(i)["landmarks"][4] == [105, 152] for i in range(4)) == taken


def test_a_cache_that_is_a_link_is_refused(remote, tmp_path):
    folder = opened(remote, tmp_path).folder.parent
    folder.rename(tmp_path / "victim")
    folder.symlink_to(tmp_path / "victim")
    with pytest.raises(FileError, match="found a link"):
        opened(remote, tmp_path)


def test_what_is_copied_is_not_copied_again(remote, tmp_path):
    opened(remote, tmp_path)
    for path in remote.glob("train-*"):
        path.unlink()
    assert len(opened(remote, tmp_path)) == 4


@pytest.mark.parametrize(("place", "file"), [("..", "../../x.tar"), ("", "/tmp/typed-x.tar")])
def test_a_remote_manifest_names_no_file_outside_the_cache(remote, tmp_path, place, file):
    manifest = json.loads((remote / "manifest.json").read_text())
    manifest["shards"][0]["file"] = file
    (remote / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="plain file name"):
        opened(remote, tmp_path)
    assert not (tmp_path / "x.tar").exists() and not os.path.exists("/tmp/typed-x.tar")


def test_shards_larger_than_the_disk_are_refused_before_they_are_copied(remote, tmp_path):
    manifest = json.loads((remote / "manifest.json").read_text())
    manifest["shards"][0]["bytes"] = 2**52
    (remote / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="found room for"):
        opened(remote, tmp_path)


@pytest.mark.parametrize("location", ["foo://x/y", "smb://x", "javascript://x"])
def test_an_unknown_scheme_is_refused_in_a_sentence_before_anything(location, tmp_path):
    with pytest.raises(ShardError, match=r"found the scheme .*, one of file, .* was needed"):
        open_shards(location, str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_the_known_schemes_are_those_of_webdataset():
    pytest.importorskip("webdataset.gopen")
    known = sys.modules[
        "webdataset.gopen"
    ].gopen_schemes  # the package hides its module behind a function of that name
    without = {"__default__", "htgs"}  # which it hands to curl, and curl knows no gs:
    assert set(download.SCHEMES) == {*known, "file", "s3", "az"} - without  # these two it lacks


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("yes", "found more than the"),
        ("sleep 60", "found no end of it in time"),
        ("while :; do echo; sleep 0.02; done", "found no end of it in time"),
        ("false", "cannot be read"),
    ],
)
def test_an_endless_manifest_is_given_up(command, words, monkeypatch):
    monkeypatch.setattr(download, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(download, "PATIENCE", 0.6)
    with pytest.raises(ShardError, match=words):
        list(download.download(Typed(f"pipe:{command}"), 5000))


@pytest.mark.parametrize("lead", ["/dev/zero", "pipe"])
def test_a_file_url_that_leads_to_a_device_or_a_pipe_is_not_opened(remote, tmp_path, lead):
    (remote / "manifest.json").unlink()
    os.symlink(lead, remote / "manifest.json") if lead == "/dev/zero" else os.mkfifo(
        remote / "manifest.json"
    )
    with pytest.raises(ShardError, match="found no regular file"):
        opened(remote, tmp_path)
