"""Progress bars on a terminal; nowhere else, so that they do not fill logs."""

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm


def progress_bar(items: Iterable | None = None, *, show: bool = True, **settings: Any) -> tqdm:
    """tqdm's bar over `items`, or of `total`.

    It prints nothing without `show`, and where stderr is no terminal.
    """
    return tqdm(
        items,
        dynamic_ncols=True,
        disable=None if show and sys.stderr is not None else True,
        **settings,
    )


def say(text: str, file: TextIO | None) -> None:
    """Print a line at once, above any bars."""
    if file is not None:
        tqdm.write(text, file=file)
        file.flush()
