"""A loader in a process of its own, watched from outside: its events, its memory, its traffic."""

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import psutil

from bench.linked_sets import ROOT
from bench.object_store import Sent, Store
from bench.peers.streams import MARK

PATIENCE = 600.0  # seconds for one process
END = 20.0  # seconds for its end: mosaicml-streaming removes its shared memory then


@dataclass
class Found:
    """What one process did: seconds after its start, bytes of memory, and what the store sent."""

    imported: float
    first: float
    last: float
    images: int  # after the first batch
    memory_at_first: int
    memory: int
    sent_at_first: Sent
    sent: Sent


def watch(words: list[str], environment: dict[str, str], store: Store) -> Found:
    """Run a command that prints the events of peers/streams.py, until the last of them.

    Memory is measured four times a second. Raises RuntimeError where it ends before.
    """
    events: dict[str, dict] = {}
    sent: dict[str, Sent] = {}
    memory: dict[str, int] = {}
    peak, before, began = 0, store.sent(), time.time()
    with tempfile.TemporaryFile("w+") as errors, _started(words, environment, errors) as process:
        coming = _events(process)
        while "last" not in events:
            try:
                event = coming.get(timeout=0.25)
            except queue.Empty:
                event = {} if time.time() < began + PATIENCE else None
            if event is None:
                errors.seek(0)
                raise RuntimeError(
                    f"{words[-1]}: ended too early, or not in {PATIENCE:g} s:\n"
                    + errors.read()[-3000:]
                )
            peak = max(peak, memory_of(process.pid))
            if event:
                name = event["event"]
                events[name], sent[name], memory[name] = event, store.sent() - before, peak
    seconds = {name: event["time"] - began for name, event in events.items()}
    return Found(
        seconds["imported"],
        seconds["first"],
        seconds["last"],
        events["last"]["images"],
        memory["first"],
        peak,
        sent["first"],
        sent["last"],
    )


def memory_of(process: int) -> int:
    """Bytes of a process and its children; of a page that several share, each has its part."""
    total = 0
    try:
        parent = psutil.Process(process)
        family = [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return 0
    for each in family:
        try:
            total += each.memory_full_info().pss
        except (psutil.Error, OSError):
            pass  # it has ended
    return total


@contextmanager
def _started(
    words: list[str], environment: dict[str, str], errors: IO[str]
) -> Iterator[subprocess.Popen]:
    """A process group, which is ended with the block."""
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environment,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        yield process
        process.wait(END)
    except subprocess.TimeoutExpired:
        pass
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def _events(process: subprocess.Popen) -> queue.Queue:
    """The events that it prints; None at its end."""
    found: queue.Queue[dict | None] = queue.Queue()

    def listen() -> None:
        for line in process.stdout:
            if line.startswith(MARK):
                found.put(json.loads(line.removeprefix(MARK)))
        found.put(None)

    threading.Thread(target=listen, daemon=True).start()
    return found
