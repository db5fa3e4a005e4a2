"""Makes subjects, which an evaluation measures, from run folders.

Runs that share a trunk make one subject, so that the trunk's maps of an image are computed once for
all of its lines.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from scemae.errors import CheckpointError
from scemae.evaluation.landmarks import features
from scemae.evaluation.landmarks.features import Head, Trunk
from scemae.evaluation.projection import Projection, load_projection, load_trunk
from scemae.evaluation.subject import Subject
from scemae.evaluation.subject_lines import of_descriptor, of_hypercolumn, of_tokens
from scemae.files import disk
from scemae.files.documents import Count
from scemae.interop import exported
from scemae.interop.exported import Exported
from scemae.methods import carb as carb_method
from scemae.methods import registry
from scemae.models.vit import Encoder
from scemae.runs import given, networks
from scemae.runs.checkpoints import checkpoint
from scemae.runs.given import Given


def from_runs(runs: list[Path]) -> list[Subject]:
    """The subjects of runs (runs/given.py), in the order given; a stage-2 run adds its own
    backbone.

    Raises RunFolderError or CheckpointError for what is no trained model, or cannot be loaded.
    """
    groups: dict[str, tuple[Given, list[Path]]] = {}
    for run in runs:
        one = given.find(run)
        key = str(one.backbone) if one.is_export else checkpoint.weights_digest(one.backbone)
        groups.setdefault(key, (one, []))
        if one.projector is not None and not one.is_export:
            groups[key][1].append(one.projector)
    found = [
        of_given(one) if one.is_export else from_backbone(one.backbone, projectors)
        for one, projectors in groups.values()
    ]
    tell_apart(found)
    return found


def of_given(one: Given, also: list[Path] | None = None) -> Subject:
    """The subject of the weights that were given, with those of more runs of stage 2 on them.

    Raises CheckpointError.
    """
    if not one.is_export:
        projectors = [one.projector] if one.projector else []
        return from_backbone(one.backbone, [*projectors, *map(given.projector_of, also or [])])
    if also:
        raise CheckpointError(
            f"{one.backbone}: found an export, and {also[0]} beside it; give the run folders of "
            "stages 1 and 2 to compare projectors"
        )
    return of_exported(exported.read(one.backbone, with_projector=one.projector is not None))


def of_exported(found: Exported) -> Subject:
    """The subject of the networks of an export."""
    trunk, projections = features.trunk_of(found.encoder), []
    if found.carb is not None:
        settings = carb_method.Settings(found.carb)
        module = carb_method.build(settings, found.encoder, seed=0)
        assert found.projector is not None
        module.projector = found.projector
        module = module.eval().requires_grad_(False)
        head, digest, is_trained = cast(Head, module.head), found.digests["projector"], found.steps
        one = (head, settings.dim, module, "carb", found.carb, found.folder, digest)
        projections.append(Projection(*one, is_trained > 0))
    method = registry.find("mae", 1)
    return _subject(method, trunk, projections, found.digests["backbone"], [str(found.folder)])


def tell_apart(found: list[Subject]) -> None:
    """Add the run's name to the title of subjects that have one title and different weights."""
    alike = [
        one
        for one in found
        if any(other.title == one.title and other.backbone != one.backbone for other in found)
    ]
    for one in alike:
        one.run = Path(one.runs[0]).name


@dataclass
class _Batch:
    global_batch_size: Count


@dataclass
class _Trained:
    """The part of a checkpoint's settings that is read; adopted weights have none of it."""

    optim: _Batch | None = None


def from_backbone(backbone: Path, projectors: list[Path]) -> Subject:
    """The subject of one trunk and the projectors on it."""
    trunk, folder = load_trunk(backbone)
    found = [load_projection(place, folder, trunk) for place in projectors]
    for one in found:
        same = [other for other in found if other.kind == one.kind]
        one.run = one.folder.parent.parent.name if len(same) > 1 else ""
    state = checkpoint.read_state(folder)
    trained = networks.settings_of(folder, state.settings, _Trained)
    method = registry.find(registry.method_of(folder, state.settings, 1), 1)
    runs = [str(place.parent.parent) for place in [folder, *(one.folder for one in found)]]
    subject = _subject(method, trunk, found, checkpoint.weights_digest(folder), runs)
    if trained.optim:
        subject.images_seen = state.global_step * trained.optim.global_batch_size
    return subject


def _subject(
    method: Any, trunk: Trunk, found: list[Projection], digest: str, runs: list[str]
) -> Subject:
    if isinstance(trunk.network, Encoder):
        lines = of_tokens(trunk, found)
    elif trunk.is_resized:
        lines = of_hypercolumn(trunk, found)
    else:
        lines = of_descriptor(trunk)
    return Subject(
        method.TITLE,
        method.ROLE,
        trunk,
        disk.json_digest({"weights": [digest, *(one.digest for one in found)]}),
        digest,
        lines,
        runs=runs,
        heads=[one.network for one in found],
        projections=found,
    )
