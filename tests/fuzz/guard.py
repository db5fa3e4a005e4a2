"""Watches one input: how it ends, its memory, and what it does outside its folder."""

import os
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import scemae
from scemae.errors import ScemaeError

PACKAGE = Path(scemae.__file__).resolve().parent
ROOM = 2**30  # bytes that one input may take
ACCEPTED, REFUSED, TRACEBACK, HANG, MEMORY, DEATH, ESCAPE = (
    "accepted",
    "refused",
    "traceback",
    "hang",
    "memory",
    "death",
    "escape",
)
BAD = (TRACEBACK, HANG, MEMORY, DEATH, ESCAPE)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {
    "os.remove": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.mkdir": 1,
    "os.symlink": 2,
    "os.link": 2,
    "os.truncate": 1,
    "os.chmod": 1,
    "os.chown": 1,
    "os.utime": 1,
    "shutil.rmtree": 1,
}  # audit events that change a disk, and how many paths they name
STARTS = ("subprocess.Popen", "os.exec", "os.system", "os.posix_spawn", "os.startfile", "pty.spawn")
CONNECTS = (
    "socket.connect",
    "socket.bind",
    "socket.sendto",
    "socket.getaddrinfo",
    "urllib.Request",
)


class Escape(BaseException):
    """Raised where an input would leave its folder. `except Exception` does not catch it."""


@dataclass
class Outcome:
    """How one input ended; `signature` is the same for the same fault, `text` tells a person."""

    kind: str
    signature: str = ""
    text: str = ""


class Guard:
    """The hooks of this process, from its making to its end: they cannot be taken off again."""

    def __init__(self, folder: Path) -> None:
        """`folder` is where inputs may write; `folder`/canary may not change."""
        self.folder, self.own, self.escapes, self.wrote = (
            folder.resolve(),
            str(folder.resolve()) + "/",
            [],
            False,
        )
        self._is_watching = False
        sys.addaudithook(self._hook)

    def run(self, call: Callable[[], object]) -> Outcome:
        """Run one input."""
        self.escapes, self.wrote, before = [], False, _size()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (before + ROOM, hard))
        self._is_watching = True
        try:
            call()
            outcome = Outcome(ACCEPTED)
        except BaseException as error:
            self._is_watching = False
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            outcome = outcome_of(error)
        finally:
            self._is_watching = False
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        if self.escapes or not self._canary_lives():
            return Outcome(
                ESCAPE,
                self.escapes[0].split("'")[0] if self.escapes else "canary",
                "; ".join(self.escapes) or "the canary changed",
            )
        return outcome

    def _canary_lives(self) -> bool:
        canary = self.folder / "canary"
        return os.listdir(canary) == ["kept"] and (canary / "kept").read_bytes() == b"kept"

    def _hook(self, event: str, arguments: tuple) -> None:
        if not self._is_watching:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITES and not isinstance(path, int):
                self._check(event, path)
        elif paths := CHANGES.get(event):
            for path in arguments[:paths]:
                self._check(event, path, arguments[-1])
        elif (
            event in STARTS
            and not _is_ours(event, arguments)
            or event in CONNECTS
            or event == "pickle.find_class"
        ):
            self._refuse(f"{event} {str(arguments)[:200]}")

    def _check(self, event: str, path: object, folder: object = -1) -> None:
        if isinstance(path, int):
            return
        path = os.fsdecode(path)
        if isinstance(folder, int) and folder >= 0 and not os.path.isabs(path):
            path = f"{os.readlink(f'/proc/self/fd/{folder}')}/{path}"
        whole = os.path.realpath(os.path.dirname(path) or ".") + "/" + os.path.basename(path)
        if not whole.startswith(self.own) or whole.startswith(self.own + "canary"):
            if whole != "/dev/null":
                self._refuse(f"{event} '{whole}'")
        elif whole.startswith(self.own + "in/"):
            self.wrote = True

    def _refuse(self, what: str) -> None:
        self.escapes.append(what)
        raise Escape(what)


def outcome_of(error: BaseException) -> Outcome:
    """What scemae.cli would make of an exception that a command ends with."""
    text = "".join(traceback.format_exception(error))[-6000:]
    chain, cause = [error], error
    while (cause := cause.__cause__ or cause.__context__) and cause not in chain:
        chain.append(cause)
    if any(isinstance(one, MemoryError) or "can't allocate memory" in str(one) for one in chain):
        return Outcome(MEMORY, f"memory {_where(chain[-1])}", text)
    if isinstance(error, (ScemaeError, SystemExit)) or (
        isinstance(error, OSError) and error.errno is not None
    ):
        return Outcome(REFUSED, type(error).__name__, str(error))
    return Outcome(TRACEBACK, f"{type(error).__name__} {_where(error)}", text)


def _where(error: BaseException) -> str:
    """The last line of ours that an exception passed, and the last of all."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "nowhere"
    ours = [
        frame
        for frame in frames
        if "site-packages" not in frame.filename
        and "/tests/" not in frame.filename
        and "/lib/python" not in frame.filename
    ]
    shown = [
        f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.name}"
        for frame in (*ours[-1:], frames[-1])
    ]
    return " > ".join(dict.fromkeys(shown))


def _is_ours(event: str, arguments: tuple) -> bool:
    """True for git in this checkout, and for a Python that runs a module of this program.

    The reader of .mat files is such a module.
    """
    if event != "subprocess.Popen" or not isinstance(arguments[1], (list, tuple)):
        return False
    words = [os.fsdecode(word) for word in arguments[1]]
    if words[:2] == ["git", "-C"]:
        return words[2] == str(PACKAGE)
    return words[0] == sys.executable and any(
        word.startswith(("scemae.", str(PACKAGE.parent))) for word in words[1:]
    )


def _size() -> int:
    """Bytes of address space of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
