"""Read a run folder and those of the runs it builds on: settings, provenance, results, shards."""

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from scemae.config.dotted import flatten
from scemae.config.locations import masked_all
from scemae.config.schema import SCHEMAS
from scemae.data.storage.shard_set import ShardSet, open_shards
from scemae.errors import RunFolderError, ScemaeError
from scemae.files import documents, ownership
from scemae.files.documents import Count, Seconds
from scemae.runs import run_folder
from scemae.runs.checkpoints import checkpoint

# A setting that each stage has, and those after it have not.
STAGE_SETTINGS = {
    "evaluate": "matching.couples",
    "correspond": "carb.eta",
    "pretrain": "model.width",
}
AGAIN = "run the command that made it again, or use the version that wrote it"


@dataclass
class EstimateResult:
    """A mean with its interval, of n pairs or images."""

    mean: Seconds
    low: Seconds
    high: Seconds
    n: Count


@dataclass
class MethodMatching:
    """The matching errors of a method, by kind of pairs."""

    same: EstimateResult
    different: EstimateResult


@dataclass
class ComparisonResult:
    """A paired comparison of two methods."""

    difference: EstimateResult
    wins: float
    ties: float
    is_decided: bool


@dataclass
class MatchingResult:
    """The matching test."""

    shards: str
    data_digest: str
    couples: Count
    couples_of_one_identity: Count
    pairs_hash: str
    stride: Count
    methods: dict[str, MethodMatching]
    comparisons: list[ComparisonResult]


@dataclass
class MethodDetection:
    """The detection error of a method."""

    error: EstimateResult


@dataclass
class RegressorTraining:
    """How the landmark regressors were trained."""

    epochs: Count
    batch: Count
    lr: float


@dataclass
class DetectionResult:
    """The detection test."""

    benchmark: str
    test_shards: str
    train_images: Count
    test_images: Count
    stride: Count
    schedule: RegressorTraining
    methods: dict[str, MethodDetection]
    paper_targets: dict[str, float] = field(default_factory=dict)


@dataclass
class Results:
    """results.json, as far as it is read again; the classes above are its parts."""

    matching: MatchingResult | None = None
    detection: DetectionResult | None = None


@dataclass
class RecordedRun:
    """One run folder. `stage` is evaluate, pretrain or correspond.

    step: that of the checkpoint that is used, the newest unless another run used an earlier one.
    """

    stage: str
    folder: Path
    config: dict[str, Any]  # dotted name to value
    provenance: dict
    step: int | None = None

    @property
    def cache_dir(self) -> str | None:
        """The folder into which shards at a URL were copied."""
        return self.config.get("cache_dir") or self.config.get("data.cache_dir")

    def open(self, location: str) -> ShardSet:
        """Open shards that the run names; a URL is copied only for a run of this user's own.

        Raises ShardError.
        """
        return open_shards(location, self.cache_dir, may_copy=ownership.is_private_run(self.folder))

    @property
    def images_seen(self) -> int | None:
        """Images in all steps so far, counted as often as they were used; None if not known."""
        batch = self.config.get("optim.global_batch_size")  # adopted weights have none
        return None if self.step is None or batch is None else self.step * batch


def read_run(folder: Path) -> RecordedRun:
    """The run of a folder. Raises RunFolderError where there is none."""
    if not (folder / "config.yaml").exists():
        found = "no config.yaml in it" if folder.is_dir() else "no such folder"
        raise RunFolderError(
            f"{folder}: found {found}; give the run_dir of a `scemae evaluate` that has ended, or "
            "of a `scemae pretrain` or `scemae correspond`"
        )
    try:
        tree = documents.read_yaml(
            folder / "config.yaml", dict[str, Any], error=RunFolderError, remedy=AGAIN
        )
        provenance = run_folder.provenance(folder)
    except OSError as error:
        raise RunFolderError(
            f"{folder}: its config.yaml or provenance.json cannot be read ({error}); {AGAIN}"
        ) from error
    settings = flatten(tree)
    found = masked_all({name: value for name, value in settings.items() if value != {}})
    if "runs" in found:
        raise RunFolderError(
            f"{folder}: found a run of `scemae tables`, whose page is {folder / 'tables.html'}; "
            "give the run_dir of `scemae evaluate`, `pretrain` or `correspond`"
        )
    stage = next((name for name, key in STAGE_SETTINGS.items() if key in found), None)
    if stage is None:
        raise RunFolderError(
            f"{folder}: its config.yaml is of no command that this version of scemae knows; use "
            "the version that wrote it"
        )
    _check_types(SCHEMAS[stage], tree, f"{folder / 'config.yaml'}: ")
    kept = checkpoint.committed(folder)
    step = checkpoint.read_state(kept[-1]).global_step if kept else None
    return RecordedRun(stage, folder, found, provenance, step)


def _check_types(schema: Any, tree: dict[str, Any], where: str) -> None:
    """Raise RunFolderError where a setting is of another type than in its schema.

    Old runs lack some settings.
    """
    for part in fields(schema):
        if part.name not in tree:
            continue
        name, kind = where + part.name, part.type
        if is_dataclass(kind):
            section = documents.convert(
                tree[part.name], dict[str, Any], name, error=RunFolderError, remedy=AGAIN
            )
            _check_types(kind, section, f"{name}.")
        else:
            value = tree[part.name]
            documents.convert(value, cast(Any, kind), name, error=RunFolderError, remedy=AGAIN)


def related(run: RecordedRun) -> tuple[dict[str, RecordedRun], dict[str, str]]:
    """The training runs that `run` builds on, at the steps it used, with itself, by stage.

    And the reasons why others cannot be read.
    """
    runs, missing = {}, {}
    for stage, key in (("pretrain", "backbone"), ("correspond", "projector")):
        if run.stage == stage:
            runs[stage] = run
        elif key in run.provenance:
            try:
                folder = locate(run.provenance[key], run.folder)
                runs[stage] = read_run(folder.parent.parent)
                runs[stage].step = checkpoint.read_state(folder).global_step
            except ScemaeError as error:
                missing[f"the run of {stage}"] = str(error)
    return runs | {run.stage: run}, missing


def locate(location: str, run_dir: Path) -> Path:
    """A checkpoint that a run used: where it was then, or in a run folder beside `run_dir`.

    Raises RunFolderError where it is at neither place.
    """
    beside = run_dir.resolve().parent.joinpath(*Path(location).parts[-3:])
    for folder in (Path(location), beside):
        if (folder / checkpoint.MANIFEST).exists():
            return folder
    raise RunFolderError(
        f"{location}: the checkpoint is not there, nor is {beside}; copy its run folder to either"
    )


def read_results(run: RecordedRun) -> dict:
    """results.json; {} for a training run. Raises RunFolderError for one missing or damaged."""
    if run.stage != "evaluate":
        return {}
    path = run.folder / "results.json"
    try:
        text = documents.read_bytes(path, error=RunFolderError, remedy=AGAIN)
    except OSError as error:
        raise RunFolderError(
            f"{path}: cannot be read ({error}); run `scemae evaluate` to its end"
        ) from error
    remedy = "it is damaged, or of another version of scemae: run `scemae evaluate` again"
    documents.parse_json(text, Results, path, error=RunFolderError, remedy=remedy)
    return documents.parse_json(text, dict[str, Any], path, error=RunFolderError, remedy=remedy)


def data_of(runs: dict[str, RecordedRun]) -> list[dict]:
    """The shards that the runs name, with facts of their manifest, or why they cannot be read."""
    rows: dict[str, dict] = {}
    for one in runs.values():
        for key in (
            "data.shards",
            "probe_shards",
            "matching.shards",
            "detection.train",
            "detection.test",
        ):
            if not (location := one.config.get(key)):
                continue
            row = rows.setdefault(location, {"location": location, "used": []})
            row["used"].append(f"{one.stage} {key}")
            try:
                manifest = one.open(location).manifest
                row |= {
                    "dataset": manifest.dataset,
                    "split": manifest.split,
                    "samples": manifest.samples,
                    "subset": bool(manifest.options.get("subset")),
                    "digest": manifest.digest(),
                }
            except ScemaeError as error:
                row["missing"] = str(error)
    return list(rows.values())
