"""From run folders to subjects: each is one frozen trunk with the lines (rows of tables) measured
on it.

Runs that share a trunk make one subject, so that the trunk's maps of an image are computed once for
all of its lines.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from scemae.config.schema.training import Carb
from scemae.errors import CheckpointError
from scemae.evaluation.landmarks import features, matching
from scemae.evaluation.landmarks.features import Head, Trunk
from scemae.evaluation.landmarks.regression import join_stages
from scemae.files import disk
from scemae.files.documents import Count
from scemae.interop import exported
from scemae.interop.exported import Exported
from scemae.methods import carb as carb_method
from scemae.methods import registry
from scemae.models import hypercolumn
from scemae.models.timm_vit import TimmVit
from scemae.models.vit import Encoder
from scemae.runs import given, networks
from scemae.runs.checkpoints import checkpoint
from scemae.runs.given import Given

# The tests.
MATCHING, DETECTION, FEW_SHOT, EMBEDDING = "matching", "detection", "few-shot", "t-SNE"
# Ours (PROTOCOL 7): the mean feature of each place, and matching with and without it.
PLACES, CONTENT = "places", "content"
LARGEST = 1 << 29  # bytes of features that one batch of the matching test may take
OURS, RIVAL, REFERENCE, FLOOR = "ours", "rival", "reference", "floor"  # the roles of rows


@dataclass
class Line:
    """One row of a table: its test, the head that makes its features, and its marks."""

    test: str
    table: int  # of the paper; 5 is figure 5
    name: str  # unique within its subject and test
    dim: int
    head: Head
    projector: str | None = None  # digest of the projector's weights, where one is used
    variant: str = ""  # the run's name, where two runs have a projector of the same dimension
    hypercolumn: bool | None = None
    cluster: bool | None = None
    lcr: bool | None = None
    prior: float = 0.0  # of landmarks.matching.match
    stage_2: int = 0  # how many of the last channels are stage 2's, where both stages are joined
    added: str = "CARB"  # what stage 2 adds to the backbone: CARB, LDA, or LDA + CARB


@dataclass
class Subject:
    """A method with one trained trunk."""

    method: str  # the paper's name
    role: str
    trunk: Trunk
    digest: str  # of all weights behind it
    backbone: str | None = None  # digest of the trunk's weights
    lines: list[Line] = field(default_factory=list)
    images_seen: int | None = None
    run: str = ""  # name of the stage-1 run, where two subjects would have the same title
    runs: list[str] = field(default_factory=list)
    heads: list[nn.Module] = field(default_factory=list)  # the projectors' networks
    projections: list["Projection"] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The name of this subject in tables and progress bars."""
        return " ".join(
            word for word in (self.method, self.trunk.model, self.run and f"({self.run})") if word
        )

    def weights(self, line: Line) -> dict[str, str]:
        """The digests of the weights behind a line's features."""
        return {
            key: value
            for key, value in (("backbone", self.backbone), ("projector", line.projector))
            if value
        }

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the networks to a device; the trunk computes in `dtype`, projectors in fp32."""
        self.trunk.network.to(device, dtype)
        for network in self.heads:
            network.to(device)

    def couples_at_once(self, images: int, side: int) -> int:
        """Couples per batch of the matching test, three images each: at most `images`, within
        LARGEST.
        """
        largest = 12 * max((line.dim for line in self.of(MATCHING)), default=1) * side**2
        return max(min(images // 3, LARGEST // largest), 1)

    def of(self, test: str) -> list[Line]:
        """The lines of one test; those of places and content match by their features alone."""
        if test in (PLACES, CONTENT):
            return [line for line in self.lines if line.test == MATCHING and not line.prior]
        return [line for line in self.lines if line.test == test]


def load_trunk(location: Path) -> tuple[Trunk, Path]:
    """The frozen trunk of a stage-1 run folder or checkpoint, and its checkpoint folder.

    Raises CheckpointError.
    """
    network, folder = registry.load_trunk(location)
    return features.trunk_of(network), folder


@dataclass
class Projection:
    """A stage-2 run: its projector as a head on the trunk that it was trained on."""

    head: Head
    dim: int
    network: nn.Module
    method: str  # carb, cl, lead, ...
    carb: Carb | None  # of the method carb
    folder: Path  # its checkpoint, or the export that it is from
    digest: str  # of its weights
    is_trained: bool = True  # False after no step: the initial weights
    run: str = ""  # its name, where two runs have the same method and dimension

    @property
    def variant(self) -> str:
        """The words in brackets after its method's name in tables; empty where none are needed."""
        ours = f"{self.added}, ours" if self.added != self.method.upper() else ""
        return ", ".join(filter(None, (ours, self.run)))

    @property
    def added(self) -> str:
        """What the run adds to its backbone, by name; the LDA is ours (PROTOCOL 7)."""
        if self.carb is None or self.carb.init == "random":
            return self.method.upper()
        return "LDA + CARB" if self.is_trained else "LDA"

    @property
    def has_repellence(self) -> bool:
        """False for CARB trained by distances alone, which is Table 4's row with clusters alone."""
        return self.carb is None or carb_method.has_repellence(self.carb)

    @property
    def kind(self) -> tuple[str, int, bool]:
        """Equal for projections that make the same rows."""
        return self.added, self.dim, self.has_repellence

    @property
    def name(self) -> str:
        words = f"{self.method} {self.dim} {self.variant}".strip()
        return words if self.has_repellence else f"{words}, clusters alone"


def load_projection(location: Path, backbone: Path, trunk: Trunk) -> Projection:
    """The projector of a stage-2 run that was trained on the checkpoint `backbone` of `trunk`.

    Raises CheckpointError, also where it was trained on another backbone.
    """
    found = registry.load_stage_2(location, backbone, trunk.network)
    carb = getattr(found.settings, "carb", None)
    dim, module = found.settings.dim, found.module
    head = cast(Head, module.head)  # a method, which the type of a module does not know
    is_trained = checkpoint.read_state(found.folder).global_step > 0
    digest = checkpoint.weights_digest(found.folder)
    return Projection(head, dim, module, found.name, carb, found.folder, digest, is_trained)


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
        lines = _of_tokens(trunk, found)
    elif trunk.is_resized:
        lines = _of_hypercolumn(trunk, found)
    else:
        lines = _of_descriptor(trunk)
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


def _of_tokens(trunk: Trunk, found: list[Projection]) -> list[Line]:
    """SCE-MAE (paper 4.1, 4.2): matching and few shots use the projected features, detection both
    stages. A projector that was trained without repellence is Table 4's row with clusters alone.
    """
    lines = [
        Line(MATCHING, 4, "raw", trunk.width, trunk.join, cluster=False, lcr=False),
        Line(DETECTION, 2, "raw", trunk.width, _unit(trunk.join)),
    ]
    for one in found:
        rows = _of_projection(trunk, one)
        for row in rows:
            row.added = f"{one.added} ({one.run})" if one.run else one.added
        lines += rows
    return lines


def _of_projection(trunk: Trunk, one: Projection) -> list[Line]:
    projector, variant = one.digest, one.variant
    if not one.has_repellence:
        row = (MATCHING, 4, one.name, one.dim, one.head, projector, variant, None, True, False)
        return [Line(*row)]
    joined, unit = _joined(trunk.join, one.head), _unit(one.head)
    return [
        Line(MATCHING, 1, one.name, one.dim, one.head, projector, variant, None, True, True),
        Line(
            DETECTION,
            2,
            one.name,
            trunk.width + one.dim,
            joined,
            projector,
            variant,
            hypercolumn=False,
            stage_2=one.dim,
        ),
        Line(FEW_SHOT, 3, one.name, one.dim, unit, projector, variant),
        Line(EMBEDDING, 5, one.name, one.dim, one.head, projector, variant),
    ]


def _of_hypercolumn(trunk: Trunk, found: list[Projection]) -> list[Line]:
    """CL and LEAD: matching and few shots use the projected features, detection the raw
    hypercolumn.

    (PROTOCOL 4.4.) With each block of length one (PROTOCOL 4.5) the hypercolumn is a row of Table 4
    and, for LEAD, a panel of figure 5 (paper 4.3).
    """
    lines = [
        Line(MATCHING, 4, "hypercolumn", trunk.width, hypercolumn.join_normalised),
        Line(DETECTION, 2, "hypercolumn", trunk.width, trunk.join, hypercolumn=True),
    ]
    for one in found:
        tests = (
            ((MATCHING, 1), (FEW_SHOT, 3))
            if one.method == "lead"
            else ((MATCHING, 1), (FEW_SHOT, 3), (EMBEDDING, 5))
        )
        lines += [
            Line(test, table, one.name, one.dim, one.head, one.digest, one.variant)
            for test, table in tests
        ]
    if not found or any(one.method == "lead" for one in found):
        lines.append(Line(EMBEDDING, 5, "hypercolumn", trunk.width, hypercolumn.join_normalised))
    return lines


def _of_descriptor(trunk: Trunk) -> list[Line]:
    """DVE, or any other backbone: one kind of features for every test."""
    lines = [
        Line(test, table, "features", trunk.width, trunk.join)
        for test, table in ((MATCHING, 1), (DETECTION, 2), (FEW_SHOT, 3), (EMBEDDING, 5))
    ]
    lines[1].hypercolumn = False
    return lines


def of_timm(name: str, seed: int = 0) -> Subject:
    """A backbone of timm: "NAME" has random weights, "NAME:FILE" local ones (timm_vit.py)."""
    model, _, weights = name.partition(":")
    network = TimmVit(model, Path(weights) if weights else None, seed)
    digest = disk.file_digest(Path(weights)) if weights else "random"
    trunk = features.timm_trunk(network, model)
    method = model if weights else f"{model}, random weights"
    trunk.model = ""
    return Subject(
        method,
        REFERENCE,
        trunk,
        disk.json_digest({"timm": model, "weights": digest, "seed": seed}),
        lines=_of_descriptor(trunk),
        runs=[name],
    )


def floors(encoder: Encoder | None, seed: int) -> list[Subject]:
    """Raw pixels, raw patches without and with a preference for near pixels and, where an encoder
    is given, a random one of its shape.
    """
    raw = Trunk(
        "", 0, 3, nn.Identity(), lambda frames, stride: [frames], lambda maps, side: maps[0]
    )
    width = 3 * matching.PATCH**2
    patches: Head = lambda maps, side: matching.patches(maps[0])  # noqa: E731
    lines = [
        Line(MATCHING, 1, "raw pixels", 3, lambda maps, side: matching.pixels(maps[0])),
        Line(MATCHING, 1, "raw 9x9 patches", width, patches),
        Line(MATCHING, 1, "near 9x9 patches", width, patches, prior=matching.PRIOR),
    ]
    found = [Subject("", FLOOR, raw, "none", lines=lines)]
    if encoder is not None:
        found.append(_random_encoder(encoder, seed))
    return found


def _random_encoder(encoder: Encoder, seed: int) -> Subject:
    trunk = features.vit_trunk(random_like(encoder, seed))
    name, unit = "random encoder", _unit(trunk.join)
    lines = [
        Line(MATCHING, 1, name, trunk.width, trunk.join),
        Line(DETECTION, 2, name, trunk.width, unit),
        Line(FEW_SHOT, 3, name, trunk.width, unit),
    ]
    shape = [encoder.width, len(encoder.blocks)]
    digest = disk.json_digest({"random": shape, "seed": seed})
    return Subject(name, FLOOR, trunk, digest, lines=lines)


def random_like(encoder: Encoder, seed: int) -> Encoder:
    """An encoder of the same shape with random weights: what the architecture alone gives."""
    torch.manual_seed(seed)
    block: Any = encoder.blocks[0]
    fresh = Encoder(
        encoder.width,
        len(encoder.blocks),
        block.attn.num_heads,
        encoder.patch_size,
        encoder.grid * encoder.patch_size,
    )
    weight = encoder.patch_embed.weight
    return fresh.to(weight.device, weight.dtype).eval().requires_grad_(False)


def _unit(head: Head) -> Head:
    return lambda maps, side: functional.normalize(head(maps, side), dim=1)


def _joined(first: Head, second: Head) -> Head:
    """Both stages, concatenated (paper 4.2), each of length one (PROTOCOL 4.7 [D])."""
    return lambda maps, side: join_stages(first(maps, side), second(maps, side))
