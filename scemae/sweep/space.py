"""The search space of a sweep: settings, ranges, constraints, and points by seed and number.

    parameters:                                    nested like the settings of the stage
      carb:
        eta: {low: 0.05, high: 0.5, step: 0.025}   numbers; log: true draws the logarithm
        projector: {values: [linear, mlp]}         one of these
    constraints:
      - carb.r_att_att > carb.r_inatt_inatt        <, <=, > or >= between settings or numbers

Settings that are whole numbers stay whole. A point depends on (seed, number) alone, so that any
process draws the same trial 17, whatever was drawn before.
"""

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice, product
from typing import Any

import numpy as np

from scemae.config import checks
from scemae.config.dotted import setting_names
from scemae.config.schema import SCHEMAS
from scemae.config.schema.jobs import SpaceConfig
from scemae.errors import ConfigError

COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
TRIES = 10_000  # draws that break a constraint before a space counts as empty
POINTS = 100_000  # of a grid, at most
CORNERS = 4096  # that are checked, at most

Values = dict[str, Any]  # by name of the setting


def rounded(value: float) -> float:
    """Six digits of a value, so that it can be typed again without loss."""
    return float(f"{value:.6g}")


@dataclass
class Parameter:
    """One searched setting: a range low..high, or values to choose from."""

    name: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    is_whole: bool = False
    values: list | None = None

    def draw(self, share: float) -> Any:
        """The value at the fraction `share`, in [0, 1), of the range, or of its logarithm (log)."""
        if self.values is not None:
            return self.values[int(share * len(self.values))]
        if self.log and (self.step is not None or self.is_whole):
            # Each whole number gets the part of the logarithm's range that rounds to it.
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            value = round(math.exp(low + share * (high - low)))
            return min(max(value, int(self.low)), int(self.high))
        if self.step is not None or self.is_whole:
            steps = self.steps()
            return steps[int(share * len(steps))]
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return rounded(math.exp(low + share * (high - low)))
        return rounded(self.low + share * (self.high - self.low))

    def steps(self) -> list:
        """All its values. Raises ConfigError for a range without steps."""
        if self.values is not None:
            return self.values
        if self.step is None and not self.is_whole:
            raise ConfigError(
                f"space: {self.name} has no step, and search=grid needs one; give {{low, high, "
                "step} or {values: [...]}, or search=random"
            )
        step = self.step or 1
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        found = [self.low + i * step for i in range(count)]
        if self.is_whole:
            return [int(value) for value in found]
        return [float(f"{value:.12g}") for value in found]

    def contains(self, value: Any) -> bool:
        """True where the search could draw this value."""
        if self.values is not None:
            return value in self.values
        if isinstance(value, str) or not self.low <= value <= self.high:
            return False
        return self.step is None or any(math.isclose(value, step) for step in self.steps())

    @property
    def ends(self) -> list:
        """The lowest and highest value, or all values of a choice."""
        return self.values if self.values is not None else [self.low, self.high]


@dataclass
class Space:
    """A checked search space of one stage."""

    stage: str
    parameters: list[Parameter]
    constraints: list[str]

    @property
    def names(self) -> list[str]:
        """The searched settings."""
        return [parameter.name for parameter in self.parameters]

    def fits(self, values: Values) -> bool:
        """True where `values` keep every constraint."""
        return all(_holds(text, values) for text in self.constraints)

    def draw(self, seed: int, number: int) -> Values:
        """Point `number` of the random search: the first of its own stream of draws that fits.

        Raises ConfigError if none does.
        """
        stream = np.random.Generator(np.random.Philox(key=[seed, number]))
        for _ in range(TRIES):
            shares = stream.random(len(self.parameters))
            drawn = [one.draw(share) for one, share in zip(self.parameters, shares)]
            values = dict(zip(self.names, drawn))
            if self.fits(values):
                return values
        raise ConfigError(
            f"space: none of {TRIES:,} points drawn keeps its constraints "
            f"({'; '.join(self.constraints)}); widen the ranges or drop a constraint"
        )

    def grid(self) -> list[Values]:
        """All points that fit, in order. Raises ConfigError if there are none, or too many."""
        columns = [parameter.steps() for parameter in self.parameters]
        if (count := math.prod(map(len, columns))) > POINTS:
            raise ConfigError(
                f"space: a grid of {count:,} points; at most {POINTS:,}, give larger steps or "
                "search=random"
            )
        points = [dict(zip(self.names, point)) for point in product(*columns)]
        found = [values for values in points if self.fits(values)]
        if not found:
            raise ConfigError(
                f"space: none of its {count:,} points keeps its constraints "
                f"({'; '.join(self.constraints)}); widen the ranges or drop a constraint"
            )
        return found

    def corners(self) -> Iterator[Values]:
        """Points at the ends of all ranges that fit, checked before a sweep starts."""
        points = product(*(parameter.ends for parameter in self.parameters))
        for point in islice(points, CORNERS):
            values = dict(zip(self.names, point))
            if self.fits(values):
                yield values

    def contains(self, values: Values) -> bool:
        """True where the search could draw these values."""
        is_inside = all(one.contains(values[one.name]) for one in self.parameters)
        return is_inside and self.fits(values)


def read(config: SpaceConfig) -> Space:
    """Check a space of configs/space or of the user. Raises ConfigError."""
    checks.one_of("space.stage", config.stage, ("pretrain", "correspond"))
    schema = SCHEMAS[config.stage]
    known = setting_names(schema)
    parameters = []
    for name, leaf in _leaves(config.parameters, ""):
        if name not in known and not name.startswith("method.settings."):
            raise ConfigError(
                f"space: found no setting {name!r} of `scemae {config.stage}`; "
                f"`scemae {config.stage} --cfg` prints every one"
            )
        parameters.append(_parameter(name, leaf, _type_of(schema, name)))
    if not parameters:
        raise ConfigError(
            "space: found no parameters to search, at least one was needed; give space=carb, or a "
            "file with parameters: {carb: {eta: {low: 0.05, high: 0.5}}}"
        )
    numbers = [
        one.name for one in parameters if not any(isinstance(v, str) for v in one.values or [])
    ]
    for text in config.constraints:
        _check_constraint(text, numbers)
    return Space(config.stage, parameters, list(config.constraints))


def _leaves(tree: Any, prefix: str) -> Iterator[tuple[str, dict]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if not isinstance(value, dict):
            raise ConfigError(
                f"space: {name}: found {value!r}, {{low, high}} or {{values: [...]}} was needed"
            )
        if value.keys() & {"low", "high", "values", "step", "log"}:
            yield name, value
        else:
            yield from _leaves(value, f"{name}.")


def _parameter(name: str, leaf: dict, kind: Any) -> Parameter:
    if unknown := leaf.keys() - {"low", "high", "step", "log", "values"}:
        raise ConfigError(
            f"space: {name}: found {sorted(unknown)[0]!r}; there are low, high, step, log, values"
        )
    if "values" in leaf:
        if len(leaf) > 1 or not isinstance(leaf["values"], list) or not leaf["values"]:
            raise ConfigError(
                f"space: {name}: found {leaf}, {{values: [...]}} with at least one value and "
                "nothing beside it was needed"
            )
        return Parameter(name, values=list(leaf["values"]))
    low, high, step, log = (leaf.get(key) for key in ("low", "high", "step", "log"))
    numbers = [number for number in (low, high, step) if number is not None]
    are_numbers = all(isinstance(number, int | float) for number in numbers)
    if low is None or high is None or not are_numbers or not low < high:
        raise ConfigError(f"space: {name}: found {leaf}, numbers low < high were needed")
    if (step is not None and step <= 0) or (log and (low <= 0 or step is not None)):
        raise ConfigError(
            f"space: {name}: found {leaf}; step must be above 0, and log needs low above 0 and no "
            "step"
        )
    is_whole = kind is int
    if is_whole and any(number != int(number) for number in numbers):
        raise ConfigError(f"space: {name}: found {leaf}, whole numbers were needed")
    return Parameter(name, low, high, step, bool(log), is_whole)


def _type_of(schema: Any, name: str) -> Any:
    """The type of a setting, such as int; None for settings of a method."""
    for part in name.split("."):
        if not is_dataclass(schema):
            return None
        schema = next((field.type for field in fields(schema) if field.name == part), None)
    return schema


def _check_constraint(text: str, names: list[str]) -> None:
    parts = text.split()
    if len(parts) != 3 or parts[1] not in COMPARE:
        raise ConfigError(
            f"space: constraint {text!r}: found no comparison; give one such as `carb.r_att_att > "
            "carb.r_inatt_inatt`, with spaces around <, <=, > or >="
        )
    for side in (parts[0], parts[2]):
        if side not in names and not _is_number(side):
            raise ConfigError(
                f"space: constraint {text!r}: found {side!r}, which is neither a number nor one of "
                f"the parameters that are numbers ({', '.join(names)})"
            )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _holds(text: str, values: Values) -> bool:
    left, compare, right = text.split()
    sides = [values[side] if side in values else float(side) for side in (left, right)]
    return COMPARE[compare](*sides)
