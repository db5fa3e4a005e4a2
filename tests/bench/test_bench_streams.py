"""`bench streams` measures what it says, at a tiny size. Nothing is timed."""

import io
import json
import subprocess
import sys
from importlib.util import find_spec
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from PIL import Image

from bench import linked_sets, streams
from bench.object_store import Sent, started
from bench.peers import streams as peers

MODULES = {"mosaicml-streaming": "streaming"}
SIZE = ["--samples=2560", "--shard=64", "--images=512", "--wait-ms=0", "--repeats=1"]


def rows_of(tmp_path, part, *only):
    streams.main([*SIZE, f"--part={part}", "--only", *only, f"--out={tmp_path}"])
    return json.loads((tmp_path / f"streams-{part}.json").read_text())["rows"]


def test_the_store_answers_ranges_and_counts(tmp_path):
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "name").write_bytes(bytes(range(100)))
    with started(tmp_path) as store:
        name = f"{store.url}/bucket/name"
        assert urlopen(name).read() == bytes(range(100))
        part = urlopen(Request(name, headers={"Range": "bytes=10-19"}))
        assert part.status == 206 and part.read() == bytes(range(10, 20))
        assert urlopen(Request(name, method="HEAD")).headers["Content-Length"] == "100"
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"{store.url}/bucket/other")
        assert store.sent() == Sent(110, 3)


def test_pictures_are_filled_and_decode_alike():
    small, large = linked_sets.pictures(0)[0], linked_sets.pictures(200_000)[0]
    assert 200_000 <= len(large) < 200_100
    pixels = [Image.open(io.BytesIO(data)).tobytes() for data in (small, large)]
    assert pixels[0] == pixels[1]


def test_ours_reads_an_epoch_once(tmp_path):
    (row,) = rows_of(tmp_path, "epoch", "scemae")
    tar = 4.0  # of a small image's bytes, at most: headers, an annotation, the index
    assert 1 < row["bytes fetched by the images'"] < tar
    assert row["requests"] >= 2 * 40  # an index and a block of each shard


def test_ours_starts_in_the_middle(tmp_path):
    (row,) = rows_of(tmp_path, "resume", "scemae")
    assert row["s to the first batch"] > row["... after the imports"] > 0
    assert 0 < row["MB fetched until then"] < 0.7 * 40 * 64 * 4096 / 1e6  # one window and the rest


@pytest.mark.parametrize("peer", peers.PEERS)
@pytest.mark.parametrize("part", ["start", "resume"])
def test_a_peer_is_measured_beside_ours(peer, part, tmp_path):
    if not all(find_spec(MODULES.get(name, name)) for name in peers.PEERS):
        pytest.skip("not all peers are installed")
    if (peer, part) == ("webdataset", "resume"):
        pytest.skip("it has no state")
    _, row = rows_of(tmp_path, part, "scemae", peer)
    assert row["loader"] == peer and row["ours better in s to the first batch, times"] > 0


def test_peers_need_nothing_of_ours():
    code = "import sys, bench.peers.streams; print([n for n in sys.modules if n == 'scemae'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
