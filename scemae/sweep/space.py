"""The search space of a sweep: which settings, in which ranges, under which constraints; points of it by seed and number.

    parameters:                                    nested as the settings of the stage
      carb:
        eta: {low: 0.05, high: 0.5, step: 0.025}   a number; log: true draws its logarithm; whole numbers stay whole
        projector: {values: [linear, mlp]}         one of these
    constraints:
      - carb.r_att_att > carb.r_inatt_inatt        <, <=, > or >= between settings or numbers

A point depends on (seed, number) alone, so any process draws the same trial 17, whatever was drawn before.
"""

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from itertools import product
from typing import Any

import numpy as np

from scemae.config import checks
from scemae.config.dotted import setting_names
from scemae.config.schema import SCHEMAS
from scemae.config.schema.jobs import SpaceConfig
from scemae.errors import ConfigError

COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
TRIES = 10_000  # draws without one that fits before a space counts as empty
POINTS = 100_000  # of a grid, at most

Values = dict[str, Any]  # by name of the setting


def rounded(value: float) -> float:
    """To six digits: what is typed again is the same number."""
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
        """The value at `share` (0 to below 1) of the range, all parts alike likely (in the logarithm with log)."""
        if self.values is not None:
            return self.values[int(share * len(self.values))]
        if self.step is not None or self.is_whole:
            if self.log:  # as whole numbers whose logarithms fill the range
                low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
                return min(
                    max(round(math.exp(low + share * (high - low))), int(self.low)), int(self.high)
                )
            steps = self.steps()
            return steps[int(share * len(steps))]
        if self.log:
            return rounded(
                math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
            )
        return rounded(self.low + share * (self.high - self.low))

    def steps(self) -> list:
        """All its values. Raises ConfigError for a range without steps."""
        if self.values is not None:
            return self.values
        if self.step is None and not self.is_whole:
            raise ConfigError(
                f"space: {self.name} has no step, and search=grid needs one; give {{low, high, step}} or "
                "{values: [...]}, or search=random"
            )
        step = self.step or 1
        found = [
            self.low + i * step for i in range(math.floor((self.high - self.low) / step + 1e-9) + 1)
        ]
        return (
            [int(value) for value in found]
            if self.is_whole
            else [float(f"{value:.12g}") for value in found]
        )

    def contains(self, value: Any) -> bool:
        """True where the search could draw this value."""
        if self.values is not None:
            return value in self.values
        if isinstance(value, str) or not self.low <= value <= self.high:
            return False
        return self.step is None or any(math.isclose(value, step) for step in self.steps())

    @property
    def ends(self) -> list:
        """The values at its edges: all of them for a choice."""
        return self.values if self.values is not None else [self.low, self.high]


@dataclass
class Space:
    """A checked search space of one stage."""

    stage: str
    parameters: list[Parameter]
    constraints: list[str]

    def fits(self, values: Values) -> bool:
        """True where `values` keep every constraint."""
        return all(_holds(text, values) for text in self.constraints)

    def draw(self, seed: int, number: int) -> Values:
        """Point `number` of the random search: the first that fits of a stream of its own. Raises ConfigError."""
        stream = np.random.Generator(np.random.Philox(key=[seed, number]))
        for _ in range(TRIES):
            values = {
                parameter.name: parameter.draw(share)
                for parameter, share in zip(self.parameters, stream.random(len(self.parameters)))
            }
            if self.fits(values):
                return values
        raise ConfigError(
            f"space: none of {TRIES:,} points drawn keeps its constraints ({'; '.join(self.constraints)}); widen "
            "the ranges or drop a constraint"
        )

    def grid(self) -> list[Values]:
        """All points that fit, in order. Raises ConfigError where there are none, or no end of them."""
        columns = [parameter.steps() for parameter in self.parameters]
        if (count := math.prod(map(len, columns))) > POINTS:
            raise ConfigError(
                f"space: a grid of {count:,} points; at most {POINTS:,}, give larger steps or search=random"
            )
        found = [
            values
            for point in product(*columns)
            if self.fits(
                values := dict(zip([parameter.name for parameter in self.parameters], point))
            )
        ]
        if not found:
            raise ConfigError(
                f"space: none of its {count:,} points keeps its constraints ({'; '.join(self.constraints)}); "
                "widen the ranges or drop a constraint"
            )
        return found

    def corners(self, most: int = 4096) -> Iterator[Values]:
        """Points at the edges of the space that fit: what cannot run there is found before anything starts."""
        points = product(*(parameter.ends for parameter in self.parameters))
        for _, point in zip(range(most), points):
            values = dict(zip([parameter.name for parameter in self.parameters], point))
            if self.fits(values):
                yield values

    def contains(self, values: Values) -> bool:
        """True where the search could draw these values."""
        return all(
            parameter.contains(values[parameter.name]) for parameter in self.parameters
        ) and self.fits(values)


def read(found: SpaceConfig) -> Space:
    """Check a space as configs/space has it. Raises ConfigError in one sentence."""
    checks.one_of("space.stage", found.stage, ("pretrain", "correspond"))
    schema = SCHEMAS[found.stage]
    known = setting_names(schema)
    parameters = []
    for name, leaf in _leaves(found.parameters, ""):
        if name not in known and not name.startswith("method.settings."):
            raise ConfigError(
                f"space: found no setting {name!r} of `scemae {found.stage}`; `scemae {found.stage} --cfg` prints "
                "every one"
            )
        parameters.append(_parameter(name, leaf, _type_of(schema, name)))
    if not parameters:
        raise ConfigError(
            "space: found no parameters to search, at least one was needed; give space=carb, or a file with "
            "parameters: {carb: {eta: {low: 0.05, high: 0.5}}}"
        )
    names = [
        one.name
        for one in parameters
        if one.values is None or not any(isinstance(value, str) for value in one.values)
    ]
    for text in found.constraints:
        _check_constraint(text, names)
    return Space(found.stage, parameters, list(found.constraints))


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
                f"space: {name}: found {leaf}, {{values: [...]}} with at least one value and nothing beside it was "
                "needed"
            )
        return Parameter(name, values=list(leaf["values"]))
    low, high, step, log = (leaf.get(key) for key in ("low", "high", "step", "log"))
    numbers = [number for number in (low, high, step) if number is not None]
    if (
        low is None
        or high is None
        or not all(isinstance(number, int | float) for number in numbers)
        or not low < high
    ):
        raise ConfigError(f"space: {name}: found {leaf}, numbers low < high were needed")
    if (step is not None and step <= 0) or (log and (low <= 0 or step is not None)):
        raise ConfigError(
            f"space: {name}: found {leaf}; step must be above 0, and log needs low above 0 and no step"
        )
    is_whole = kind is int
    if is_whole and any(number != int(number) for number in numbers):
        raise ConfigError(f"space: {name}: found {leaf}, whole numbers were needed")
    return Parameter(name, low, high, step, bool(log), is_whole)


def _type_of(schema: Any, name: str) -> Any:
    for part in name.split("."):
        if not is_dataclass(schema):
            return None
        schema = next((field.type for field in fields(schema) if field.name == part), None)
    return schema


def _parts(text: str) -> list[str]:
    return text.split()


def _check_constraint(text: str, names: list[str]) -> None:
    parts = _parts(text)
    if len(parts) != 3 or parts[1] not in COMPARE:
        raise ConfigError(
            f"space: constraint {text!r}: found no comparison; `carb.r_att_att > carb.r_inatt_inatt`, say, with "
            "spaces around <, <=, > or >="
        )
    for side in (parts[0], parts[2]):
        if side not in names and not _is_number(side):
            raise ConfigError(
                f"space: constraint {text!r}: found {side!r}, which is neither a number nor one of the parameters "
                f"that are numbers ({', '.join(names)})"
            )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _holds(text: str, values: Values) -> bool:
    left, compare, right = _parts(text)
    return COMPARE[compare](
        *(values[side] if side in values else float(side) for side in (left, right))
    )
