"""Whether a GPU may round the factors of fp32 products and convolutions to TF32: unless asked, no.

TF32 has 10 bits of mantissa instead of 23. By default torch rounds the factors of convolutions and
not those of products, so that the errors of a ResNet and of a ViT would not be measured alike.
Every command that chooses a device turns both off; runtime.precision=tf32 turns both on, for
training alone.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def allow(is_allowed: bool) -> None:
    """Turn TF32 on or off for products and convolutions. On a CPU it changes nothing."""
    # These two switches, and not the newer fp32_precision: torch keeps the newer ones in step with
    # them, while its compiler still reads them, and ends with an error where the newer ones alone
    # were set (2.13).
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions announce an end of them
        torch.backends.cuda.matmul.allow_tf32 = is_allowed
        torch.backends.cudnn.allow_tf32 = is_allowed


def state() -> str:
    """Which operations use TF32, for records: "off", "on" (both), "products", "convolutions"."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        products = torch.backends.cuda.matmul.allow_tf32
        convolutions = torch.backends.cudnn.allow_tf32
    if products == convolutions:
        return "on" if products else "off"
    return "products" if products else "convolutions"


@contextmanager
def refused() -> Iterator[None]:
    """Turn TF32 off in the block, where errors are measured or inputs of other runs are made."""
    before = state() == "on"
    allow(False)
    try:
        yield
    finally:
        allow(before)
