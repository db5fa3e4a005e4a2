"""Small shards for tests: generated pictures in real tars, as `scemae shards build` lays them out."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scemae.data.manifest import Index, Manifest, Shard, read_index, read_manifest, write_json, write_manifest

REPO = Path(__file__).resolve().parent.parent
FACES = REPO.parent / "shared" / "faces"
needs_faces = pytest.mark.skipif(not FACES.is_dir(), reason="no folder of real faces beside the repository")

TINY = ["model.width=48", "model.depth=4", "model.heads=3", "decoder.width=32", "decoder.depth=1", "decoder.heads=2"]


def picture(seed: int, size: tuple[int, int] = (178, 218)) -> Image.Image:
    """A smooth random picture of `size` (width, height)."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def write_shards(folder: Path, count: int, shards: int = 2, size: tuple[int, int] = (178, 218)) -> Path:
    """`count` pictures with five landmarks each, over `shards` tars."""
    folder.mkdir(parents=True)
    listed = []
    for s, part in enumerate(np.array_split(np.arange(count), shards)):
        name, index = f"train-{s:06d}.tar", Index()
        with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for i in part:
                buffer = io.BytesIO()
                picture(int(i), size).save(buffer, "JPEG", quality=90)
                marks = [[70, 111], [108, 111], [88 + int(i) % 5, 135], [72, 152], [105, 152]]
                note = json.dumps({"file": f"{i:06d}.jpg", "landmarks": marks, "identity": int(i)}).encode()
                index.keys.append(f"{i:06d}")
                for suffix, data, places in (("jpg", buffer.getvalue(), index.jpg), ("json", note, index.json)):
                    info = tarfile.TarInfo(f"{i:06d}.{suffix}")
                    info.size = len(data)
                    places.append([tar.offset + 512, len(data)])
                    tar.addfile(info, io.BytesIO(data))
        shard = Shard(name, len(part), (folder / name).stat().st_size, digest(folder / name), "")
        write_json(folder / shard.index_file, vars(index))
        shard.index_sha256 = digest(folder / shard.index_file)
        listed.append(shard)
    write_manifest(folder, Manifest("generated", "train", count, listed))
    return folder


def write_backbone(folder: Path) -> Path:
    """The run folder of a stage 1 with TINY's encoder that has learnt nothing: a backbone at once."""
    from scemae import adopt, restore
    from scemae.schema import Decoder, Model

    model = Model("tiny", 48, 4, 3, 8, 96)
    random = restore.build_autoencoder(model, Decoder("tiny", 32, 1, 2), mask_ratio=0.75, norm_pix=False, seed=0).encoder
    adopt.write_run(adopt.Adopted(str(folder), "random", [0.5] * 3, [0.5] * 3, model), random.state_dict(), "", changes=[])
    return folder


def flipped(folder: Path, sample: int) -> Path:
    """The shards of `folder` with one sample's JPEG overwritten, and digests that know it: bad from the source on."""
    manifest = read_manifest(folder)
    for shard in manifest.shards:
        index = read_index(folder, shard)
        if f"{sample:06d}" in index.keys:
            offset, size = index.jpg[index.keys.index(f"{sample:06d}")]
            with open(folder / shard.file, "r+b") as tar:
                tar.seek(offset)
                tar.write(b"no picture".ljust(size, b"-"))
            shard.sha256 = digest(folder / shard.file)
    write_manifest(folder, manifest)
    return folder


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A real disk of `size` at `folder`, which is made; skips the test where none can be mounted."""
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("cannot mount a small disk: not root, or no mount here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def program(name: str) -> str:
    """Where a program of Debian's is, installed first where that can be done; else the test is skipped."""
    if not shutil.which(name) and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", name], capture_output=True)
    return shutil.which(name) or pytest.skip(f"found no {name}, and it could not be installed")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def scemae(*arguments: object, ranks: int = 1, check: bool = True) -> subprocess.CompletedProcess:
    """Run the command in a process of its own, or under torchrun with `ranks` of them."""
    launcher = [sys.executable, "-m"]
    if ranks > 1:
        launcher += ["torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, "scemae", *map(str, arguments)], capture_output=True, text=True, timeout=300,
                          env=environment)
    if check and done.returncode:
        raise AssertionError(f"scemae {arguments[0]} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done
