"""What came out of a sweep, in sentences and lists: the best trial, the ranking, the failures."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

from scemae.sweep.ranking import best, ranked, score
from scemae.sweep.trials import FAILED, FINISHED, PAPER, RUNNING, STOPPED, WAITING, TrialRecord

REASON = 600  # characters of a reason that are shown
OUTCOMES = {
    FINISHED: "finished",
    STOPPED: "stopped early",
    FAILED: "failed",
    RUNNING: "running",
    WAITING: "waiting",
}


@dataclass
class FailureCause:
    """A reason why trials failed, and the numbers of those trials."""

    reason: str
    numbers: list[int]


def summary(records: list[TrialRecord], objective: str) -> list[str]:
    """Sentences: the best trial against the paper's setting, then how the trials ended."""
    ended = [f"{count:,} {words}" for words, count in counts(records).items() if count]
    plural = "s" * (len(records) != 1)
    total = f"Of {len(records):,} trial{plural}: {', '.join(ended)}."
    sentences = [_about_best(records, objective), total if ended else "There are no trials."]
    finished = [one for one in records if one.outcome == FINISHED]
    if lost := sum(math.isnan(score(one, objective)) for one in finished):
        sentences.append(
            f"Left out below, as their score is not finite (diverged): {lost} of the finished."
        )
    return sentences


def _about_best(records: list[TrialRecord], objective: str) -> str:
    winner, paper = best(records, objective), paper_of(records)
    if winner is None:
        return "No trial has finished with a score yet."
    own = score(winner, objective)
    found = f"Trial {winner.number} is the best: {own:.2f} px on “{objective}”"
    if winner is paper:
        if len(ranked(records, objective)) > 1:
            return f"{found}. It is the paper's setting; no other finished trial did better."
        return f"{found}. It is the paper's setting, and the only one that finished with a score."
    if paper is None or paper.outcome != FINISHED or math.isnan(other := score(paper, objective)):
        return f"{found}. The paper's setting has no score to compare with."
    share = f" ({100 * (other - own) / other:.1f} %)" if other > 0 else ""
    return f"{found}, {other - own:.2f} px{share} less than the paper's setting ({other:.2f} px)."


def counts(records: list[TrialRecord]) -> dict[str, int]:
    """The number of trials with each outcome, by its text on the page."""
    found = Counter(one.outcome for one in records)
    return {words: found[outcome] for outcome, words in OUTCOMES.items()}


def paper_of(records: list[TrialRecord]) -> TrialRecord | None:
    """The trial of the paper's setting."""
    return next((one for one in records if one.origin == PAPER), None)


def by_rank(records: list[TrialRecord], objective: str) -> list[TrialRecord]:
    """The finished trials with a score, best first; then the others by outcome and score."""
    outcomes = list(OUTCOMES)

    def key(one: TrialRecord) -> tuple:
        value = score(one, objective)
        has_none = math.isnan(value)
        is_ranked = one.outcome == FINISHED and not has_none
        place = outcomes.index(one.outcome), has_none, 0.0 if has_none else value
        return (not is_ranked, *place, one.number)

    return sorted(records, key=key)


def causes(records: list[TrialRecord]) -> list[FailureCause]:
    """Why trials failed, the most frequent reason first."""
    found: dict[str, list[int]] = defaultdict(list)
    for one in records:
        if one.outcome == FAILED:
            reason = one.reason.strip() or "no reason is known"
            found[reason if len(reason) <= REASON else reason[:REASON] + " …"].append(one.number)
    causes = [FailureCause(reason, numbers) for reason, numbers in found.items()]
    return sorted(causes, key=lambda one: -len(one.numbers))
