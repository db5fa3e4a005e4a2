"""Training on a part of the shards that a list of keys names."""

import pickle

import pytest

from scemae.data.storage.shard_set import open_shards
from scemae.data.storage.subset import Subset
from scemae.errors import ShardError
from tests.support import TINY, scemae, write_shards


@pytest.fixture
def shards(tmp_path):
    return open_shards(str(write_shards(tmp_path / "shards", 12, shards=3)))


def listed(tmp_path, *keys):
    path = tmp_path / "keys.txt"
    path.write_text("\n".join(keys) + "\n")
    return path


def test_it_holds_the_named_samples_in_the_order_of_the_shards(shards, tmp_path):
    subset = Subset(shards, listed(tmp_path, "000009", "", " 000002", "000005 "))
    assert [*subset.keys] == ["000002", "000005", "000009"] and len(subset) == 3
    assert subset.jpeg(1) == shards.jpeg(5) and subset.annotation(2) == shards.annotation(9)
    assert pickle.loads(pickle.dumps(subset)).jpeg(2) == shards.jpeg(9)


@pytest.mark.parametrize(
    ("lines", "numbers"),
    [
        (["00000[1-3]", "000010"], [1, 2, 3, 10]),
        (["*1", "000004"], [1, 4, 11]),
        (["00000?", "!*[0-4]"], [5, 6, 7, 8, 9]),
        (["!00000*"], [10, 11]),
        (["000003", "!000003", "000005"], [5]),
    ],
)
def test_patterns_name_samples_and_leave_some_out(shards, tmp_path, lines, numbers):
    subset = Subset(shards, listed(tmp_path, *lines))
    assert [*subset.keys] == [f"{i:06d}" for i in numbers]


def test_its_digest_is_that_of_these_samples(shards, tmp_path):
    def digest(*keys):
        return Subset(shards, listed(tmp_path, *keys)).digest

    assert digest("000001", "000002") == digest("000002", "000001")
    assert len({shards.digest, digest("000001"), digest("000002"), digest(*shards.keys)}) == 4


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ([], "found no key in it"),
        (["000001", "absent"], "found 1 keys that .* has not, such as"),
        (["000001", "x*"], r"found the pattern x\*, which no key of .* matches"),
        (["!*"], "leaves out all samples"),
    ],
)
def test_an_empty_list_and_an_unknown_key_are_refused(shards, tmp_path, keys, sentence):
    with pytest.raises(ShardError, match=sentence):
        Subset(shards, listed(tmp_path, *keys))
    with pytest.raises(ShardError, match="cannot be read"):
        Subset(shards, tmp_path / "absent.txt")


def test_a_run_on_it_is_verified_and_refuses_another_list(shards, tmp_path):
    run, keys = tmp_path / "run", listed(tmp_path, *(f"{i:06d}" for i in range(1, 12, 2)))
    words = ["pretrain", *TINY, f"run_dir={run}", f"data.shards={shards.folder}"]
    words += [
        "optim.global_batch_size=3",
        "optim.epochs=2",
        "loop.log_every=1",
        "loop.save_every=2",
    ]
    words += ["runtime.device=cpu", f"data.subset={keys}", "loop.ledger_keys=true"]
    scemae(*words)
    assert "2.00 epochs" in scemae("verify-resume", run, "--all").stdout
    ledger = next(run.glob("generations/*/ledger.jsonl")).read_text()
    assert "000001" in ledger and "000002" not in ledger
    listed(tmp_path, "000001", "000003", "000005")
    done = scemae(*words, check=False)
    assert done.returncode == 1 and "its shards was" in done.stderr
    both = scemae(*words, f"data.append=[{tmp_path}]", f"run_dir={tmp_path}/other", check=False)
    assert "data.subset and data.append: only one of them" in both.stderr
