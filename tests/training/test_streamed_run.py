"""Training from an object store with caches smaller than the data: exact, resumable, bounded."""

import os
import signal
import threading
import time

import pytest

from scemae.files import disk
from tests.object_server import serve
from tests.support import TINY, Started, places, scemae, write_shards

SETTINGS = [
    *TINY,
    "optim.global_batch_size=12",
    "optim.epochs=3",
    "optim.warmup_epochs=1",
    "loop.log_every=1",
    "loop.save_every=4",
    "loop.keep=99",
    "runtime.device=cpu",
    "runtime.tier=streaming",
    "data.order=lanes",
    "data.lanes=4",
    "data.block=6",
    "data.window=3",
]
SAMPLES = 240  # 60 steps of 12; a window of all lanes is 72 samples
SHARE = 0.45  # of all shards that a node may cache; two windows of two thirds of the lanes are 0.4


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    write_shards(root / "bucket" / "train", SAMPLES, shards=7)
    return root


class Peak(threading.Thread):
    """The largest size that each folder ever has."""

    def __init__(self, *folders):
        super().__init__(daemon=True)
        self.folders, self.bytes, self._end = folders, dict.fromkeys(folders, 0), threading.Event()

    def run(self):
        while not self._end.wait(0.005):
            for folder in self.folders:
                for lock in folder.glob("*/*/.lock"):
                    with disk.locked(lock):  # else a file may be counted under two names
                        self.bytes[folder] = max(self.bytes[folder], size_of(lock.parent))

    def __exit__(self, *_):
        self._end.set()
        self.join()

    def __enter__(self):
        self.start()
        return self


def size_of(folder):
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                pass
    return total


def limit_of(root, share=SHARE):
    return int(share * size_of(root / "bucket"))


def started(server, tmp_path, run, ranks, nodes, share=SHARE):
    """Start `ranks` ranks of a run, spread over `nodes` nodes; every node has its own cache."""
    local = -(-ranks // nodes)
    found = []
    for rank, place in enumerate(places(ranks)):
        cache = tmp_path / f"cache-{rank // local}"
        words = ["pretrain", *SETTINGS, f"run_dir={run}", f"data.shards={server.url}/bucket/train"]
        words += [
            f"data.cache_dir={cache}",
            f"data.cache_gb={limit_of(server.folder, share) / 1e9}",
        ]
        if place:
            place |= {"LOCAL_WORLD_SIZE": str(local), "LOCAL_RANK": str(rank % local)}
        out, errors = (tmp_path / f"{run.name}-{ranks}-{rank}.{end}" for end in ("out", "err"))
        found.append(Started(words, out, errors, **place))
    return found


def errors(tmp_path):
    return "".join(path.read_text()[-1500:] for path in sorted(tmp_path.glob("*.err")))


def ended(processes):
    return [process.wait(200) for process in processes]


@pytest.mark.slow
def test_killed_runs_on_4_3_and_2_ranks_read_what_an_undisturbed_one_reads(root, tmp_path):
    plain, run = tmp_path / "plain", tmp_path / "run"
    local = f"data.shards={root / 'bucket' / 'train'}"
    scemae("pretrain", *SETTINGS, f"run_dir={plain}", local)
    caches = [tmp_path / "cache-0", tmp_path / "cache-1"]
    with serve(root) as server, Peak(*caches) as peak:
        server.fault = lambda path, before: {3: 503, 5: "cut", 7: 0.2}.get(before % 11)
        for ranks, step in ((4, 8), (3, 24)):
            processes = started(server, tmp_path, run, ranks, 2)
            while not [*run.glob(f"checkpoints/step-{step:08d}*")]:
                assert all(process.poll() is None for process in processes), errors(tmp_path)
                time.sleep(0.05)
            for process in processes:
                process.send_signal(signal.SIGKILL)
            ended(processes)
        assert ended(started(server, tmp_path, run, 2, 2)) == [0, 0], errors(tmp_path)
    done = scemae(
        "verify-resume", run, "--all", "--against", plain, "--shards", root / "bucket/train"
    )
    assert "steps 1 to 60 of 3 starts" in done.stdout and "3.00 epochs" in done.stdout
    assert all(0 < peak.bytes[cache] <= limit_of(root) for cache in caches), peak.bytes
    # three epochs and what three starts on other ranks had not kept; all of it each epoch: 3
    assert server.bytes_sent <= 4.5 * size_of(root / "bucket"), server.bytes_sent


def test_a_cache_too_small_for_two_windows_is_refused_at_the_start(root, tmp_path):
    with serve(root) as server:
        words = ["pretrain", *SETTINGS, f"run_dir={tmp_path / 'run'}"]
        words += [f"data.shards={server.url}/bucket/train", f"data.cache_dir={tmp_path / 'cache'}"]
        small = scemae(*words, "data.cache_gb=0.0002", check=False)
        assert "2 windows of the order need" in small.stderr
        whole = scemae(*words, "data.cache_gb=0.0002", "data.order=whole", check=False)
        assert "needs all" in whole.stderr and "give data.order=lanes" in whole.stderr


def test_a_stop_while_data_are_slow_saves_and_resumes(root, tmp_path):
    run = tmp_path / "run"
    with serve(root) as server:
        server.fault = lambda path, before: 0.3
        (process,) = started(server, tmp_path, run, 1, 1, 0.8)
        while not [*run.glob("checkpoints/step-00000004*")]:
            assert process.poll() is None, errors(tmp_path)
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(100) == 75
        assert "all is saved" in errors(tmp_path)
        server.fault = lambda path, before: None
        assert ended(started(server, tmp_path, run, 1, 1, 0.8)) == [0]
    again = scemae("verify-resume", run, "--all", "--shards", root / "bucket" / "train")
    assert "steps 1 to 60 of 2 starts" in again.stdout


@pytest.mark.slow
def test_a_download_that_takes_longer_than_the_watchdog_waits_is_no_hang(root, tmp_path):
    with serve(root) as server:
        server.fault = lambda path, before: 6.0 if "train-" in path else None
        words = ["pretrain", *SETTINGS, f"run_dir={tmp_path / 'run'}", "optim.epochs=0.2"]
        words += [f"data.shards={server.url}/bucket/train", f"data.cache_dir={tmp_path / 'cache'}"]
        words += ["runtime.hang_seconds=10"]
        scemae(*words)  # fourteen files, eight at a time: twelve seconds
        cached = ["data.cache_gb=1", f"data.cache_dir={tmp_path / 'other'}"]
        scemae(*words, *cached, f"run_dir={tmp_path / 'streamed'}")
