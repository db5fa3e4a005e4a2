"""Progress: a bar on a terminal; elsewhere a line about once a minute, which a log can carry."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from tqdm import tqdm

EVERY = 60.0  # seconds between two lines


class LoggedProgress:
    """The calls of tqdm's bar that this program uses, as lines `NAME: DONE of TOTAL, RATE, LEFT`.

    What ends within the first minute prints nothing. It holds no stream: Ray pickles what has one.
    """

    def __init__(
        self,
        items: Iterable | None,
        total: float | None,
        *,
        clock: Callable[[], float],
        initial: float = 0,
        desc: str | None = None,
        unit: str = "it",
        unit_scale: bool = False,
        **_: Any,
    ) -> None:
        self._items, self.total, self.n = items, total, initial
        self._clock, self._initial = clock, initial
        self._name, self._unit, self._is_scaled = desc, unit.strip(), unit_scale
        self._postfix, self._is_said, self._is_closed = "", False, False
        self._began = self._last = clock()

    def __iter__(self) -> Iterator[Any]:
        for item in self._items or ():
            yield item
            self.update()
        self.close()

    def __enter__(self) -> "LoggedProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, count: float = 1) -> None:
        """Count more as done; write a line where the last one is a minute old."""
        self.n += count
        if (now := self._clock()) - self._last >= EVERY:
            self._last, self._is_said = now, True
            say(self._line(now - self._began), sys.stderr)

    def set_postfix(self, **values: Any) -> None:
        """Name values that the next lines show, such as the loss."""
        self._postfix = ", ".join(f"{name} {value}" for name, value in values.items())

    def set_postfix_str(self, text: str) -> None:
        """Say what the next lines show at their end."""
        self._postfix = text

    def close(self) -> None:
        """Write the last line, where there was one before."""
        if self._is_said and not self._is_closed:
            took = tqdm.format_interval(self._clock() - self._began)
            say(f"{self._head()}, ended after {took}", sys.stderr)
        self._is_closed = True

    def _line(self, seconds: float) -> str:
        rate = (self.n - self._initial) / seconds
        # a rate below one is said as the time of one
        speed = f"{self._amount(rate)}/s" if rate >= 1 or not rate else f"{1 / rate:.1f} s each"
        parts = [self._head(), speed]
        if self.total and rate:
            left = tqdm.format_interval(max(self.total - self.n, 0) / rate)
            parts.append(f"about {left} left")
        return ", ".join([*parts, self._postfix] if self._postfix else parts)

    def _head(self) -> str:
        name = f"{self._name}: " if self._name else ""
        if self.total is None:
            return f"{name}{self._amount(self.n)}"
        share = f" ({self.n / self.total:.0%})" if self.total else ""
        return f"{name}{self._number(self.n)} of {self._amount(self.total)}{share}"

    def _amount(self, number: float) -> str:
        """A number with its unit: 1,200 images, 12.3 images, 1.20GB."""
        if self._is_scaled:
            return f"{self._number(number)}{self._unit}"
        return f"{self._number(number)} {self._unit}{'' if self._unit.endswith('s') else 's'}"

    def _number(self, number: float) -> str:
        if self._is_scaled:
            return str(tqdm.format_sizeof(number))
        return f"{number:,.0f}" if number == int(number) or number >= 100 else f"{number:.1f}"


def progress_bar(
    items: Iterable | None = None,
    *,
    show: bool = True,
    total: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    **settings: Any,
) -> tqdm | LoggedProgress:
    """tqdm's bar over `items`, or of `total`; where stderr is no terminal, lines in its place.

    It prints nothing without `show`. clock: seconds, for the lines.
    """
    stream = sys.stderr
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if show and stream is not None and not stream.isatty():
        return LoggedProgress(items, total, clock=clock, **settings)
    disable = not show or stream is None
    return tqdm(items, total=total, dynamic_ncols=True, disable=disable, **settings)


def say(text: str, file: TextIO | None) -> None:
    """Print a line at once, above any bars."""
    if file is not None:
        tqdm.write(text, file=file)
        file.flush()
