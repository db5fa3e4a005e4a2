"""The names in a folder that many processes look at again and again, listed only after a change."""

import os
import time
from collections.abc import Callable
from pathlib import Path

COARSE = 2.0  # seconds: no file system's clock of changes is coarser


class FolderNames:
    """The names in `folder`, listed again only after one was added, renamed or removed.

    The folder's time of change says that. It is asked of an open folder, because opening one makes
    NFS ask its server, as a listing does, where a stat may be answered from memory.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self._clock = folder, clock
        self._names: list[str] = []
        self._changed = self._since = -1.0  # the time of change, and when it was first seen
        self._is_settled = False

    def read(self) -> list[str]:
        """The names now. Raises OSError."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            changed, now = os.fstat(descriptor).st_mtime_ns, self._clock()
            if changed != self._changed:
                self._changed, self._since, self._is_settled = changed, now, False
            if not self._is_settled:
                self._names = os.listdir(descriptor)
                # A later change within COARSE may leave the time as it is: list once more then.
                self._is_settled = now - self._since > COARSE
            return self._names
        finally:
            os.close(descriptor)
