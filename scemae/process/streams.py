"""What a program says: stdout, stderr and log files. Messages may be lost, the work that they tell of is not.

A full disk under a log, a stream that the caller has closed, a reader that has left (`| true`): each makes a write fail.
`guard` puts streams in place that drop what cannot be written, count it, and say so once they can be written again. A
character that the terminal cannot show comes out as an escape code.
"""

import errno
import io
import os
import sys
from pathlib import Path
from typing import TextIO

from scemae.errors import FileError
from scemae.files.disk import open_to_append


class Forgiving(io.FileIO):
    """A file whose writes never raise: what cannot be written is dropped, and counted in `lost`, in bytes."""

    def __init__(self, descriptor: int, *, closefd: bool) -> None:
        super().__init__(descriptor, "w", closefd=closefd)
        self.lost, self.reason, self._unsaid, self._is_read = 0, "", 0, True

    def write(self, data: bytes) -> int:
        """Write all of `data`, or as much as can be written."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            if self._unsaid:
                super().write(
                    f"\n[{self._unsaid:,} bytes of messages were lost here: {self.reason}]\n".encode()
                )
                self._unsaid = 0
            while left:
                written = super().write(left)
                if written is None:  # a pipe that is full, and was opened not to wait
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                left = left[written:]
        except OSError as error:
            self._lose(len(left), error)
        return size

    def close(self) -> None:
        """Close it. A network disk may refuse only now what was written."""
        try:
            super().close()
        except OSError as error:
            self._lose(1, error)

    @property
    def is_incomplete(self) -> bool:
        """True where somebody who still reads did not get all: on a full disk, say; not where the reader has left."""
        return self.lost > 0 and self._is_read

    def _lose(self, count: int, error: OSError) -> None:
        self.reason, self._is_read = error.strerror or str(error), error.errno != errno.EPIPE
        self.lost, self._unsaid = self.lost + count, self._unsaid + count


def guard() -> None:
    """Give this process a stdin, stdout and stderr, of which the last two never raise. A second call changes nothing."""
    if sys.stdin is None:  # it was closed: else the next file that is opened would take its number
        sys.stdin = open(_nowhere(os.O_RDONLY), encoding="utf8")
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _text(Forgiving(_nowhere(os.O_WRONLY), closefd=False)))
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            try:
                stream.flush()
            except OSError:
                pass  # what was said before this call
            setattr(
                sys,
                name,
                _text(
                    Forgiving(number, closefd=False),
                    encoding=stream.encoding,
                    line_buffering=stream.line_buffering,
                    write_through=stream.write_through,
                ),
            )


def incomplete(stream: TextIO | None) -> str:
    """Why not all that was printed to a guarded stream is there, or nothing."""
    if stream is not None:
        stream.flush()
    file = getattr(stream, "buffer", None)
    return file.reason if isinstance(file, Forgiving) and file.is_incomplete else ""


def log_file(path: Path) -> TextIO:
    """A text file that lines are appended to, each at once; what cannot be written is lost, and nothing raises."""
    return _text(Forgiving(log_descriptor(path), closefd=True), line_buffering=True)


def log_descriptor(path: Path) -> int:
    """A descriptor that appends to `path`; where that cannot be opened, one that leads nowhere, which stderr is told."""
    try:
        return open_to_append(path)
    except (OSError, FileError) as error:
        print(
            f"scemae: {path}: cannot be written ({error}); the lines for it are lost",
            file=sys.stderr,
            flush=True,
        )
        return os.open(os.devnull, os.O_WRONLY)


def _text(
    file: Forgiving,
    *,
    encoding: str = "utf8",
    line_buffering: bool = True,
    write_through: bool = False,
) -> TextIO:
    return io.TextIOWrapper(
        file,
        encoding,
        "backslashreplace",
        line_buffering=line_buffering,
        write_through=write_through,
    )


def _nowhere(mode: int) -> int:
    """A descriptor of /dev/null, the lowest that is free, which children inherit."""
    descriptor = os.open(os.devnull, mode)
    os.set_inheritable(descriptor, True)
    return descriptor
