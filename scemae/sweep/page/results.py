"""What a sweep leaves for people: best.yaml, sweep.html, and the last lines on the terminal."""

import shlex
from datetime import timedelta
from pathlib import Path

import yaml

from scemae.config import locations
from scemae.config.dotted import flatten, get_setting, setting_names
from scemae.config.load import load_config
from scemae.config.schema import SCHEMAS
from scemae.errors import LaunchError
from scemae.files import disk
from scemae.runs import run_folder
from scemae.sweep import ranking
from scemae.sweep.page.page import causes, write_page
from scemae.sweep.spec import Sweep
from scemae.sweep.trials import FINISHED, ResultsTable, TrialRecord

OWN = (
    "run_dir",
    "store.dir",
    "store.third_dir",
    "store.keep_third",
    "loop.probe_every",
    "loop.save_every",
    "loop.keep",
)


def show(sweep: Sweep, out: Path | None = None) -> Path:
    """Write results.csv, best.yaml and sweep.html as far as it has come, into its folder or `out`; the page."""
    records, out = sweep.records(), out or sweep.folder
    ResultsTable(out, sweep.names).rewrite(iter(records))
    best = write_best(sweep, ranking.best(records, sweep.config.objectives[0]), out)
    parameters = {
        one.name: {"values": one.values}
        if one.values is not None
        else {"low": one.low, "high": one.high, "log": one.log}
        for one in sweep.space.parameters
    }
    return write_page(
        out,
        f"Sweep of {sweep.folder.name}",
        records,
        list(sweep.config.objectives),
        facts(sweep, records),
        parameters,
        best,
    )


def write_best(sweep: Sweep, record: TrialRecord | None, out: Path) -> str | None:
    """best.yaml in `out`: the values of the best trial with those that every trial got, for `experiment=`; None where none finished."""
    if record is None:
        return None
    given = {word.partition("=")[0] for word in sweep.base}
    config, tree = sweep.with_values(record.values), {}
    # All settings of the sections that a sweep's trials differ in from the defaults, so that nothing else is needed.
    for name in [*_different(sweep), *sweep.names]:
        if name not in OWN and name not in ("backbone", "data.shards", "probe_shards"):
            _plant(tree, name, get_setting(config, name))
    looks = sweep.looks(record.values)
    for name in (
        "probe_every",
        "save_every",
    ):  # looks cost no weights, and show the same score at the same steps
        if name in looks:
            _plant(tree, f"loop.{name}", looks[name])
    words = [
        "scemae",
        sweep.stage,
        f"experiment={out / 'best.yaml'}",
        "run_dir=RUN",
        *_places(sweep, given),
    ]
    text = (
        f"# Trial {record.number} of a sweep: {_scores(sweep, record)}\n"
        f"# {_on_one_line(shlex.join(words))}\n"
        + yaml.safe_dump(locations.masked_all(tree), sort_keys=False, allow_unicode=True)
    )
    disk.write_text(out / "best.yaml", text)
    return text


def _different(sweep: Sweep) -> list[str]:
    """The settings of every trial that are not the defaults of the stage."""
    defaults = flatten(
        load_config(
            sweep.stage,
            [
                f"{key}=x"
                for key in ("run_dir", "backbone")
                if key in setting_names(SCHEMAS[sweep.stage])
            ],
        )
    )
    return [
        name for name, value in flatten(sweep.settings).items() if defaults.get(name, ...) != value
    ]


def _on_one_line(text: str) -> str:
    return "".join(
        one if one.isprintable() else repr(one)[1:-1] for one in text
    )  # a comment of YAML ends with its line


def _places(sweep: Sweep, given: set[str]) -> list[str]:
    return [
        f"{name}={locations.masked(str(get_setting(sweep.settings, name)))}"
        for name in ("backbone", "data.shards", "probe_shards")
        if name in given
    ]


def _plant(tree: dict, name: str, value: object) -> None:
    *path, last = name.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
    tree[last] = value


def _scores(sweep: Sweep, record: TrialRecord) -> str:
    return ", ".join(
        f"{name} {record.scores[name]:.4f}"
        for name in sweep.config.objectives
        if name in record.scores
    )


def facts(sweep: Sweep, records: list[TrialRecord]) -> dict[str, str]:
    """The facts of a sweep, in words."""
    config, halving, share = sweep.config, sweep.config.halving, sweep.config.trial
    stopping = (
        f"ASHA at {halving.grace:.3g} of the training, one of {halving.reduction} goes on"
        if halving.enabled
        else "none"
    )
    found = {
        "search": f"{config.search}, seed {config.seed}",
        "early stopping": stopping,
        "trials": f"{sum(record.has_ended for record in records)} of {sweep.size} ended",
        "each trial": f"scemae {sweep.stage}, {share.ranks} x {share.cpus} processors"
        + (f", {share.gpus} GPU" if share.gpus else ""),
        "training data": f"{locations.masked(sweep.settings.data.shards)}, {sweep.images:,} images",
        "judged on": f"{sweep.settings.loop.probe_pairs} pairs of {locations.masked(sweep.settings.probe_shards)}, people whose landmarks may steer "
        "training; never the test set",
    }
    if sweep.stage == "correspond":
        found["backbone"] = f"{sweep.settings.backbone}, weights {sweep.backbone_digest[:12]}"
    found["work"] = (
        f"{timedelta(seconds=round(sum(record.seconds for record in records)))} of all trials together"
    )
    return {**found, "commit": run_folder.commit()}


def closing_lines(sweep: Sweep) -> str:
    """The last words on the terminal: the best trial beside the paper's setting, and where to look."""
    records, first = sweep.records(), sweep.config.objectives[0]
    best, counts = ranking.best(records, first), {}
    for record in records:
        counts[record.outcome] = counts.get(record.outcome, 0) + 1
    lines = ["", ", ".join(f"{count} {outcome}" for outcome, count in counts.items())]
    if best is not None:
        lines.append(
            f"best: trial {best.number}, {_scores(sweep, best)} px of a 70-px frame: "
            + " ".join(f"{name}={value}" for name, value in best.values.items())
        )
    paper = next(
        (record for record in records if record.number == 0 and record.outcome == FINISHED), None
    )
    if paper is not None:
        lines.append(f"the paper's setting: {_scores(sweep, paper)}")
    if best is not None:
        words = ["scemae", sweep.stage, f"experiment={sweep.folder / 'best.yaml'}"]
        lines.append(f"to run it: {shlex.join(words)} run_dir=RUN ... (its second line says all)")
    return "\n".join(
        [
            *lines,
            f"the page: {sweep.folder / 'sweep.html'}",
            f"the table: {sweep.folder / 'results.csv'}",
        ]
    )


def refuse_fruitless(sweep: Sweep) -> None:
    """Raise LaunchError once every trial has ended and none has finished, with the reason that most of them had."""
    records = sweep.records()
    if len(records) < sweep.size or not all(
        one.has_ended and one.outcome != FINISHED for one in records
    ):
        return
    found = causes(records)
    why = f"; of {len(found[0].numbers)} the reason was: {found[0].reason}" if found else ""
    raise LaunchError(
        f"{sweep.folder}: none of its {len(records)} trials finished{why}; see {sweep.folder / 'trials'}, mend the cause "
        "and sweep again with another run_dir"
    )
