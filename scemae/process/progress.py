"""Progress bars for somebody who watches: on a terminal alone, so that no log is filled with them."""

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm


def progress_bar(items: Iterable | None = None, *, show: bool = True, **settings: Any) -> tqdm:
    """tqdm's bar over `items`, or of `total`; where stderr is no terminal, or without `show`, it prints nothing."""
    return tqdm(
        items,
        dynamic_ncols=True,
        disable=None if show and sys.stderr is not None else True,
        **settings,
    )


def say(text: str, file: TextIO | None) -> None:
    """A line at once, above the bars where there are any."""
    if file is not None:
        tqdm.write(text, file=file)
        file.flush()
