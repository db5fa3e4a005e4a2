"""Python's garbage collector, left out while modules are imported.

Imports make hundreds of thousands of objects, none of them garbage, and the collector looks at all
of them again and again, a fifth of the time that torch takes to be there; and once more at the end
of the process (docs/results/speed.md, The start of a command).
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def stop() -> None:
    """Until `go_on`, nothing is collected."""
    gc.disable()


def go_on() -> None:
    """Collect again, but never look at what is there now. Nothing if it was not stopped."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


@contextmanager
def stopped() -> Iterator[None]:
    """Inside the block nothing is collected; afterwards as before."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
