"""Rows of a run, one JSON object a line, appended to a file."""

import errno
import json
import os
import sys
from pathlib import Path

from scemae.files import disk


class Rows:
    """JSON lines that are appended to a file, and outlive a full disk: what finds no room is written later."""

    def __init__(self, path: Path) -> None:
        self._file, self._left = disk.open_to_append(path, 0o644), b""

    def write(self, row: dict) -> None:
        """Append one row, and whatever waits."""
        self._left += json.dumps(row).encode() + b"\n"
        try:
            while self._left:
                self._left = self._left[os.write(self._file, self._left) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    @property
    def is_behind(self) -> bool:
        """True while rows wait for room."""
        return bool(self._left)

    def close(self) -> None:
        """Close the file; rows that still wait are lost."""
        try:
            os.close(self._file)
        except (
            OSError
        ) as error:  # of a network disk; the last checkpoint was saved after its rows were synced
            print(f"scemae: the last rows may be lost ({error.strerror})", file=sys.stderr)
