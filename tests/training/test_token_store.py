"""The token store: same losses as without it; filled once by any number of ranks; repaired."""

import fcntl
import json
import re
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import torch

from scemae.config.load import load_config
from scemae.data.decode import digests
from scemae.data.frame_sources import StreamedFrames, consumed_frames
from scemae.data.order import Order, Slice
from scemae.data.pipeline import Batch, correspondence_views
from scemae.data.storage.shard_set import open_shards
from scemae.distributed.launchers import NAMES
from scemae.distributed.process_group import process_group
from scemae.errors import ConfigError
from scemae.methods import carb
from scemae.methods.carb import selection_options
from scemae.models.carb import select, third
from scemae.models.vit import Encoder
from scemae.runs import generations
from scemae.training import feed, record_file, token_fill, token_store
from scemae.training.token_fill import Fill
from scemae.training.token_store import open_tokens
from tests.support import Forked, flipped, places, scemae, small_disk, write_backbone, write_shards

COUNT, VIEWS = 20, 3
SETTINGS = [
    "run_dir=none",
    "backbone=none",
    f"views={VIEWS}",
    "optim.global_batch_size=8",
    "data.jpeg_noise=true",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return flipped(write_shards(tmp_path_factory.mktemp("tokens") / "shards", COUNT), 3)


@pytest.fixture(scope="module")
def shards(folder):
    return open_shards(str(folder))


@pytest.fixture(scope="module", autouse=True)
def place():
    with process_group("cpu") as place:
        yield place


def encoder(dtype=torch.float32):
    torch.manual_seed(0)
    return Encoder(48, 4, 3).eval().requires_grad_(False).to(dtype=dtype)


def settings(folder, *overrides):
    return load_config("correspond", [*SETTINGS, f"store.dir={folder}", *overrides])


def opened(
    folder, shards, place, *overrides, model=None, backbone="b" * 64, stop=10, note=lambda: None
):
    """A store in `folder`; 10 steps of 8 are four epochs of 20."""
    chosen = settings(folder, *overrides)
    order = Order(COUNT, chosen.seed, chosen.optim.global_batch_size)
    fill = Fill(chosen, model or encoder(), (folder, backbone), shards, place, note)
    return open_tokens(fill, order, stop)


def slow_views(shards, chosen, samples, epochs):
    """The view images (b, 3, 96, 96) of b samples in the epochs (b,), without a store.

    Returns the samples found, the digests of their frames, and the images.
    """
    part = Slice(1, samples, epochs, np.ones(len(samples)), np.arange(len(samples)))
    found, frames = consumed_frames(
        StreamedFrames(shards, chosen.data.frame), part, chosen.seed, chosen.data.jpeg_noise
    )
    batch = Batch(torch.from_numpy(frames).permute(0, 3, 1, 2), part, chosen.seed)
    return found, digests(frames), correspondence_views(batch, 96, tuple(chosen.data.scale))


def data_of(folder):
    return {path.parent.name.split("-")[0]: path.read_bytes() for path in folder.glob("*/records")}


def summary(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("tokens: ")][
        -1
    ]


def test_losses_from_the_store_are_those_of_the_encoder_on_the_same_views(tmp_path, shards, place):
    model, chosen, store = encoder(), settings(tmp_path), opened(tmp_path, shards, place)
    module, order = carb.build(carb.Settings(chosen.carb), model, seed=1), Order(COUNT, 0, 8)
    slices = [part for step in (0, 4, 9) for part in order.slices(step, 0, 1, 1)]
    for part, fed in zip(slices, store.batches(iter(slices), lambda *_: None), strict=True):
        *_, images = slow_views(shards, chosen, part.samples, part.epochs % VIEWS)
        slow = select(model, third(model, images), **selection_options(chosen.carb))
        weights = torch.from_numpy(part.weights)
        assert (
            fed[0].dtype == torch.bfloat16
            and torch.equal(fed[1], slow.ids)
            and torch.equal(fed[2], slow.slot)
        )
        assert torch.allclose(
            module(*fed), module(slow.tokens, slow.ids, slow.slot, weights), rtol=1e-3
        )
        assert torch.allclose(
            module(*fed), module(slow.tokens.bfloat16(), slow.ids, slow.slot, weights), rtol=1e-5
        )


def test_the_ledger_gets_the_samples_that_the_tokens_were_made_from(tmp_path, shards, place):
    chosen, store, reported = settings(tmp_path), opened(tmp_path, shards, place), []
    part = Slice(1, np.array([3, 0, 19]), np.array([4, 1, 2]), np.ones(3, np.float32), np.arange(3))
    next(store.batches(iter([part]), lambda *origin: reported.append(origin)))
    found, pixels, _ = slow_views(shards, chosen, part.samples, part.epochs % VIEWS)
    assert reported[0][0] is part and reported[0][1].tolist() == found.tolist() == [
        4,
        0,
        19,
    ]  # sample 3 is no picture
    assert np.array_equal(reported[0][2], pixels)


def test_epochs_wrap_around_the_views(tmp_path, shards, place):
    store, samples = opened(tmp_path, shards, place), np.arange(4)
    first, wrapped, other = (
        store.batch(samples, np.full(4, epoch))[0] for epoch in (1, 1 + VIEWS, 2)
    )
    assert torch.equal(first, wrapped) and not torch.equal(first, other)


def test_a_store_kept_on_the_device_gives_the_same_batches(tmp_path, shards, place):
    store, part = opened(tmp_path, shards, place, stop=5), Order(COUNT, 0, 8).slices(4, 0, 1, 1)[0]
    on_host = store.batch(part.samples, part.epochs)
    store.keep_on_device()
    assert all(map(torch.equal, store.batch(part.samples, part.epochs), on_host))


def test_only_what_a_run_reads_is_computed_and_more_views_share_the_rest(
    tmp_path, shards, place, capsys
):
    opened(tmp_path, shards, place, stop=1)
    assert "8 view images" in summary(capsys)
    opened(tmp_path, shards, place, stop=5)  # two epochs
    assert "40 view images" in summary(capsys)
    opened(tmp_path, shards, place, "views=4")
    assert "80 view images" in summary(capsys) and len(list(tmp_path.iterdir())) == 1
    opened(tmp_path, shards, place)
    assert "60 view images" in (line := summary(capsys)) and "0 computed" in line


def test_a_store_that_is_whole_is_not_filled_again(tmp_path, shards, place, capsys, monkeypatch):
    opened(tmp_path, shards, place)
    before = data_of(tmp_path)
    monkeypatch.setattr(feed, "open_frames", lambda *_, **__: pytest.fail("looked at images"))
    opened(tmp_path, shards, place)
    assert "0 computed in" in summary(capsys) and data_of(tmp_path) == before


def test_damage_is_found_and_healed(tmp_path, shards, place, capsys, monkeypatch):
    monkeypatch.setattr(token_fill.Fill, "chunk_size", 8)
    opened(tmp_path, shards, place)
    path, before = next(tmp_path.glob("*/records")), data_of(tmp_path)
    size = len(before["selected"]) // (VIEWS * COUNT)
    with open(path, "r+b") as file:
        for byte in (5, 30 * size + 7, 26 * size - 1):  # a token, another record's, a digest
            file.seek(byte)
            other = bytes([file.read(1)[0] ^ 1])
            file.seek(byte)
            file.write(other)
        file.seek(50 * size)
        file.write(bytes(size // 2))  # half of a record that was never written
        file.seek(51 * size)
        file.write(bytes(size))
    opened(tmp_path, shards, place)
    assert "24 computed (4 were damaged)" in summary(capsys)  # chunks 0, 3 and 6
    assert data_of(tmp_path) == before
    path.write_bytes(before["selected"][: 7 * size])  # cut off
    opened(tmp_path, shards, place)
    assert data_of(tmp_path) == before


@pytest.mark.parametrize(
    "change",
    [
        "carb.eta=0.2",
        "carb.clusters=5",
        "carb.density=knn",
        "carb.layer=inside",
        "seed=1",
        "data.frame=120",
        "data.jpeg_noise=false",
        "backbone",
        "precision",
        "version",
    ],
)
def test_what_the_records_depend_on_names_the_folder(tmp_path, shards, place, change, monkeypatch):
    opened(tmp_path, shards, place, stop=1)
    if change == "version":
        monkeypatch.setattr(token_fill, "STORE_VERSION", 0)
    opened(
        tmp_path,
        shards,
        place,
        *([change] if "=" in change else []),
        stop=1,
        backbone="c" * 64 if change == "backbone" else "b" * 64,
        model=encoder(torch.bfloat16) if change == "precision" else None,
    )
    assert len(list(tmp_path.glob("selected-*"))) == 2
    facts = json.loads(next(tmp_path.glob("*/facts.json")).read_text())
    assert facts["data"] == shards.manifest.digest() and facts["frame"] in (136, 120)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (
            "views=2",
            "optim.epochs=1",
            "optim.lr=1",
            "carb.tau=1",
            "carb.projector=mlp",
            "runtime.workers=1",
            "runtime.micro_batch_size=3",
        ),
    ],
)
def test_what_they_do_not_depend_on_does_not(tmp_path, shards, place, overrides):
    opened(tmp_path, shards, place, stop=1)
    opened(tmp_path, shards, place, *overrides, stop=1)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("remaining", "dtype"), [("selected", torch.bfloat16), ("all", torch.float32)]
)
def test_the_store_of_the_third_block_gives_the_same_records_without_the_images(
    tmp_path, shards, place, remaining, dtype, monkeypatch
):
    model, options = encoder(dtype), [f"carb.remaining={remaining}"]
    opened(tmp_path / "direct", shards, place, *options, "carb.eta=0.2", model=model)
    opened(tmp_path / "kept", shards, place, *options, "store.keep_third=true", model=model)
    monkeypatch.setattr(feed, "open_frames", lambda *_, **__: pytest.fail("looked at images"))
    opened(
        tmp_path / "kept", shards, place, *options, "carb.eta=0.2", model=model
    )  # used because it is there
    assert len(list((tmp_path / "kept").glob("third-*"))) == 1
    direct, kept = (sorted((tmp_path / name).glob("selected-*")) for name in ("direct", "kept"))
    assert (direct[0] / "records").read_bytes() == (
        (tmp_path / "kept" / direct[0].name) / "records"
    ).read_bytes()
    assert len(kept) == 2


@pytest.mark.slow
def test_a_left_out_step_replays_with_the_loss_it_had(tmp_path, folder, monkeypatch):
    for name in NAMES:  # these are no ranks of ours
        monkeypatch.delenv(name)
    small = [
        "optim.global_batch_size=10",
        "loop.log_every=1",
        f"data.shards={folder}",
        "data.max_bad_fraction=1",
    ]
    command = [
        "correspond",
        *small,
        f"backbone={write_backbone(tmp_path / 'mae')}",
        "views=2",
        "optim.epochs=4",
        "loop.save_every=6",
    ]
    scemae(*command, f"run_dir={tmp_path / 'run'}")
    monkeypatch.setenv("SCEMAE_FAULTS", f"nan@loss:step=7,rank=0,once={tmp_path / 'once'}")
    assert "0 computed" in scemae(*command, f"run_dir={tmp_path / 'bad'}").stderr
    loss = {row["step"]: row["loss"] for row in generations.rows(tmp_path / "run", "ledger.jsonl")}[
        7
    ]  # of epoch 3, view 1
    printed = scemae("replay", tmp_path / "bad" / "capsules" / "step-00000007").stdout
    assert float(re.search("loss ([0-9.]+),", printed)[1]) == pytest.approx(loss, rel=1e-5)
    assert "keys and pixels equal" in scemae("verify-resume", tmp_path / "bad", "--all").stdout


def test_tokens_are_kept_beside_a_backbone_of_ones_own_and_of_nobody_else(tmp_path):
    backbone, own = tmp_path / "mae", tmp_path / "run"
    backbone.mkdir()
    assert token_store.choose_home(backbone, own) == backbone / "tokens"  # which is made
    assert token_store.choose_home(backbone, own) == backbone / "tokens"
    (backbone / "tokens").chmod(0o777)
    assert token_store.choose_home(backbone, own) == own / "tokens"
    (backbone / "tokens").chmod(0o755)
    backbone.chmod(0o777)
    assert token_store.choose_home(backbone, own) == own / "tokens"


@pytest.mark.parametrize(
    "came",
    [
        lambda old, new: shutil.copytree(old, new),
        lambda old, new: (new / "tokens").mkdir(parents=True),
        lambda old, new: (new.mkdir(), (new / "tokens").symlink_to(old / "tokens")),
    ],
    ids=["a copy", "no mark", "a link"],
)
def test_tokens_that_came_with_a_backbone_are_not_taken(tmp_path, came):
    (tmp_path / "theirs").mkdir()
    token_store.choose_home(tmp_path / "theirs", tmp_path / "run")
    came(tmp_path / "theirs", tmp_path / "mae")
    assert (
        token_store.choose_home(tmp_path / "mae", tmp_path / "run") == tmp_path / "run" / "tokens"
    )


def test_a_store_of_links_is_refused(tmp_path, shards, place):
    opened(tmp_path / "store", shards, place, stop=1)
    made = next((tmp_path / "store").glob("selected-*"))
    made.rename(tmp_path / "victim")
    before = {path.name: path.read_bytes() for path in (tmp_path / "victim").iterdir()}
    made.symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigError, match="found a link"):
        opened(tmp_path / "store", shards, place, "seed=0", stop=10)
    assert {path.name: path.read_bytes() for path in (tmp_path / "victim").iterdir()} == before


def fill_alone(store, shards, *overrides):
    """On a rank: fill a store, slowly enough to be killed meanwhile."""
    Fill.chunk_size = 8
    with process_group("cpu") as place:
        opened(store, open_shards(str(shards)), place, *overrides, note=lambda: time.sleep(0.03))


def fill(store, shards, *overrides, ranks=1):
    """Start the ranks that fill a store."""
    return [
        Forked(fill_alone, store, shards, *overrides, out=store / f"out-{rank}", **place)
        for rank, place in enumerate(places(ranks))
    ]


def written(folder):
    """How many records have a digest."""
    return sum(
        int(np.frombuffer(data, np.uint8).reshape(60, -1)[:, -16:].any(axis=1).sum())
        for data in data_of(folder).values()
        if data
    )


@pytest.fixture
def alike(monkeypatch):
    """This process computes as those of `fill` do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(token_fill.Fill, "chunk_size", 8)
    yield
    torch.set_num_threads(threads)


def test_one_rank_and_two_fill_the_same_bytes(tmp_path, folder, shards, place, alike):
    (tmp_path / "two").mkdir()
    two = fill(tmp_path / "two", folder, "store.keep_third=true", ranks=2)
    opened(tmp_path / "one", shards, place, "store.keep_third=true")
    for rank in two:
        assert rank.wait() == 0, rank.out.read_text()[-2000:]
    words = two[0].out.read_text()
    assert data_of(tmp_path / "one") == data_of(tmp_path / "two") and "60 computed" in words


def test_a_kill_at_any_moment_loses_only_work(tmp_path, folder, shards, place, alike, capsys):
    opened(tmp_path / "whole", shards, place, "carb.eta=0.15")
    store = tmp_path / "killed"
    store.mkdir()
    for _ in range(2):
        before = written(store)
        (process,) = fill(store, folder, "carb.eta=0.15")
        while written(store) == before and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert 0 < written(store) < 60
    opened(store, shards, place, "carb.eta=0.15")
    assert "damaged" not in summary(capsys) and data_of(store) == data_of(tmp_path / "whole")


def test_a_run_waits_for_the_one_that_fills(tmp_path, shards, place, capsys, monkeypatch):
    monkeypatch.setattr(record_file, "RETRY_SECONDS", 0.05)
    opened(tmp_path, shards, place, stop=1)
    lock = open(next(tmp_path.iterdir()) / "lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    noted = []
    threading.Timer(1.0, lock.close).start()
    opened(tmp_path, shards, place, stop=1, note=lambda: noted.append(time.monotonic()))
    assert len(noted) > 5 and capsys.readouterr().err.count("another run fills it") == 1


def test_a_disk_without_the_room_is_refused_before_it_is_filled(tmp_path, shards, place):
    with (
        small_disk(tmp_path / "disk", "64k") as disk,
        pytest.raises(ConfigError, match=r"0.00 GB free; set store.dir"),
    ):
        opened(disk, shards, place)


def test_a_disk_that_fills_up_later_is_named(tmp_path, shards, place, monkeypatch):
    monkeypatch.setattr(record_file.RecordFile, "check_room", lambda *_: None)
    with (
        small_disk(tmp_path / "disk", "64k") as disk,
        pytest.raises(ConfigError, match="No space left on device"),
    ):
        opened(disk, shards, place)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, shards, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        opened(tmp_path / "file", shards, place)
