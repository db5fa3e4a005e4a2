"""Being asked to stop: a flag, which all ranks act on at a heartbeat; and before training, the end within a second.

Python runs a signal handler in the main thread alone, between two of its own instructions: a process that waits for other
ranks inside torch would hear nothing for minutes. So a thread listens as well: the kernel's part of a handler writes each
signal's number into a pipe (`signal.set_wakeup_fd`), whatever the main thread is doing.
"""

import os
import signal
import sys
import threading
import time

from scemae.errors import Preempted

PATIENCE = 1.0  # seconds that the main thread has to end by itself, where the process is to end
AGAIN = 3.0  # a Ctrl-C this long after the first is meant; a launcher repeats the first one within a moment


class StopRequest:
    """True once SIGTERM, SIGINT or SIGUSR2 has come. NCCL's SIGUSR1 is left alone.

    A process that this one forks gets the default handlers back: only ranks save.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

    def __init__(self, doing: str | None = None) -> None:
        """doing: what goes on, nothing of which has to be saved; until `begin` a signal then ends the process within a second,
        with status 75. Without it a signal sets the flag and no more, until Ctrl-C is repeated, which ends it with 130."""
        self.requested, self._asked, self._doing = False, 0.0, doing
        ears, mouth = os.pipe()
        os.set_blocking(mouth, False)
        for number in self.SIGNALS:
            signal.signal(number, self._set)
        signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=self.forget)
        threading.Thread(target=self._listen, args=(ears,), name="signals", daemon=True).start()

    def begin(self) -> None:
        """From now on there is something to save: a signal only sets the flag."""
        self._doing = None

    def check(self, doing: str) -> None:
        """Raise Preempted once asked to stop: what is done before the first step can be done again."""
        if self.requested:
            self._doing = None  # this thread ends the process
            raise Preempted(f"asked to stop while {doing}; the same command goes on")
        if self._doing is not None:
            self._doing = doing

    @classmethod
    def forget(cls) -> None:
        """Give the signals their default meaning."""
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

    def _listen(self, ears: int) -> None:
        while told := os.read(ears, 64):
            is_final = signal.SIGINT in told and self._is_repeated()
            if not is_final and not set(told) & set(self.SIGNALS):
                continue
            self._note()
            if is_final or self._doing is not None:
                time.sleep(PATIENCE)
            if is_final:
                _end(
                    "asked to stop again; it ends without saving, the same command goes on from the last checkpoint",
                    130,
                )
            if self._doing is not None:
                _end(
                    f"asked to stop while {self._doing}; the same command goes on",
                    Preempted.exit_status,
                )


def _end(why: str, status: int) -> None:
    """End this process here and now: its main thread may be inside torch for a long time."""
    print(f"scemae: {why}", file=sys.stderr, flush=True)
    if sys.stdout is not None:
        sys.stdout.flush()
    os._exit(status)
