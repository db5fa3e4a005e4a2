"""The page of a sweep, sweep.html: which setting won, by how much, and which settings matter."""

import math
import shlex
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from scemae.errors import ConfigError, RunFolderError
from scemae.files import disk
from scemae.runs.goodput import clock
from scemae.sweep.page import figures
from scemae.sweep.page.axes import Axis, axes_of, say
from scemae.sweep.page.canvas import Picture
from scemae.sweep.page.importance import FEWEST, Importance, importances
from scemae.sweep.ranking import Agreement, agreement, best, pareto_front, ranked, score
from scemae.sweep.trials import FAILED, FINISHED, PAPER, RUNNING, STOPPED, WAITING, TrialRecord

PAGE = "sweep.html"
ROWS = 500  # of the table; ten thousand take a browser's breath
CAUSES = 50  # different reasons of failures that are listed
REASON = 600  # letters of a reason
PROXY, TRUTH = "cycle", "different"  # the score without labels, and the one it may stand for
ETA, CLUSTERS = "carb.eta", "carb.clusters"
OUTCOMES = {
    FINISHED: "finished",
    STOPPED: "stopped early",
    FAILED: "failed",
    RUNNING: "running",
    WAITING: "waiting",
}


@dataclass
class Cause:
    """Why trials failed: the reason, and the numbers of those that give it."""

    reason: str
    numbers: list[int]


def write_page(
    folder: Path,
    title: str,
    records: list[TrialRecord],
    objectives: list[str],
    facts: dict[str, str],
    parameters: dict[str, dict],
    best_yaml: str | None,
    *,
    command: str | None = None,
) -> Path:
    """Write the page of these trials to folder/sweep.html, whole or not at all, and return its path.

    Scores are in px of a 70-px frame, lower is better; the first of `objectives` decides what is best. `parameters` names
    the swept settings and what is known of their ranges (low, high, log, values), `facts` are the rows of a small table, and
    `command` trains the best setting; without it, it is the line of `best_yaml` that starts with "# scemae", or made of the
    best values. Raises RunFolderError where the disk fails, ConfigError without an objective.
    """
    if not objectives:
        raise ConfigError(
            "the page of a sweep: found no objective, needed one at least; give objectives=[different]"
        )
    text = render(
        title,
        records,
        objectives,
        facts=facts,
        parameters=parameters,
        best_yaml=best_yaml,
        command=command,
    )
    path = folder / PAGE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        disk.write_text(path, text)
    except OSError as error:
        raise RunFolderError(
            f"{path}: the page cannot be written ({error}); give a folder with room"
        ) from error
    return path


def render(
    title: str,
    records: list[TrialRecord],
    objectives: list[str],
    *,
    facts: dict[str, str],
    parameters: dict[str, dict],
    best_yaml: str | None,
    command: str | None,
) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    objective, axes = objectives[0], axes_of(records, parameters)
    found = importances(records, objective, axes)
    alike = agreement(records, PROXY, TRUTH) if both_scored(records) >= FEWEST else None
    pictures = draw(records, objectives, axes, found=found, alike=alike)
    winner = best(records, objective)
    shown = by_rank(records, objective)
    rows = shown[:ROWS] + [one for one in shown[ROWS:] if one.origin == PAPER]
    command = command or command_in(best_yaml or "") or (command_of(winner) if winner else None)
    scores = [
        *objectives,
        *sorted({name for one in records for name in one.scores} - set(objectives)),
    ]
    return environment.get_template(PAGE).render(
        title=title,
        records=records,
        objective=objective,
        objectives=objectives,
        facts=facts,
        axes=axes,
        rows=rows,
        scores=scores,
        winner=winner,
        paper=paper_of(records),
        sentences=summary(records, objective),
        counts=counts(records),
        pictures={name: one for name, one in pictures.items() if isinstance(one, Picture)},
        missing={name: one for name, one in pictures.items() if isinstance(one, str)},
        found=found,
        alike=alike,
        front=pareto_front(records, objectives) if len(objectives) > 1 else [],
        causes=causes(records),
        best_yaml=best_yaml,
        command=command,
        say=say,
        score=score,
        clock=clock,
        outcomes=OUTCOMES,
        share=share,
        is_nan=math.isnan,
        most_causes=CAUSES,
        most_rows=ROWS,
    )


def draw(
    records: list[TrialRecord],
    objectives: list[str],
    axes: list[Axis],
    *,
    found: Importance,
    alike: Agreement | None,
) -> dict[str, Picture | str]:
    """Every figure by its name, or why it is not shown; figures that the sweep has no use for are absent."""
    objective, places = objectives[0], {axis.name: axis for axis in axes}
    drawn = {
        "history": figures.history(records, objective),
        "parallel": figures.parallel(records, objective, axes),
        "importance": figures.bars(found, axes),
        "slices": figures.slices(records, objective, axes),
        "learning": figures.learning(records, objective),
    }
    if {ETA, CLUSTERS} <= places.keys():
        drawn["heat"] = figures.heat(
            records,
            objective,
            replace(places[ETA], label="share of attentive tokens, η"),
            replace(places[CLUSTERS], label="clusters, $K_c$"),
        )
    else:
        drawn["heat"] = f"{ETA} and {CLUSTERS} were not both searched"
    if len(objectives) > 1:
        drawn["front"] = figures.front(records, objectives)
    if any(PROXY in one.scores for one in records):
        drawn["proxy"] = (
            figures.proxy(records, PROXY, TRUTH)
            if alike
            else f"found {both_scored(records)} finished with scores of both, needed {FEWEST} trials that are not all alike"
        )
    return drawn


def summary(records: list[TrialRecord], objective: str) -> list[str]:
    """What came out, in sentences: the best trial against the paper's setting, then how trials ended."""
    winner, paper = best(records, objective), paper_of(records)
    if winner is None:
        first = "No trial has finished with a score yet."
    else:
        first = (
            f"Trial {winner.number} is the best: {score(winner, objective):.2f} px on “{objective}”"
        )
        if winner is paper:
            others = len(ranked(records, objective)) - 1
            first += ". It is the paper's setting" + (
                "; no other finished trial did better."
                if others
                else ", and the only one that has finished with a score."
            )
        elif paper is None or paper.outcome != FINISHED or math.isnan(score(paper, objective)):
            first += ". The paper's setting has no score to compare with."
        else:
            other = score(paper, objective)
            gain = other - score(winner, objective)
            first += (
                f", {gain:.2f} px"
                + (f" ({100 * gain / other:.1f} %)" if other > 0 else "")
                + f" less than the paper's setting ({other:.2f} px)."
            )
    ended = [f"{count:,} {words}" for words, count in counts(records).items() if count]
    sentences = [
        first,
        f"Of {len(records):,} trial{'s' * (len(records) != 1)}: {', '.join(ended)}."
        if ended
        else "There are no trials.",
    ]
    if lost := sum(
        one.outcome == FINISHED and math.isnan(score(one, objective)) for one in records
    ):
        sentences.append(
            f"Left out below, as their score is no number (diverged): {lost} of the finished."
        )
    return sentences


def counts(records: list[TrialRecord]) -> dict[str, int]:
    """How many trials ended in which way, and how many have not."""
    found = Counter(one.outcome for one in records)
    return {words: found[outcome] for outcome, words in OUTCOMES.items()}


def paper_of(records: list[TrialRecord]) -> TrialRecord | None:
    """The trial of the paper's setting."""
    return next((one for one in records if one.origin == PAPER), None)


def both_scored(records: list[TrialRecord]) -> int:
    """How many finished trials have the score without labels and the one it may stand for."""
    return sum(not math.isnan(score(one, TRUTH)) for one in ranked(records, PROXY))


def by_rank(records: list[TrialRecord], objective: str) -> list[TrialRecord]:
    """All trials: the finished, best first; then the others by how they ended and by score; those without a score last."""
    order = list(OUTCOMES)

    def key(one: TrialRecord) -> tuple:
        value = score(one, objective)
        return (
            one.outcome != FINISHED or math.isnan(value),
            order.index(one.outcome),
            math.isnan(value),
            0.0 if math.isnan(value) else value,
            one.number,
        )

    return sorted(records, key=key)


def share(record: TrialRecord) -> float:
    """How much of its training a trial has behind it, 0 to 1."""
    return record.step / record.total if record.total else 0.0


def causes(records: list[TrialRecord]) -> list[Cause]:
    """Why trials failed, the most frequent reason first."""
    found: dict[str, list[int]] = defaultdict(list)
    for one in records:
        if one.outcome == FAILED:
            reason = one.reason.strip() or "no reason is known"
            found[reason if len(reason) <= REASON else reason[:REASON] + " …"].append(one.number)
    return sorted(
        (Cause(reason, numbers) for reason, numbers in found.items()),
        key=lambda one: -len(one.numbers),
    )


def command_in(best_yaml: str) -> str | None:
    """The command that a comment of the best setting's file gives."""
    return next(
        (
            line.removeprefix("# ")
            for line in best_yaml.splitlines()
            if line.startswith("# scemae ")
        ),
        None,
    )


def command_of(record: TrialRecord) -> str:
    """The command that trains stage 2 with a trial's values; capitals are for the reader to fill in."""
    words = ["scemae correspond run_dir=RUN backbone=BACKBONE data.shards=SHARDS"]
    return " ".join(
        words + [shlex.quote(f"{name}={spell(value)}") for name, value in record.values.items()]
    )


def spell(value: Any) -> str:
    """A value in full, as a key=value setting takes it."""
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(spell, value)) + "]"
    if isinstance(value, bool) or value is None:
        return say(value)
    return repr(float(value)) if isinstance(value, float) else str(value)
