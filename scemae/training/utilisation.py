"""How fast the devices are at matrix products: the denominator of model FLOPs utilisation, MFU."""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, distributed

from scemae.distributed.process_group import Place, barrier

CPU_SIZES = (256, 512, 1024, 2048)  # at 1024 AMX reaches two thirds of its speed
LONG_ENOUGH = 0.01  # seconds of one product: a larger one would not be faster


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large square matrix product on this device, best of five.

    On a CPU the product grows until it takes LONG_ENOUGH: on a few cores one of size 2048 would
    cost each start of a run seconds, and without bf16 instructions a bf16 one takes a minute.
    """
    sizes = (8192,) if device.type == "cuda" else CPU_SIZES
    for size in sizes:
        multiply = _product(size, device, dtype)
        _seconds(multiply, device)  # the first product chooses a kernel
        if (seconds := _seconds(multiply, device)) > LONG_ENOUGH:
            break
    return 2 * size**3 / min(seconds, *(_seconds(multiply, device) for _ in range(4)))


def _product(size: int, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    """A product of two (size, size) matrices, whose numbers leave torch's generator alone."""
    generator = torch.Generator(device).manual_seed(0)
    left, right = torch.randn(
        2, size, size, device=device, dtype=dtype, generator=generator
    ).unbind()
    return partial(torch.matmul, left, right, out=torch.empty_like(left))


def _seconds(call: Callable[[], Tensor], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def full_speed(per_image: float, place: Place, dtype: torch.dtype) -> float:
    """Images per second if all devices did nothing but matrix products; MFU is a share of it.

    per_image: operations of one image; 0: not known, and 0 is returned. All ranks call it, so that
    they measure at the same time.
    """
    if not per_image:
        return 0.0
    barrier()
    total = torch.tensor(peak_flops(place.device, dtype), dtype=torch.float64, device=place.device)
    distributed.all_reduce(total)
    return total.item() / per_image
