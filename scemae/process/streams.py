"""stdout, stderr and log files whose failures do not end the program.

Writing fails on a full disk, to a stream that the caller has closed, and to a reader that has left
(`| true`). `guard` installs streams that drop what cannot be written, count it, and report the loss
once they can write again. A character that the terminal cannot show is printed as an escape code.
"""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from scemae.errors import FileError
from scemae.files.disk import open_to_append


class Forgiving(io.FileIO):
    """A file whose writes never raise. `lost` counts the bytes that could not be written."""

    def __init__(self, descriptor: int, *, closefd: bool) -> None:
        super().__init__(descriptor, "w", closefd=closefd)
        self.lost, self.reason, self._unsaid, self._is_read = 0, "", 0, True

    def write(self, data: Any) -> int:
        """Write as much of `data` as possible; returns its size."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            if self._unsaid:
                note = f"\n[{self._unsaid:,} bytes of messages were lost here: {self.reason}]\n"
                super().write(note.encode())
                self._unsaid = 0
            while left:
                written = super().write(left)
                if written is None:  # a full pipe that was opened not to wait
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                left = left[written:]
        except OSError as error:
            self._lose(len(left), error)
        return size

    def close(self) -> None:
        """Close the file. A network disk may refuse only now what was written."""
        try:
            super().close()
        except OSError as error:
            self._lose(1, error)

    @property
    def is_incomplete(self) -> bool:
        """True where output was lost that somebody reads: a full disk, say, not a closed pipe."""
        return self.lost > 0 and self._is_read

    def _lose(self, count: int, error: OSError) -> None:
        self.reason, self._is_read = error.strerror or str(error), error.errno != errno.EPIPE
        self.lost, self._unsaid = self.lost + count, self._unsaid + count


def guard() -> None:
    """Give this process a stdin, and a stdout and stderr that never raise.

    A second call changes nothing.
    """
    if sys.stdin is None:  # it was closed, and the next file opened would take its number
        sys.stdin = open(_nowhere(os.O_RDONLY), encoding="utf8")
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _text(Forgiving(_nowhere(os.O_WRONLY), closefd=False)))
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            try:
                stream.flush()
            except OSError:
                pass  # of output before this call
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
    """Why output to a guarded stream was lost; empty where none was."""
    if stream is not None:
        stream.flush()
    file = getattr(stream, "buffer", None)
    return file.reason if isinstance(file, Forgiving) and file.is_incomplete else ""


def log_file(path: Path) -> TextIO:
    """A text file to append lines to, each at once. Lines that cannot be written are lost."""
    return _text(Forgiving(log_descriptor(path), closefd=True), line_buffering=True)


def log_descriptor(path: Path) -> int:
    """A descriptor that appends to `path`, or to /dev/null, with a message, where it cannot."""
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
    """A descriptor of /dev/null, the lowest free one, which child processes inherit."""
    descriptor = os.open(os.devnull, mode)
    os.set_inheritable(descriptor, True)
    return descriptor
