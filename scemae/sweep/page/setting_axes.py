"""The axis of a swept setting, from 0 to 1: numbers, logarithms of numbers, or categories."""

import math
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, TypeGuard

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from scemae.sweep.trials import TrialRecord

LOG_RATIO = 50  # highest over lowest positive number at which an axis is logarithmic (ours)
TICKS = 6  # labels on an axis, about
FEW_VALUES = 9  # up to this many different numbers each one gets a label


def as_text(value: Any) -> str:
    """A value as YAML writes it, numbers to four digits."""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if value is None:
        return "null"
    if not is_number(value):
        return str(value)
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e6 else f"{value:.4g}"


def is_number(value: Any) -> TypeGuard[float]:
    """True for a finite number, but not for a bool."""
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def is_missing(value: Any) -> bool:
    """True for None, NaN and infinity."""
    return value is None or isinstance(value, float) and not math.isfinite(value)


@dataclass
class SettingAxis:
    """A setting's axis: `categories` at equal distances, or numbers from `low` to `high`."""

    name: str
    label: str = ""
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    categories: list[str] = field(default_factory=list)
    known: list[float] = field(default_factory=list)  # the numbers tried, if they are few

    @property
    def is_discrete(self) -> bool:
        """True where many trials share a value."""
        return bool(self.categories or self.known)

    def place(self, value: Any) -> float:
        """Where a value is, 0 to 1; NaN for one that does not fit this axis."""
        if self.categories:
            text, names = as_text(value), self.categories
            return (names.index(text) + 0.5) / len(names) if text in names else math.nan
        if not is_number(value) or self.is_log and value <= 0:
            return math.nan
        if self.high == self.low:
            return 0.5
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)

    def places(self, records: list[TrialRecord]) -> np.ndarray:
        """Where each trial is, (trials,)."""
        return np.array([self.place(one.values.get(self.name)) for one in records], float)

    def ticks(self, least: float = 0.055) -> list[tuple[float, str]]:
        """(place, label) of the ticks in order, at least `least` apart."""
        kept: list[tuple[float, str]] = []
        for value in self._tick_values(least):
            place = self.place(value)
            if -1e-9 <= place <= 1 + 1e-9 and (not kept or place - kept[-1][0] >= least):
                kept.append((place, as_text(value)))
        if self.is_discrete or len(kept) > 1:
            return kept
        return [(self.place(end), as_text(end)) for end in sorted({self.low, self.high})]

    def _tick_values(self, least: float) -> list:
        if self.categories:
            return self.categories
        if self.known or self.high == self.low:
            return self.known or [self.low]
        if not self.is_log:
            most = min(TICKS - 1, int(1 / least))
            return list(MaxNLocator(most).tick_values(self.low, self.high))
        fine = LogLocator(subs=(1, 2, 5), numticks=99).tick_values(self.low, self.high)
        within = sum(self.low <= value <= self.high for value in fine)
        if within <= min(1 / least, TICKS + 2):
            return list(fine)
        return list(LogLocator(numticks=99).tick_values(self.low, self.high))


def axis_of(
    name: str, label: str, records: list[TrialRecord], known: dict[str, Any]
) -> SettingAxis:
    """The axis of a setting: all values tried and the whole range that was searched.

    `known` is what is known of the range: low, high, log, values. The paper's setting may lie
    outside of it. Values that are not all numbers become categories.
    """
    found = (one.values.get(name) for one in records)
    tried: list[Any] = [value for value in found if not is_missing(value)]
    listed = list(known.get("values") or [])
    if not all(map(is_number, tried + listed)):
        categories = list(map(as_text, listed)) + sorted({as_text(value) for value in tried})
        return SettingAxis(name, label, categories=list(dict.fromkeys(categories)))
    given = [known.get(key) for key in ("low", "high")]
    limits = [] if listed else [float(end) for end in given if is_number(end)]
    different = sorted({float(value) for value in tried + listed})
    numbers = sorted({*different, *limits}) or [0.0]
    low, high = numbers[0], numbers[-1]
    is_log = bool(known.get("log")) if limits else low > 0 and high / low >= LOG_RATIO
    few = different if len(different) <= FEW_VALUES else []
    return SettingAxis(name, label, low, high, is_log and low > 0, known=few)


def axes_of(records: list[TrialRecord], parameters: dict[str, dict]) -> list[SettingAxis]:
    """The axes of all swept settings, each labelled by the last part of its name if unique."""
    lasts = [name.rpartition(".")[2] for name in parameters]
    return [
        axis_of(name, last if lasts.count(last) == 1 else name, records, known)
        for (name, known), last in zip(parameters.items(), lasts)
    ]
