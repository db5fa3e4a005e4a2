"""Where the tokens of a frozen backbone are kept. A sweep asks without torch."""

import os
from pathlib import Path

from scemae.errors import FileError
from scemae.files import ownership

TOKENS = "tokens"


def choose_home(backbone: Path, own: Path) -> Path:
    """`tokens/` of the backbone's run folder, which every later run on it shares, if only this user
    can write there and this program made it here; otherwise `tokens/` of the run's own folder.

    A digest proves that a record is whole, not who made it: the run would train on records that
    came with somebody else's folder, or with a copy of it.
    """
    shared = backbone / TOKENS
    if not ownership.is_private(backbone.resolve()):
        return own / TOKENS
    if not os.path.lexists(shared):
        try:
            ownership.make_marked(shared)
        except (OSError, FileError):  # another run has just made it, or the disk is read-only
            pass
    return shared if ownership.is_marked(shared) else own / TOKENS
