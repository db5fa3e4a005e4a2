"""What a sweep leaves: results.csv, best.yaml, sweep.html, and the last lines on the terminal."""

import shlex
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from scemae.config import locations
from scemae.config.dotted import flatten, get_setting, setting_names
from scemae.config.load import load_config
from scemae.config.schema import SCHEMAS
from scemae.errors import LaunchError
from scemae.files import disk
from scemae.runs import run_folder
from scemae.sweep import ranking
from scemae.sweep.page.page import write_page
from scemae.sweep.page.summary import causes
from scemae.sweep.spec import Sweep
from scemae.sweep.trials import FINISHED, ResultsTable, TrialRecord

INPUTS = ("backbone", "data.shards", "probe_shards")  # best.yaml names them in its command alone
# Settings that a trial gets from its sweep, not from the search.
OF_SWEEP = (
    "run_dir",
    "store.dir",
    "store.third_dir",
    "store.keep_third",
    "loop.probe_every",
    "loop.save_every",
    "loop.keep",
)


def write_results(sweep: Sweep, out: Path | None = None) -> Path:
    """Write results.csv, best.yaml and sweep.html to the sweep's folder or `out`.

    A sweep that still runs has the results so far. Returns the path of the page.
    """
    records, out = sweep.records(), out or sweep.folder
    ResultsTable(out, sweep.names).rewrite(records)
    best = write_best(sweep, ranking.best(records, sweep.config.objectives[0]), out)
    parameters: dict[str, dict] = {}
    for one in sweep.space.parameters:
        limits = {"low": one.low, "high": one.high, "log": one.log}
        parameters[one.name] = limits if one.values is None else {"values": one.values}
    return write_page(
        out,
        f"Sweep of {sweep.folder.name}",
        records,
        list(sweep.config.objectives),
        facts=facts(sweep, records),
        parameters=parameters,
        best_yaml=best,
    )


def write_best(sweep: Sweep, record: TrialRecord | None, out: Path) -> str | None:
    """Write out/best.yaml, the settings of the best trial for `experiment=`, and return its text.

    It has every setting that differs from the defaults of the stage, so nothing else is needed.
    None if no trial has finished.
    """
    if record is None:
        return None
    config = sweep.with_values(record.values)
    tree: dict[str, Any] = {}
    for name in [*_not_default(sweep), *sweep.names]:
        if name not in OF_SWEEP and name not in INPUTS:
            _put(tree, name, get_setting(config, name))
    steps = sweep.loop_settings(record.values)
    for name in ("probe_every", "save_every"):  # then the run has scores at the trial's steps
        if name in steps:
            _put(tree, f"loop.{name}", steps[name])
    command = ["scemae", sweep.stage, f"experiment={out / 'best.yaml'}", "run_dir=RUN"]
    text = (
        f"# Trial {record.number} of a sweep: {_scores(sweep, record)}\n"
        f"# {_on_one_line(shlex.join([*command, *_inputs(sweep)]))}\n"
        + yaml.safe_dump(locations.masked_all(tree), sort_keys=False, allow_unicode=True)
    )
    disk.write_text(out / "best.yaml", text)
    return text


def _not_default(sweep: Sweep) -> list[str]:
    """The settings that every trial got and that are not the defaults of the stage."""
    known = setting_names(SCHEMAS[sweep.stage])
    required = [f"{name}=x" for name in ("run_dir", "backbone") if name in known]
    defaults = flatten(load_config(sweep.stage, required))
    mine = flatten(sweep.settings)
    return [name for name, value in mine.items() if defaults.get(name, ...) != value]


def _on_one_line(text: str) -> str:
    """Escape line ends and control characters: a YAML comment ends with its line."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _inputs(sweep: Sweep) -> list[str]:
    """name=value of the inputs that every trial got, secrets masked."""
    return [
        f"{name}={locations.masked(str(get_setting(sweep.settings, name)))}"
        for name in INPUTS
        if name in sweep.given
    ]


def _put(tree: dict[str, Any], name: str, value: object) -> None:
    *path, last = name.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
    tree[last] = value


def _scores(sweep: Sweep, record: TrialRecord) -> str:
    names = [name for name in sweep.config.objectives if name in record.scores]
    return ", ".join(f"{name} {record.scores[name]:.4f}" for name in names)


def facts(sweep: Sweep, records: list[TrialRecord]) -> dict[str, str]:
    """The rows of the page's table of facts."""
    config, settings = sweep.config, sweep.settings
    halving, share = config.halving, config.trial
    asha = f"ASHA at {halving.grace:.3g} of the training, one of {halving.reduction} continues"
    gpus = f", {share.gpus} GPU" if share.gpus else ""
    found = {
        "search": f"{config.search}, seed {config.seed}",
        "early stopping": asha if halving.enabled else "none",
        "trials": f"{sum(record.has_ended for record in records)} of {sweep.size} ended",
        "each trial": f"scemae {sweep.stage}, {share.ranks} x {share.cpus} processors{gpus}",
        "training data": f"{locations.masked(settings.data.shards)}, {sweep.images:,} images",
        "judged on": f"{settings.loop.probe_pairs} pairs of "
        f"{locations.masked(settings.probe_shards)}, people whose landmarks may steer training; "
        "never the test set",
    }
    if sweep.stage == "correspond":
        found["backbone"] = f"{settings.backbone}, weights {sweep.backbone_digest[:12]}"
    seconds = round(sum(record.seconds for record in records))
    found["work"] = f"{timedelta(seconds=seconds)} of all trials together"
    return {**found, "commit": run_folder.commit()}


def closing_lines(sweep: Sweep) -> str:
    """The last lines on the terminal: best trial, paper's setting, where the results are."""
    records = sweep.records()
    best = ranking.best(records, sweep.config.objectives[0])
    counts = Counter(record.outcome for record in records)
    lines = ["", ", ".join(f"{count} {outcome}" for outcome, count in counts.items())]
    if best is not None:
        values = " ".join(f"{name}={value}" for name, value in best.values.items())
        lines.append(
            f"best: trial {best.number}, {_scores(sweep, best)} px of a 70-px frame: {values}"
        )
    for record in records:
        if record.number == 0 and record.outcome == FINISHED:
            lines.append(f"the paper's setting: {_scores(sweep, record)}")
    if best is not None:
        words = ["scemae", sweep.stage, f"experiment={sweep.folder / 'best.yaml'}"]
        lines.append(f"to run it: {shlex.join(words)} run_dir=RUN ... (in full on its second line)")
    lines.append(f"the page: {sweep.folder / 'sweep.html'}")
    lines.append(f"the table: {sweep.folder / 'results.csv'}")
    return "\n".join(lines)


def refuse_fruitless(sweep: Sweep) -> None:
    """Raise LaunchError, with the most frequent reason, if all trials ended and none finished."""
    records = sweep.records()
    is_open = len(records) < sweep.size or not all(one.has_ended for one in records)
    if is_open or any(one.outcome == FINISHED for one in records):
        return
    found = causes(records)
    why = f"; of {len(found[0].numbers)} the reason was: {found[0].reason}" if found else ""
    raise LaunchError(
        f"{sweep.folder}: none of its {len(records)} trials finished{why}; see "
        f"{sweep.folder / 'trials'}, correct the cause and sweep again with another run_dir"
    )
