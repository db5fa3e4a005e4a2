"""Frames that processes decode: those of threads, whatever the tars and whatever is wrong."""

import gc
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from scemae.data.decode_processes import MANY, ProcessFrames, streamed_frames
from scemae.data.frame_sources import StreamedFrames
from scemae.data.storage.joined import Joined
from scemae.data.storage.shard_set import open_shards, stream_shards
from scemae.data.storage.subset import Subset
from scemae.errors import ShardError
from tests.object_server import serve
from tests.support import flipped, picture, scemae, write_shards

COUNT, SIZE = 30, 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("decoded") / "bucket" / "train", COUNT, shards=3)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A tar of another program, with a PNG and a name that no header holds."""
    root = tmp_path_factory.mktemp("foreign")
    with tarfile.open(root / "other.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for i, name in enumerate(("a.jpg", "é b.png", f"{'deep/' * 30}c.jpg", "d.jpg")):
            buffer = io.BytesIO()
            picture(i, (90, 70)).save(buffer, "PNG" if name.endswith("png") else "JPEG")
            info = tarfile.TarInfo(name)
            info.size = len(buffer.getvalue())
            tar.addfile(info, io.BytesIO(buffer.getvalue()))
    scemae("shards", "index", root)
    return root


KINDS = ("local", "frames of its size", "streamed", "small cache", "joined", "subset", "foreign")


@pytest.fixture(params=KINDS)
def shards(request, folder, foreign, tmp_path):
    plain = open_shards(str(folder))
    if request.param == "frames of its size":
        yield open_shards(str(write_shards(tmp_path / "small", 10, size=(SIZE, SIZE))))
    elif request.param in ("streamed", "small cache"):
        with serve(folder.parent.parent) as server:
            urls, cache = [f"{server.url}/bucket/train"], str(tmp_path / "cache")
            cache_gb = 1e-4 if request.param == "small cache" else 1  # of 310 kB
            yield stream_shards(urls, cache, cache_gb, block=4)[0]
    elif request.param == "joined":
        yield Joined([plain, open_shards(str(foreign))])
    elif request.param == "subset":
        (tmp_path / "keys").write_text("000003\n000017\n000004\n000025\n")
        yield Subset(plain, tmp_path / "keys")
    else:
        yield open_shards(str(foreign)) if request.param == "foreign" else plain


def test_they_are_those_that_threads_decode(request, shards, monkeypatch):
    samples = np.random.default_rng(0).permutation(len(shards)).repeat(2)
    found, frames = StreamedFrames(shards, SIZE).frames(samples)
    if "small cache" not in request.node.name:  # it may lose a block before that is read
        monkeypatch.setattr(ProcessFrames, "_read", lambda *_: pytest.fail("decoded here"))
    decoded = ProcessFrames(shards, SIZE, 2)
    for part in (slice(0, 2), slice(None)):
        there, pixels = decoded.frames(samples[part])
        assert np.array_equal(there, found[part]) and np.array_equal(pixels, frames[part])


def test_more_frames_than_its_memory_holds_come_in_pieces(folder, monkeypatch):
    shards, samples = open_shards(str(folder)), np.arange(600) % COUNT
    monkeypatch.setattr(ProcessFrames, "_read", lambda *_: pytest.fail("decoded here"))
    _, frames = ProcessFrames(shards, 40, 1).frames(samples)
    assert np.array_equal(frames, StreamedFrames(shards, 40).frames(samples)[1])


def test_what_does_not_decode_is_replaced_as_threads_do_it(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "shards")
    shards = open_shards(str(flipped(tmp_path / "shards", 7)))
    found, frames = ProcessFrames(shards, SIZE, 1).frames(np.arange(COUNT))
    assert found.tolist() == [*range(7), 8, *range(8, COUNT)]
    assert np.array_equal(frames, StreamedFrames(shards, SIZE).frames(np.arange(COUNT))[1])


def test_a_tar_that_changed_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "shards")
    shards = open_shards(str(tmp_path / "shards"))
    decoded = ProcessFrames(shards, SIZE, 1)
    tar = tmp_path / "shards" / "train-000001.tar"
    with open(tar, "r+b") as file:
        file.write(b"another-name")
    with pytest.raises(ShardError, match="train-000001.tar: found 'another-name"):
        decoded.frames(np.arange(COUNT))


def test_a_hash_that_is_not_the_indexs_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "shards")
    shards = open_shards(str(tmp_path / "shards"))
    index = shards._index(0)
    index.xxh3 = np.zeros(len(index), np.uint64)
    with pytest.raises(ShardError, match="are not those of its index"):
        ProcessFrames(shards, SIZE, 1).frames(np.arange(3))


def children():
    """The processes that decode for this one: its children, and theirs."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            words, text = (status.parent / "cmdline").read_bytes(), status.read_text()
        except OSError:
            continue
        if b"scemae.data.decoder" in words:
            parents[int(status.parent.name)] = int(text.partition("PPid:\t")[2].split()[0])
    first = {one for one, parent in parents.items() if parent == os.getpid()}
    return [one for one, parent in parents.items() if one in first or parent in first]


def test_they_end_when_nobody_needs_them(folder):
    gc.collect()
    before = children()
    decoded = ProcessFrames(open_shards(str(folder)), SIZE, 2)
    decoded.frames(np.arange(3))
    assert len(children()) == len(before) + 2
    del decoded
    assert sorted(children()) == sorted(before)


@pytest.mark.parametrize("is_fork", [False, True])
def test_one_that_is_killed_gives_a_sentence(folder, is_fork):
    before = children()
    decoded = ProcessFrames(open_shards(str(folder)), SIZE, 2)
    for _ in range(2):
        decoded.frames(np.arange(3))  # their command line is there now
    first, second = sorted(set(children()) - set(before))
    os.kill(second if is_fork else first, signal.SIGKILL)
    with pytest.raises(ShardError, match="process that decodes images was killed.*start again"):
        for _ in range(2):
            decoded.frames(np.arange(3))
    del decoded
    wait_for_the_end_of([first, second])


def test_a_signal_to_stop_leaves_them_and_their_parents_death_ends_them(folder, tmp_path):
    code = f"""
import time, numpy as np, psutil
from scemae.data.decode_processes import ProcessFrames
from scemae.data.storage.shard_set import open_shards
decoded = ProcessFrames(open_shards({str(folder)!r}), 40, 3)
for _ in range(3):
    decoded.frames(np.arange(3))
print(*(one.pid for one in psutil.Process().children(recursive=True)), flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    processes = [int(word) for word in parent.stdout.readline().split()]
    for process in processes:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            os.kill(process, number)
    time.sleep(0.2)
    assert len(processes) == 3 and all(_state(process) != "Z" for process in processes)
    parent.kill()
    parent.wait()
    wait_for_the_end_of(processes)


def wait_for_the_end_of(processes):
    for _ in range(100):
        if all(_state(process) == "Z" for process in processes):
            return
        time.sleep(0.05)
    pytest.fail("they outlive their parent")


def _state(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def test_few_images_are_decoded_by_threads(folder):
    shards = open_shards(str(folder))
    assert type(streamed_frames(shards, 40, MANY - 1, 1)) is StreamedFrames
    assert type(streamed_frames(shards, 40, MANY, 1)) is ProcessFrames
