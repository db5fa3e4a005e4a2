"""Frames in memory: pixels and digests as when streamed, one copy per node, freed in the end."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from scemae.config.load import load_config
from scemae.data import frame_cache
from scemae.data.frame_sources import StreamedFrames
from scemae.data.storage.shard_set import open_shards
from scemae.distributed import host_memory, process_group
from scemae.errors import ConfigError
from tests.support import Forked, flipped, places, scemae, write_shards

BIG = dict(samples=1000, images=9000, noisy_jpeg=False)


def test_auto_takes_the_gpu_then_the_host_then_streams():
    def tier(**facts):
        return frame_cache.choose("auto", **{**BIG, **facts})[0]

    assert tier(needed=10, host=100, gpu=100) == "gpu"
    assert tier(needed=10, host=100, gpu=15) == "host"
    assert tier(needed=10, host=100, gpu=0) == "host"
    assert tier(needed=10, host=15, gpu=100) == "streaming"
    assert tier(needed=10, host=100, gpu=100, noisy_jpeg=True) == "host"
    assert tier(needed=10, host=100, gpu=100, images=999) == "streaming"


@pytest.mark.parametrize("asked", ["gpu", "host"])
def test_a_tier_that_does_not_fit_is_refused_with_what_is_there(asked):
    with pytest.raises(
        ConfigError, match="need 8.0 GB, found 9.0 GB of host and 9.0 GB of GPU memory"
    ):
        frame_cache.choose(asked, needed=8 * 10**9, host=9 * 10**9, gpu=9 * 10**9, **BIG)


def test_the_gpu_tier_without_a_gpu_is_refused():
    with pytest.raises(ConfigError, match="found no CUDA device"):
        frame_cache.choose("gpu", needed=1, host=100, gpu=0, **BIG)


def note_frames(shards, folder):
    """On a rank: write what it sees of the frames in memory to folder/rank-N."""
    settings = load_config("pretrain", ["run_dir=x", "data.frame=96", "runtime.tier=host"])
    with process_group.process_group("cpu") as place:
        source = frame_cache.open_frames(
            open_shards(str(shards)), settings.data, settings.runtime, place, images=10**6
        )
        found, pixels = source.frames(np.arange(20)[::-1])
        maps = Path("/proc/self/maps").read_text().splitlines()
        shared = [line for line in maps if "scemae-frames" in line]
        inode = shared[0].split()[4]
        facts = f"{hashlib.sha256(pixels).hexdigest()} {found.tolist()} {len(shared)} {inode}"
        (folder / f"rank-{place.rank}").write_text(facts)


def test_two_ranks_share_one_copy_and_see_what_streaming_decodes(tmp_path):
    folder = write_shards(tmp_path / "shards", 20)
    started = [
        Forked(note_frames, folder, tmp_path, out=tmp_path / f"out-{place['RANK']}", **place)
        for place in places(2)
    ]
    for rank in started:
        assert rank.wait() == 0, rank.out.read_text()[-2000:]
    ranks = [(tmp_path / f"rank-{rank}").read_text() for rank in range(2)]
    found, pixels = StreamedFrames(open_shards(str(folder)), 96).frames(np.arange(20)[::-1])
    assert ranks[0] == ranks[1]  # same pixels, and the same inode behind the one mapping
    assert ranks[0].startswith(f"{hashlib.sha256(pixels).hexdigest()} {found.tolist()} 1 ")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same short run streamed and resident; sample 3 is no picture."""
    folder = tmp_path_factory.mktemp("tiers")
    shards = flipped(write_shards(folder / "shards", 24), 3)
    for tier in ("streaming", "host"):
        done = scemae(
            "pretrain",
            f"run_dir={folder}/{tier}",
            f"data.shards={shards}",
            "model=demo",
            "decoder=demo",
            "optim.epochs=2",
            "optim.global_batch_size=8",
            "optim.warmup_epochs=0",
            "loop.log_every=1",
            "loop.save_every=6",
            "loop.ledger_keys=true",
            "data.max_bad_fraction=0.1",
            f"runtime.tier={tier}",
        )
        assert {"streaming": "streamed from the shards", "host": "resident in host memory"}[
            tier
        ] in done.stderr
    return folder


def test_both_tiers_consume_the_same_keys_and_pixels_and_learn_the_same(runs):
    from scemae.runs import generations

    streamed, kept = (
        generations.rows(runs / tier, "ledger.jsonl") for tier in ("streaming", "host")
    )
    rows = [
        [
            {name: row.get(name) for name in ("step", "digest", "keys", "loss", "replaced")}
            for row in part
        ]
        for part in (streamed, kept)
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 6
    assert any(row["replaced"] for row in rows[0])


def test_a_resident_run_verifies_from_its_shards(runs):
    assert "keys and pixels equal" in scemae("verify-resume", runs / "host", "--all").stdout


def test_free_memory_is_within_what_the_machine_has():
    assert 0 < host_memory.available() <= host_memory.limit() < 1e15


def test_a_rank_decodes_with_its_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(process_group.os, "sched_getaffinity", lambda _: range(12))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert [process_group.data_threads(asked) for asked in ("auto", 3)] == [12, 3]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    assert process_group.data_threads("auto") == 2
