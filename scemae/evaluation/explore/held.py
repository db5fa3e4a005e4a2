"""What a page of the explorer holds of trained runs: networks as ONNX, and what they are."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scemae.config.load import load_config
from scemae.config.schema.training import Carb
from scemae.errors import ConfigError, RunFolderError, ScemaeError
from scemae.evaluation import subjects
from scemae.evaluation.evaluate import name_of
from scemae.evaluation.subject import MATCHING, Subject
from scemae.interop import exported, onnx_networks
from scemae.interop.exported import WeightsSource
from scemae.models.carb import paper_eta
from scemae.models.vit import FIRST_BLOCKS, Encoder
from scemae.runs import given
from scemae.runs.checkpoints import checkpoint
from scemae.runs.lineage import RecordedRun, locate, read_run


@dataclass
class Held:
    """Networks as ONNX, and what the page says of them."""

    encoder: bytes
    heads: list[bytes | None]  # one for each of `features`; None: the encoder's map itself
    features: list[dict[str, Any]]  # name, channels
    patches: int  # of an image
    # what the page starts with, of Eq. 1 to 3: eta, clusters (K_c), density, norm
    choice: dict[str, Any]
    title: str
    facts: list[dict[str, Any]] = field(default_factory=list)  # of each run


def hold(runs: list[Path]) -> Held:
    """The networks of runs that share one backbone. Raises ConfigError or CheckpointError."""
    subject = subject_of(runs)
    encoder = subject.trunk.network
    if not isinstance(encoder, Encoder):
        raise ConfigError(
            f"{subject.runs[0]}: found a {subject.trunk.model}, a ViT was needed; give a run of "
            "`scemae pretrain` with method=mae, or a stage 2 on it"
        )
    if len(encoder.blocks) <= FIRST_BLOCKS:
        raise ConfigError(
            f"{subject.runs[0]}: found an encoder of {len(encoder.blocks)} blocks, more than "
            f"{FIRST_BLOCKS} were needed for Eq. 1; give a run of a deeper one"
        )
    carb = carb_of(subject, encoder.width)
    lines = subject.of(MATCHING)
    networks = [None, *subject.heads]
    return Held(
        onnx_networks.encoder_bytes(encoder, carb.layer, carb.heads),
        [
            network
            if network is None
            else onnx_networks.head_bytes(network, line.head, encoder.width, encoder.grid)
            for network, line in zip(networks, lines, strict=True)
        ],
        [{"name": name_of(subject, line), "channels": line.dim} for line in lines],
        encoder.grid**2,
        {
            "eta": carb.eta,
            "clusters": carb.clusters,
            "density": carb.density,
            "norm": carb.cluster_norm,
        },
        subject.title,
        facts_of(subject),
    )


def subject_of(runs: list[Path]) -> Subject:
    """The one subject of runs (runs/given.py), or of what an evaluation measured.

    Raises ConfigError where they have several backbones, CheckpointError, RunFolderError.
    """
    found = subjects.from_runs(training_runs(runs))
    if len(found) > 1:
        raise ConfigError(
            f"explore: found runs of {len(found)} backbones, one was needed; make a page for each"
        )
    return found[0]


def training_runs(runs: list[Path]) -> list[Path]:
    """The runs of training behind `runs`: an evaluation stands for all that it measured."""
    found: list[Path] = []
    for run in runs:
        recorded = _evaluation(run)
        if recorded is None:
            found.append(run)
            continue
        used = [recorded.provenance.get(key) for key in ("backbone", "projector")]
        used += recorded.provenance.get("also", [])
        found += [locate(place, run) for place in used if place]
    return list(dict.fromkeys(found))


def _evaluation(run: Path) -> RecordedRun | None:
    try:
        recorded = read_run(run)
    except RunFolderError:  # not a run folder: perhaps a checkpoint, which is read later
        return None
    return recorded if recorded.stage == "evaluate" else None


def carb_of(subject: Subject, width: int) -> Carb:
    """The settings of Eq. 1: those of the first CARB projector, or the paper's."""
    for one in subject.projections:
        if one.carb is not None:
            return one.carb
    settings = ["run_dir=-", "backbone=-", f"carb.eta={paper_eta(width)}"]
    return load_config("correspond", settings).carb


def facts_of(subject: Subject) -> list[dict[str, Any]]:
    """What the page says of the weights: those of the backbone, then those of the projectors."""
    first = Path(subject.runs[0])
    if given.is_export(first):
        found = exported.read(first, with_projector=bool(subject.projections))
        sources = [("1, pretraining", found.source), ("2, correspondence", found.projector_source)]
        return [_of_source(stage, first, one) for stage, one in sources if one is not None]
    backbone = next(
        folder
        for folder in reversed(checkpoint.committed(first))
        if checkpoint.weights_digest(folder) == subject.backbone
    )
    return [_of_checkpoint(one) for one in (backbone, *(one.folder for one in subject.projections))]


def _of_source(stage: str, export: Path, source: WeightsSource) -> dict[str, Any]:
    found = {
        "stage": stage,
        "export": export.name,
        "checkpoint": source.checkpoint,
        "steps": source.global_step,
        "adopted": source.adopted,
        "SHA-256 of the weights": source.weights_sha256,
    }
    return {name: value for name, value in found.items() if value is not None}


def _of_checkpoint(folder: Path) -> dict[str, Any]:
    """What the page says of a checkpoint: its run, images seen, commit, SHA-256 of the weights."""
    state, run = checkpoint.read_state(folder), folder.parent.parent
    try:
        recorded = read_run(run)
        provenance, batch = recorded.provenance, recorded.config.get("optim.global_batch_size")
    except ScemaeError:  # a checkpoint without its run's other files
        provenance, batch = {}, None
    found = {
        "run": run.name,
        "stage": {"pretrain": "1, pretraining", "correspond": "2, correspondence"}[state.stage],
        "checkpoint": folder.name,
        "images seen": state.global_step * batch if batch else None,
        "adopted": state.settings.get("adopted"),
        "data digest": provenance.get("data_digest"),
        "commit": provenance.get("commit"),
        "command": provenance.get("command"),
        "SHA-256 of the weights": checkpoint.weights_digest(folder),
    }
    return {name: value for name, value in found.items() if value is not None}
