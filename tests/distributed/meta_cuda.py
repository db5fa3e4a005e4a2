"""Device "meta" in CUDA's place: what a GPU would refuse, or wait for, fails without one.

Tensors on "meta" have shapes and no numbers. Within `MetaCuda` they stand for tensors on a GPU,
those on the CPU for the host's. The mode raises where
- an operator gets tensors of both (a 0-dim CPU tensor is a number, as CUDA takes it; a copy from
  host to device is allowed),
- the host reads what lies on the device: a number, a shape that depends on numbers, a copy back.
It counts operators as well: each that is no view is at least one launch on a GPU.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
READS = {
    torch.ops.aten._local_scalar_dense,
    torch.ops.aten.equal,
    torch.ops.aten.nonzero,
    torch.ops.aten.is_nonzero,
    torch.ops.aten.masked_select,
    torch.ops.aten._unique2,
    torch.ops.aten.unique_consecutive,
    torch.ops.aten.bincount,
}
COPIES = {torch.ops.aten._to_copy, torch.ops.aten.copy_, torch.ops.aten.copy}


class DeviceError(AssertionError):
    """What would fail on a GPU, or make the host wait for it."""


class MetaCuda(TorchDispatchMode):
    """Raises DeviceError as the module says; `counts`: calls of each operator that is no view."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        _check(operator, given, kwargs, args)
        if not operator.is_view:
            self.counts[str(operator)] += 1
        return operator(*args, **kwargs)

    @property
    def operators(self) -> int:
        """How many there were."""
        return self.counts.total()


def _check(operator: Any, given: list[Tensor], kwargs: dict, args: tuple) -> None:
    packet, devices = operator.overloadpacket, [one.device.type for one in given]
    if "meta" not in devices:
        return
    if packet in COPIES:
        towards = kwargs.get("device") or args[0].device
        if torch.device(towards).type != "meta":
            raise DeviceError(f"{operator} copies from the device to the host, which waits for it")
        return
    if (
        packet in READS
        or packet == torch.ops.aten.index
        and any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1])
    ):
        raise DeviceError(f"{operator} reads numbers on the device, and the host waits for them")
    if any(one.device.type == "cpu" and one.dim() for one in given):
        shapes = ", ".join(f"{one.device.type} {tuple(one.shape)}" for one in given)
        raise DeviceError(f"{operator} got tensors of the device and of the host: {shapes}")


def on_meta(module: nn.Module) -> nn.Module:
    """The module's parameters and buffers without numbers, on "the GPU"."""
    return module.to(META)


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor on "the GPU"."""
    return torch.empty(shape, dtype=dtype, device=META)


def graph_nodes(module: nn.Module, *arguments: Tensor) -> list[int]:
    """Nodes of each graph that torch.compile would compile of a call of `module`, before fusing."""
    found = []

    def count(graph: torch.fx.GraphModule, inputs: list) -> Any:
        found.append(len(graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    torch.compile(module, backend=count)(*arguments)
    torch._dynamo.reset()
    return found
