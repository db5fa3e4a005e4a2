"""`scemae report RUN`: everything a run has to show, as one self-contained HTML page and one JSON
file.

scemae report runs/eval                  writes runs/eval/report.html and runs/eval/report.json
scemae report runs/mae --no-pictures     a training run; no faces
"""

import argparse
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scemae.config.load import load_config
from scemae.config.values import given_path
from scemae.errors import RunFolderError, ScemaeError
from scemae.evaluation import protocol
from scemae.evaluation.landmarks.benchmarks import MATCHING_TARGETS, find_benchmark
from scemae.evaluation.page import html_page
from scemae.evaluation.report import curves
from scemae.evaluation.report.pictures import PICTURES, Source
from scemae.files import disk, ownership
from scemae.runs import goodput
from scemae.runs.checkpoints import checkpoint
from scemae.runs.lineage import Run, data_of, flatten, locate, read_results, read_run, related
from scemae.runs.metrics_log import read_metrics

HELP = """\
One HTML page (pictures inside it, nothing fetched, no JavaScript) and one JSON file with what a run has to show.

  scemae report runs/eval                        of `scemae evaluate`: everything below
  scemae report runs/mae                         of `scemae pretrain`: curves, reconstructions, attention, provenance
  scemae report runs/eval --out page             into another folder (of a run that is not yours: report-RUN here)
  scemae report runs/eval --no-pictures          numbers and curves alone: for photographs that must not be published

Shows: errors of landmark matching and detection with 95 % intervals beside the paper's; which differences between
methods are decided; how the run differs from the paper's recipe; curves of both stages; reconstructions; attentive
tokens and clusters (Eq. 1 to 3); similarity maps; matched pairs; detected landmarks; where the time of each training
run went; command, commit, settings, data and machine of each run. Shards and training runs are looked for where the run's provenance.json says, and training runs
also beside RUN. What is gone is named on the page, with the command that gives it; the rest is shown.
"""
SIZES = {192: "T", 384: "S", 768: "B"}  # DeiT's letters by width
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
PAPER = "paper, section 4"
FULL_IMAGES = (
    146_501  # CelebA's training set without MAFL's faces (PROTOCOL 1.4); the paper prints 162,770
)
FULL = {  # the settings of the full recipe that decide most; its values are the defaults in configs/
    "pretrain": (
        ("optim.epochs", "epochs", PAPER),
        ("optim.global_batch_size", "batch", PAPER),
        ("optim.lr", "peak learning rate", PAPER),
        ("mask_ratio", "hidden share of patches", "PROTOCOL 2.1"),
        ("decoder.width", "decoder width", "our choice, PROTOCOL 1.6"),
        ("decoder.depth", "decoder blocks", "our choice, PROTOCOL 1.6"),
    ),
    "correspond": (
        ("optim.epochs", "epochs", "our choice after CL, PROTOCOL 4.3"),
        ("optim.global_batch_size", "batch", "our choice after CL, PROTOCOL 4.3"),
        ("carb.eta", "attentive share η", PAPER),
        ("carb.clusters", "clusters K_c", PAPER),
        ("carb.projector", "projector", "our choice, PROTOCOL 1.6"),
    ),
    "evaluate": (
        ("matching.couples", "couples matched", "PROTOCOL 3.4"),
        ("stride", "stride of matching, px", "our choice, PROTOCOL 5.2"),
        ("detection.epochs", "epochs of the regressor", "CL's, PROTOCOL 4.4"),
        ("detection.stride", "stride of detection, px", "our choice, PROTOCOL 5.2"),
    ),
}


@dataclass
class RecipeRow:
    """A setting or an amount beside the full recipe's; verdict: same, reduced, differs or unknown."""

    stage: str
    what: str
    here: Any
    full: Any
    source: str
    verdict: str


@dataclass
class Shown:
    """The pictures as data URIs, their numbers, and why others are missing; all by the picture's
    name.
    """

    images: dict[str, str] = field(default_factory=dict)
    facts: dict[str, dict] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "run", metavar="RUN", type=given_path, help="run_dir of evaluate, pretrain or correspond"
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=given_path,
        help="where both files go (default: RUN, where it is yours, else report-RUN)",
    )
    parser.add_argument(
        "--no-pictures", action="store_true", help="leave out everything that shows a face"
    )


def main(arguments: argparse.Namespace) -> None:
    """Write report.html and report.json. Raises RunFolderError where RUN is no run folder of this version."""
    out = arguments.out or place_for(arguments.run)
    report, images = gather(arguments.run, with_pictures=not arguments.no_pictures)
    out.mkdir(
        0o777 if arguments.out else 0o700, parents=True, exist_ok=True
    )  # it may show faces of yours
    disk.write_text(out / "report.html", render(report, images))
    disk.write_json(out / "report.json", report)
    print(
        f"{out / 'report.html'}: {len(images)} of {len(PICTURES)} pictures of faces; numbers in "
        "report.json"
    )
    for name, why in report["missing"].items():
        print(f"  no {name}: {why}")


def place_for(run_dir: Path) -> Path:
    """Where a report goes that was given no folder: into the run's, or into one of its own where
    that is not this user's alone.

    Raises RunFolderError where the current folder is in that run, or the name is taken by another
    user.
    """
    if ownership.is_private_run(run_dir):
        return run_dir
    out = Path(f"report-{run_dir.resolve().name}")
    if (
        Path.cwd().resolve().is_relative_to(run_dir.resolve())
        or out.exists()
        and not ownership.is_private_run(out)
    ):
        raise RunFolderError(
            f"{run_dir}: found a run of another user, or one that others may write to; say where "
            "its report is to go: --out FOLDER"
        )
    print(f"{run_dir} is another user's, or others may write to it: the report goes to {out}")
    return out


def gather(run_dir: Path, *, with_pictures: bool = True) -> tuple[dict, dict[str, str]]:
    """What report.json holds, and the pictures as data URIs by name. Raises RunFolderError."""
    run = read_run(run_dir)
    runs, missing = related(run)
    results = read_results(run)
    absent = reasons(run, runs, missing)
    missing |= {name: absent[name] for name in ("matching", "detection") if name not in results}
    defaults = {
        stage: flatten(load_config(stage, REQUIRED[stage] + method_of(one)))
        for stage, one in runs.items()
    }
    rows = recipe(runs, results, defaults)
    curves = {
        stage: curves.read_curves(read_metrics(one.folder))
        for stage, one in runs.items()
        if stage != "evaluate"
    }
    missing |= {
        f"curves of {stage}": f"{runs[stage].folder}: its metrics.jsonl holds no numbers yet"
        for stage, found in curves.items()
        if not found
    }
    spent, untold = goodputs(runs)
    missing |= untold
    shown = (
        show(source_of(run, runs, results, absent))
        if with_pictures
        else Shown(missing=dict.fromkeys(PICTURES, "left out, as --no-pictures asked"))
    )
    return {
        "run": str(run_dir),
        "stage": run.stage,
        "results": results,
        "comparisons": comparisons(results.get("matching")),
        "paper": paper_numbers(runs, results),
        "recipe": [asdict(row) for row in rows],
        "reduced": any(row.verdict == "reduced" for row in rows),
        "curves": curves,
        "goodput": spent,
        "data": data_of(runs),
        "pictures": shown.facts,
        "missing": missing | shown.missing,
        "runs": {
            stage: {
                "folder": str(one.folder),
                "step": one.step,
                "images_seen": one.images_seen,
                "differs": differences(one, defaults[stage]),
                "config": one.config,
                "provenance": one.provenance,
            }
            for stage, one in runs.items()
        },
    }, shown.images


def method_of(run: Run) -> list[str]:
    """The override that gives a training run the defaults of its own method."""
    return [f"method={run.config['method.name']}"] if "method.name" in run.config else []


def goodputs(runs: dict[str, Run]) -> tuple[dict[str, dict], dict[str, str]]:
    """Where the time of each training run went, as runs/goodput.py has it, by stage; and of which
    that is not known, with why.
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
        except (
            IndexError,
            KeyError,
            TypeError,
            ValueError,
            RuntimeError,
        ) as error:  # arrays of an .npz that do not fit the results
            shown.missing[name] = (
                f"{source.run_dir}: its files do not fit together ({type(error).__name__}: "
                f"{str(error)[:200]})"
            )
    return shown


def reasons(run: Run, runs: dict[str, Run], missing: dict[str, str]) -> dict[str, str]:
    """Why a page may lack a backbone, matching or detection, and which command gives it: a sentence
    each.
    """
    backbone, projector = (
        shlex.quote(str(runs[stage].folder)) if stage in runs else "RUN"
        for stage in ("pretrain", "correspond")
    )
    command = f"run `scemae evaluate run_dir=EVAL backbone={backbone} projector={projector} "
    return {
        "matching": f"{run.folder} has no matching results: {command}matching.shards=SHARDS`, then `scemae report "
        "EVAL`",
        "detection": f"{run.folder} has no detection results: {command}detection.train=SHARDS "
        "detection.test=SHARDS`, then `scemae report EVAL`",
        "backbone": missing.get(
            "the run of pretrain",
            f"{run.folder} has no backbone: train one with `scemae "
            "pretrain`, and give backbone=RUN to `scemae evaluate`",
        ),
    }


def source_of(run: Run, runs: dict[str, Run], results: dict, absent: dict[str, str]) -> Source:
    """Where faces and models for the pictures are."""
    places: dict[str, Path | None] = {}
    for stage, key in (("pretrain", "backbone"), ("correspond", "projector")):
        own = checkpoint.committed(run.folder) if run.stage == stage else []
        used = stage in runs and run.stage != stage
        places[key] = locate(run.provenance[key], run.folder) if used else own[-1] if own else None
    names = ("matching.shards", "detection.test", "probe_shards", "data.shards")
    stage2 = runs.get("correspond")
    carb = (
        {key[5:]: value for key, value in stage2.config.items() if key.startswith("carb.")}
        if stage2
        else None
    )
    return Source(
        run.folder,
        results,
        places["backbone"],
        places["projector"],
        absent,
        run.provenance.get("carb", carb),
        next(run.config[name] for name in names if run.config.get(name)),
        run.cache_dir,
        run.config.get("stride", 2),
        ownership.is_private_run(run.folder),
    )


def recipe(runs: dict[str, Run], results: dict, defaults: dict[str, dict]) -> list[RecipeRow]:
    """How each run compares with the full recipe, a row per setting or amount."""
    rows = []
    for stage, one in runs.items():
        full = defaults[stage] | ({"carb.eta": 0.25} if size_of(runs) == "B" else {})
        if stage == "pretrain":
            rows += amounts_of_pretraining(one, full["optim.epochs"])
        for key, what, source in FULL[stage]:
            test = "matching" if key == "stride" else key.split(".")[0]
            if stage != "evaluate" or test in results:
                rows.append(compare(stage, key, what, one.config.get(key), full[key], source))
    if found := results.get("detection"):
        official = find_benchmark(found["benchmark"]).official
        for split in ("train", "test"):
            what, here = f"annotated faces, {split}", found[f"{split}_images"]
            rows.append(compare("evaluate", "faces", what, here, official[split], PAPER))
    return rows


def amounts_of_pretraining(run: Run, epochs: float) -> list[RecipeRow]:
    """The rows of the training set's size and of the images seen."""
    source = "PROTOCOL 1.4; the paper prints 162,770, with MAFL's faces"
    images, seen = run.provenance.get("images"), int(FULL_IMAGES * epochs)
    return [
        compare("pretrain", "images", "images in the training set", images, FULL_IMAGES, source),
        compare(
            "pretrain", "images_seen", "images seen in all steps", run.images_seen, seen, PAPER
        ),
    ]


def compare(stage: str, key: str, what: str, here: Any, full: Any, source: str) -> RecipeRow:
    """One row; counts that differ by less than a thousandth are the same."""
    if here is None:
        verdict = "unknown"
    elif here == full or isinstance(full, int) and abs(here - full) < 1e-3 * full:
        verdict = "same"
    else:
        verdict = "reduced" if protocol.is_reduced(key, here, full) else "differs"
    return RecipeRow(stage, what, here, full, source, verdict)


def size_of(runs: dict[str, Run]) -> str | None:
    """DeiT's letter for the model of stage 1, or None where it has another shape."""
    shape = runs["pretrain"].config if "pretrain" in runs else {}
    return SIZES.get(shape.get("model.width")) if shape.get("model.depth") == 12 else None


def paper_numbers(runs: dict[str, Run], results: dict) -> dict:
    """The paper's numbers for this model's size, or all where it has none: matching (same,
    different), detection.
    """
    size = size_of(runs)
    name = f"{size}-{runs['correspond'].config['carb.dim']}" if "correspond" in runs else ""
    chosen = (
        [name]
        if name in MATCHING_TARGETS
        else [key for key in MATCHING_TARGETS if size in (None, key[0])]
    )
    targets = results.get("detection", {}).get("paper_targets", {})
    return {
        "size": size,
        "matching": {key: MATCHING_TARGETS[key] for key in chosen},
        "detection": {size: targets[size]} if size in targets else targets,
    }


def comparisons(matching: dict | None) -> dict:
    """Paired comparisons by kind, first method and second: evaluation/evaluate.py lists each
    against all before it, in order.
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
    for (kind, first, second), comparison in zip(order, matching["comparisons"]):
        found[kind][first][second] = {
            key: comparison[key] for key in ("difference", "wins", "ties", "is_decided")
        }
    return found


def differences(run: Run, default: dict[str, Any]) -> dict[str, list]:
    """Settings other than the defaults of configs/: dotted name to [here, default]; places and
    machinery left out.
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
