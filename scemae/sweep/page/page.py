"""The page of a sweep, sweep.html: the best setting, by how much, and which settings matter."""

import math
from dataclasses import replace
from pathlib import Path

from matplotlib import rc_context

from scemae.errors import RunFolderError
from scemae.evaluation.page import html_page
from scemae.files import disk
from scemae.runs.goodput import clock
from scemae.sweep.page import score_figures, setting_figures
from scemae.sweep.page.canvas import STYLE, Picture
from scemae.sweep.page.importance import FEWEST, Importance, importances
from scemae.sweep.page.setting_axes import SettingAxis, as_text, axes_of
from scemae.sweep.page.summary import OUTCOMES, by_rank, causes, counts, paper_of, summary
from scemae.sweep.ranking import Agreement, agreement, best, pareto_front, ranked, score
from scemae.sweep.trials import PAPER, TrialRecord

PAGE = "sweep.html"
ROWS = 500  # of the table: a browser sorts them without delay
CAUSES = 50  # different reasons of failures that are listed
PROXY, TRUTH = "cycle", "different"  # the score without labels, and the one it may stand in for
ETA, CLUSTERS = "carb.eta", "carb.clusters"


def write_page(
    folder: Path,
    title: str,
    records: list[TrialRecord],
    objectives: list[str],
    *,
    facts: dict[str, str],
    parameters: dict[str, dict],
    best_yaml: str | None,
) -> Path:
    """Write the page of these trials to folder/sweep.html, replacing it whole; returns its path.

    Scores are in px of a 70-px frame, lower is better; `objectives[0]` decides what is best.
    `parameters` has what is known of each swept setting's range (low, high, log, values), `facts`
    the rows of a small table. Raises RunFolderError if the disk fails.
    """
    text = render(
        title, records, objectives, facts=facts, parameters=parameters, best_yaml=best_yaml
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
) -> str:
    """The page as text."""
    objective, axes = objectives[0], axes_of(records, parameters)
    found = importances(records, objective, axes)
    alike = agreement(records, PROXY, TRUTH) if both_scored(records) >= FEWEST else None
    pictures = draw(records, objectives, axes, found=found, alike=alike)
    shown = by_rank(records, objective)
    others = {name for one in records for name in one.scores} - set(objectives)
    return html_page.render(
        Path(__file__).with_name(PAGE),
        title=title,
        records=records,
        objective=objective,
        objectives=objectives,
        facts=facts,
        axes=axes,
        rows=shown[:ROWS] + [one for one in shown[ROWS:] if one.origin == PAPER],
        scores=[*objectives, *sorted(others)],
        winner=best(records, objective),
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
        command=command_in(best_yaml or ""),
        as_text=as_text,
        score=score,
        clock=clock,
        outcomes=OUTCOMES,
        most_causes=CAUSES,
        most_rows=ROWS,
    )


def draw(
    records: list[TrialRecord],
    objectives: list[str],
    axes: list[SettingAxis],
    *,
    found: Importance,
    alike: Agreement | None,
) -> dict[str, Picture | str]:
    """Every figure by its name, or why it is missing; those that do not apply are left out."""
    objective, by_name = objectives[0], {axis.name: axis for axis in axes}
    with rc_context(STYLE):
        drawn = {
            "history": score_figures.history(records, objective),
            "parallel": setting_figures.parallel(records, objective, axes),
            "importance": setting_figures.bars(found, axes),
            "slices": setting_figures.slices(records, objective, axes),
            "learning": score_figures.learning(records, objective),
            "heat": f"{ETA} and {CLUSTERS} were not both searched",
        }
        if {ETA, CLUSTERS} <= by_name.keys():
            across = replace(by_name[ETA], label="share of attentive tokens, η")
            up = replace(by_name[CLUSTERS], label="clusters, $K_c$")
            drawn["heat"] = setting_figures.heat(records, objective, across, up)
        if len(objectives) > 1:
            drawn["front"] = score_figures.front(records, objectives)
        if any(PROXY in one.scores for one in records):
            drawn["proxy"] = (
                f"found {both_scored(records)} finished with scores of both, needed {FEWEST} "
                "trials whose scores differ"
            )
            if alike:
                drawn["proxy"] = score_figures.proxy(records, PROXY, TRUTH)
    return drawn


def both_scored(records: list[TrialRecord]) -> int:
    """How many finished trials have both PROXY and TRUTH."""
    return sum(not math.isnan(score(one, TRUTH)) for one in ranked(records, PROXY))


def command_in(best_yaml: str) -> str | None:
    """The command in the comments of best.yaml, which trains the best setting."""
    lines = [line for line in best_yaml.splitlines() if line.startswith("# scemae ")]
    return lines[0].removeprefix("# ") if lines else None
