"""Everything that a user, a disk or a cluster can get wrong, as one tree of exceptions.

    ScemaeError
    |-- ConfigError          a setting that is unknown, of a wrong type, or that cannot work
    |-- DataError            images or annotations that are missing, malformed or inconsistent
    |   `-- ShardError       a shard, index or manifest that is missing, truncated or altered
    |       `-- UnreachableError  a bucket or a web server that does not answer, or refuses
    |-- FileError            a device, a link, or a file larger than its kind can be
    |-- CheckpointError      no checkpoint, a damaged one, or one of another model
    |-- LedgerError          a run whose samples are not those of the plan
    |-- RunFolderError       a run folder in use, or holding another run
    |-- LaunchError          ranks, devices or the process group cannot be set up as asked
    |-- BadStepError         a step with a loss or gradients that are not finite, or far off
    |-- LostRankError        another rank died or hangs; the job starts again
    `-- Preempted            asked to stop; everything is saved

Each message says what was found, what was needed and what to do. `exit_status` is what the shell
gets.
"""

import unicodedata

# Kinds of characters that command a terminal, reverse the direction of text, or cannot be written.
CONTROL = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    """`text` with control characters as escape codes.

    Text of a file must not command a terminal, or imitate a line of ours.
    """
    return "".join(
        letter
        if letter in "\n\t" or unicodedata.category(letter) not in CONTROL
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


class ScemaeError(Exception):
    """Base of all errors that are reported as one sentence, without a traceback."""

    exit_status = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class FramingWarning(UserWarning):
    """A picture's frame is unlike training pictures, or that could not be checked."""


class ConfigError(ScemaeError):
    """A setting that is unknown, of a wrong type, or that cannot work with others."""


class DataError(ScemaeError):
    """Images or annotations that are missing, malformed or inconsistent."""


class ShardError(DataError):
    """A shard, index or manifest that is missing, truncated or altered."""


class UnreachableError(ShardError):
    """A bucket or a web server that does not answer, or refuses: the shards may be whole.

    passes: the job script requeues, as for a lost rank; where a person is needed it does not.
    """

    def __init__(self, message: object, *, passes: bool = False) -> None:
        super().__init__(message)
        self.exit_status = 75 if passes else 1


class FileError(ScemaeError):
    """A device, a link, or a file larger than its kind can be; it was not touched."""


class CheckpointError(ScemaeError):
    """No checkpoint, a damaged one, or one of another model."""


class LedgerError(ScemaeError):
    """A run whose samples are not those of the plan: one skipped, one twice, or other pixels."""


class RunFolderError(ScemaeError):
    """A run folder that another process uses, or that holds another run."""


class LaunchError(ScemaeError):
    """Ranks, devices or the process group cannot be set up as asked."""


class BadStepError(ScemaeError):
    """A step with a loss or gradients that are not finite, or far from those before.

    All ranks raise it together. steps: the global steps to leave out; rank: the one whose loss was
    not finite, or None.
    """

    def __init__(self, message: str, steps: list[int], rank: int | None) -> None:
        super().__init__(message)
        self.steps, self.rank = steps, rank


class LostRankError(ScemaeError):
    """Another rank died or does not answer. The job script requeues on this status."""

    exit_status = 75


class Preempted(ScemaeError):
    """Asked to stop; all is saved. The job script requeues on this status (EX_TEMPFAIL)."""

    exit_status = 75
