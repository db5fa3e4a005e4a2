"""What a streamed run reads first comes while its process still imports torch."""

import subprocess
import sys

import numpy as np
import pytest

from scemae.config.schema.training import Data
from scemae.data.lanes import Lanes
from scemae.data.order import Order
from scemae.training.first_window import download
from tests.object_server import serve
from tests.support import write_shards

SAMPLES, BLOCK, BATCH = 160, 4, 8


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("first")
    write_shards(root / "bucket" / "train", SAMPLES, shards=4)
    with serve(root) as state:
        yield state


def settings(server, tmp_path, cache_gb=0.01):
    return Data(
        shards=f"{server.url}/bucket/train",
        cache_dir=str(tmp_path / "cache"),
        cache_gb=cache_gb,
        order="lanes",
        lanes=4,
        block=BLOCK,
        window=2,
        frame=178,
        scale=[0.2, 1.0],
        jpeg_noise=False,
        decoder="cpu",
        max_bad_fraction=0.0,
    )


def cached(tmp_path):
    names = [path.name for path in (tmp_path / "cache").rglob("block-*")]
    return {int(name.removeprefix("block-")) for name in names}


def read_in_window(step, rank, ranks):
    """The blocks that a rank reads in the steps that begin in the window of a step."""
    order = Order(SAMPLES, 3, BATCH, Lanes(SAMPLES, 3, lanes=4, block=BLOCK, window=2))
    steps = [
        one for one in range(60) if order.window_of(one) == order.window_of(step) and one >= step
    ]
    parts = [part for one in steps for part in order.slices(one, rank, ranks, 1)]
    return {block for part in parts for block in np.unique(part.samples // BLOCK).tolist()}


@pytest.mark.parametrize(("step", "rank", "ranks"), [(0, 0, 1), (4, 0, 1), (21, 1, 2)])
def test_the_blocks_of_the_window_and_the_rank_come(server, tmp_path, step, rank, ranks):
    data = settings(server, tmp_path)
    download(data, BATCH, seed=3, step=step, rank=rank, ranks=ranks)
    assert cached(tmp_path) == read_in_window(step, rank, ranks)


def test_they_push_nothing_out_of_a_cache(server, tmp_path):
    size = sum(path.stat().st_size for path in (server.folder / "bucket/train").glob("*.tar"))
    data = settings(server, tmp_path, cache_gb=0.45 * size / 1e9)  # two windows are 0.4
    for step in (0, 4, 8):
        before = cached(tmp_path)
        download(data, BATCH, seed=3, step=step, rank=0, ranks=1)
        assert before <= cached(tmp_path)
    assert len(cached(tmp_path)) < 24  # there was no room for three windows


def test_what_fails_is_left_to_the_run(server, tmp_path):
    data = settings(server, tmp_path)
    data.shards = f"{server.url}/bucket/absent"
    download(data, BATCH, seed=3, step=0, rank=0, ranks=1)
    data.lanes, data.cache_gb = 4, 1e-9
    download(data, BATCH, seed=3, step=0, rank=0, ranks=1)


def test_it_needs_no_torch():
    code = "import sys, scemae.training.first_window; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
