"""Data that grow, are mixed, chosen from or cut into other tars: exact, resumable, verified.

Every run here is killed in the middle of an epoch and goes on with another number of ranks.
"""

import json
import shutil

import pytest

from scemae.data.storage.shard_set import open_shards
from tests.object_server import serve
from tests.support import TINY, picture, scemae

SETTINGS = [
    *TINY,
    "optim.global_batch_size=4",
    "optim.epochs=3",
    "loop.log_every=1",
    "loop.save_every=1",
    "loop.keep=99",
    "runtime.device=cpu",
    "data.order=lanes",
    "data.lanes=2",
    "data.block=3",
    "data.window=1",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name, first, count in (("one", 0, 12), ("two", 12, 8), ("three", 20, 5)):
        for i in range(first, first + count):
            (root / "pictures" / name).mkdir(parents=True, exist_ok=True)
            picture(i, (96, 96)).save(root / "pictures" / name / f"{i:03d}.jpg", quality=90)
        build(root, name, root / "bucket" / name, 5)
    return root


def build(root, name, out, samples):
    scemae("shards", "build", "folder", root / "pictures" / name, out, "--workers", 1,
           "--samples-per-shard", samples)  # fmt: skip


def killed(monkeypatch, words, step, ranks=1):
    """Run until rank 0 is killed where it asks for the data of a step."""
    with monkeypatch.context() as patch:
        patch.setenv("SCEMAE_FAULTS", f"kill@data:step={step},rank=0")
        assert scemae(*words, ranks=ranks, check=False).returncode == -9


def rows(run):
    """The digests of the steps that count."""
    found = {}
    for path in sorted(run.glob("generations/*/ledger.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            found[row["step"]] = row["digest"]
    return found


@pytest.fixture(params=["local", "streamed"])
def place(request, root, tmp_path):
    """Where the sets are, and the settings to read them from there."""
    if request.param == "local":
        yield root / "bucket", []
        return
    with serve(root) as server:
        cache = [f"data.cache_dir={tmp_path / 'cache'}", "data.cache_gb=0.001"]
        yield f"{server.url}/bucket", [*cache, "runtime.tier=streaming"]


def test_a_run_takes_in_what_is_appended_at_the_next_edge(place, root, tmp_path, monkeypatch):
    where, more = place
    run, plain = tmp_path / "run", tmp_path / "plain"
    words = ["pretrain", *SETTINGS, *more, f"data.shards={where}/one/train"]
    scemae(*words, f"run_dir={plain}")
    words += [f"run_dir={run}"]
    killed(monkeypatch, words, 5)  # in the second of three epochs of 3 steps
    added = f"data.append=[{where}/two/train]"
    killed(monkeypatch, [*words, added], 8, ranks=2)  # in the third, which has 20 images
    both = f"data.append=[{where}/two/train,{where}/three/train]"
    done = scemae(*words, both, "optim.epochs=3", ranks=2)
    assert "25 images in" in done.stdout and "11 steps of 4" in done.stdout
    parts = json.loads((run / "data_parts.json").read_text())["parts"]
    assert [part["joins"] for part in parts] == [0, 24, 44]
    verified = scemae("verify-resume", run, "--all").stdout
    assert "steps 1 to 11 of 3 starts" in verified and "3.00 epochs" in verified
    before, found = rows(plain), rows(run)
    assert all(found[step] == before[step] for step in range(1, 7))  # positions 0 to 23
    assert found[7] != before[7]
    for wrong in ([], [added], [f"data.append=[{where}/three/train]"]):
        refused = scemae(*words, *wrong, check=False)
        assert refused.returncode == 1 and "give them as before, new parts at" in refused.stderr


def test_a_run_that_begins_with_appended_sets_has_them_from_the_start(place, tmp_path):
    where, more = place
    words = ["pretrain", *SETTINGS, *more, f"data.shards={where}/one/train", "optim.epochs=1"]
    words += [f"data.append=[{where}/two/train]", f"run_dir={tmp_path / 'run'}"]
    assert "5 steps of 4" in scemae(*words).stdout
    assert "1.00 epochs" in scemae("verify-resume", tmp_path / "run", "--all").stdout


def test_tars_of_another_size_hold_the_same_samples(root, tmp_path, monkeypatch):
    run, again = tmp_path / "run", tmp_path / "again"
    words = ["pretrain", *SETTINGS, f"run_dir={run}"]
    killed(monkeypatch, [*words, f"data.shards={root}/bucket/one/train"], 5)
    build(root, "one", again, 7)
    scemae(*words, f"data.shards={again}/train", ranks=2)
    assert "steps 1 to 9 of 2 starts" in scemae("verify-resume", run, "--all").stdout
    other = tmp_path / "other"
    shutil.copytree(root / "pictures", other / "pictures")
    picture(99, (96, 96)).save(other / "pictures" / "one" / "003.jpg")
    build(other, "one", other / "out", 7)
    refused = scemae(*words, f"data.shards={other}/out/train", check=False)
    assert refused.returncode == 1 and "its shards was" in refused.stderr


def test_a_mixture_goes_on(place, tmp_path, monkeypatch):
    where, more = place
    words = ["pretrain", *SETTINGS, *more, f"run_dir={tmp_path / 'run'}"]
    words += [f"data.mix=[{where}/one/train:0.75,{where}/two/train:0.25]"]
    killed(monkeypatch, words, 6)
    scemae(*words, ranks=2)
    verified = scemae("verify-resume", tmp_path / "run", "--all").stdout
    assert "steps 1 to 15 of 2 starts" in verified


def test_a_subset_goes_on_and_only_its_bytes_come(root, tmp_path, monkeypatch):
    keys = tmp_path / "keys.txt"
    with serve(root) as server:
        url = f"{server.url}/bucket/one/train"
        words = ["pretrain", *SETTINGS, f"data.shards={url}", f"run_dir={tmp_path / 'run'}"]
        words += ["runtime.tier=streaming", "data.cache_gb=0.001", f"data.subset={keys}"]
        words += [f"data.cache_dir={tmp_path / 'cache'}"]
        names = [*open_shards(str(root / "bucket/one/train")).keys]
        keys.write_text("\n".join(names[:7]))
        killed(monkeypatch, words, 3)
        scemae(*words, ranks=2)
        assert "steps 1 to 5 of 2 starts" in scemae(
            "verify-resume", tmp_path / "run", "--all"
        ).stdout  # fmt: skip
        assert not server.gets["/bucket/one/train/train-000002.tar"], server.gets


def test_a_folder_beside_a_streamed_url_is_refused(root, tmp_path):
    with serve(root) as server:
        words = ["pretrain", *SETTINGS, f"data.shards={server.url}/bucket/one/train"]
        words += [f"data.cache_dir={tmp_path / 'cache'}", "data.cache_gb=0.001"]
        words += [f"run_dir={tmp_path / 'run'}", f"data.append=[{root}/bucket/two/train]"]
        refused = scemae(*words, check=False)
        assert "beside shards that data.cache_gb streams; give all of them" in refused.stderr
