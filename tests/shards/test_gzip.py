"""Compressed tars: what is in them, and reading them by ranges, whole and in a run."""

import gzip
import io
import json
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest

from scemae.cli import run_command
from scemae.config.schema.training import Data
from scemae.data.storage.gzipped_tars import PIECE, pack, part_of
from scemae.data.storage.index_file import read_index, write_index
from scemae.data.storage.manifest import read_manifest, write_manifest
from scemae.data.storage.shard_set import ShardSet, needs_cache, open_shards, stream_shards
from scemae.data.training_set import open_set
from scemae.errors import ConfigError, DataError, ShardError
from scemae.files import disk
from scemae.shards.check import verify
from scemae.shards.describe import describe, keys
from tests.object_server import serve
from tests.support import TINY, picture, scemae

COUNT, OF_SHARD = 75, 40
NAMES = ["train-000000.tar.gz", "train-000001.tar.gz"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The same pictures of about 7 kB as plain and as compressed shards, of some pieces each."""
    root = tmp_path_factory.mktemp("gzip")
    (root / "pictures").mkdir()
    for i in range(COUNT):
        picture(i).save(root / "pictures" / f"{i:03d}.jpg", quality=90)
    build(root, "plain")
    build(root, "packed", "--gzip")
    return root


def build(root, name, *words):
    run_command(
        ["shards", "build", "folder", str(root / "pictures"), str(root / name), *words]
        + ["--samples-per-shard", str(OF_SHARD)]
    )


@pytest.fixture
def copy(root, tmp_path):
    """Compressed shards that a test may damage."""
    shutil.copytree(root / "packed" / "train", tmp_path / "train")
    return tmp_path / "train"


def streamed(place, tmp_path, block=8, cache_gb=0.01):
    return stream_shards([str(place)], str(tmp_path / "cache"), cache_gb, block)[0]


def assert_same(shards, plain, samples=range(COUNT)):
    assert len(shards) == len(plain) and [*shards.keys] == [*plain.keys]
    assert shards.digest == plain.digest
    for i in samples:
        assert shards.jpeg(i) == plain.jpeg(i) and shards.annotation(i) == plain.annotation(i)


def test_a_compressed_tar_is_the_plain_one_and_smaller(root):
    for name in NAMES:
        packed = root / "packed" / "train" / name
        plain = root / "plain" / "train" / name.removesuffix(".gz")
        assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
        assert packed.stat().st_size < 0.9 * plain.stat().st_size
    assert not list((root / "packed" / "train").glob("*.tar"))


def test_webdataset_reads_it(root):
    import webdataset

    files = [str(root / "packed" / "train" / name) for name in NAMES]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [sample["__key__"] for sample in webdataset.WebDataset(files, shardshuffle=False)]
    assert found == [*keys(root / "plain" / "train")] == [*keys(root / "packed" / "train")]


def test_the_same_pictures_give_the_same_bytes_after_an_interruption_too(root, tmp_path):
    (tmp_path / "pictures").symlink_to(root / "pictures")
    build(tmp_path, "again", "--gzip", "--workers", "2")
    for path in (tmp_path / "again" / "train").iterdir():
        if path.is_file():
            assert path.read_bytes() == (root / "packed" / "train" / path.name).read_bytes()
    lost = tmp_path / "again" / "train" / NAMES[1]
    before = (tmp_path / "again" / "train" / NAMES[0]).stat().st_mtime_ns
    lost.unlink()
    build(tmp_path, "again", "--gzip")
    assert lost.read_bytes() == (root / "packed" / "train" / NAMES[1]).read_bytes()
    assert (tmp_path / "again" / "train" / NAMES[0]).stat().st_mtime_ns == before
    with pytest.raises(ShardError, match=r"another build \(gzip True, not None\)"):
        build(tmp_path, "again")


def test_pieces_begin_with_samples(root):
    shard = read_manifest(root / "packed" / "train").shards[0]
    index = read_index(root / "packed" / "train", shard)
    tar = gzip.decompress((root / "packed" / "train" / NAMES[0]).read_bytes())
    assert len(index.pieces.tar) > 2 and (np.diff(index.pieces.tar) >= PIECE).all()
    names = [tar[start : start + 100].split(b"\0")[0] for start in index.pieces.tar]
    assert all(name.endswith(b".jpg") for name in names)


def test_a_range_takes_the_pieces_that_it_touches_and_no_other():
    tar, out = io.BytesIO(bytes(range(256)) * 4000), io.BytesIO()
    pieces, size, _ = pack(tar, out, np.arange(0, 1_024_000, 1000))
    data, starts = out.getvalue(), pieces.tar.tolist()
    assert size == 1_024_000 and len(starts) > 10
    for first, last in ((0, 1), (0, 5), (3, 4), (7, len(starts))):
        begin, end = starts[first], [*starts, size][last]
        for start, stop in ((begin, end), (begin + 1, end - 1), (end - 1, end)):
            low, high, at = pieces.range(start, stop, len(data))
            touched = first if start < starts[first] + PIECE else last - 1
            assert at == starts[touched] and low == pieces.file[touched]
            assert high == [*pieces.file.tolist(), len(data)][last]
            found = b"".join(part_of([data[low:high]], start - at, stop - start, "x"))
            assert found == tar.getvalue()[start:stop]
            with pytest.raises(ShardError, match="x: found [0-9,]+ bytes in a piece of it"):
                list(part_of([data[low : high - 20]], start - at, end - start, "x"))


@pytest.mark.parametrize("block", [1, 8, 1000])
def test_every_sample_is_read_by_ranges(root, tmp_path, block):
    plain = ShardSet(root / "plain" / "train")
    assert needs_cache(str(root / "packed" / "train"))
    shards = streamed(root / "packed" / "train", tmp_path, block)
    assert_same(shards, plain, [*range(COUNT)][::-1])


def test_a_block_over_http_takes_little_more_than_its_pieces(root, tmp_path):
    manifest = read_manifest(root / "packed" / "train")
    with serve(root) as server:
        shards = streamed(f"{server.url}/packed/train", tmp_path, 20)
        shards.key(0)
        before = server.bytes_sent
        assert shards.jpeg(25) == ShardSet(root / "plain" / "train").jpeg(25)
        share = (server.bytes_sent - before) / manifest.shards[0].bytes
    # half of the tar's samples, and at most a piece more on each side
    assert 0.5 * 0.8 < share < 0.5 + 2.5 * PIECE / manifest.shards[0].tar_bytes


def test_of_a_subset_only_its_pieces_are_read(root, tmp_path):
    (tmp_path / "keys.txt").write_text("\n".join([*keys(root / "plain" / "train")][::9]))
    data = Data(
        shards=str(root / "packed" / "train"),
        cache_dir=str(tmp_path / "cache"),
        cache_gb=0.01,
        block=3,
        subset=str(tmp_path / "keys.txt"),
        frame=96,
        scale=[1.0, 1.0],
        jpeg_noise=False,
        decoder="cpu",
        max_bad_fraction=0.0,
    )
    chosen, plain = open_set(data, 4), ShardSet(root / "plain" / "train")
    found = [chosen.jpeg(i) for i in range(len(chosen))]
    assert found == [plain.jpeg(i) for i in range(0, COUNT, 9)]


@pytest.mark.parametrize("how", ["folder", "file", "http"])
def test_a_copy_holds_the_tars_as_they_are_inside(root, tmp_path, how):
    place = root / "packed" / "train"
    with serve(root) as server:
        url = {"folder": str(place), "file": place.as_uri(), "http": f"{server.url}/packed/train"}
        shards = open_shards(url[how], str(tmp_path / "cache"))
        assert_same(shards, ShardSet(root / "plain" / "train"))
        sent = server.bytes_sent
        again = open_shards(url[how], str(tmp_path / "cache"))
        assert_same(again, shards, [0])
        assert server.bytes_sent - sent < 5000
    plain = root / "plain" / "train"
    for name in NAMES:
        tar = name.removesuffix(".gz")
        assert (shards.folder / tar).read_bytes() == (plain / tar).read_bytes()
    assert "whole" in verify(shards.folder)


def test_without_a_cache_it_says_what_to_set(root):
    place = root / "packed" / "train"
    for opened in (lambda: open_shards(str(place)), lambda: ShardSet(place)):
        with pytest.raises(ShardError, match="compressed.*set data.cache_dir"):
            opened()


def test_verify_and_info(root, copy):
    assert "75 samples in 2 shards" in (found := verify(root / "packed", decode=True))
    assert "NOT whole" not in found
    assert "gzip: True" in describe(root / "packed")
    with serve(root) as server:
        assert "whole" in verify(f"{server.url}/packed/train", decode=True)
    (copy / "other.tar.gz").write_bytes(b"")
    with pytest.raises(ShardError, match="1 tars are in no manifest.*other.tar.gz"):
        verify(copy)


def damage(folder, change, *, renew=("sha256",)):
    """Change the bytes of the first file, and the digests of the manifest that are named."""
    data = bytearray((folder / NAMES[0]).read_bytes())
    (folder / NAMES[0]).write_bytes(data := change(data))
    manifest = read_manifest(folder)
    if "sha256" in renew:
        manifest.shards[0].sha256 = disk.digest(bytes(data))
        manifest.shards[0].bytes = len(data)
    write_manifest(folder, manifest)


def flipped(data):
    data[len(data) // 2] ^= 255
    return data


def other_pieces(folder, change):
    """Write other pieces into the first index, with its digest."""
    manifest = read_manifest(folder)
    shard = manifest.shards[0]
    index = read_index(folder, shard)
    index.pieces = change(index.pieces)
    write_index(folder, shard, index)
    write_manifest(folder, manifest)


def read_all(shards):
    for i in range(len(shards)):
        shards.jpeg(i)


def test_damage_is_found_by_every_reader(copy, tmp_path):
    damage(copy, flipped, renew=())
    with pytest.raises(ShardError, match="SHA-256 is not the manifest's"):
        verify(copy)
    with pytest.raises(ShardError, match="train-000000.tar.gz: (is damaged|its SHA-256|found)"):
        open_shards(str(copy), str(tmp_path / "whole"))
    with pytest.raises(ShardError, match="train-000000.tar.gz: (is damaged|found|the bytes)"):
        read_all(streamed(copy, tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: gzip.compress(b"x" * 10_000_000), "found more"),
        (lambda data: gzip.compress(b"x" * 1000), "found 1,000 bytes in it"),
        (lambda data: data[: len(data) // 2], "found [0-9,]+ bytes in it|damaged"),
        (lambda data: b"no gzip at all" * 1000, "is damaged"),
    ],
)
def test_what_is_inside_must_be_what_the_manifest_says(copy, tmp_path, change, words):
    damage(copy, change)
    with pytest.raises(ShardError, match=words):
        open_shards(str(copy), str(tmp_path / "whole"))
    with pytest.raises(ShardError, match="train-000000"):
        verify(copy)
    with pytest.raises(ShardError, match="train-000000"):
        read_all(streamed(copy, tmp_path))


def altered_at(place):
    def change(data):
        data[place] ^= 255
        return data

    return change


@pytest.mark.parametrize(
    "change",
    [*map(altered_at, (0, 1, -5, -1)), lambda data: data[:-4], lambda data: data + b"more"],
)
def test_a_file_that_gunzip_would_refuse_is_not_whole(copy, tmp_path, change):
    """Its head and end are not needed to read ranges, but other programs need them."""
    damage(copy, change)
    with pytest.raises(ShardError, match="train-000000.tar.gz: (is damaged|the SHA-256)"):
        verify(copy)
    with pytest.raises(ShardError, match="train-000000.tar.gz"):
        open_shards(str(copy), str(tmp_path / "whole"))


def test_a_set_may_hold_plain_and_compressed_tars(root, copy, tmp_path):
    manifest, plain = read_manifest(copy), root / "plain" / "train"
    manifest.shards[1] = read_manifest(plain).shards[1]
    (copy / NAMES[1]).unlink()
    for name in ("train-000001.tar", "train-000001.index"):
        shutil.copy(plain / name, copy / name)
    write_manifest(copy, manifest)
    for shards in (open_shards(str(copy), str(tmp_path / "whole")), streamed(copy, tmp_path)):
        assert_same(shards, ShardSet(plain))
    assert "NOT" not in verify(copy)


def test_folders_of_one_name_have_caches_of_their_own(root, tmp_path, monkeypatch):
    """The absolute path names the cache, so that a relative location cannot lead out of it."""
    shutil.copytree(root / "packed", tmp_path / "a")
    shutil.copytree(root / "packed", tmp_path / "b")
    cache = tmp_path / "cache"
    for folder, location in (("a", "train"), ("b", "train"), ("b/train", ".")):
        monkeypatch.chdir(tmp_path / folder)
        assert_same(open_shards(location, str(cache)), ShardSet(root / "plain" / "train"), [0])
    assert len([*cache.iterdir()]) == 2


def test_shards_with_landmarks_stay_as_they_are(root, tmp_path):
    with pytest.raises(ConfigError, match="--gzip: found --landmarks too"):
        build(root, "other", "--gzip", "--landmarks", str(tmp_path / "points.json"))
    (tmp_path / "tars").mkdir()
    shutil.copy(root / "packed" / "train" / NAMES[0], tmp_path / "tars")
    with pytest.raises(DataError, match="found train-000000.tar.gz and no .*unpack"):
        run_command(["shards", "index", str(tmp_path / "tars")])
    with pytest.raises(DataError, match="found shards of `scemae shards build`"):
        run_command(["shards", "index", str(root / "packed" / "train")])


@pytest.mark.parametrize(
    "change",
    [
        lambda found: None,
        lambda found: replace(found, tar=found.tar[1:], file=found.file[1:]),
        lambda found: replace(found, tar=found.tar + 1),
        lambda found: replace(found, tar=found.tar + 512 * np.arange(len(found.tar))),
        lambda found: replace(found, tar=found.tar[::-1].copy()),
        lambda found: replace(found, file=found.file[::-1].copy()),
        lambda found: replace(found, file=found.file + 10**9),
        lambda found: replace(found, file=found.file[:-1]),
    ],
)
def test_pieces_that_are_not_those_of_a_tar_are_refused(copy, tmp_path, change):
    other_pieces(copy, change)
    with pytest.raises(ShardError, match="train-000000.index: its (pieces|columns)"):
        read_all(streamed(copy, tmp_path))


def test_pieces_that_begin_elsewhere_in_the_file_are_found(copy, tmp_path):
    other_pieces(copy, lambda found: replace(found, file=found.file + np.arange(len(found.file))))
    with pytest.raises(ShardError, match="train-000000.tar.gz"):
        verify(copy)
    with pytest.raises(ShardError, match="train-000000.tar.gz"):
        read_all(streamed(copy, tmp_path))


def test_a_manifest_that_does_not_say_what_is_inside_is_refused(copy):
    raw = json.loads((copy / "manifest.json").read_text())
    raw["shards"][0]["inside_sha256"] = ""
    (copy / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(ShardError, match="does not say what is inside of train-000000.tar.gz"):
        read_manifest(copy)
    raw["shards"] = [raw["shards"][1], raw["shards"][1] | {"file": "train-000001.tar"}]
    raw["samples"] = 2 * raw["shards"][1]["samples"]
    (copy / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(ShardError, match="train-000001.tar more than once"):
        read_manifest(copy)


def test_a_run_goes_on_with_the_same_samples_compressed(root, tmp_path, monkeypatch):
    """Killed in mid-epoch on plain tars, resumed on two ranks on compressed ones over HTTP."""
    settings = [
        *TINY,
        "optim.global_batch_size=10",
        "optim.epochs=2",
        "loop.log_every=1",
        "loop.save_every=2",
        "runtime.device=cpu",
        "runtime.tier=streaming",
        "data.order=lanes",
        "data.lanes=2",
        "data.block=8",
        "data.window=1",
    ]
    whole, run = tmp_path / "whole", tmp_path / "run"
    plain = f"data.shards={root / 'plain' / 'train'}"
    scemae("pretrain", *settings, plain, f"run_dir={whole}")
    with monkeypatch.context() as patch:
        patch.setenv("SCEMAE_FAULTS", "kill@data:step=5,rank=0")
        killed = scemae("pretrain", *settings, plain, f"run_dir={run}", check=False)
    assert killed.returncode == -9
    with serve(root) as server:
        packed = [f"data.shards={server.url}/packed/train", "data.cache_gb=0.0008"]
        packed += [f"data.cache_dir={tmp_path / 'cache'}", f"run_dir={run}"]
        scemae("pretrain", *settings, *packed, ranks=2)
    words = ["--cache-dir", tmp_path / "other", "--against", whole]
    shutil.rmtree(tmp_path / "cache")
    scemae("verify-resume", run, "--all", "--shards", root / "packed" / "train", *words)
