"""`verify-resume` computes digests in threads, window by window: the same, and each block once."""

import json
from collections import Counter

import numpy as np
import pytest

from scemae.data.decode import decode, digests
from scemae.data.frame_sources import StreamedFrames
from scemae.data.lanes import Lanes
from scemae.data.order import Order
from scemae.data.storage.shard_set import open_shards, stream_shards
from scemae.errors import ConfigError, ShardError
from scemae.runs import generations, step_digests
from scemae.runs.ledger import sample_digest, to_text
from scemae.runs.step_digests import StepDigests
from tests.object_server import serve
from tests.support import TINY, scemae, write_shards

SAMPLES, SIZE, BATCH = 250, 178, 12
STEPS = [*range(1, 63)]  # three epochs; a batch of 12 goes from one into the next


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("digests")
    write_shards(root / "bucket" / "train", SAMPLES, shards=7)
    return root


def whole():
    return Order(SAMPLES, 3, BATCH)


def lanes():
    """Windows of 72 samples: no multiple of the batch once an epoch has ended."""
    return Order(SAMPLES, 3, BATCH, Lanes(SAMPLES, 3, lanes=4, block=6, window=3))


@pytest.fixture(scope="module")
def slow(root):
    """Digests by the definition: step after step, sample after sample."""
    shards = open_shards(str(root / "bucket" / "train"))
    frames = [digests([decode(shards.jpeg(i), SIZE)])[0] for i in range(SAMPLES)]

    def computed(order):
        found = {}
        for step in STEPS:
            samples, _ = order.global_batch(step - 1)
            found[step] = to_text(
                sum(
                    sample_digest(step, place, shards.keys[sample], frames[sample])
                    for place, sample in enumerate(samples.tolist())
                )
            )
        return found

    return {"whole": computed(whole()), "lanes": computed(lanes())}


def of(order, shards, steps=STEPS, workers=2, seen=lambda count: None):
    source, options = StreamedFrames(shards, SIZE), {"noisy_jpeg": False, "hashes_jpeg": False}
    with StepDigests(order, source, views=None, workers=workers, owner="v", **options) as digests:
        return [*digests.compute(steps, seen)]


def streamed(server, tmp_path, share):
    limit = share * sum(shard.bytes for shard in open_local(server).manifest.shards)
    url, cache = f"{server.url}/bucket/train", str(tmp_path / "cache")
    return stream_shards([url], cache, limit / 1e9, 6)[0]


def open_local(server):
    return open_shards(str(server.folder / "bucket" / "train"))


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("order", [whole, lanes])
def test_the_digests_are_those_of_the_definition(root, slow, order, workers, monkeypatch):
    monkeypatch.setattr(step_digests, "LOCAL_SAMPLES", 100)
    shards, seen = open_shards(str(root / "bucket" / "train")), []
    assert of(order(), shards, workers=workers, seen=seen.append) == [*slow[order.__name__].items()]
    assert sum(seen) == len(STEPS) * BATCH
    few = [1, 2, 21, 22, 40, 62]
    assert of(order(), shards, few, workers) == [(step, slow[order.__name__][step]) for step in few]


@pytest.mark.parametrize("share", [0.1, 0.6])  # a third of a window, and two
@pytest.mark.parametrize("workers", [1, 2])
def test_of_streamed_shards_each_block_is_read_once_an_epoch(root, slow, tmp_path, share, workers):
    with serve(root) as server:
        ranges = Counter()
        server.fault = lambda path, before: ranges.update([path]) if ".tar" in path else None
        shards = streamed(server, tmp_path, share)
        of_order = of(lanes(), shards, workers=workers)
        assert of_order == [*slow["lanes"].items()]
        data = sum(shard.bytes for shard in shards.manifest.shards)
        # 62 steps of 12 are 2.98 epochs; indexes and 14 requests to open come in addition
        assert server.bytes_sent < 1.1 * 2.98 * data, server.bytes_sent / data


def test_a_cache_that_is_full_of_other_blocks_makes_room(root, slow, tmp_path):
    with serve(root) as server:
        shards = streamed(server, tmp_path, 0.15)
        for sample in range(SAMPLES):
            shards.jpeg(sample)
        assert of(lanes(), shards) == [*slow["lanes"].items()]


def test_chosen_steps_of_streamed_shards_are_the_same(root, slow, tmp_path):
    few = [1, 9, 20, 21, 33, 62]
    with serve(root) as server:
        found = of(lanes(), streamed(server, tmp_path, 0.2), few)
    assert found == [(step, slow["lanes"][step]) for step in few]


def test_a_cache_that_a_run_uses_is_left_alone(root, tmp_path):
    with serve(root) as server:
        claim = streamed(server, tmp_path, 0.6).streams[0].cache.claim("runs/a")
        with pytest.raises(ConfigError, match="found the run runs/a at work in this cache"):
            of(lanes(), streamed(server, tmp_path, 0.6))
        claim.close()


def test_a_server_that_fails_is_one_sentence(root, tmp_path):
    with serve(root) as server:
        shards = streamed(server, tmp_path, 0.6)
        server.fault = lambda path, before: 403
        with pytest.raises(ShardError, match="access was refused"):
            of(lanes(), shards)


def test_a_piece_is_of_one_block_and_not_too_large():
    blocks = np.array([0, 0, 0, 2, 5, 5])
    assert [*step_digests._pieces(blocks, 2)] == [(0, 2), (2, 3), (3, 4), (4, 6)]


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """A run of 40 steps over streamed shards, two epochs, and the words that name its shards."""
    run = tmp_path_factory.mktemp("run") / "run"
    settings = [*TINY, "optim.global_batch_size=12", "optim.epochs=1.92", "loop.log_every=1"]
    settings += ["runtime.device=cpu", "runtime.tier=streaming", "data.order=lanes"]
    settings += ["data.lanes=4", "data.block=6", "data.window=3", "data.cache_gb=0.0013"]
    with serve(root) as server:
        cache = run.parent / "cache"
        words = [f"data.shards={server.url}/bucket/train", f"data.cache_dir={cache}"]
        scemae("pretrain", *settings, *words, f"run_dir={run}", "loop.save_every=20")
    return run


@pytest.mark.slow
def test_one_worker_and_two_print_the_same_and_read_the_data_once_an_epoch(root, run, tmp_path):
    printed = []
    for workers in (1, 2):
        with serve(root) as server:
            words = ["--all", "--workers", workers, "--shards", f"{server.url}/bucket/train"]
            cache = ["--cache-dir", tmp_path / f"cache-{workers}"]
            printed.append(scemae("verify-resume", run, *words, *cache).stdout)
            data = sum(shard.bytes for shard in open_local(server).manifest.shards)
            assert server.bytes_sent < 1.1 * 1.92 * data, server.bytes_sent / data
    assert printed[0] == printed[1] and "40 steps computed again" in printed[0]


@pytest.mark.slow
def test_the_first_wrong_step_is_named_by_any_number_of_workers(root, run, tmp_path):
    (ledger,) = run.glob("generations/*/ledger.jsonl")
    text = ledger.read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    for wrong in (30, 9, 31):
        rows[wrong - 1]["digest"] = rows[0]["digest"]
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        assert len(generations.rows(run, "ledger.jsonl")) == 40
        for workers in (1, 2):
            words = ["--all", "--workers", workers, "--shards", root / "bucket" / "train"]
            done = scemae("verify-resume", run, *words, check=False)
            assert done.returncode == 1 and "step 9: the run consumed different" in done.stderr
    finally:
        ledger.write_text(text)


def test_no_workers_are_refused(run):
    done = scemae("verify-resume", run, "--workers", 0, check=False)
    assert done.returncode == 1 and "--workers: found 0, at least 1 was needed" in done.stderr
