"""Shards: the bytes of the source, reproducible, whole or not at all, readable by webdataset."""

import fcntl
import functools
import hashlib
import http.server
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from scemae.cli import run_command
from scemae.config.locations import Typed
from scemae.data.storage.index_file import read_index
from scemae.data.storage.manifest import read_manifest
from scemae.data.storage.shard_set import open_shards
from scemae.errors import ConfigError, DataError, ShardError
from scemae.shards.check import verify
from scemae.shards.describe import describe
from scemae.shards.sources import folder as folder_source
from scemae.shards.splits import Split
from scemae.shards.write import write_split
from tests.support import as_earlier_version


def run_shards(words: list[str]) -> None:
    """`scemae shards WORDS`."""
    run_command(["shards", *words])


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return draw(tmp_path / "photographs", 25)


def draw(folder: Path, count: int, side: int = 32) -> Path:
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (side, side + 4, 3), dtype=np.uint8)
        (folder / f"{i:03d}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))
    return folder


def strict_split(photographs: Path) -> Split:
    """The folder as a split that lets only JPEG in, as CelebA does."""
    return replace(folder_source.splits(photographs)[0], accept_other_formats=False)


def snapshot(folder: Path, times: bool = False) -> dict[str, tuple]:
    return {
        path.name: (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            times and path.stat().st_mtime_ns,
        )
        for path in folder.iterdir()
        if path.is_file()
    }


def spoil(photographs: Path) -> None:
    whole = (photographs / "003.jpg").read_bytes()
    (photographs / "003.jpg").write_bytes(whole[:-2])
    (photographs / "013.jpg").write_bytes(whole[: len(whole) // 2])
    (photographs / "014.jpg").write_bytes(b"<html>not found</html>")
    (photographs / "015.jpg").write_bytes(b"")


def test_shards_hold_the_bytes_of_the_source(photographs, tmp_path):
    manifest, _ = write_split(strict_split(photographs), tmp_path / "out", samples_per_shard=10)
    shards = open_shards(str(tmp_path / "out"))
    assert [shard.samples for shard in manifest.shards] == [10, 10, 5] and len(shards) == 25
    assert shards.keys[12] == "012" and shards.annotation(12) == {"file": "012.jpg"}
    assert all(shards.jpeg(i) == (photographs / f"{i:03d}.jpg").read_bytes() for i in range(25))


def test_a_tar_has_the_bytes_that_tarfile_gives_members_without_a_date_or_an_owner(
    photographs, tmp_path
):
    write_split(strict_split(photographs), tmp_path / "out")
    with tarfile.open(tmp_path / "slow.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(photographs.iterdir()):
            annotation = json.dumps({"file": path.name}).encode()
            for name, data in ((path.name, path.read_bytes()), (f"{path.stem}.json", annotation)):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o444
                tar.addfile(member, io.BytesIO(data))
    slow = (tmp_path / "slow.tar").read_bytes()
    assert (tmp_path / "out" / "train-000000.tar").read_bytes() == slow


def test_second_run_touches_nothing(photographs, tmp_path):
    write_split(strict_split(photographs), tmp_path / "out", samples_per_shard=10)
    before = snapshot(tmp_path / "out", times=True)
    _, kept = write_split(strict_split(photographs), tmp_path / "out", samples_per_shard=10)
    assert kept == 3 and snapshot(tmp_path / "out", times=True) == before


def test_shards_of_an_earlier_version_are_read_and_kept_and_a_lost_one_is_written_beside_them(
    photographs, tmp_path
):
    out = tmp_path / "out"
    build = functools.partial(write_split, strict_split(photographs), out, samples_per_shard=10)
    build()
    now = open_shards(str(out))
    first = as_earlier_version(out).joinpath("train-000000.index.json").read_bytes()
    for shard in read_manifest(out).shards:  # the records said the same
        record = out / ".build" / f"{shard.file.removesuffix('.tar')}.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"shard": asdict(shard)}))
    assert [*open_shards(str(out)).keys] == [*now.keys]
    assert build()[1] == 3 and (out / "train-000000.index.json").read_bytes() == first
    (out / "train-000001.tar").unlink()
    assert build()[1] == 2 and [one.packed for one in read_manifest(out).shards] == [0, 1, 0]
    mixed = open_shards(str(out))
    assert mixed.digests == now.digests
    assert [*map(mixed.jpeg, range(25))] == [*map(now.jpeg, range(25))]


def test_unusable_images_are_named_with_their_reason(photographs, tmp_path):
    spoil(photographs)
    manifest, _ = write_split(
        strict_split(photographs), tmp_path / "out", samples_per_shard=10, max_bad_fraction=0.2
    )
    reasons = {entry["file"]: entry["reason"] for entry in manifest.left_out}
    assert list(reasons) == ["003.jpg", "013.jpg", "014.jpg", "015.jpg"] and manifest.samples == 21
    assert "Premature end" in reasons["003.jpg"] and "Premature end" in reasons["013.jpg"]
    assert reasons["014.jpg"] == "not a JPEG" and reasons["015.jpg"] == "empty file"


def test_a_lost_shard_is_written_again_to_the_same_bytes(photographs, tmp_path):
    spoil(photographs)
    build = functools.partial(
        write_split,
        strict_split(photographs),
        tmp_path / "out",
        samples_per_shard=10,
        max_bad_fraction=0.2,
    )
    build()
    before = snapshot(tmp_path / "out")
    (tmp_path / "out" / "train-000001.tar").unlink()
    (tmp_path / "out" / "train-000002.tar.partial-77").write_bytes(b"left behind")
    assert build()[1] == 2 and snapshot(tmp_path / "out") == before


def test_too_many_unusable_images_stop_the_build_until_they_are_allowed(photographs, tmp_path):
    spoil(photographs)
    with pytest.raises(
        DataError, match=r"1 of 25 images are unusable so far \(first 003.jpg: .*--max-bad-fraction"
    ):
        write_split(strict_split(photographs), tmp_path / "out", samples_per_shard=10)
    assert not (tmp_path / "out" / "manifest.json").exists()
    _, kept = write_split(
        strict_split(photographs), tmp_path / "out", samples_per_shard=10, max_bad_fraction=0.2
    )
    assert kept == 1


def test_an_empty_split_and_one_without_a_usable_image_are_refused(photographs, tmp_path):
    empty = Split("celeba", "val", [], {"not in partition 2 (test)": 7})
    with pytest.raises(
        DataError, match=r"val: no image is left for this split \(7 not in partition 2"
    ):
        write_split(empty, tmp_path / "empty")
    for path in photographs.iterdir():
        path.write_bytes(b"\xff\xd8 nothing")
    with pytest.raises(DataError, match="not one of 25 images is usable"):
        write_split(strict_split(photographs), tmp_path / "out", max_bad_fraction=1)


def test_another_build_into_the_same_folder_is_refused(photographs, tmp_path):
    write_split(strict_split(photographs), tmp_path / "out", samples_per_shard=10)
    with pytest.raises(
        ShardError, match="another build .samples_per_shard 10, not 20.*delete this one"
    ):
        write_split(strict_split(photographs), tmp_path / "out", samples_per_shard=20)
    (photographs / "007.jpg").write_bytes(b"changed")
    with pytest.raises(ShardError, match="source_digest"):
        write_split(strict_split(photographs), tmp_path / "out", samples_per_shard=10)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "train-000000.tar").write_bytes(b"")
    with pytest.raises(ShardError, match="unknown origin"):
        write_split(strict_split(photographs), tmp_path / "foreign")


def test_two_builds_at_once_in_one_folder_are_refused(photographs, tmp_path):
    (tmp_path / "out").mkdir()
    held = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(ShardError, match="another build is writing here"):
        write_split(strict_split(photographs), tmp_path / "out")
    os.close(held)


def test_a_full_disk_is_one_sentence_and_keeps_finished_shards(photographs, tmp_path):
    (photographs / "020.jpg").write_bytes(
        simplejpeg.encode_jpeg(
            np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
        )
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (100_000, hard)
    )  # a file that cannot grow: the nearest to a full disk
    try:
        with pytest.raises(
            ShardError,
            match="train-000002.tar: cannot be written .File too large.; free some space",
        ):
            write_split(strict_split(photographs), tmp_path / "out", samples_per_shard=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "out").glob("*.partial-*"))
    assert write_split(strict_split(photographs), tmp_path / "out", samples_per_shard=10)[1] == 2


def test_a_place_that_cannot_be_written_is_one_sentence(photographs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ShardError, match="cannot be made or opened .Not a directory"):
        write_split(strict_split(photographs), tmp_path / "file" / "out")


def test_an_image_that_vanishes_stops_the_build(photographs, tmp_path):
    split = strict_split(photographs)
    (photographs / "004.jpg").unlink()
    with pytest.raises(DataError, match="004.jpg: cannot be read .*No such file"):
        write_split(split, tmp_path / "out")


@pytest.mark.slow
def test_killed_build_of_two_workers_goes_on_with_one_to_the_bytes_of_one_worker(tmp_path):
    photographs = draw(tmp_path / "photographs", 200, side=300)

    def words(out: str, workers: int) -> list[str]:
        places = [str(photographs), str(tmp_path / out)]
        return ["build", "folder", *places, "--samples-per-shard=5", f"--workers={workers}"]

    run_shards(words("reference", 1))
    command = ["shards", *words("out", 2)]
    process = subprocess.Popen(
        [sys.executable, "-c", f"from scemae.cli import main; main({command!r})"]
    )
    out = tmp_path / "out" / "train"
    while len(list((out / ".build").glob("train-*.json"))) < 4 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (out / "manifest.json").exists()
    wait_for_the_workers_to_follow(out)
    finished = {path.stem for path in (out / ".build").glob("train-*.json")}
    before = {
        name: value
        for name, value in snapshot(out, times=True).items()
        if name.split(".")[0] in finished
    }
    run_shards(words("out", 1))
    after = snapshot(out, times=True)
    assert 4 <= len(finished) < 40 and all(after[name] == value for name, value in before.items())
    assert snapshot(out) == snapshot(tmp_path / "reference" / "train")


def wait_for_the_workers_to_follow(out: Path) -> None:
    deadline = time.monotonic() + 10
    seen, now = {}, snapshot(out, times=True)
    while seen != now and time.monotonic() < deadline:
        time.sleep(0.3)
        seen, now = now, snapshot(out, times=True)
    assert seen == now, "workers go on writing after their parent was killed"


def test_verify_names_every_wrong_file(photographs, tmp_path):
    out = tmp_path / "out" / "train"
    write_split(strict_split(photographs), out, samples_per_shard=5)
    assert "25 samples in 5 shards" in verify(tmp_path / "out", decode=True)
    os.truncate(out / "train-000000.tar", 2000)
    altered = bytearray((out / "train-000001.tar").read_bytes())
    altered[700] ^= 1
    (out / "train-000001.tar").write_bytes(altered)
    (out / "train-000002.tar").unlink()
    (out / "train-000003.index").write_text("{}")
    (out / "train-000009.tar").write_bytes(b"")
    with pytest.raises(ShardError) as error:
        verify(out)
    assert "delete" not in str(error.value)
    for words in (
        "4 of its parts are wrong",
        "000000.tar: found 2,000 bytes",
        "000001.tar: its SHA-256",
        "000002.tar: cannot be read",
        "000003.index: its SHA-256",
        "1 tars are in no manifest",
        "000009.tar), so nothing reads them: they belong to something else; move them",
    ):
        assert words in str(error.value)


def test_verify_and_info_take_one_split_or_the_folder_of_several(photographs, tmp_path):
    spoil(photographs)
    for name in ("train", "val"):
        write_split(
            replace(strict_split(photographs), name=name, excluded={"blurred": 4}),
            tmp_path / "out" / name,
            max_bad_fraction=0.2,
        )
    assert (
        len(verify(tmp_path / "out").splitlines()) == 2 == verify(tmp_path / "out").count("whole")
    )
    text = describe(tmp_path / "out" / "val")
    for words in (
        "split val of folder",
        "21 samples in 1 shards",
        "36x32 pixels",
        "1: empty file",
        "4: blurred",
        "annotations  none",
    ):
        assert words in text
    (tmp_path / "out" / "val" / "manifest.json").unlink()
    with pytest.raises(ShardError, match="val: found no manifest.json, so no finished shards"):
        verify(tmp_path / "out")
    with pytest.raises(ShardError, match="no such folder"):
        describe(tmp_path / "nowhere")


def test_decoding_verify_finds_an_image_that_went_in_broken(photographs, tmp_path):
    write_split(strict_split(photographs), tmp_path / "out")
    tar, (shard, *_) = tmp_path / "out" / "train-000000.tar", read_manifest(tmp_path / "out").shards
    start, size = read_index(tmp_path / "out", shard).jpg[3].tolist()
    with open(tar, "r+b") as file:
        file.seek(start + size - 2)
        file.write(b"xx")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = hashlib.sha256(tar.read_bytes()).hexdigest()
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    verify(tmp_path / "out")
    with pytest.raises(ShardError, match="sample 003 cannot be decoded"):
        verify(tmp_path / "out", decode=True)


def test_plain_webdataset_reads_the_tars(photographs, tmp_path):
    write_split(strict_split(photographs), tmp_path / "out", samples_per_shard=10)
    pattern = str(tmp_path / "out" / "train-{000000..000002}.tar")
    webdataset = pytest.importorskip("webdataset")
    samples = list(webdataset.WebDataset(pattern, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == [f"{i:03d}" for i in range(25)]
    assert samples[7]["json"] == {"file": "007.jpg"} and samples[7]["jpg"].size == (36, 32)
    assert np.array_equal(samples[7]["jpg"], Image.open(photographs / "007.jpg").convert("RGB"))


def test_shards_open_by_url_through_a_cache(photographs, tmp_path):
    write_split(strict_split(photographs), tmp_path / "out", samples_per_shard=10)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.func.log_message = lambda *words: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for url in (f"file://{tmp_path}/out", Typed(f"pipe:cat {tmp_path}/out"), f"{address}/out"):
        shards = open_shards(url, str(tmp_path / "cache"))
        assert shards.jpeg(24) == (photographs / "024.jpg").read_bytes() and len(shards) == 25
    assert len(list((tmp_path / "cache").glob("*/*/*.tar"))) == 9
    with pytest.raises(ShardError, match="nowhere/manifest.json: cannot be read"):
        open_shards(f"{address}/nowhere", str(tmp_path / "cache"))
    server.shutdown()
    with pytest.raises(ShardError, match="are read through a folder; set data.cache_dir"):
        open_shards(f"{address}/out")


def test_command_line_builds_verifies_and_describes(photographs, tmp_path, capsys):
    run_shards(["build", "folder", str(photographs), str(tmp_path / "out"), "--workers", "1"])
    run_shards(["verify", str(tmp_path / "out"), "--decode"])
    run_shards(["info", str(tmp_path / "out" / "train")])
    printed = capsys.readouterr().out
    assert (
        "0 finished earlier and kept, 1 written now" in printed
        and "whole" in printed
        and "digest" in printed
    )
    assert read_manifest(tmp_path / "out" / "train").samples == 25


@pytest.mark.parametrize("words", [["--help"], ["build", "--help"], ["build", "celeba", "--help"]])
def test_help_names_the_sources(words, capsys):
    with pytest.raises(SystemExit) as exit_status:
        run_shards(words)
    assert exit_status.value.code == 0 and "celeba" in capsys.readouterr().out


def test_wrong_usage_and_a_wrong_split_are_named(photographs, tmp_path, capsys):
    for words, complaint in (
        (["build", "celeb", "x", "y"], "invalid choice: 'celeb'.* did you mean 'celeba'"),
        (["build", "folder", "x", "y", "--workers", "0"], "--workers: found '0', a whole number"),
        (["build", "folder", "x", "y", "--max-bad-fraction", "2"], "found 2.0, needed a number"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            run_shards(words)
    with pytest.raises(DataError, match="--split test: this source gives train"):
        run_shards(["build", "folder", str(photographs), str(tmp_path / "out"), "--split", "test"])


def test_a_picture_changed_in_place_is_noticed_and_a_copy_of_the_source_is_not(
    photographs, tmp_path
):
    build = functools.partial(write_split, samples_per_shard=10)
    build(strict_split(photographs), tmp_path / "out")
    before = snapshot(tmp_path / "out")
    copy = photographs.rename(tmp_path / "moved")
    shutil.copytree(copy, photographs)  # other dates, other inodes, the same bytes
    assert (
        build(strict_split(photographs), tmp_path / "out")[1] == 3
        and snapshot(tmp_path / "out") == before
    )
    data = bytearray((photographs / "013.jpg").read_bytes())
    data[-9] ^= 1
    (photographs / "013.jpg").write_bytes(data)
    with pytest.raises(
        ShardError,
        match=r"of those in train-000001 at least one has changed since .perhaps 013.jpg",
    ):
        build(strict_split(photographs), tmp_path / "out")
    for record in (tmp_path / "out" / ".build").glob(
        "train-*.json"
    ):  # as earlier versions wrote it
        facts = json.loads(record.read_text())
        record.write_text(
            json.dumps({name: facts[name] for name in ("shard", "left_out", "encoded")})
        )
    assert build(strict_split(photographs), tmp_path / "out")[1] == 3


def test_what_a_build_wrote_into_its_source_is_no_input_of_the_next_one(photographs, capsys):
    for kept in (0, 1):
        run_shards(
            ["build", "folder", str(photographs), str(photographs / "out"), "--workers", "1"]
        )
        assert (
            f"{kept} finished earlier and kept, {1 - kept} written now" in capsys.readouterr().out
        )
    run_shards(["build", "folder", str(photographs), str(photographs), "--workers", "1"])
    run_shards(["build", "folder", str(photographs), str(photographs), "--workers", "1"])
    assert "1 finished earlier" in capsys.readouterr().out


def test_files_that_lead_elsewhere_are_left_out_with_a_reason(photographs, tmp_path, capsys):
    (photographs / "linked").symlink_to(tmp_path)
    (photographs / "zero.jpg").symlink_to("/dev/zero")
    (photographs / "nowhere.png").symlink_to(tmp_path / "absent")
    run_shards(["build", "folder", str(photographs), str(tmp_path / "out"), "--workers", "1"])
    assert (
        "3 excluded (1 linked folders, not entered, 2 an image by its name, but no reg"
        in capsys.readouterr().out
    )
    split = strict_split(photographs)
    for name, target in (("000.jpg", "/dev/zero"), ("001.jpg", "/dev/full")):
        (photographs / name).unlink()
        (photographs / name).symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    (photographs / "002.jpg").unlink()
    (photographs / "002.jpg").symlink_to(tmp_path / "pipe")
    manifest, _ = write_split(split, tmp_path / "strict", max_bad_fraction=0.2)
    assert [entry["reason"] for entry in manifest.left_out] == [
        "no regular file, or larger than any picture"
    ] * 3


@pytest.mark.parametrize(
    ("landmarks", "is_fine"),
    [([[10, 20], [-36, 60]], True), ([[73, 5]], False), ([[10, 20], [-40, 5000]], False)],
)
def test_landmarks_far_outside_of_their_picture_leave_it_out(
    photographs, tmp_path, landmarks, is_fine
):
    split = strict_split(photographs)  # of pictures of 36x32 pixels
    split = replace(split, samples=[*split.samples])
    split.samples[4].annotation["landmarks"] = landmarks
    manifest, _ = write_split(split, tmp_path / "out", max_bad_fraction=0.1)
    assert [entry["file"] for entry in manifest.left_out] == ([] if is_fine else ["004.jpg"])
    assert is_fine or "far outside of its 36x32 pixels" in manifest.left_out[0]["reason"]
    if not is_fine:
        with pytest.raises(
            DataError,
            match=r"1 of 25 images are unusable so far \(first 004.jpg: landmark . lies at",
        ):
            write_split(split, tmp_path / "strict")


def test_a_file_is_no_folder_of_shards(photographs):
    with pytest.raises(ShardError, match="000.jpg: is a file; give the folder of shards"):
        verify(photographs / "000.jpg")


def test_names_that_are_not_utf8_are_built_read_and_described(photographs, tmp_path, capsys):
    names = [os.fsdecode(b"caf\xe9.jpg"), "red \x1b[31m.jpg", "broken \x1b[2J.png"]
    for number, name in enumerate(names[:2]):
        (photographs / f"{number:03d}.jpg").rename(photographs / name)
    (photographs / names[2]).write_bytes(b"-")
    words = [
        "build",
        "folder",
        str(photographs),
        str(tmp_path / "out"),
        "--workers",
        "1",
        "--max-bad-fraction",
        "0.1",
    ]
    run_shards(words)
    run_shards(words)
    shards = open_shards(str(tmp_path / "out" / "train"))
    assert {names[0], names[1]} < {shards.annotation(i)["file"] for i in range(len(shards))}
    assert shards.manifest.left_out[0]["file"] == names[2]
    for command in (["verify", "--decode"], ["info"]):
        run_shards([command[0], str(tmp_path / "out"), *command[1:]])
    assert "\x1b" not in capsys.readouterr().out
