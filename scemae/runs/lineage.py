"""A run folder and those it rests on, read again: settings, provenance, results, and the shards they name."""

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from scemae.config.dotted import flatten
from scemae.config.locations import masked_all
from scemae.config.schema import SCHEMAS
from scemae.data.storage.shard_set import ShardSet, open_shards
from scemae.errors import RunFolderError, ScemaeError
from scemae.files import documents, ownership
from scemae.files.documents import Count, Seconds
from scemae.runs import run_folder
from scemae.runs.checkpoints import checkpoint

AGAIN = "run the command that made it again, or use the version that wrote it"


@dataclass
class Estimate:
    """A mean with its interval, of n pairs or images."""

    mean: Seconds
    low: Seconds
    high: Seconds
    n: Count


@dataclass
class Matched:
    """The scores of a method of results.json, by kind of pairs."""

    same: Estimate
    different: Estimate


@dataclass
class Compared:
    """A paired comparison of results.json."""

    difference: Estimate
    wins: float
    ties: float
    is_decided: bool


@dataclass
class Matching:
    """The matching test of results.json."""

    shards: str
    data_digest: str
    couples: Count
    couples_of_one_identity: Count
    pairs_hash: str
    stride: Count
    methods: dict[str, Matched]
    comparisons: list[Compared]


@dataclass
class Detected:
    """The score of a method of results.json."""

    error: Estimate


@dataclass
class Schedule:
    """How the regressors of results.json were trained."""

    epochs: Count
    batch: Count
    lr: float


@dataclass
class Detection:
    """The detection test of results.json."""

    benchmark: str
    test_shards: str
    train_images: Count
    test_images: Count
    stride: Count
    schedule: Schedule
    methods: dict[str, Detected]
    paper_targets: dict[str, float] = field(default_factory=dict)


@dataclass
class Results:
    """The part of results.json that is read again."""

    matching: Matching | None = None
    detection: Detection | None = None


@dataclass
class Run:
    """One run folder: `stage` is evaluate, pretrain or correspond; `step` that of the checkpoint in question."""

    stage: str
    folder: Path
    config: dict[str, Any]  # dotted name to value
    provenance: dict
    step: int | None = None

    @property
    def cache_dir(self) -> str | None:
        """Where shards named by a URL were copied."""
        return self.config.get("cache_dir") or self.config.get("data.cache_dir")

    def open(self, location: str) -> ShardSet:
        """Shards that it names. What a URL of another user's run names is not copied. Raises ShardError."""
        return open_shards(location, self.cache_dir, may_copy=ownership.is_private_run(self.folder))

    @property
    def images_seen(self) -> int | None:
        """Images in all steps so far, each counted as often as it came; None where nothing was trained."""
        batch = self.config.get("optim.global_batch_size")  # adopted weights were trained elsewhere
        return None if None in (self.step, batch) else self.step * batch


def read_run(folder: Path) -> Run:
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
            f"{folder}: found a run of `scemae tables`, whose page is {folder / 'tables.html'}; give the "
            "run_dir of `scemae evaluate`, `pretrain` or `correspond`"
        )
    stage = next(
        (
            name
            for name, key in (
                ("evaluate", "matching.couples"),
                ("correspond", "carb.eta"),
                ("pretrain", "model.width"),
            )
            if key in found
        ),
        None,
    )
    if stage is None:
        raise RunFolderError(
            f"{folder}: its config.yaml is of no command that this version of scemae knows; use the "
            "version that wrote it"
        )
    _check_types(SCHEMAS[stage], tree, f"{folder / 'config.yaml'}: ")
    kept = checkpoint.committed(folder)
    return Run(
        stage,
        folder,
        found,
        provenance,
        checkpoint.read_state(kept[-1]).global_step if kept else None,
    )


def _check_types(schema: type, tree: dict[str, Any], where: str) -> None:
    """Raise RunFolderError where a setting that is there is of another type than its schema's; old runs lack some."""
    for part in fields(schema):
        if part.name in tree and is_dataclass(part.type):
            _check_types(
                part.type,
                documents.convert(
                    tree[part.name],
                    dict[str, Any],
                    where + part.name,
                    error=RunFolderError,
                    remedy=AGAIN,
                ),
                f"{where}{part.name}.",
            )
        elif part.name in tree:
            documents.convert(
                tree[part.name], part.type, where + part.name, error=RunFolderError, remedy=AGAIN
            )


def related(run: Run) -> tuple[dict[str, Run], dict[str, str]]:
    """The training runs that `run` rests on, at the steps it used, with itself; and those that are gone, with why."""
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
    """A checkpoint that a run used: where it was then, or in a run folder beside `run_dir`. Raises RunFolderError."""
    beside = run_dir.resolve().parent.joinpath(*Path(location).parts[-3:])
    for folder in (Path(location), beside):
        if (folder / checkpoint.MANIFEST).exists():
            return folder
    raise RunFolderError(
        f"{location}: the checkpoint is not there, nor is {beside}; copy its run folder to either"
    )


def read_results(run: Run) -> dict:
    """results.json, or nothing for a run of training. Raises RunFolderError if it is missing or another version's."""
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


def data_of(runs: dict[str, Run]) -> list[dict]:
    """The shards that the runs name: what, how many, whether a subset, and their digest, or why they cannot be read."""
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
