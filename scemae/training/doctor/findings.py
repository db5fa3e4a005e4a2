"""What `scemae doctor` finds: a verdict, a subject and a sentence each, counted, and printed as they come."""

import os
from dataclasses import dataclass

from torch import distributed

from scemae.distributed.process_group import agree

OK, WARNING, REFUSED = "ok", "warning", "refused"


@dataclass
class Finding:
    """One line of the report."""

    verdict: str  # OK, WARNING or REFUSED
    subject: str
    text: str


class Report:
    """Prints findings on rank 0 and counts them; `place` is set once the ranks have met."""

    def __init__(self) -> None:
        self.rank, self.place = os.environ.get("RANK", "0"), None
        self.counts = {OK: 0, WARNING: 0, REFUSED: 0}

    def add(self, verdict: str, subject: str, text: str) -> None:
        """One line."""
        self.counts[verdict] += 1
        self._say(f"{verdict:<9}{subject:<12}{text}")

    def all_ranks(self, subject: str, problem: str | None) -> bool:
        """Refuse for each different problem that a rank has; True where there is none. All ranks call it."""
        told: list = [None] * self.place.world_size
        distributed.all_gather_object(told, problem)
        for text in dict.fromkeys(filter(None, told)):
            ranks = ", ".join(str(rank) for rank, other in enumerate(told) if other == text)
            self.add(REFUSED, subject, text if all(told) else f"{text} (rank {ranks})")
        return not any(told)

    @property
    def refused(self) -> int:
        """Things refused so far, as rank 0 knows. All ranks ask together."""
        return agree(self.counts[REFUSED])

    def end(self) -> int:
        """The last line; returns the exit status: 1 where something was refused."""
        bad, warned = self.counts[REFUSED], self.counts[WARNING]
        warnings = f"{warned} warning{'' if warned == 1 else 's'}"
        self._say(
            f"not ready: {bad} thing{'' if bad == 1 else 's'} to mend, {warnings}"
            if bad
            else f"ready: nothing refused, {warnings}"
        )
        return 1 if bad else 0

    def _say(self, text: str) -> None:
        if (
            self.place is None and self.rank != "0"
        ):  # the ranks have not met: this one alone may know why
            print(f"rank {self.rank}: {text}", flush=True)
        elif self.rank == "0":
            print(text, flush=True)
