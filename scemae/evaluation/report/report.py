"""`scemae report RUN`: all results of a run as one self-contained HTML page and one JSON file.

scemae report runs/eval                  writes runs/eval/report.html and runs/eval/report.json
scemae report runs/mae --no-pictures     a training run; no faces
"""

import argparse
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scemae.config.dotted import flatten
from scemae.config.load import load_config
from scemae.errors import RunFolderError, ScemaeError
from scemae.evaluation.page import html_page
from scemae.evaluation.report import curves
from scemae.evaluation.report.pictures import PICTURES
from scemae.evaluation.report.recipe import paper_numbers, recipe
from scemae.evaluation.report.source import Source
from scemae.files import disk, ownership
from scemae.runs import goodput
from scemae.runs.checkpoints import checkpoint
from scemae.runs.given import evaluated
from scemae.runs.lineage import RecordedRun, data_of, locate, read_results, read_run, related
from scemae.runs.metrics_log import read_metrics

TESTS = ("matching", "content", "detection")  # parts of results.json
NAMES = {
    "evaluate": "Evaluation",
    "pretrain": "Stage 1, pretraining",
    "correspond": "Stage 2, correspondence",
}
REQUIRED = {
    "pretrain": ["run_dir=-"],
    "correspond": ["run_dir=-", "backbone=-"],
    "evaluate": ["run_dir=-"],
}


@dataclass
class Shown:
    """Pictures as data URIs, their numbers, and why others are missing, all by name."""

    images: dict[str, str] = field(default_factory=dict)
    facts: dict[str, dict] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def main(given: argparse.Namespace) -> None:
    """Write report.html and report.json. Raises RunFolderError where RUN is no run folder."""
    run_dir = evaluated(given.run)
    out = given.out or choose_folder(run_dir)
    report, images = gather(run_dir, with_pictures=not given.no_pictures)
    # Private by default, as it may show faces.
    out.mkdir(0o777 if given.out else 0o700, parents=True, exist_ok=True)
    disk.write_text(out / "report.html", render(report, images))
    disk.write_json(out / "report.json", report)
    shown = f"{len(images)} of {len(PICTURES)} pictures of faces"
    print(f"{out / 'report.html'}: {shown}; numbers in report.json")
    for name, why in report["missing"].items():
        print(f"  no {name}: {why}")


def choose_folder(run_dir: Path) -> Path:
    """The run's own folder, or report-RUN here where other users may write to the run's.

    Raises RunFolderError where the current folder is inside that run, or report-RUN is another
    user's.
    """
    if ownership.is_private_run(run_dir):
        return run_dir
    out = Path(f"report-{run_dir.resolve().name}")
    is_inside = Path.cwd().resolve().is_relative_to(run_dir.resolve())
    if is_inside or out.exists() and not ownership.is_private_run(out):
        raise RunFolderError(
            f"{run_dir}: found a run of another user, or one that others may write to; say where "
            "its report is to go: --out FOLDER"
        )
    print(f"{run_dir} is another user's, or others may write to it: the report goes to {out}")
    return out


def gather(run_dir: Path, *, with_pictures: bool = True) -> tuple[dict, dict[str, str]]:
    """The content of report.json, and the pictures as data URIs by name. Raises RunFolderError."""
    run = read_run(run_dir)
    runs, missing = related(run)
    results = read_results(run)
    absent = reasons(run, runs, missing)
    missing |= {name: absent[name] for name in TESTS if name not in results}
    defaults = {
        stage: flatten(load_config(stage, REQUIRED[stage] + method_of(one)))
        for stage, one in runs.items()
    }
    rows = recipe(runs, results, defaults)
    found_curves, no_curves = read_all_curves(runs)
    spent, no_goodput = goodputs(runs)
    if with_pictures:
        shown = show(source_of(run, runs, results, absent))
    else:
        shown = Shown(missing=dict.fromkeys(PICTURES, "left out, as --no-pictures asked"))
    return {
        "run": str(run_dir),
        "stage": run.stage,
        "results": results,
        "comparisons": comparisons(results.get("matching")),
        "paper": paper_numbers(runs, results),
        "recipe": [asdict(row) for row in rows],
        "reduced": any(row.verdict == "reduced" for row in rows),
        "curves": found_curves,
        "goodput": spent,
        "data": data_of(runs),
        "pictures": shown.facts,
        "missing": missing | no_curves | no_goodput | shown.missing,
        "runs": {stage: facts_of(one, defaults[stage]) for stage, one in runs.items()},
    }, shown.images


def facts_of(run: RecordedRun, default: dict[str, Any]) -> dict[str, Any]:
    """The part of report.json on one run."""
    return {
        "folder": str(run.folder),
        "step": run.step,
        "images_seen": run.images_seen,
        "differs": differences(run, default),
        "config": run.config,
        "provenance": run.provenance,
    }


def read_all_curves(runs: dict[str, RecordedRun]) -> tuple[dict[str, dict], dict[str, str]]:
    """The curves of each training run by stage, and why a stage has none."""
    trained = {stage: one for stage, one in runs.items() if stage != "evaluate"}
    found = {stage: curves.read_curves(read_metrics(one.folder)) for stage, one in trained.items()}
    missing = {
        f"curves of {stage}": f"{trained[stage].folder}: its metrics.jsonl holds no numbers yet"
        for stage, curve in found.items()
        if not curve
    }
    return found, missing


def method_of(run: RecordedRun) -> list[str]:
    """The override that gives a training run the defaults of its method."""
    return [f"method={run.config['method.name']}"] if "method.name" in run.config else []


def goodputs(runs: dict[str, RecordedRun]) -> tuple[dict[str, dict], dict[str, str]]:
    """Where the time of each training run went by stage (runs/goodput.py), and why a stage has
    no such numbers.
    """
    found, missing = {}, {}
    for stage, one in runs.items():
        try:
            if stage != "evaluate":
                found[stage] = asdict(goodput.read(one.folder))
        except RunFolderError as error:
            missing[f"goodput of {stage}"] = str(error)
    return found, missing


def show(source: Source) -> Shown:
    """Make every picture that can be made."""
    shown = Shown()
    for name, draw in PICTURES.items():
        try:
            shown.images[name], shown.facts[name] = draw(source)
        except ScemaeError as error:
            shown.missing[name] = str(error)
        except (IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
            # the arrays of an .npz do not fit the results
            shown.missing[name] = (
                f"{source.run_dir}: its files do not fit together ({type(error).__name__}: "
                f"{str(error)[:200]})"
            )
    return shown


def reasons(
    run: RecordedRun, runs: dict[str, RecordedRun], missing: dict[str, str]
) -> dict[str, str]:
    """Why a page may lack a backbone or the results of a test, and the command that makes them."""
    trained = next((runs[one] for one in ("correspond", "pretrain") if one in runs), None)
    given = shlex.quote(str(trained.folder)) if trained else "RUN"
    command = f"run `scemae evaluate run_dir=EVAL run={given}"
    then = "then `scemae report EVAL`"
    no_backbone = (
        f"{run.folder} has no backbone: train one with `scemae pretrain`, and give run=RUN to "
        "`scemae evaluate`"
    )
    return {
        "matching": f"{run.folder} has no matching results: {command} matching.shards=SHARDS`, "
        f"{then}",
        "content": f"{run.folder} has no errors by content alone: {command} "
        f"matching.shards=SHARDS detection.train=SHARDS detection.test=SHARDS`, {then}",
        "detection": f"{run.folder} has no detection results: {command} detection.train=SHARDS "
        f"detection.test=SHARDS`, {then}",
        "backbone": missing.get("the run of pretrain", no_backbone),
    }


def source_of(
    run: RecordedRun, runs: dict[str, RecordedRun], results: dict, absent: dict[str, str]
) -> Source:
    """Locate the faces and models for the pictures."""
    places: dict[str, Path | None] = {}
    for stage, key in (("pretrain", "backbone"), ("correspond", "projector")):
        own = checkpoint.committed(run.folder) if run.stage == stage else []
        used = stage in runs and run.stage != stage
        places[key] = locate(run.provenance[key], run.folder) if used else own[-1] if own else None
    also = [locate(place, run.folder) for place in run.provenance.get("also", [])]
    names = ("matching.shards", "detection.test", "probe_shards", "data.shards")
    carb = None
    if "correspond" in runs:
        settings = runs["correspond"].config.items()
        carb = {key[5:]: value for key, value in settings if key.startswith("carb.")}
    return Source(
        run.folder,
        results,
        places["backbone"],
        [place for place in (places["projector"], *also) if place],
        absent,
        run.provenance.get("carb", carb),
        next(run.config[name] for name in names if run.config.get(name)),
        run.cache_dir,
        run.config.get("stride", 2),
        ownership.is_private_run(run.folder),
    )


def comparisons(matching: dict | None) -> dict:
    """Paired comparisons by kind, first method and second.

    results.json lists each method against all before it, in their order (evaluate.py).
    """
    if matching is None:
        return {}
    names, kinds = list(matching["methods"]), ("same", "different")
    order = [
        (kind, first, second)
        for i, first in enumerate(names)
        for second in names[:i]
        for kind in kinds
    ]
    if len(order) != len(matching["comparisons"]):
        raise RunFolderError(
            f"results.json: found {len(matching['comparisons'])} comparisons of {len(names)} "
            f"methods, needed {len(order)}; run `scemae evaluate` again"
        )
    found: dict = {kind: {first: {} for first in names[1:]} for kind in kinds}
    for (kind, first, second), comparison in zip(order, matching["comparisons"], strict=True):
        found[kind][first][second] = {
            key: comparison[key] for key in ("difference", "wins", "ties", "is_decided")
        }
    return found


def differences(run: RecordedRun, default: dict[str, Any]) -> dict[str, list]:
    """Settings other than the defaults of configs/, as [here, default] by dotted name.

    Paths and settings of the machine are left out.
    """
    skipped = ("run_dir", "backbone", "projector", "runtime.", "cache_dir", "probe_shards")
    return {
        key: [value, default[key]]
        for key, value in run.config.items()
        if key in default
        and value != default[key]
        and not key.startswith(skipped)
        and not key.endswith(("shards", "cache_dir", "train", "test"))
    }


def render(report: dict, images: dict[str, str]) -> str:
    """The page of a report."""
    drawn = {stage: curves.draw_curves(found) for stage, found in report["curves"].items() if found}
    page, clock = Path(__file__).with_name("report.html"), goodput.clock
    return html_page.render(
        page, report=report, images=images, curves=drawn, names=NAMES, clock=clock
    )
