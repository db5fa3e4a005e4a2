"""Signals that ask a run to stop. During training they set a flag, on which all ranks act at a
heartbeat; before it they end the process within a second.

Python runs a signal handler in the main thread alone, between two of its own instructions. While
that thread waits for other ranks inside torch, no handler runs for minutes. So another thread reads
a pipe into which Python's C code writes each signal's number at once (`signal.set_wakeup_fd`).
"""

import os
import signal
import sys
import threading
import time

from scemae.errors import Preempted

PATIENCE = 1.0  # seconds for the main thread to end by itself, before the process is ended
# Seconds after which a second Ctrl-C is the user's: a launcher repeats the first one at once.
AGAIN = 3.0


class StopRequest:
    """`requested` is True once SIGTERM, SIGINT or SIGUSR2 has come. SIGUSR1 is NCCL's.

    A process that this one forks gets the default handlers back, because only ranks save.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

    def __init__(self, doing: str | None = None) -> None:
        """doing: what the process does before there is anything to save.

        With it, a signal ends the process within a second, with status 75, until `begin` is called.
        Without it, and from then on, a signal only sets the flag; a repeated Ctrl-C ends the
        process with status 130.
        """
        self.requested, self._asked, self._doing = False, 0.0, doing
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        for number in self.SIGNALS:
            signal.signal(number, self._set)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=self.forget)
        threading.Thread(target=self._listen, args=(reading,), name="signals", daemon=True).start()

    def begin(self) -> None:
        """From now on there is something to save, so a signal only sets the flag."""
        self._doing = None

    def check(self, doing: str) -> None:
        """Raise Preempted once asked to stop. `doing`: what follows; the command can repeat it."""
        if self.requested:
            self._doing = None  # this thread ends the process
            raise Preempted(f"asked to stop while {doing}; run the same command again")
        if self._doing is not None:
            self._doing = doing

    @classmethod
    def forget(cls) -> None:
        """Give the signals their default handlers back."""
        signal.set_wakeup_fd(-1)
        for number in cls.SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def _set(self, number: int, frame: object) -> None:
        if number == signal.SIGINT and self._is_repeated():
            raise KeyboardInterrupt
        self._note()

    def _note(self) -> None:
        if not self.requested:
            self._asked, self.requested = time.monotonic(), True

    def _is_repeated(self) -> bool:
        return self.requested and time.monotonic() - self._asked > AGAIN

    def _listen(self, reading: int) -> None:
        """The thread: read signals from the pipe, note a request to stop, end the process if due.

        It ends the process at a repeated Ctrl-C, and at any request before `begin` was called. The
        main thread has PATIENCE seconds to end it in order first, by an exception.
        """
        while numbers := os.read(reading, 64):  # one byte for each signal: its number
            is_final = signal.SIGINT in numbers and self._is_repeated()
            if not is_final and not set(numbers) & set(self.SIGNALS):
                continue
            self._note()
            if is_final or self._doing is not None:
                time.sleep(PATIENCE)
            if is_final:
                _end(
                    "asked to stop again; it ends without saving, the same command resumes from "
                    "the last checkpoint",
                    130,
                )
            if self._doing is not None:
                why = f"asked to stop while {self._doing}; run the same command again"
                _end(why, Preempted.exit_status)


def _end(why: str, status: int) -> None:
    """End this process at once. Its main thread may be inside torch for a long time."""
    print(f"scemae: {why}", file=sys.stderr, flush=True)
    if sys.stdout is not None:
        sys.stdout.flush()
    os._exit(status)
