"""Whether a GPU may round the factors of fp32 products and convolutions to TF32, of 10 bits instead of 23: not unless asked.

By default torch rounds those of convolutions and not those of products, so that the errors of a ResNet and of a ViT would not be
measured alike. Every command that chooses a device turns both off; runtime.precision=tf32 turns both on for training alone.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def allow(is_allowed: bool) -> None:
    """From now on, round or do not. On a CPU it changes nothing."""
    # These two switches, and not the newer fp32_precision: torch 2.11 to 2.13 keeps the newer ones in step with them, while its
    # compiler still reads them, and ends with an error where the newer ones alone were set.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions announce an end of them
        torch.backends.cuda.matmul.allow_tf32 = is_allowed
        torch.backends.cudnn.allow_tf32 = is_allowed


def state() -> str:
    """"off", "on", or the one of "products" and "convolutions" that is rounded: for the records of what was measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    if products == convolutions:
        return "on" if products else "off"
    return "products" if products else "convolutions"


@contextmanager
def refused() -> Iterator[None]:
    """While errors are measured, or what other runs will use is made, in the middle of a training that may round."""
    before = state() == "on"
    allow(False)
    try:
        yield
    finally:
        allow(before)
