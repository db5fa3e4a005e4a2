"""The cores that this process may use: in a job those of the job, not those of the node."""

import os


def cores() -> int:
    """How many there are."""
    return len(os.sched_getaffinity(0))
