"""Where the values of a swept setting stand on an axis: numbers, their logarithms, or words side by side."""

import math
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from scemae.sweep.trials import TrialRecord

WIDE = 50  # largest value over smallest from which an axis of positive numbers is logarithmic, if not told (ours)
TICKS = 6  # values written at an axis, about
EACH = 9  # different values up to which each is written


def say(value: Any) -> str:
    """A value as a person reads it, and as YAML spells it; numbers to four digits."""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if value is None:
        return "null"
    if not is_number(value):
        return str(value)
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e6 else f"{value:.4g}"


def is_number(value: Any) -> bool:
    """True for a finite number; a bool is a word."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_missing(value: Any) -> bool:
    """True for None, and for what is meant to be a number and is none."""
    return value is None or isinstance(value, float) and not math.isfinite(value)


@dataclass
class Axis:
    """A setting's axis, from 0 to 1. Words stand at equal distances; `known` are the numbers tried, if they are few."""

    name: str
    label: str = ""
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    words: list[str] = field(default_factory=list)
    known: list[float] = field(default_factory=list)

    @property
    def is_discrete(self) -> bool:
        """True where trials share a few places."""
        return bool(self.words or self.known)

    def place(self, value: Any) -> float:
        """Where a value stands; not a number where a trial has none that fits."""
        if self.words:
            text = say(value)
            return (
                (self.words.index(text) + 0.5) / len(self.words) if text in self.words else math.nan
            )
        if not is_number(value) or self.is_log and value <= 0:
            return math.nan
        if self.high == self.low:
            return 0.5
        low, high, value = (
            (math.log(number) for number in (self.low, self.high, value))
            if self.is_log
            else (self.low, self.high, value)
        )
        return (value - low) / (high - low)

    def places(self, records: list[TrialRecord]) -> np.ndarray:
        """Where each trial stands, (trials,)."""
        return np.array([self.place(one.values.get(self.name)) for one in records], float)

    def ticks(self, least: float = 0.055) -> list[tuple[float, str]]:
        """Places and what to write there, in order, at least `least` of the axis apart."""
        if self.words:
            found = self.words
        elif self.known or self.high == self.low:
            found = self.known or [self.low]
        elif self.is_log:
            found = _round_numbers(self.low, self.high, most=1 / least)
        else:
            found = list(
                MaxNLocator(min(TICKS - 1, int(1 / least))).tick_values(self.low, self.high)
            )
        kept: list[tuple[float, str]] = []
        for at, text in ((self.place(value), say(value)) for value in found):
            if -1e-9 <= at <= 1 + 1e-9 and (not kept or at - kept[-1][0] >= least):
                kept.append((at, text))
        if self.is_discrete or len(kept) > 1:
            return kept
        return [(self.place(end), say(end)) for end in sorted({self.low, self.high})]


def _round_numbers(low: float, high: float, *, most: float) -> list[float]:
    """1, 2, 5, 10 and so on between two numbers, or the powers of ten where those would be too many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine, coarse = (
        [step * 10.0**decade for decade in decades for step in steps] for steps in ((1, 2, 5), (1,))
    )
    within = [value for value in fine if low <= value <= high]
    return within if len(within) <= min(most, TICKS + 2) else coarse


def axis_of(name: str, label: str, records: list[TrialRecord], given: dict[str, Any]) -> Axis:
    """The axis of a setting: every value tried, and all of its range where `given` (low, high, log, values) has one.

    What is not all numbers is written as words. The paper's setting may stand outside the range.
    """
    tried = [value for value in (one.values.get(name) for one in records) if not is_missing(value)]
    listed = list(given.get("values") or [])
    if not all(map(is_number, tried + listed)):
        words = list(dict.fromkeys(map(say, listed))) + sorted({say(value) for value in tried})
        return Axis(name, label, words=list(dict.fromkeys(words)))
    limits = [] if listed else [given[key] for key in ("low", "high") if is_number(given.get(key))]
    numbers = sorted({float(value) for value in tried + listed + limits}) or [0.0]
    low, high = numbers[0], numbers[-1]
    told = bool(given.get("log")) if limits else low > 0 and high / low >= WIDE
    different = sorted({float(value) for value in tried + listed})
    return Axis(
        name, label, low, high, told and low > 0, known=different if len(different) <= EACH else []
    )


def axes_of(records: list[TrialRecord], parameters: dict[str, dict]) -> list[Axis]:
    """The axes of all swept settings, labelled by the last part of their names where that is theirs alone."""
    lasts = [name.rpartition(".")[2] for name in parameters]
    labels = {
        name: last if lasts.count(last) == 1 else name for name, last in zip(parameters, lasts)
    }
    return [axis_of(name, labels[name], records, given) for name, given in parameters.items()]
