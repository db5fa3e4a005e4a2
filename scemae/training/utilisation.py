"""The speed of this machine's devices at matrix products: the denominator of model FLOPs utilisation (MFU)."""

import time

import torch
from torch import distributed

from scemae.distributed.process_group import Place, barrier


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large square matrix product on this device, the best of five tries."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda _: None
    size, best = (
        8192 if device.type == "cuda" else 2048,
        float("inf"),
    )  # at 1024 AMX shows two thirds
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    product = left @ right  # the first one chooses a kernel
    for _ in range(5):
        wait(device)
        started = time.perf_counter()
        torch.matmul(left, right, out=product)
        wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def full_speed(per_image: float, place: Place, dtype: torch.dtype) -> float:
    """Images per second if every rank's device did nothing but matrix products; 0 where per_image is. MFU is the real
    speed over this one. All ranks measure at the same time, and call it together."""
    if not per_image:
        return 0.0
    barrier()
    total = torch.tensor(peak_flops(place.device, dtype), dtype=torch.float64, device=place.device)
    distributed.all_reduce(total)
    return total.item() / per_image
