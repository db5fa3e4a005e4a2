"""`scemae export RUN OUT`: an encoder, and a projector, for use without this program.

    OUT/model.safetensors       the encoder, under the names of timm's VisionTransformer
    OUT/projector.safetensors   the projector, where RUN has one
    OUT/framing.safetensors     what its training pictures look like, to tell a bad frame
    OUT/encoder.onnx            with --onnx
    OUT/features.onnx           with --onnx and a projector
    OUT/config.json             as timm, the hub and transformers read it
    OUT/README.md               how to build and feed them; how they were compared with the original

All files are read back by timm and onnxruntime and compared with the original on seeded images.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

from scemae import __version__
from scemae.data.augment import MEAN, STD, centre_crop, normalise
from scemae.errors import CheckpointError, ConfigError, RunFolderError, ScemaeError
from scemae.files import disk
from scemae.interop.exported import PROJECTOR as PROJECTOR_FILE
from scemae.interop.exported import Exported, WeightsSource
from scemae.interop.model_card import card
from scemae.interop.timm_names import create_timm, timm_config, timm_options, to_timm
from scemae.methods import mae, registry
from scemae.models.projector import Projector
from scemae.models.vit import Encoder
from scemae.process.progress import say
from scemae.runs import given, usual_frames
from scemae.runs.checkpoints import checkpoint
from scemae.runs.checkpoints.tensor_file import WrittenFile, write_tensors
from scemae.runs.given import EXPORTED
from scemae.runs.usual_frames import UsualFrames

# Of the largest value. timm does the same operations, onnxruntime does them in another order.
TOLERANCE = {"timm": 2e-5, "onnxruntime": 1e-4}
OPSET = 18
NEEDED = ("onnx", "onnxscript", "onnxruntime")  # for --onnx


class Features(nn.Module):
    """Normalised images (b, 3, 96, 96) to the projected map (b, d, 12, 12)."""

    def __init__(self, encoder: Encoder, projector: Projector) -> None:
        super().__init__()
        self.encoder, self.projector = encoder, projector

    def forward(self, images: Tensor) -> Tensor:
        return self.projector(
            rearrange(self.encoder(images)[:, 1:], "b (h w) d -> b d h w", h=self.encoder.grid)
        )


def main(options: argparse.Namespace) -> None:
    """Export. Raises CheckpointError, RunFolderError or ConfigError, and then leaves no OUT."""
    if options.check < 1:
        raise ConfigError(f"--check: found {options.check}, a number of images above 0 was needed")
    check_free(options.out)
    if options.onnx:
        check_packages()
    facts = write(
        options.out, load(options.run, options.projector), onnx=options.onnx, count=options.check
    )
    for name, found in facts["parity"].items():
        print(
            f"{options.out / name}: at most {found['difference']:.1e} from the original on "
            f"{options.check} images, whose largest value is {found['largest']:.3g} (allowed: "
            f"{found['allowed']:.1e})"
        )


def check_free(out: Path) -> None:
    """Raise RunFolderError where there is something at OUT."""
    if out.exists() or out.is_symlink():
        raise RunFolderError(f"{out}: is there already; give OUT a new name, or remove it")


def load(run: Path, projector: Path | None = None) -> Exported:
    """The networks of a RUN (runs/given.py), or of a stage-1 RUN and a projector on it.

    Raises CheckpointError, RunFolderError, ConfigError.
    """
    if projector is None:
        chosen = given.find(run)
    else:
        chosen = given.of_options(None, run, projector)
    if chosen.is_export:
        raise CheckpointError(
            f"{run}: found an export, which is what this command makes; copy it, or give a run"
        )
    encoder, folder = mae.load_encoder(chosen.backbone)
    found = Exported(folder, encoder, source_of(folder), usual=_usual_frames(folder, encoder))
    if chosen.projector is not None:
        trained = registry.load_stage_2(chosen.projector, folder, encoder)
        if trained.name != "carb":
            raise CheckpointError(
                f"{trained.folder}: found a projector of method={trained.name}, and those of the "
                "paper's method=carb can be exported; give another run"
            )
        found.projector = cast(Projector, trained.module.projector)
        found.carb, found.projector_source = trained.settings.carb, source_of(trained.folder)
    return found


def _usual_frames(folder: Path, encoder: Encoder) -> UsualFrames | None:
    """The record of the training pictures; None, after saying why, where there is none."""

    @torch.no_grad()
    def describe(frames: Tensor) -> Tensor:
        side = encoder.grid * encoder.patch_size
        return encoder(centre_crop(normalise(frames.float() / 255), side))[:, 1:]

    try:
        return usual_frames.of_checkpoint(folder, describe)
    except ScemaeError as error:
        say(f"without {usual_frames.EXPORTED}, so framing cannot be checked: {error}", sys.stderr)
        return None


def source_of(folder: Path) -> WeightsSource:
    """Where the weights of a checkpoint come from. Raises CheckpointError."""
    state = checkpoint.read_state(folder)
    digest, adopted = checkpoint.weights_digest(folder), state.settings.get("adopted")
    return WeightsSource(folder.name, digest, state.global_step, adopted)


def write(out: Path, networks: Exported, *, onnx: bool = False, count: int = 8) -> dict:
    """Write all files of an export and compare them on `count` images; returns the facts of
    config.json.

    Raises CheckpointError where they differ, and then leaves no OUT; RunFolderError where it is
    there.
    """
    check_free(out)
    with disk.building(out) as aside:
        facts = write_tensors_and_config(aside, networks)
        if onnx:
            write_onnx(aside, networks.encoder, networks.projector)
        facts["parity"] = compare(aside, networks.encoder, networks.projector, count=count)
        disk.write_json(aside / "config.json", timm_config(networks.encoder) | {"scemae": facts})
        disk.write_text(aside / "README.md", card(facts))
    return facts


def check_packages(
    what: str = "--onnx", names: Sequence[str] | None = None, extra: str = "export"
) -> None:
    """Raise ConfigError for the first package that `what` needs and that is not installed.

    names: NEEDED, unless given.
    """
    for name in NEEDED if names is None else names:
        try:
            version(name)
        except PackageNotFoundError as error:
            raise ConfigError(
                f"{what}: found no package {name}; `pip install 'scemae[{extra}]'`"
                f"{f', or leave out {what}' if what.startswith('--') else ''}"
            ) from error


def write_tensors_and_config(out: Path, networks: Exported) -> dict:
    """Write the safetensors and, without a comparison yet, config.json; returns its facts."""
    encoder, projector = networks.encoder, networks.projector
    written = [_write(out / EXPORTED, to_timm(encoder))]
    facts = {
        "version": __version__,
        "encoder": timm_options(encoder),
        "layer_norm_eps": 1e-6,
        "pixels": {"range": [0, 1], "mean": list(MEAN), "std": list(STD)},
        "source": asdict(networks.source),
    }
    if projector is not None:
        assert networks.carb is not None and networks.projector_source is not None
        written.append(_write(out / PROJECTOR_FILE, projector.state_dict()))
        facts["projector"] = {
            "kind": projector.kind,
            "width": encoder.width,
            "out": projector.out,
            "multiplier": projector.multiplier,
            "carb": asdict(networks.carb),
            "source": asdict(networks.projector_source),
        }
    if networks.usual is not None:
        path, digest = out / usual_frames.EXPORTED, networks.source.weights_sha256
        written.append(usual_frames.save(path, networks.usual, digest))
    facts["files"] = [asdict(file) for file in written]
    return facts


def _write(path: Path, tensors: dict[str, Tensor]) -> WrittenFile:
    return write_tensors(
        path,
        {key: value.detach().cpu().contiguous().numpy() for key, value in tensors.items()},
        {"format": "pt"},
    )


def write_onnx(out: Path, encoder: Encoder, projector: Projector | None) -> None:
    """Write encoder.onnx, and with a projector features.onnx; the batch size is free."""
    exported: dict[str, tuple[nn.Module, str]] = {"encoder.onnx": (encoder, "tokens")}
    if projector is not None:
        exported["features.onnx"] = (Features(encoder, projector).eval(), "features")
    side = encoder.grid * encoder.patch_size
    for name, (network, output) in exported.items():
        # torch warns of its own code
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            torch.onnx.export(
                network,
                (torch.zeros(2, 3, side, side),),
                out / name,
                input_names=["images"],
                output_names=[output],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )


@torch.no_grad()
def compare(
    out: Path, encoder: Encoder, projector: Projector | None, *, count: int
) -> dict[str, dict]:
    """For each file, the largest difference from the original on `count` seeded images.

    Raises CheckpointError above the tolerance.
    """
    side = encoder.grid * encoder.patch_size
    images = normalise(torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)))
    tokens = encoder(images)
    again = _by_timm(out, encoder, images)
    found = {EXPORTED: _parity(EXPORTED, "timm", tokens, again)}
    truths = {"encoder.onnx": tokens}
    if projector is not None:
        features = truths["features.onnx"] = Features(encoder, projector)(images)
        again = _projected(out, projector, again)
        found[PROJECTOR_FILE] = _parity(PROJECTOR_FILE, "timm", features, again)
    for name, truth in truths.items():
        if (out / name).exists():
            found[name] = _parity(name, "onnxruntime", truth, _by_onnxruntime(out / name, images))
    return found


def _parity(name: str, reader: str, truth: Tensor, found: Tensor) -> dict:
    largest = float(truth.abs().max())
    difference, allowed = float((found - truth).abs().max()), TOLERANCE[reader] * largest
    if not difference <= allowed:  # also for NaN
        raise CheckpointError(
            f"{name}: read by {reader} it gives values up to {difference:.1e} from the original's, "
            f"{allowed:.1e} is allowed; nothing was exported, use the versions of "
            "constraints-cpu.txt"
        )
    return {"reader": reader, "difference": difference, "largest": largest, "allowed": allowed}


def _by_timm(out: Path, encoder: Encoder, images: Tensor) -> Tensor:
    model = create_timm(timm_config(encoder))
    model.load_state_dict(load_file(out / EXPORTED))
    return model.forward_features(images)


def _projected(out: Path, projector: Projector, tokens: Tensor) -> Tensor:
    again = Projector(projector.kind, tokens.shape[2], projector.out).eval()
    again.load_state_dict(load_file(out / PROJECTOR_FILE))
    side = int((tokens.shape[1] - 1) ** 0.5)
    return again(rearrange(tokens[:, 1:], "b (h w) d -> b d h w", h=side))


def _by_onnxruntime(path: Path, images: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    # two sizes, because the batch size is free
    batches = [part.numpy() for part in (images[:1], images[1:]) if len(part)]
    return torch.from_numpy(
        np.concatenate([session.run(None, {"images": part})[0] for part in batches])
    )
