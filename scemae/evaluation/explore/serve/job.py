"""One piece of long work at a time, in a thread of its own: its progress, result, cancellation."""

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from scemae.errors import ConfigError, ScemaeError

Watch = Callable[[float], object]  # called with the share that is done; ends cancelled work


class CancelledError(Exception):
    """The user does not want the result any more."""


@dataclass
class JobState:
    """What the page shows of the last job."""

    name: str = ""
    is_running: bool = False
    share: float = 0.0
    seconds: float = 0.0
    said: str = ""  # what came out of it, in a sentence
    error: str = ""
    number: int = 0  # of jobs so far


class Desk:
    """Runs jobs, one at a time."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._state, self._stop = JobState(), threading.Event()
        self._lock, self._thread = threading.Lock(), threading.Thread()

    def state(self) -> JobState:
        """Of the last job."""
        return self._state

    def start(self, name: str, work: Callable[[Watch], str]) -> None:
        """Begin `work`, which returns a sentence. Raises ConfigError while another one runs."""
        with self._lock:
            if self._state.is_running:
                raise ConfigError(
                    f"found that `{self._state.name}` is still running; wait for it, or cancel it"
                )
            self._stop = threading.Event()
            state = JobState(name, True, number=self._state.number + 1)
            self._state = state
            self._thread = threading.Thread(
                target=_run, args=(state, work, self._stop), name=name, daemon=True
            )
            self._thread.start()

    def cancel(self) -> None:
        """Ask the job to end; it does at its next step."""
        self._stop.set()

    def wait(self, seconds: float | None = None) -> None:
        """Until the job has ended."""
        if self._thread.ident is not None:
            self._thread.join(seconds)


def _run(state: JobState, work: Callable[[Watch], str], stop: threading.Event) -> None:
    began = time.monotonic()

    def watch(share: float) -> None:
        state.share, state.seconds = share, time.monotonic() - began
        if stop.is_set():
            raise CancelledError

    try:
        state.said = work(watch)
        state.share = 1.0
    except CancelledError:
        state.said = "Cancelled; nothing was changed."
    except ScemaeError as error:
        state.error = str(error)
    except OSError as error:
        state.error = f"{error.filename or 'the disk'}: {error.strerror}; free space or repair it"
    except Exception as error:  # a bug of ours: the page says so, the terminal has the details
        traceback.print_exc()
        state.error = f"failed ({type(error).__name__}); the terminal has the details"
    finally:
        state.seconds = time.monotonic() - began
        state.is_running = False
