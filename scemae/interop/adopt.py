"""`scemae adopt WEIGHTS OUT --model NAME`: public weights (MAE's, or a ViT of timm) as a run of
stage 1.

Exact: the pixel statistics, and LayerScale, are folded into neighbouring weights, and MAE's fixed
table of positions is computed for the 12x12 grid. Not exact: patches of another size are resampled
by FlexiViT's rule, learned positions bicubically (both timm's). These are choices of ours: the
paper starts from scratch.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from scemae.config.load import configs_dir, load_config
from scemae.config.schema.training import Model
from scemae.errors import ConfigError, RunFolderError
from scemae.files import disk
from scemae.files.public_weights import read_weights
from scemae.interop.timm_names import Pixels, translate
from scemae.methods import mae
from scemae.runs import run_folder
from scemae.runs.checkpoints import checkpoint
from scemae.runs.checkpoints.checkpoint import TrainState
from scemae.runs.checkpoints.tensor_file import write_tensors


@dataclass
class Adopted:
    """The settings of an adoption, for config.yaml; `model` is as in those of `scemae pretrain`."""

    run_dir: str
    weights: str
    mean: list[float]  # of the pixels that the weights expect
    std: list[float]
    model: Model


def main(given: argparse.Namespace) -> None:
    """Adopt a file of weights. Raises CheckpointError where it does not fit, or ConfigError, or
    RunFolderError."""
    if not all(0 < value < 10 for value in given.std):
        raise ConfigError(
            f"--std: found {given.std}, three numbers above 0 were needed, for pixels in [0, 1]"
        )
    model, pixels = find_model(given.model), Pixels(tuple(given.mean), tuple(given.std))
    if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
        raise RunFolderError(
            f"{given.out}: is there and not empty; give OUT a new name, or remove it"
        )
    tensors, changes = translate(read_tensors(given.weights), model, pixels, path=given.weights)
    settings = Adopted(str(given.out), str(given.weights), list(given.mean), list(given.std), model)
    folder = write_run(settings, tensors, disk.file_digest(given.weights), changes=changes)
    encoder, _ = mae.load_encoder(folder)
    print(
        f"{given.out}: {given.model}, {encoder.count_parameters() / 1e6:.3f} M parameters of "
        f"{given.weights.name}; {'; '.join(changes)}"
    )


def find_model(name: str) -> Model:
    """The shape of configs/model/`name`.yaml. Raises ConfigError."""
    known = sorted(path.stem for path in (configs_dir() / "model").glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"--model: found {name!r}, needed one of {', '.join(known)}")
    return load_config("pretrain", ["run_dir=-", f"model={name}"]).model


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file of weights, as fp32. Raises CheckpointError."""
    return {key: value.float() for key, value in read_weights(path).items()}


def write_run(
    settings: Adopted, tensors: dict[str, Tensor], sha256: str, *, changes: list[str]
) -> Path:
    """Write a run folder of stage 1 with one checkpoint, of step 1; returns the checkpoint.

    tensors: the weights of an `Encoder`. The checkpoint's settings and provenance.json name the
    file that they came from, its SHA-256 and the changes.
    """
    out = Path(settings.run_dir)
    source = {
        "weights": Path(settings.weights).name,
        "sha256": sha256,
        "mean": settings.mean,
        "std": settings.std,
        "changes": changes,
    }
    with run_folder.own(out, "pretrain") as generation:
        generation.record_base(0)
        final = checkpoint.path_of(out, 1, generation.number)
        aside = final.with_name(final.name + ".partial")
        disk.make_folders(aside.parent, out)
        aside.mkdir()
        arrays = {mae.ENCODER + key: value.contiguous().numpy() for key, value in tensors.items()}
        written = write_tensors(aside / checkpoint.WEIGHTS, arrays, {"format": "pt"})
        state = TrainState(
            global_step=1,
            seed=0,
            world_size=1,
            zero_stage=0,
            stage="pretrain",
            data_digest="",
            order_version=0,
            settings={"model": asdict(settings.model), "adopted": source},
            generation=generation.number,
            files=[checkpoint.listed(written)],
        )
        checkpoint.write_state(aside, state)
        disk.rename_folder(aside, final)
        run_folder.describe(out, "pretrain", settings, adopted=source)
    return final
