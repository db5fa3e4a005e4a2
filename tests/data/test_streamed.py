"""Shards below a URL, streamed through a cache that may be smaller than they are."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from scemae.config.locations import Typed
from scemae.data.lanes import Lanes
from scemae.data.order import Order
from scemae.data.read_ahead import Stream, cache_needed, check_cache
from scemae.data.storage import remote_folder, url_store
from scemae.data.storage.remote_folder import RemoteFolder
from scemae.data.storage.shard_set import open_shards, stream_shards
from scemae.errors import ConfigError, ShardError, UnreachableError
from tests.object_server import serve
from tests.support import as_earlier_version, small_disk, write_shards


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """90 samples of about 7 kB in three tars; a block of 8 may cross from one into the next."""
    root = tmp_path_factory.mktemp("streamed")
    write_shards(root / "bucket" / "train", 90, shards=3)
    return root


@pytest.fixture
def server(local):
    with serve(local) as state:
        yield state


def opened(server, tmp_path, cache_gb=0.01, block=8, **options):
    urls, cache = [f"{server.url}/bucket/train"], str(tmp_path / "cache")
    return stream_shards(urls, cache, cache_gb, block, **options)[0]


def cached(tmp_path):
    """Bytes that the cache takes on the disk. Files that are removed but still open count too."""
    cache, links = tmp_path / "cache", Path("/proc/self/fd").iterdir()
    opened = [link for link in links if str(cache) in _target(link)]
    files = [path.stat() for path in (*cache.rglob("*"), *opened) if path.is_file()]
    return sum({found.st_ino: found.st_size for found in files}.values())


def _target(link):
    try:
        return os.readlink(link)
    except FileNotFoundError:  # the descriptor that lists them
        return ""


def test_every_sample_is_that_of_the_folder(local, server, tmp_path):
    shards, plain = opened(server, tmp_path), open_shards(str(local / "bucket" / "train"))
    assert len(shards) == 90 and [*shards.keys] == [*plain.keys]
    for i in (0, 29, 30, 31, 89, 60, 7):
        assert shards.jpeg(i) == plain.jpeg(i) and shards.annotation(i) == plain.annotation(i)


def test_a_block_is_one_request_and_comes_once(server, tmp_path):
    shards = opened(server, tmp_path)
    before = sum(server.gets.values())
    for i in range(24):
        shards.jpeg(i)
    assert sum(server.gets.values()) - before == 4  # the index, and three blocks
    again = opened(server, tmp_path)  # another process of the node, or a later start
    before = sum(server.gets.values())
    again.jpeg(5)
    assert sum(server.gets.values()) == before


def test_s3_reads_the_same(local, server, tmp_path, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret-value",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    shards = stream_shards(["s3://bucket/train"], str(tmp_path / "cache"), 0.01)[0]
    assert shards.jpeg(70) == open_shards(str(local / "bucket" / "train")).jpeg(70)
    whole = open_shards("s3://bucket/train", str(tmp_path / "whole"))
    assert whole.jpeg(70) == shards.jpeg(70) and whole.streams == [None]
    server.fault = lambda path, before: 403
    with pytest.raises(ShardError, match="access was refused, also with credentials") as error:
        stream_shards(["s3://bucket/train"], str(tmp_path / "other"), 0.01)
    assert "secret-value" not in str(error.value)


def test_google_s_and_azure_s_clients_read_the_same(local, server, tmp_path, monkeypatch):
    """The real clients, answered by the server of the tests."""
    key, account = tmp_path / "key.json", local / "devstoreaccount1"
    nobody = {"client_email": "", "private_key": "", "private_key_id": "", "disable_oauth": True}
    key.write_text(json.dumps({"gcs_base_url": server.url, **nobody}))
    account.mkdir(exist_ok=True)
    (account / "box").symlink_to(local / "bucket")
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(key))
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", server.url)
    plain = open_shards(str(local / "bucket" / "train"))
    for url in ("gs://bucket/train", "az://box/train"):
        (shards,) = stream_shards([url], str(tmp_path / url[:2]), 0.01, 8)
        assert all(shards.jpeg(i) == plain.jpeg(i) for i in (0, 31, 89))
        with pytest.raises(ShardError, match=f"{url}-absent/manifest.json: not found"):
            stream_shards([f"{url}-absent"], str(tmp_path / url[:2]), 0.01, 8)


def test_a_cache_never_grows_beyond_its_limit(server, tmp_path):
    shards = opened(server, tmp_path, cache_gb=3e-4)  # 300 kB of 900
    for i in (*range(90), *range(0, 90, 7)):
        assert shards.jpeg(i)[:2] == b"\xff\xd8"
        assert cached(tmp_path) <= 300_000


def test_a_block_that_was_emptied_before_a_kill_is_downloaded_again(local, server, tmp_path):
    shards, plain = opened(server, tmp_path), open_shards(str(local / "bucket" / "train"))
    assert shards.jpeg(1) == plain.jpeg(1)
    os.truncate(shards.folder / "block-000000000", 0)
    assert shards.jpeg(2) == plain.jpeg(2)
    assert opened(server, tmp_path).jpeg(3) == plain.jpeg(3)


@pytest.mark.parametrize("fault", [503, "cut", 0.2])
def test_what_fails_once_is_read_again(local, server, tmp_path, fault):
    server.fault = lambda path, before: fault if not before else None
    shards, plain = opened(server, tmp_path), open_shards(str(local / "bucket" / "train"))
    assert all(shards.jpeg(i) == plain.jpeg(i) for i in range(90))


def test_an_answer_that_is_longer_than_its_range_stays_out_of_the_cache(local, server, tmp_path):
    server.fault = lambda path, before: "long" if path.endswith(".tar") and before == 1 else None
    shards, plain = opened(server, tmp_path), open_shards(str(local / "bucket" / "train"))
    assert shards.jpeg(0) == plain.jpeg(0) and server.gets["/bucket/train/train-000000.tar"] == 3
    assert cached(tmp_path) < 200_000


def test_who_waits_for_the_download_of_another_process_is_alive(server, tmp_path):
    notes, first = [], opened(server, tmp_path)
    second = opened(server, tmp_path, note=lambda: notes.append(1))
    first.key(0), second.key(0)  # the index
    server.fault = lambda path, before: 1.0
    downloads = threading.Thread(target=first.jpeg, args=(0,))
    downloads.start()
    while not any(part.stat().st_size for part in first.folder.glob("*.part")):
        time.sleep(0.01)  # it has a size once the download has the lock
    notes.clear()
    second.jpeg(0)
    downloads.join()
    assert len(notes) > 5


def test_of_a_cut_answer_only_the_rest_is_asked_for_again(tmp_path):
    data, notes = np.random.default_rng(0).bytes(3_000_000), []
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "one.tar").write_bytes(data)
    with serve(tmp_path) as server:
        server.fault = lambda path, before: "cut" if before < 2 else None
        remote = RemoteFolder(f"{server.url}/bucket")
        found = remote.read(
            "one.tar", 1000, len(data), len(data), b"".join, lambda: notes.append(1)
        )
        assert found == data[1000:] and server.gets["/bucket/one.tar"] == 3
        assert server.bytes_sent < 1.15 * len(data) and notes


def test_of_a_bucket_that_holds_splits_one_is_advised(tmp_path):
    for name in ("train", "mafl-test"):
        write_shards(tmp_path / "bucket" / name, 3)
    (tmp_path / "bucket" / "other").mkdir()
    (tmp_path / "bucket" / "other" / "notes.txt").write_text("none")
    url = f"file://{tmp_path / 'bucket'}"
    words = f"{url}: holds several splits \\(mafl-test, train\\), one was needed; give {url}/train"
    with pytest.raises(ShardError, match=words):
        stream_shards([url], str(tmp_path / "cache"), 0.01)
    with pytest.raises(ShardError, match="manifest.json: not found; check the address"):
        stream_shards([f"{url}/other"], str(tmp_path / "cache"), 0.01)


def test_a_server_that_is_gone_is_a_passing_trouble_and_a_refusal_is_not(
    local, tmp_path, monkeypatch
):
    """By the exit status: the job script starts a run again that ended with 75."""
    monkeypatch.setattr(remote_folder, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(url_store, "RETRIES", 0)
    with serve(local) as server:
        shards = opened(server, tmp_path)
        server.fault = lambda path, before: 403
        with pytest.raises(UnreachableError, match="renew the credentials") as refused:
            shards.jpeg(0)
        server.fault = lambda path, before: 503
        with pytest.raises(UnreachableError, match="the run resumes") as down:
            shards.jpeg(0)
    with pytest.raises(UnreachableError, match="check the network") as gone:
        shards.jpeg(0)
    assert [one.value.exit_status for one in (refused, down, gone)] == [1, 75, 75]


def test_a_partial_block_of_a_killed_process_is_made_again(local, server, tmp_path):
    folder = opened(server, tmp_path).folder
    (folder / "block-000000000.part").write_bytes(bytes(5000))
    (folder / "block-000000005.part").write_bytes(bytes(250_000))
    shards = opened(server, tmp_path, cache_gb=3e-4)
    assert shards.jpeg(1) == open_shards(str(local / "bucket" / "train")).jpeg(1)
    assert not [*folder.glob("*.part")]


def test_a_node_downloads_a_manifest_once_and_again_when_it_has_changed(tmp_path):
    folder = write_shards(tmp_path / "bucket" / "train", 6)
    with serve(tmp_path) as server:
        for _ in range(3):
            assert len(opened(server, tmp_path)) == 6
        assert server.gets["/bucket/train/manifest.json"] == 3
        headers = 3 * 512  # of the first tar, by which its size and ETag are known
        assert server.bytes_sent == (folder / "manifest.json").stat().st_size + headers
        (kept,) = (tmp_path / "cache").glob("*/.manifest.json.kept")
        kept.write_bytes(kept.read_bytes()[:-1])  # as a damaged disk gives it back
        assert len(opened(server, tmp_path)) == 6
        shutil.rmtree(folder)
        write_shards(folder, 9)
        assert len(opened(server, tmp_path)) == 9


def test_a_tar_that_is_replaced_while_it_is_read_is_found(local, server, tmp_path):
    shards = opened(server, tmp_path)
    shards.jpeg(0)
    tar = local / "bucket" / "train" / "train-000000.tar"
    os.utime(tar, (1, 1))
    with pytest.raises(ShardError, match="was replaced while it is in use"):
        shards.jpeg(20)


def test_a_tar_of_another_size_is_found_at_the_start(tmp_path):
    folder = write_shards(tmp_path / "bucket" / "train", 6)
    with open(folder / "train-000000.tar", "ab") as tar:
        tar.write(bytes(512))
    with serve(tmp_path) as server, pytest.raises(ShardError, match="the manifest says"):
        opened(server, tmp_path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("manifest.json", "manifest.json: not found; check the address"),
        ("train-000000.tar", "train-000000.tar: not found"),
        ("train-000000.index", "train-000000.index: not found"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, name, sentence):
    (write_shards(tmp_path / "bucket" / "train", 6) / name).unlink()
    with serve(tmp_path) as server, pytest.raises(ShardError, match=sentence):
        opened(server, tmp_path).jpeg(0)


def test_an_index_that_is_not_the_manifests_is_refused(tmp_path):
    folder = write_shards(tmp_path / "bucket" / "train", 6)
    (folder / "train-000000.index").write_text("{}")
    with serve(tmp_path) as server, pytest.raises(ShardError, match="SHA-256 is not the manifest"):
        opened(server, tmp_path).jpeg(0)


def test_a_cache_holds_for_the_same_tars_with_other_indexes(tmp_path):
    folder = write_shards(tmp_path / "bucket" / "train", 6)
    with serve(tmp_path) as server:
        first = opened(server, tmp_path)
        images = [first.jpeg(i) for i in range(6)]
        blocks = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("block-*")}
        as_earlier_version(folder)
        again = opened(server, tmp_path)
        assert [again.jpeg(i) for i in range(6)] == images and blocks
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("block-*")} == blocks


def test_what_only_a_program_reads_is_copied_whole_or_refused(tmp_path):
    with pytest.raises(ShardError, match="can only be copied whole"):
        stream_shards([Typed("sftp://host/train")], str(tmp_path / "cache"), 1)
    with pytest.raises(ShardError, match="a password or a query can only be copied whole"):
        stream_shards(["https://host/train?sig=abc"], str(tmp_path / "cache"), 1)


def test_two_runs_do_not_share_a_cache(server, tmp_path):
    cache = opened(server, tmp_path).streams[0].cache
    again = opened(server, tmp_path).streams[0].cache
    first, second = cache.claim("runs/a"), again.claim("runs/a")  # two ranks of one run
    with pytest.raises(ConfigError, match="found the run runs/a at work in this cache"):
        again.claim("runs/b")
    first.close()
    with pytest.raises(ConfigError, match="runs/a"):
        again.claim("runs/b")
    second.close()
    again.claim("runs/b").close()  # nobody is there any more


@pytest.mark.parametrize(
    ("ranks", "near", "share"),
    [(1, 1, 1), (4, 2, 1 / 2), (3, 2, 3 / 4), (2, 1, 1 / 2), (8, 1, 1 / 8)],
)
def test_a_cache_needs_two_windows_of_the_lanes_of_the_largest_node(
    server, tmp_path, ranks, near, share
):
    tars = opened(server, tmp_path).streams[0]
    order = Order(90, 0, 8, Lanes(90, 0, lanes=8, block=1, window=4))
    needed = cache_needed(Stream(tars, order, 0), ranks, near)
    assert needed == pytest.approx(2 * 32 * share * tars.total_bytes / 90, abs=1)
    shorter = Order(90, 0, 8, Lanes(90, 0, lanes=8, block=1, window=1))  # four steps: 4 windows
    needed = cache_needed(Stream(tars, shorter, 0), ranks, near)
    assert needed == pytest.approx(5 * 8 * share * tars.total_bytes / 90, abs=1)


@pytest.mark.parametrize("limit", [4e-4, 2e-4, 1.3e-4])
def test_a_window_that_is_advised_fits(server, tmp_path, limit):
    tars = opened(server, tmp_path, limit).streams[0]
    order = Order(90, 0, 2, Lanes(90, 0, lanes=2, block=2, window=16))
    with pytest.raises(ConfigError, match=r"give more, or data.window=\d") as error:
        check_cache([Stream(tars, order, 0)], 1, 1)
    window = int(str(error.value).rpartition("=")[2])
    check_cache([Stream(tars, Order(90, 0, 2, Lanes(90, 0, 2, 2, window)), 0)], 1, 1)


def test_the_cache_of_a_set_that_has_grown_takes_the_place_of_the_earlier_one(local, tmp_path):
    shutil.copytree(local / "bucket", tmp_path / "bucket")
    write_shards(tmp_path / "bucket" / "more", 9)
    with serve(tmp_path) as server:
        urls = [f"{server.url}/bucket/{name}" for name in ("train", "more")]
        first = stream_shards(urls[:1], str(tmp_path / "cache"), 0.01)[0]
        claim = first.streams[0].cache.claim("run")
        first.jpeg(0)
        grown = stream_shards(urls, str(tmp_path / "cache"), 0.01)[0].streams[0].cache
        room = grown.room()
        grown.claim("run").close()
        assert [*first.folder.glob("block-*")]  # a run is at work on it
        claim.close()
        assert grown.room() > room
        grown.claim("run").close()
        assert not [*first.folder.glob("[!.]*")]
        assert first.jpeg(0)  # downloaded again


def test_a_disk_too_small_for_the_cache_is_found_at_the_start(server, tmp_path):
    with small_disk(tmp_path / "disk", "200k") as disk:
        tars = opened(server, disk).streams[0]
        order = Order(90, 0, 16, Lanes(90, 0, lanes=8, block=4, window=1))
        with pytest.raises(ConfigError, match="found room for .* on this disk, 3 windows"):
            check_cache([Stream(tars, order, 0)], 1, 1)
        shards = opened(server, disk)
        with pytest.raises(ShardError, match="although data.cache_gb allows 0.01 GB; make room"):
            for i in range(90):
                shards.jpeg(i)


def test_an_index_makes_room_when_its_blocks_are_behind(server, tmp_path):
    shards = opened(server, tmp_path, block=10)  # three blocks of each of three tars
    tars = shards.streams[0]
    tars.now, tars.next_windows = 1, lambda blocks, now: 100 + 10 * (blocks // 3) + blocks % 3
    names = ["index-0000002", "block-000000004", "index-0000000"]
    assert tars.next_uses(names) == [120, 111, 100]
    tars.now = 101
    assert tars.next_uses(names) == [120, 111, 103]  # after what is downloaded now
    tars.only(np.arange(30, 50))  # of a subset: two blocks, of the second tar
    uses = tars.next_uses(["index-0000000", "index-0000001", "index-0000002"])
    assert uses[1] == 103 and min(uses[0], uses[2]) > 10**9
