"""The environment variables by which a launcher (torchrun, deepspeed, srun) describes a rank.

They are read and checked without importing torch.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from scemae.errors import LaunchError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
LOOPBACK = ("localhost", "::1")  # and all that begins with 127.


@dataclass
class Launch:
    """One rank among those that were started together, and the address where they meet."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int
    is_one_host: bool  # all ranks are on this host

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> "Launch | None":
        """The rank that the five NAMES and LOCAL_WORLD_SIZE describe.

        None where none of the five is set: a single process. Raises LaunchError where only some of
        them are set, or a value is impossible.
        """
        present = [name for name in NAMES if name in environment]
        if not present:
            return None
        if absent := [name for name in NAMES if name not in environment]:
            raise LaunchError(
                f"found {', '.join(present)} set but not {', '.join(absent)}; start with torchrun, "
                "deepspeed, or srun with all five set, or unset them for a single process"
            )
        world_size = number(environment, "WORLD_SIZE", 1, None)
        local = number(environment, "LOCAL_WORLD_SIZE", 1, None, default=0)
        address = environment["MASTER_ADDR"].strip()
        if not address:
            raise LaunchError(
                "MASTER_ADDR: found nothing; give the name or address of the first rank's host"
            )
        return cls(
            number(environment, "RANK", 0, world_size - 1),
            world_size,
            number(environment, "LOCAL_RANK", 0, (local or world_size) - 1),
            address,
            number(environment, "MASTER_PORT", 1, 65535),
            local == world_size or address in LOOPBACK or address.startswith("127."),
        )


def number(
    environment: Mapping[str, str],
    name: str,
    least: int,
    most: int | None,
    default: int | None = None,
) -> int:
    """A variable as a whole number from `least` to `most` (None: without limit).

    `default`, where one is given, stands for a variable that is not set. Raises LaunchError.
    """
    text = environment.get(name)
    if text is None and default is not None:
        return default
    if text and text.isascii() and text.isdecimal():
        found = int(text[:9])
        if least <= found and (most is None or found <= most):
            return found
    if most is None:
        needed = f"of {least} or more"
    else:
        needed = str(least) if least == most else f"from {least} to {most}"
    if name in ("RANK", "LOCAL_RANK"):
        sizes = [size for size in ("WORLD_SIZE", "LOCAL_WORLD_SIZE") if size in environment]
        needed += " was needed with " + ", ".join(f"{size}={environment[size]}" for size in sizes)
    else:
        needed += " was needed"
    raise LaunchError(
        f"{name}: found {text!r}, a whole number {needed}; start with torchrun, deepspeed or srun, "
        "or unset RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for a single process"
    )
