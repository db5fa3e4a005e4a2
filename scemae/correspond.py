"""Stage 2, `scemae correspond`: freeze the backbone and train CARB's projector under the LCR loss.

    scemae correspond run_dir=runs/small-carb backbone=runs/small data.shards=shards/celeba/train
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from scemae import checkpoint, engine as engines, run_folder
from scemae.checkpoint import TrainState
from scemae.schema import Carb, CorrespondConfig
from scemae.data.pipeline import Pipeline, correspondence_views
from scemae.data.reader import open_shards
from scemae.distributed import process_group
from scemae.errors import CheckpointError, ConfigError
from scemae.landmarks.probe import Probe
from scemae.models.carb import CARB, select
from scemae.models.projector import Projector
from scemae.models.vit import Encoder
from scemae.pretrain import load_autoencoder, plan, run


def main(config: CorrespondConfig) -> None:
    """Train the projector, or go on where the run folder's newest checkpoint stands."""
    with process_group(config.runtime.device) as place, run_folder.hold(Path(config.run_dir), place):
        shards = open_shards(config.data.shards, config.data.cache_dir)
        steps = plan(shards, config.optim, config.loop, config.runtime, place)
        probe = Probe(config.probe_shards, config.loop.probe_pairs, config.data.cache_dir)
        encoder, folder = load_encoder(Path(config.backbone))
        check_clusters(config.carb, encoder)
        dtype = engines.precision(config.runtime, place)
        encoder = encoder.to(place.device, dtype)
        torch.manual_seed(config.seed)
        module = build(config.carb, encoder)
        settings = {"carb": asdict(config.carb), "width": encoder.width, "data": asdict(config.data),
                    "backbone": checkpoint.weights_digest(folder)}
        state = TrainState(0, config.seed, place.world_size, config.runtime.zero_stage, "correspond", settings,
                           shards.manifest.digest())
        facts = {"images": len(shards), "backbone": str(folder)}
        size, scale = encoder.grid * encoder.patch_size, (config.data.scale[0], config.data.scale[1])
        chosen = selection_options(config.carb)

        def batches(pipeline: Pipeline) -> Iterator[tuple[Tensor, ...]]:
            for batch in pipeline:
                selection = select(encoder, correspondence_views(batch, size, scale), **chosen)
                yield selection.feature_map, selection.ids, selection.is_attentive, batch.tensor(batch.slice.weights)

        engine = engines.start(module, config.optim, config.runtime, place, steps.accumulation)
        run(config, place, engine, steps, state, shards, batches, facts,
            probe=lambda: probe.errors(encoder, place.device, engine.module.projector))


def build(carb: Carb, encoder: Encoder) -> CARB:
    """The projector under its loss."""
    return CARB(Projector(carb.projector, encoder.width, carb.dim), tau=carb.tau, reduction=carb.reduction,
                coefficients=(carb.r_att_att, carb.r_att_inatt, carb.r_inatt_inatt),
                place_unit=1.0 if carb.place_unit == "grid" else float(encoder.patch_size))


def selection_options(carb: Carb) -> dict:
    """The part of the settings that `select` takes."""
    return {name: getattr(carb, name) for name in
            ("eta", "clusters", "heads", "layer", "density", "remaining", "aggregate")}


def check_clusters(carb: Carb, encoder: Encoder) -> None:
    """Raise ConfigError where eta leaves no attentive tokens, or fewer inattentive ones than clusters."""
    n = encoder.grid**2
    attentive = round(carb.eta * n)
    if attentive < 1 or n - attentive < carb.clusters:
        raise ConfigError(f"carb: eta {carb.eta} of {n} tokens leaves {attentive} attentive and {n - attentive} "
                          f"inattentive ones; at least 1 and {carb.clusters} (carb.clusters) are needed")


def load_encoder(location: Path) -> tuple[Encoder, Path]:
    """The frozen encoder of a stage-1 run folder or checkpoint, and the checkpoint it came from."""
    model, folder = load_autoencoder(location)
    return model.encoder.eval().requires_grad_(False), folder


def load_projector(location: Path, encoder: Encoder) -> tuple[nn.Module, Carb, Path]:
    """The projector of a stage-2 run folder or checkpoint. Raises CheckpointError where it is of another width."""
    folder = checkpoint.newest(location)
    state = checkpoint.read_state(folder)
    if state.stage != "correspond":
        raise CheckpointError(f"{folder}: found a checkpoint of `scemae {state.stage}`, one of `scemae correspond` was "
                              "needed; give projector=RUN of stage 2")
    carb = Carb(**state.settings["carb"])
    if state.settings["width"] != encoder.width:
        raise CheckpointError(f"{folder}: its projector takes features {state.settings['width']} wide, the backbone "
                              f"gives {encoder.width}; give the backbone it was trained on")
    projector = Projector(carb.projector, encoder.width, carb.dim)
    weights = checkpoint.read_weights(folder)
    projector.load_state_dict({name.removeprefix("projector."): value for name, value in weights.items()})
    return projector.eval().requires_grad_(False), carb, folder
