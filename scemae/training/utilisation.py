"""How fast the devices are at matrix products: the denominator of model FLOPs utilisation, MFU."""

import time

import torch
from torch import distributed

from scemae.distributed.process_group import Place, barrier


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large square matrix product on this device, best of five."""
    is_cuda = device.type == "cuda"
    # on the CPU 2048: at 1024 AMX reaches two thirds of its speed
    size, best = 8192 if is_cuda else 2048, float("inf")
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    product = left @ right  # the first product chooses a kernel
    for _ in range(5):
        if is_cuda:
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        torch.matmul(left, right, out=product)
        if is_cuda:
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


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
