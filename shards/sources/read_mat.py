"""Reads one .mat file from standard input and prints the points or boxes in it as JSON.

Run by mat.py as a process: a few altered bytes can make scipy's reader crash or take all memory, so
this process limits its own memory and time, and imports nothing of the project.
Usage: python read_mat.py points | boxes < FILE
"""

import io
import json
import resource
import sys
from typing import Any

MOST_MEMORY, MOST_SECONDS, MOST_NUMBERS = 2**30, 60, 5_000_000


def main() -> None:
    """Print {"value": ...} or {"error": why}."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    answer: dict[str, Any]
    try:
        import numpy as np
        from scipy.io import loadmat

        stored = loadmat(io.BytesIO(sys.stdin.buffer.read()))
        answer = {"value": (points if sys.argv[1] == "points" else boxes)(stored, np)}
    except MemoryError:
        answer = {"error": "it asks for more memory than such a file needs"}
    except Exception as error:  # scipy's reader raises anything on damaged files
        answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:200]}
    json.dump(answer, sys.stdout)


def points(stored: dict, np: Any) -> dict:
    """AFLW_R's two arrays, as nested lists of numbers."""
    return {name: numbers(stored[name], np).tolist() for name in ("gt", "hw")}


def boxes(stored: dict, np: Any) -> list:
    """300-W's boxes: (name of the image, its four numbers), in the file's order."""
    return [
        (
            str(entry["imgName"][0, 0][0]),
            numbers(entry["bb_ground_truth"][0, 0], np).ravel()[:4].tolist(),
        )
        for entry in stored["bounding_boxes"].ravel()
    ]


def numbers(found: Any, np: Any) -> Any:
    """An array of finite float64."""
    found = np.asarray(found, np.float64)
    if found.size > MOST_NUMBERS or not np.isfinite(found).all():
        raise ValueError("it holds numbers that are not finite, or too many")
    return found


if __name__ == "__main__":
    main()
