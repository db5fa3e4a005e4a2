"""The rows of a run, one JSON object in each line, appended to a file."""

import errno
import json
import os
import sys
from pathlib import Path

from scemae.files import disk


class Rows:
    """Appends JSON lines to a file. On a full disk they are kept and written later."""

    def __init__(self, path: Path) -> None:
        self._file, self._waiting = disk.open_to_append(path, 0o644), b""

    def write(self, row: dict) -> None:
        """Append one row, after those that wait."""
        self._waiting += json.dumps(row).encode() + b"\n"
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(self._file, self._waiting) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    @property
    def is_behind(self) -> bool:
        """True while rows wait for room on the disk."""
        return bool(self._waiting)

    def close(self) -> None:
        """Close the file; rows that still wait are lost."""
        try:
            os.close(self._file)
        except OSError as error:  # a network disk may refuse only now what was written
            print(f"scemae: the last rows may be lost ({error.strerror})", file=sys.stderr)
