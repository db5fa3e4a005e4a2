"""Everything that a user, a disk or a cluster can get wrong, as one tree of exceptions.

    ScemaeError
    |-- ConfigError          a key, a type or a combination of settings that cannot work
    |-- DataError            a source of images or annotations that is missing, malformed or inconsistent
    |   `-- ShardError       a shard, index or manifest that is missing, truncated or altered
    |-- FileError            a file that is a device, a link or larger than its kind can be, and so was not touched
    |-- CheckpointError      no checkpoint, a damaged one, or one of another model
    |-- LedgerError          a run whose samples are not those of the plan
    |-- RunFolderError       a run folder in use, or holding another run
    |-- LaunchError          ranks, devices or the process group cannot be set up as asked
    |-- BadStepError         a step whose loss or gradients are no numbers, or far from those before
    |-- LostRankError        another rank died or hangs; the job starts again
    `-- Preempted            asked to stop; everything is saved

Each message says what was found, what was needed and what to do. `exit_status` is what the shell sees.
"""

import unicodedata

CONTROL = (
    "Cc",
    "Cf",
    "Cs",
    "Zl",
    "Zp",
)  # command a terminal, turn the direction of writing, or cannot be written


def printable(text: str) -> str:
    """`text` with its control characters written out: a file's own words must not command a terminal, or fake a line."""
    return "".join(
        letter
        if letter in "\n\t" or unicodedata.category(letter) not in CONTROL
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


class ScemaeError(Exception):
    """Base of all errors that are reported as one sentence, without a traceback. Its message is `printable`."""

    exit_status = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class ConfigError(ScemaeError):
    """A key, a type or a combination of settings that cannot work."""


class DataError(ScemaeError):
    """A source of images or annotations that is missing, malformed or inconsistent."""


class ShardError(DataError):
    """A shard, index or manifest that is missing, truncated or altered."""


class FileError(ScemaeError):
    """A file that is a device, a link or larger than its kind can be, and so was not touched."""


class CheckpointError(ScemaeError):
    """No checkpoint, a damaged one, or one of another model."""


class LedgerError(ScemaeError):
    """A run whose samples are not those of the plan: one skipped, one twice, or other pixels."""


class RunFolderError(ScemaeError):
    """A run folder that another process uses, or that holds another run."""


class LaunchError(ScemaeError):
    """Ranks, devices or the process group cannot be set up as asked."""


class BadStepError(ScemaeError):
    """A step whose loss or gradients are no numbers, or far from those before, found by all ranks together.

    `steps` are the global steps to leave out; `rank` is the one whose loss was bad, or None.
    """

    def __init__(self, message: str, steps: list[int], rank: int | None) -> None:
        super().__init__(message)
        self.steps, self.rank = steps, rank


class LostRankError(ScemaeError):
    """Another rank died, or does not answer: what is saved stays, and the job script requeues on this status."""

    exit_status = 75


class Preempted(ScemaeError):
    """Asked to stop; everything is saved. The job script requeues on this status (EX_TEMPFAIL)."""

    exit_status = 75
