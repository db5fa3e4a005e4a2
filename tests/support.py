"""Small shards for tests (real tars, as `scemae shards build` writes them) and processes."""

import hashlib
import io
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scemae.data.storage.gzipped_tars import pack
from scemae.data.storage.index import own_index
from scemae.data.storage.index_file import read_index, write_index
from scemae.data.storage.manifest import Manifest, Shard, read_manifest, write_manifest
from scemae.data.storage.tar_headers import BLOCK
from scemae.distributed.launchers import NAMES

REPO = Path(__file__).resolve().parent.parent
FACES = REPO.parent / "shared" / "faces"
needs_faces = pytest.mark.skipif(
    not FACES.is_dir(), reason="no folder of real faces beside the repository"
)

CUDA = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
)
# Such a test runs on the CPU in the ordinary suite, and on a GPU with `pytest -m gpu`.
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])

TINY = [
    "model.width=48",
    "model.depth=4",
    "model.heads=3",
    "decoder.width=32",
    "decoder.depth=1",
    "decoder.heads=2",
]


def picture(seed: int, size: tuple[int, int] = (178, 218)) -> Image.Image:
    """A smooth random picture of `size` (width, height)."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def write_shards(
    folder: Path, count: int, shards: int = 2, size: tuple[int, int] = (178, 218)
) -> Path:
    """`count` pictures with five landmarks each, over `shards` tars."""
    folder.mkdir(parents=True)
    listed = []
    for s, part in enumerate(np.array_split(np.arange(count), shards)):
        name, sizes = f"train-{s:06d}.tar", []
        with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for i in part:
                buffer = io.BytesIO()
                picture(int(i), size).save(buffer, "JPEG", quality=90)
                marks = [[70, 111], [108, 111], [88 + int(i) % 5, 135], [72, 152], [105, 152]]
                note = json.dumps(
                    {"file": f"{i:06d}.jpg", "landmarks": marks, "identity": int(i)}
                ).encode()
                sizes.append((len(buffer.getvalue()), len(note)))
                for suffix, data in (("jpg", buffer.getvalue()), ("json", note)):
                    info = tarfile.TarInfo(f"{i:06d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        shard = Shard(name, len(part), (folder / name).stat().st_size, digest(folder / name), "")
        index = own_index([f"{i:06d}" for i in part], sizes)
        write_index(folder, shard, index)
        listed.append(shard)
    write_manifest(folder, Manifest("generated", "train", count, listed))
    return folder


def write_backbone(folder: Path) -> Path:
    """A finished run of stage 1 with TINY's encoder at its initial weights: a backbone at once."""
    from scemae.config.schema.training import DecoderShape, Model
    from scemae.interop import adopt
    from scemae.methods import mae

    model = Model("tiny", 48, 4, 3, 8, 96)
    settings = mae.Settings(model, DecoderShape("tiny", 32, 1, 2), 0.75, False)
    random = mae.build(settings, seed=0).encoder
    adopt.write_run(
        adopt.Adopted(str(folder), "random", [0.5] * 3, [0.5] * 3, model),
        random.state_dict(),
        "",
        changes=[],
    )
    return folder


def flipped(folder: Path, sample: int) -> Path:
    """Overwrite one sample's JPEG in the shards of `folder`, digests included."""
    manifest = read_manifest(folder)
    for shard in manifest.shards:
        index = read_index(folder, shard)
        if (key := f"{sample:06d}") in index.all_keys():
            offset, size = index.jpg[index.all_keys().index(key)].tolist()
            with open(folder / shard.file, "r+b") as tar:
                tar.seek(offset)
                tar.write(b"no picture".ljust(size, b"-"))
            shard.sha256 = digest(folder / shard.file)
    write_manifest(folder, manifest)
    return folder


def compressed(folder: Path) -> Path:
    """Compress the tars of `folder`, as `scemae shards build --gzip` does."""
    manifest = read_manifest(folder)
    for shard in manifest.shards:
        index, path = read_index(folder, shard), folder / f"{shard.file}.gz"
        with open(folder / shard.file, "rb") as tar, open(path, "wb") as out:
            found = pack(tar, out, index.jpg[:, 0] - BLOCK)
        index.pieces, shard.inside_bytes, shard.inside_sha256 = found
        (folder / shard.file).unlink()
        shard.file, shard.bytes, shard.sha256 = path.name, path.stat().st_size, digest(path)
        write_index(folder, shard, index)
    write_manifest(folder, manifest)
    return folder


def as_earlier_version(folder: Path) -> Path:
    """Write the shards of `folder` as versions 1 and 2 did, with indexes in JSON."""
    manifest = read_manifest(folder)
    manifest.format_version = 2 if manifest.foreign else 1
    for shard in manifest.shards:
        index = read_index(folder, shard, manifest.foreign)
        (folder / shard.index_file).unlink()
        columns = {"keys": index.all_keys(), "jpg": index.jpg.tolist()}
        if index.suffixes is None:
            columns["json"] = index.json.tolist()
        else:
            columns["suffixes"] = [suffix.decode() for suffix in index.suffixes]
        columns["xxh3"] = [] if index.xxh3 is None else [f"{one:016x}" for one in index.xxh3]
        shard.packed = False
        (folder / shard.index_file).write_text(json.dumps(columns))
        shard.index_sha256 = digest(folder / shard.index_file)
    write_manifest(folder, manifest)
    return folder


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a real disk of `size` at `folder`; skip the test if none can be mounted."""
    folder.mkdir(exist_ok=True)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("cannot mount a small disk: not root, or no mount here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def program(name: str) -> str:
    """The path of a program of Debian, installed if need be; skip the test if that fails."""
    if not shutil.which(name) and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True)
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", name],
            capture_output=True,
        )
    return shutil.which(name) or pytest.skip(f"found no {name}, and it could not be installed")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def scemae(*arguments: object, ranks: int = 1, check: bool = True) -> subprocess.CompletedProcess:
    """Run the command in a process, or in `ranks` of them as Slurm or torchrun starts them."""
    with tempfile.TemporaryDirectory() as scratch:
        out, errors = Path(scratch) / "out", Path(scratch) / "errors"
        status = _wait([Started(arguments, out, errors, **place) for place in places(ranks)], 300)
        done = subprocess.CompletedProcess(
            ["scemae", *map(str, arguments)], status, out.read_text(), errors.read_text()
        )
    if check and done.returncode:
        raise AssertionError(
            f"scemae {arguments[0]} ended with {done.returncode}:\n{done.stderr[-3000:]}"
        )
    return done


def places(ranks: int) -> list[dict[str, str]]:
    """What a launcher tells each rank; of one alone, nothing."""
    common = {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    return (
        [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
        if ranks > 1
        else [{}]
    )


class Started:
    """`scemae ARGUMENTS` in a process of its own, used like a Popen; output goes to two files.

    The process is forked from one that has imported the common modules, which takes 4 seconds.
    """

    def __init__(
        self, arguments: Iterable[object], out: Path, errors: Path, **environment: str
    ) -> None:
        out.touch()
        errors.touch()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self._process = _warm().Process(
            target=_be_scemae,
            args=(list(map(str, arguments)), environment, os.getcwd(), out, errors),
        )
        self._process.start()
        self.pid, self.sentinel, self.kill = (
            self._process.pid,
            self._process.sentinel,
            self._process.kill,
        )

    def poll(self) -> int | None:
        """The exit status, less than 0 for a signal; None while it lives."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        """The exit status. Raises subprocess.TimeoutExpired."""
        self._process.join(seconds)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("scemae", seconds)
        return self.poll()


def _wait(started: list[Started], seconds: float) -> int:
    """0, or the first status that is not; then the others have 30 seconds to end."""
    until, status = time.monotonic() + seconds, 0
    while living := [process for process in started if process.poll() is None]:
        connection.wait([process.sentinel for process in living], max(until - time.monotonic(), 0))
        ended = [process.poll() for process in started if process.poll()]
        if ended and not status:
            status, until = ended[0], min(until, time.monotonic() + 30)
        if time.monotonic() > until:
            for process in living:
                process.kill()
            status, until = status or -signal.SIGKILL, time.monotonic() + 10
    return status


def _free_port() -> int:
    """A port of this host that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@cache
def _warm() -> Any:
    """Starts the forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "deepspeed",
            "hydra",
            "torch.utils.tensorboard",
            "scemae.training.pretrain",
            "scemae.training.correspond",
            "scemae.evaluation.evaluate",
            "scemae.evaluation.report.report",
            "scemae.evaluation.tables.command",
            "tests.support",
        ]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return context


class Forked:
    """`function(*arguments)` in a fork of the warm process, used like a Popen.

    Its output goes to `out`; `place` is what a launcher tells a rank (places).
    """

    def __init__(self, function: Callable[..., None], *arguments: object, out: Path, **place: str):
        out.touch()
        self.out = out
        environment = {name: value for name, value in os.environ.items() if name not in NAMES}
        environment |= {"OMP_NUM_THREADS": "1", **place}
        self._process = _warm().Process(
            target=_be_rank, args=(function, arguments, environment, out)
        )
        self._process.start()
        self.kill = self._process.kill

    def poll(self) -> int | None:
        """The exit status, less than 0 for a signal; None while it lives."""
        return self._process.exitcode

    def wait(self, seconds: float = 200) -> int | None:
        """The exit status, or None after so many seconds."""
        self._process.join(seconds)
        return self.poll()


def _be_rank(
    function: Callable[..., None], arguments: tuple, environment: dict[str, str], out: Path
) -> None:
    """In the fork: the function, with an environment and output of its own."""
    os.environ.clear()
    os.environ.update(environment)
    for descriptor in (1, 2):
        os.dup2(os.open(out, os.O_WRONLY | os.O_APPEND), descriptor)
    function(*arguments)


def _be_scemae(
    argv: list[str], environment: dict[str, str], folder: str, out: Path, errors: Path
) -> None:
    """In the fork: the command, as if it had been typed."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, path in ((1, out), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    sys.argv = ["scemae", *argv]
    try:
        runpy.run_module("scemae", run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
