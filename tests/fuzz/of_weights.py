"""Weights of others: checkpoints, their manifests, regressors, public weights, kept arrays."""

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors.torch import save_file

from scemae.config.schema.training import Model
from scemae.errors import DataError
from scemae.evaluation.landmarks.regression import LandmarkRegressor, RegressionConfig
from scemae.evaluation.landmarks.regressor_file import load_regressor, save_regressor
from scemae.files import arrays, disk, mapped_arrays
from scemae.interop import adopt
from scemae.interop.timm_names import Pixels, translate
from scemae.methods import mae
from scemae.runs.checkpoints import checkpoint
from scemae.training import replay
from tests.fuzz import of_runs
from tests.fuzz.binary import change_at, mutate_bytes
from tests.fuzz.containers import mutate_safetensors, mutate_zip
from tests.fuzz.target import Target
from tests.fuzz.trees import mutate_json, mutate_yaml
from tests.support import digest

WEIGHTS, MANIFEST = (
    f"mae/{of_runs.STEP}/{checkpoint.WEIGHTS}",
    f"mae/{of_runs.STEP}/{checkpoint.MANIFEST}",
)
HEADERS = tuple(
    b"{'descr': %s, 'fortran_order': False, 'shape': (%s), }" % parts
    for parts in (
        (b"'<f8'", b"1000000000000, 2,"),
        (b"'<f8'", b"-1,"),
        (b"'|O'", b"3,"),
        (b"[('a', '<f8')]", b"3,"),
        (b"'<f8'", b"-" * 8000 + b"3,"),
        (b"'<f8'", b"(" * 4000),
        (b"'|V0'", b"9999999999,"),
        (b"'<U999999999'", b"0,"),
        (b"'<f8'", b"3"),
        (b"'<M8[s]'", b"3,"),
        (b"'<f8'", b"0, 99999999999999999999,"),
        (b"'<f8'", b"None,"),
        (b"b'<f8'", b"True,"),
    )
)
SHAPE = Model("tiny", 24, 1, 3, 8, 96)


class Malice:
    """A pickle of it runs a command."""

    def __reduce__(self):
        return __import__("os").system, ("touch ../canary/pwned",)


def repair_digest(folder: Path) -> None:
    """The manifest's size and digest of the weights, and its own hash."""
    path = folder / MANIFEST
    raw = json.loads(path.read_bytes())
    raw["files"][0] |= {
        "bytes": (folder / WEIGHTS).stat().st_size,
        "sha256": digest(folder / WEIGHTS),
    }
    path.write_text(
        json.dumps({**raw, "manifest_hash": disk.json_digest({**raw, "manifest_hash": ""})})
    )


def repair_hash(folder: Path) -> None:
    """The manifest's own hash, where it is a manifest still."""
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_bytes())
        path.write_text(
            json.dumps(
                {
                    **raw,
                    "config_hash": disk.json_digest(raw["settings"]),
                    "manifest_hash": disk.json_digest(
                        {
                            **raw,
                            "config_hash": disk.json_digest(raw["settings"]),
                            "manifest_hash": "",
                        }
                    ),
                }
            )
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        pass


def load(folder: Path) -> None:
    """Load the checkpoint as a backbone."""
    mae.load_encoder(folder / "mae")


def load_all(folder: Path) -> None:
    """Load the checkpoint with its decoder, as resuming and reconstruction do."""
    mae.load_autoencoder(folder / "mae")


def check(folder: Path) -> None:
    """Search for damage in each checkpoint, and read its manifest."""
    for one in checkpoint.committed(folder / "mae"):
        checkpoint.damage(one)
        checkpoint.read_state(one)


def make_regressor(folder: Path) -> None:
    """A regressor of five landmarks on 8 channels."""
    settings = RegressionConfig()
    save_regressor(
        folder / "r.safetensors",
        LandmarkRegressor(8, 5, settings),
        "mafl",
        settings,
        {"backbone": "0" * 64},
        stride=2,
    )


def make_public(folder: Path) -> None:
    """A small ViT under timm's names, as .safetensors and as .pth."""
    timm = {
        "cls_token": torch.zeros(1, 1, 24),
        "pos_embed": torch.zeros(1, 145, 24),
        "patch_embed.proj.weight": torch.zeros(24, 3, 8, 8),
        "patch_embed.proj.bias": torch.zeros(24),
        "norm.weight": torch.ones(24),
        "norm.bias": torch.zeros(24),
    }
    for name, shape in {
        "norm1.weight": (24,),
        "norm1.bias": (24,),
        "attn.qkv.weight": (72, 24),
        "attn.qkv.bias": (72,),
        "attn.proj.weight": (24, 24),
        "attn.proj.bias": (24,),
        "norm2.weight": (24,),
        "norm2.bias": (24,),
        "mlp.fc1.weight": (96, 24),
        "mlp.fc1.bias": (96,),
        "mlp.fc2.weight": (24, 96),
        "mlp.fc2.bias": (24,),
    }.items():
        timm[f"blocks.0.{name}"] = torch.zeros(shape)
    save_file(timm, folder / "w.safetensors")
    torch.save({"model": timm, "epoch": 3}, folder / "w.pth")


def adopt_file(name: str) -> object:
    """`scemae adopt`, as far as the weights of this encoder."""

    def enter(folder: Path) -> None:
        translate(
            adopt.read_tensors(folder / name),
            SHAPE,
            Pixels((0.5,) * 3, (0.5,) * 3),
            path=folder / name,
        )

    return enter


def mutate_pth(data: bytes, chance: Random) -> bytes:
    """A .pth with another pickle in it, or changed as a zip."""
    if chance.random() > 0.3:
        return mutate_zip(data, chance)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                content = chance.choice(
                    (
                        lambda: pickle.dumps({"model": Malice()}),
                        lambda: pickle.dumps({"a": [1, None, "x"]}),
                        lambda: pickle.dumps(range(10**9)),
                        lambda: b"\x80\x02" + b"(" * 100_000 + b".",
                        lambda: change_at(content, chance, range(len(content))),
                    )
                )()
            new.writestr(name, content)
    return out.getvalue()


def make_kept(folder: Path) -> None:
    """A file of kept arrays."""
    mapped_arrays.write_arrays(
        folder / "kept",
        {"a": 1},
        {"x": np.arange(12.0).reshape(3, 4), "y": np.arange(3, dtype=np.uint8)},
    )


def repair_kept(folder: Path) -> None:
    """Compute the digest of the kept arrays again, as an attacker could."""
    import xxhash

    data = (folder / "kept").read_bytes()
    (folder / "kept").write_bytes(
        xxhash.xxh3_128_digest(data[mapped_arrays.DIGEST :]) + data[mapped_arrays.DIGEST :]
    )


def mutate_kept(data: bytes, chance: Random) -> bytes:
    """Kept arrays with a changed JSON header of the right length, or with changed bytes."""
    size = int.from_bytes(data[16:24], "little")
    if chance.random() < 0.3:
        return data[:16] + mutate_bytes(data[16:], chance)
    header = mutate_json(data[24 : 24 + size], chance)
    return data[:16] + len(header).to_bytes(8, "little") + header + data[24 + size :]


def make_arrays(folder: Path) -> None:
    """Arrays of an evaluation."""
    np.savez_compressed(
        folder / "pairs.npz",
        seed=3,
        keys=np.array(["a", "b"]),
        warps=np.zeros((2, 2, 103, 2)),
        hash="0" * 64,
    )


def mutate_arrays(data: bytes, chance: Random) -> bytes:
    """An .npz with another header of an array, or changed as a zip."""
    if chance.random() > 0.3:
        return mutate_zip(data, chance)
    out, header = io.BytesIO(), chance.choice(HEADERS).ljust(117) + b"\n"
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            content = (
                b"\x93NUMPY\1\0"
                + len(header).to_bytes(2, "little")
                + header
                + bytes(chance.choice((0, 24, 700 * 2**20 if chance.random() < 0.02 else 8)))
            )
            new.writestr(name, content if name == "warps.npy" else old.read(name))
    return out.getvalue()


def read_arrays(folder: Path) -> None:
    """Read the arrays as `scemae report` does."""
    arrays.read(
        folder / "pairs.npz", ["seed", "keys", "warps"], error=DataError, remedy="make it again"
    )


def make_capsule(folder: Path) -> None:
    """A dump of a bad step, beside the run it is of."""
    of_runs.make(folder)
    (folder / "step").mkdir()
    (folder / "step" / "config.yaml").write_text((folder / "mae" / "config.yaml").read_text())
    facts = {
        "step": 3,
        "rank": 0,
        "what": "loss is nan",
        "keys": ["a", "b"],
        "checkpoint": Path(of_runs.STEP).name,
    }
    shutil.copytree(folder / "mae" / of_runs.STEP, folder / "step" / Path(of_runs.STEP).name)
    (folder / "step" / "capsule.json").write_text(json.dumps(facts))
    save_file(
        {
            "samples": torch.arange(2),
            "epochs": torch.zeros(2, dtype=torch.int64),
            "frames": torch.zeros(2, 178, 178, 3, dtype=torch.uint8),
        },
        folder / "step" / "batch.safetensors",
    )


TARGETS = (
    Target(
        "weights",
        of_runs.make,
        {WEIGHTS: mutate_safetensors},
        (load, load_all, check),
        2_000,
        repair_digest,
        MANIFEST,
    ),
    Target(
        "checkpoint",
        of_runs.make,
        {MANIFEST: mutate_json},
        (load, load_all, check),
        1_500,
        repair_hash,
        MANIFEST,
    ),
    Target(
        "regressor",
        make_regressor,
        {"r.safetensors": mutate_safetensors},
        (lambda folder: load_regressor(folder / "r.safetensors"),),
        10_000,
    ),
    Target(
        "adopt",
        make_public,
        {"w.safetensors": mutate_safetensors},
        (adopt_file("w.safetensors"),),
        5_000,
    ),
    Target("adopt-pth", make_public, {"w.pth": mutate_pth}, (adopt_file("w.pth"),), 300),
    Target(
        "kept",
        make_kept,
        {"kept": mutate_kept},
        (lambda folder: mapped_arrays.read_arrays(folder / "kept", {"a": 1}),),
        6_000,
        repair_kept,
        "kept",
    ),
    Target("arrays", make_arrays, {"pairs.npz": mutate_arrays}, (read_arrays,), 400),
    Target(
        "capsule",
        make_capsule,
        {
            "step/capsule.json": mutate_json,
            "step/config.yaml": mutate_yaml,
            "step/batch.safetensors": mutate_safetensors,
        },
        (lambda folder: replay.replay(folder / "step", replay.read_facts(folder / "step")),),
        200,
    ),
)
