"""The findings of `scemae doctor`: verdict, subject and sentence; printed at once, and counted."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import distributed

from scemae.distributed.process_group import Place, agree
from scemae.errors import ScemaeError

OK, WARNING, REFUSED = "ok", "warning", "refused"


@dataclass
class Finding:
    """One line of the report."""

    verdict: str  # OK, WARNING or REFUSED
    subject: str
    text: str


class Report:
    """Prints findings on rank 0, and counts them."""

    def __init__(self) -> None:
        """Before the ranks have met, each prints its own findings."""
        self.rank = os.environ.get("RANK", "0")
        self._place: Place | None = None
        self.counts = {OK: 0, WARNING: 0, REFUSED: 0}

    @property
    def place(self) -> Place:
        """This rank in the process group."""
        assert self._place is not None  # `join` was called before
        return self._place

    def join(self, place: Place) -> None:
        """From now on rank 0 prints for all."""
        self._place = place

    def add(self, verdict: str, subject: str, text: str) -> None:
        """Print and count a finding."""
        self.counts[verdict] += 1
        self._say(f"{verdict:<9}{subject:<12}{text}")

    def all_ranks(self, subject: str, problem: str | None) -> bool:
        """Refuse each different problem of a rank; True if no rank has one. All ranks call it."""
        problems: list = [None] * self.place.world_size
        distributed.all_gather_object(problems, problem)
        for text in dict.fromkeys(filter(None, problems)):
            ranks = ", ".join(str(rank) for rank, other in enumerate(problems) if other == text)
            self.add(REFUSED, subject, text if all(problems) else f"{text} (rank {ranks})")
        return not any(problems)

    @property
    def refused(self) -> int:
        """The number of problems that rank 0 has refused so far. All ranks call it."""
        return agree(self.counts[REFUSED])

    def end(self) -> int:
        """Print the last line; returns the exit status, 1 if something was refused."""
        bad, warned = self.counts[REFUSED], self.counts[WARNING]
        warnings = f"{warned} warning{'' if warned == 1 else 's'}"
        problems = f"{bad} problem{'' if bad == 1 else 's'} to solve"
        self._say(
            f"not ready: {problems}, {warnings}" if bad else f"ready: nothing refused, {warnings}"
        )
        return 1 if bad else 0

    def _say(self, text: str) -> None:
        if (
            self._place is None and self.rank != "0"
        ):  # this rank alone may know why they do not meet
            print(f"rank {self.rank}: {text}", flush=True)
        elif self.rank == "0":
            print(text, flush=True)


def attempt(find: Callable[[], Any]) -> tuple[Any, str | None]:
    """The result of `find` and None, or None and the message of its error."""
    try:
        return find(), None
    except (ScemaeError, OSError, ValueError, RuntimeError) as error:
        return None, str(error)
