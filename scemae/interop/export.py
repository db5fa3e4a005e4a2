"""`scemae export RUN OUT`: an encoder, and a projector, for use without this program.

    OUT/encoder.safetensors     under the names of timm's VisionTransformer
    OUT/projector.safetensors   with --projector
    OUT/encoder.onnx            with --onnx
    OUT/features.onnx           with --onnx and --projector
    OUT/config.json, README.md  how to build and feed them; how they were compared with the original

All files are read back by timm and onnxruntime and compared with the original on seeded images.
"""

import argparse
import json
import warnings
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
from scemae.config.values import given_path
from scemae.data.augment import MEAN, STD, normalise
from scemae.errors import CheckpointError, ConfigError, RunFolderError
from scemae.files import disk
from scemae.interop.timm_names import build_timm, timm_options, to_timm
from scemae.methods import mae, registry
from scemae.methods.registry import Trained
from scemae.models.projector import Projector
from scemae.models.vit import Encoder
from scemae.runs.checkpoints import checkpoint
from scemae.runs.checkpoints.tensor_file import WrittenFile, write_tensors

HELP = """\
A trained encoder for use without scemae: safetensors that timm's VisionTransformer loads, and ONNX.

  scemae export runs/mae out
      encoder.safetensors, config.json, README.md
  scemae export runs/mae out --projector runs/carb
      and projector.safetensors
  scemae export runs/mae out --projector runs/carb --onnx
      and encoder.onnx, features.onnx (any batch size)

RUN is a run folder of stage 1 or one of its checkpoints; adopted weights too. OUT is a new folder.
The encoder takes images of 96x96 pixels, normalised as config.json says, and gives CLS and patch
tokens; features.onnx gives the projected map, 12x12, of length one at each place. The files are
read back and compared with the original on seeded images, to within 2e-5 (timm) and 1e-4
(onnxruntime) of the largest value; otherwise nothing is left in OUT. --onnx needs the packages of
`pip install 'scemae[export]'`.
"""
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "run", metavar="RUN", type=given_path, help="run folder or checkpoint of stage 1"
    )
    parser.add_argument("out", metavar="OUT", type=given_path, help="a new folder")
    parser.add_argument(
        "--projector",
        metavar="RUN2",
        type=given_path,
        help="run folder or checkpoint of stage 2 on it",
    )
    parser.add_argument("--onnx", action="store_true", help="write ONNX too")
    parser.add_argument(
        "--check", metavar="N", type=int, default=8, help="images that are compared (8)"
    )


def main(given: argparse.Namespace) -> None:
    """Export. Raises CheckpointError, RunFolderError or ConfigError, and then leaves no OUT."""
    if given.check < 1:
        raise ConfigError(f"--check: found {given.check}, a number of images above 0 was needed")
    if given.out.exists() or given.out.is_symlink():
        raise RunFolderError(f"{given.out}: is there already; give OUT a new name, or remove it")
    if given.onnx:
        check_packages()
    encoder, folder = mae.load_encoder(given.run)
    trained = network = None
    if given.projector:
        trained = registry.load_stage_2(given.projector, folder, encoder)
        network = _projector(trained)
    with disk.building(given.out) as aside:
        facts = write_tensors_and_config(aside, encoder, folder, trained=trained)
        if given.onnx:
            write_onnx(aside, encoder, network)
        facts["parity"] = compare(aside, encoder, network, count=given.check)
        disk.write_json(aside / "config.json", facts)
        disk.write_text(aside / "README.md", card(facts))
    for name, found in facts["parity"].items():
        print(
            f"{given.out / name}: at most {found['difference']:.1e} from the original on "
            f"{given.check} images, whose largest value is {found['largest']:.3g} (allowed: "
            f"{found['allowed']:.1e})"
        )


def check_packages(what: str = "--onnx") -> None:
    """Raise ConfigError for the first package that `what` needs and that is not installed."""
    for name in NEEDED:
        try:
            version(name)
        except PackageNotFoundError as error:
            raise ConfigError(
                f"{what}: found no package {name}; `pip install 'scemae[export]'`"
                f"{', or leave out --onnx' if what == '--onnx' else ''}"
            ) from error


def write_tensors_and_config(
    out: Path, encoder: Encoder, folder: Path, *, trained: Trained | None
) -> dict:
    """Write encoder.safetensors, projector.safetensors; returns the first part of config.json."""
    written = [_write(out / "encoder.safetensors", to_timm(encoder))]
    state = checkpoint.read_state(folder)
    facts = {
        "scemae": __version__,
        "encoder": timm_options(encoder),
        "layer_norm_eps": 1e-6,
        "pixels": {"range": [0, 1], "mean": list(MEAN), "std": list(STD)},
        "source": {
            "checkpoint": folder.name,
            "weights_sha256": checkpoint.weights_digest(folder),
            "global_step": state.global_step,
            "adopted": state.settings.get("adopted"),
        },
    }
    if trained is not None:
        network, carb, second = _projector(trained), trained.settings.carb, trained.folder
        written.append(_write(out / "projector.safetensors", network.state_dict()))
        facts["projector"] = {
            "kind": network.kind,
            "width": encoder.width,
            "out": network.out,
            "multiplier": network.multiplier,
            "carb": asdict(carb),
            "checkpoint": second.name,
            "weights_sha256": checkpoint.weights_digest(second),
        }
    facts["files"] = [asdict(file) for file in written]
    return facts


def _projector(trained: Trained) -> Projector:
    return cast(Projector, trained.module.projector)


def _write(path: Path, tensors: dict[str, Tensor]) -> WrittenFile:
    return write_tensors(
        path, {key: value.contiguous().numpy() for key, value in tensors.items()}, {"format": "pt"}
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
    found = {"encoder.safetensors": _parity("encoder.safetensors", "timm", tokens, again)}
    truths = {"encoder.onnx": tokens}
    if projector is not None:
        features = truths["features.onnx"] = Features(encoder, projector)(images)
        again = _projected(out, projector, again)
        found["projector.safetensors"] = _parity("projector.safetensors", "timm", features, again)
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
    model = build_timm(timm_options(encoder))
    model.load_state_dict(load_file(out / "encoder.safetensors"))
    return model.forward_features(images)


def _projected(out: Path, projector: Projector, tokens: Tensor) -> Tensor:
    again = Projector(projector.kind, tokens.shape[2], projector.out).eval()
    again.load_state_dict(load_file(out / "projector.safetensors"))
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


def card(facts: dict) -> str:
    """The text of OUT/README.md: what the files are and how to use them."""
    options, pixels, source = facts["encoder"], facts["pixels"], facts["source"]
    rows = "\n".join(
        f"| `{name}` | {found['reader']} | {found['difference']:.1e} | {found['largest']:.3g} |"
        for name, found in facts["parity"].items()
    )
    arguments = ", ".join(f"{key}={value!r}" for key, value in options.items())
    projector = PROJECTOR.format(**facts["projector"]) if "projector" in facts else ""
    onnx = ONNX if "encoder.onnx" in facts["parity"] else ""
    return CARD.format(
        side=options["img_size"],
        tokens=1 + (options["img_size"] // options["patch_size"]) ** 2,
        rows=rows,
        width=options["embed_dim"],
        arguments=arguments,
        projector=projector,
        onnx=onnx,
        **pixels,
        **source,
        origin=json.dumps(source["adopted"])
        if source["adopted"]
        else "trained by `scemae pretrain`",
        version=facts["scemae"],
    )


CARD = """\
# An encoder of SCE-MAE

{width} channels, {side}x{side} pixels in, {tokens} tokens out (CLS, then the patches row by row).
Checkpoint `{checkpoint}` (SHA-256 of its weights `{weights_sha256}`), {origin}; exported by scemae
{version}.

```python
from functools import partial
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

model = VisionTransformer({arguments},
                          norm_layer=partial(torch.nn.LayerNorm, eps=1e-6)).eval()
model.load_state_dict(load_file("encoder.safetensors"))
mean, std = (torch.tensor(part).view(3, 1, 1) for part in ({mean}, {std}))
tokens = model.forward_features((images - mean) / std)  # images (b, 3, {side}, {side}) in [0, 1]
```
{projector}{onnx}
Faces are framed as CelebA's aligned ones: a square box resized to 136x136, of which the middle
{side}x{side} is the image.

| file | read back by | largest difference | largest value |
|---|---|---|---|
{rows}
"""
PROJECTOR = """
`projector.safetensors` maps the patch tokens as a map (b, {width}, h, w) to {out} channels, of
length one at each place (kind {kind}: `scemae/models/projector.py`; of `linear`: one 1x1
convolution, then L2 normalisation).
"""
ONNX = """
`encoder.onnx`: input `images` (b, 3, h, w) normalised as above, output `tokens`; `features.onnx`,
if present, gives `features`, the projected map. Any batch size; opset 18.
"""
