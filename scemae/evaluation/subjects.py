"""From run folders to what the tables measure: frozen trunks, the heads on them, and the rows that each head stands for.

Runs of one method on one trunk are one subject, so that its maps of an image are computed once for all rows.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from scemae.config.schema.training import Carb, Method
from scemae.errors import CheckpointError
from scemae.evaluation.landmarks import features, matching
from scemae.evaluation.landmarks.features import Head, Trunk
from scemae.evaluation.landmarks.regression import join_stages
from scemae.files import disk
from scemae.files.documents import Count
from scemae.methods import registry
from scemae.models import hypercolumn
from scemae.models.timm_vit import TimmVit
from scemae.models.vit import Encoder
from scemae.runs import networks
from scemae.runs.checkpoints import checkpoint
from scemae.runs.lineage import locate, read_run

MATCHING, DETECTION, FEW_SHOT, EMBEDDING = "matching", "detection", "few-shot", "t-SNE"  # the tests
LARGEST = 1 << 29  # bytes of features that a batch of matching may make
OURS, RIVAL, REFERENCE, FLOOR = "ours", "rival", "reference", "floor"  # the roles of rows
TITLES = {
    "moco": "CL",
    "byol": "LEAD",
    "dve": "DVE",
    "cl": "CL",
    "lead": "LEAD",
}  # the paper's names


@dataclass
class Line:
    """One row of a table: a head, and what is said of it."""

    test: str
    table: int  # of the paper; 5 is figure 5
    name: str  # within its subject: with the test it says which line it is
    dim: int
    head: Head
    projector: str | None = None  # digest of its weights, where one takes part
    variant: str = ""  # the run's name, where another run has a projector of as many dimensions
    hypercolumn: bool | None = None
    cluster: bool | None = None
    lcr: bool | None = None


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
    run: str = ""  # of stage 1, where another subject is alike
    runs: list[str] = field(default_factory=list)
    heads: list[nn.Module] = field(default_factory=list)  # the projectors' networks

    @property
    def title(self) -> str:
        """How the rows of this subject are called."""
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
        """Bring the networks to a device; the trunk works in `dtype`, projectors in fp32."""
        self.trunk.network.to(device, dtype)
        for network in self.heads:
            network.to(device)

    def couples_at_once(self, images: int, side: int) -> int:
        """How many couples of the matching test fit a batch of `images`, of which each takes three, and into LARGEST."""
        largest = 12 * max((line.dim for line in self.of(MATCHING)), default=1) * side**2
        return max(min(images // 3, LARGEST // largest), 1)

    def of(self, test: str) -> list[Line]:
        """The lines that a test measures."""
        return [line for line in self.lines if line.test == test]


def load_trunk(location: Path) -> tuple[Trunk, Path]:
    """The frozen trunk of a stage-1 run folder or checkpoint, and the checkpoint. Raises CheckpointError."""
    folder, settings = networks.stage_1(location)
    if settings.get("method") is None:
        return features.vit_trunk(networks.load_encoder(folder)[0]), folder
    kept = networks.method_of(folder, settings)
    method = registry.find(kept.name, 1)
    own = registry.kept_settings(method, kept, folder)
    module = networks.sized(
        lambda: method.build(own, image_size=features.INPUT, seed=0),
        checkpoint.read_shapes(folder),
        folder,
    )
    return features.trunk_of(
        registry.load(module, checkpoint.read_weights(folder), folder).trunk
    ), folder


@dataclass
class Projection:
    """A stage-2 run: its projector as a head on the trunk that it was trained on."""

    head: Head
    dim: int
    network: nn.Module
    method: str  # carb, cl, lead, ...
    carb: Carb | None  # of the method carb
    folder: Path
    variant: str = ""  # the run's name, where another one is alike

    @property
    def name(self) -> str:
        return f"{self.method} {self.dim} {self.variant}".strip()

    @property
    def digest(self) -> str:
        return checkpoint.weights_digest(self.folder)


def load_projection(location: Path, backbone: Path, trunk: Trunk) -> Projection:
    """The projector of a stage-2 run, trained on the checkpoint `backbone` of `trunk`. Raises CheckpointError."""
    folder = checkpoint.newest(location)
    state = checkpoint.read_state(folder)
    if state.stage != "correspond" or state.settings.get("method") is None:
        projector, carb, folder = networks.load_projector(folder, backbone)
        return Projection(
            lambda maps, side: projector(maps[0]),
            carb.dim,
            projector,
            registry.OWN[2],
            carb,
            folder,
        )
    networks.check_backbone(folder, state, backbone)
    kept = networks.method_of(folder, state.settings)
    method = registry.find(kept.name, 2)
    settings = registry.kept_settings(method, kept, folder)
    module = networks.sized(
        lambda: method.build(settings, trunk.network, seed=0),
        checkpoint.read_shapes(folder),
        folder,
    )
    projector = registry.load(module, checkpoint.read_weights(folder), folder).projector
    return Projection(projector, settings.dim, projector, kept.name, None, folder)


def from_runs(runs: list[Path]) -> list[Subject]:
    """The subjects of run folders of stage 1 and 2, in their order; a run of stage 2 brings its own backbone along.

    Raises ConfigError for a folder of another kind, CheckpointError for what cannot be loaded.
    """
    groups: dict[str, tuple[Path, list[Path]]] = {}
    for run in runs:
        folder = checkpoint.newest(run)
        state = checkpoint.read_state(folder)
        backbone = folder if state.stage == "pretrain" else _backbone_of(folder, run)
        groups.setdefault(checkpoint.weights_digest(backbone), (backbone, []))
        if state.stage != "pretrain":
            groups[checkpoint.weights_digest(backbone)][1].append(folder)
    found = [
        subject
        for backbone, projectors in groups.values()
        for subject in from_backbone(backbone, projectors)
    ]
    tell_apart(found)
    return found


def tell_apart(found: list[Subject]) -> None:
    """Name the run of each subject that is called like another one with other weights."""
    for one in [
        one
        for one in found
        if any(other.title == one.title and other.backbone != one.backbone for other in found)
    ]:
        one.run = Path(one.runs[0]).name


def _backbone_of(folder: Path, run: Path) -> Path:
    try:
        return locate(read_run(folder.parent.parent).provenance["backbone"], folder.parent.parent)
    except KeyError as error:
        raise CheckpointError(
            f"{run}: its provenance.json names no backbone; give the run folder of stage 1 as well"
        ) from error


@dataclass
class _Batch:
    global_batch_size: Count


@dataclass
class _Trained:
    """What a checkpoint's settings say of its training; adopted weights were trained elsewhere."""

    optim: _Batch | None = None
    method: Method | None = None


def from_backbone(backbone: Path, projectors: list[Path]) -> list[Subject]:
    """What one trained trunk and the projectors on it stand for: of an MAE with CARB also Table 4's row with clusters alone."""
    trunk, folder = load_trunk(backbone)
    found = [load_projection(place, folder, trunk) for place in projectors]
    for one in found:
        same = [other for other in found if (other.method, other.dim) == (one.method, one.dim)]
        one.variant = one.folder.parent.parent.name if len(same) > 1 else ""
    digests = [checkpoint.weights_digest(folder), *(one.digest for one in found)]
    state = checkpoint.read_state(folder)
    trained = networks.settings_of(folder, state.settings, _Trained)
    seen = state.global_step * trained.optim.global_batch_size if trained.optim else None
    kept = trained.method
    method = "SCE-MAE" if kept is None else TITLES.get(kept.name, kept.name)
    lines = (
        _of_tokens
        if isinstance(trunk.network, Encoder)
        else _of_hypercolumn
        if trunk.is_resized
        else _of_descriptor
    )(trunk, found)
    role = OURS if kept is None else RIVAL
    runs = [str(place.parent.parent) for place in [folder, *(one.folder for one in found)]]
    subjects = [
        Subject(
            method,
            role,
            trunk,
            disk.json_digest({"weights": digests}),
            digests[0],
            lines,
            seen,
            runs=runs,
            heads=[one.network for one in found],
        )
    ]
    if carb := next((one.carb for one in found if one.carb), None):
        subjects.append(_clustered(trunk, carb, digests[0], seen, runs[:1]))
    return subjects


def _of_tokens(trunk: Trunk, found: list[Projection]) -> list[Line]:
    """SCE-MAE (paper 4.1, 4.2): the projected features match, both stages joined detect, and few shots see the projected."""
    lines = [
        Line(MATCHING, 4, "raw", trunk.width, trunk.join, cluster=False, lcr=False),
        Line(DETECTION, 2, "raw", trunk.width, _unit(trunk.join)),
    ]
    for one in found:
        known = {"projector": one.digest, "variant": one.variant}
        lines += [
            Line(MATCHING, 1, one.name, one.dim, one.head, cluster=True, lcr=True, **known),
            Line(
                DETECTION,
                2,
                one.name,
                trunk.width + one.dim,
                _joined(trunk.join, one.head),
                hypercolumn=False,
                **known,
            ),
            Line(FEW_SHOT, 3, one.name, one.dim, one.head, **known),
            Line(EMBEDDING, 5, one.name, one.dim, one.head, **known),
        ]
    return lines


def _of_hypercolumn(trunk: Trunk, found: list[Projection]) -> list[Line]:
    """CL and LEAD: projected features match and see few shots, the raw hypercolumn detects (PROTOCOL 4.4) and, each block
    of length one (PROTOCOL 4.5), stands in Table 4 and for LEAD in figure 5 (paper 4.3)."""
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


def _of_descriptor(trunk: Trunk, found: list[Projection]) -> list[Line]:
    """DVE, or any backbone as it is: one kind of features for every test."""
    return [
        Line(
            test,
            table,
            "features",
            trunk.width,
            trunk.join,
            hypercolumn=False if table == 2 else None,
        )
        for test, table in ((MATCHING, 1), (DETECTION, 2), (FEW_SHOT, 3), (EMBEDDING, 5))
    ]


def _clustered(trunk: Trunk, carb: Carb, digest: str, seen: int | None, runs: list[str]) -> Subject:
    options = networks.selection_options(carb)
    changed = features.substituted(trunk.network, layer=carb.layer, heads=carb.heads, **options)
    line = Line(MATCHING, 4, "clusters alone", trunk.width, changed.join, cluster=True, lcr=False)
    return Subject(
        "SCE-MAE",
        OURS,
        changed,
        disk.json_digest({"weights": [digest], "clustered": options}),
        digest,
        [line],
        seen,
        runs=runs,
    )


def of_timm(name: str, seed: int = 0) -> Subject:
    """A backbone of timm, "NAME" with random weights or "NAME:FILE" with local ones (models/timm_vit.py)."""
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
        lines=_of_descriptor(trunk, []),
        runs=[name],
    )


def floors(encoder: Encoder | None, seed: int) -> list[Subject]:
    """Raw pixels, raw patches, and a random encoder of the shape of `encoder`, where there is one."""
    raw = Trunk(
        "", 0, 3, nn.Identity(), lambda frames, stride: [frames], lambda maps, side: maps[0]
    )
    lines = [
        Line(MATCHING, 1, "raw pixels", 3, lambda maps, side: matching.pixels(maps[0])),
        Line(
            MATCHING,
            1,
            "raw 9x9 patches",
            3 * matching.PATCH**2,
            lambda maps, side: matching.patches(maps[0]),
        ),
    ]
    found = [Subject("", FLOOR, raw, "none", lines=lines)]
    if encoder is not None:
        trunk = features.vit_trunk(random_like(encoder, seed))
        lines = [
            Line(test, table, "random encoder", trunk.width, head)
            for test, table, head in (
                (MATCHING, 1, trunk.join),
                (DETECTION, 2, _unit(trunk.join)),
                (FEW_SHOT, 3, _unit(trunk.join)),
            )
        ]
        found.append(
            Subject(
                "random encoder",
                FLOOR,
                trunk,
                disk.json_digest({"random": [encoder.width, len(encoder.blocks)], "seed": seed}),
                lines=lines,
            )
        )
    return found


def random_like(encoder: Encoder, seed: int) -> Encoder:
    """An encoder of the same shape, freshly initialised: what the architecture alone gives."""
    torch.manual_seed(seed)
    fresh = Encoder(
        encoder.width,
        len(encoder.blocks),
        encoder.blocks[0].attn.num_heads,
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
