"""The part of the training state that a rank holds, named by parameter, the same for any world size
and ZeRO stage.

Of each parameter, flattened, a rank holds one contiguous part: of its fp32 weights and of the
optimizer's moments. Stage 0 holds all of it, stages 1 and 2 a part of a flat group of parameters,
stage 3 a part of each parameter. `held` gives these parts as views of the live state: a save reads
them, a resume writes them, at any other number of ranks and any other stage.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scemae.distributed import deepspeed_internals

WRITERS = 4  # ranks that save under stage 0: more files would only have to be opened again
ADAM, SGD = ("exp_avg", "exp_avg_sq"), ("momentum_buffer",)


@dataclass
class Fragment:
    """Elements start .. start + n - 1 of a parameter, flattened: live views (n,) in fp32."""

    name: str
    start: int
    weights: Tensor
    moments: dict[str, Tensor]

    def __len__(self) -> int:
        return self.weights.numel()

    def narrow(self, offset: int, length: int) -> "Fragment":
        """A part of this fragment."""
        weights = self.weights.narrow(0, offset, length)
        moments = {key: value.narrow(0, offset, length) for key, value in self.moments.items()}
        return Fragment(self.name, self.start + offset, weights, moments)


def held(engine: Any) -> list[Fragment]:
    """Every fragment that this rank holds, for reading and for writing in place."""
    create_moments(engine)
    found = []
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad and (fragment := _fragment(engine, name, parameter)):
            found.append(fragment)
    return found


def _fragment(engine: Any, name: str, parameter: Tensor) -> Fragment | None:
    where = deepspeed_internals.locate(engine, parameter)
    if where is None or not where.length:
        return None

    def part(whole: Tensor) -> Tensor:
        return whole.data.view(-1).narrow(0, where.offset, where.length)

    optimizer = deepspeed_internals.torch_optimizer(engine)
    state = optimizer.state[where.flat]
    moments = {key: part(state[key]) for key in moment_names(optimizer)}
    return Fragment(name, where.start, part(where.flat), moments)


def owned(engine: Any, rank: int, world_size: int) -> list[Fragment]:
    """The fragments that this rank has to save: those it holds.

    Under stage 0 every rank holds all of them, and the first WRITERS save an equal share of each.
    """
    if engine.zero_optimization_stage():
        return held(engine)
    writers = min(world_size, WRITERS)
    if rank >= writers:
        return []
    parts = []
    for fragment in held(engine):
        start, end = (len(fragment) * r // writers for r in (rank, rank + 1))
        if end > start:
            parts.append(fragment.narrow(start, end - start))
    return parts


def not_optimized(module: nn.Module) -> dict[str, Tensor]:
    """Persistent buffers, and parameters without a gradient: what no optimizer changes."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in trained}


def create_moments(engine: Any) -> None:
    """Create the optimizer's moments as zeros at step 0, as its first step would."""
    optimizer = deepspeed_internals.torch_optimizer(engine)
    for tensor in deepspeed_internals.optimized_tensors(engine):
        if not optimizer.state[tensor]:
            moments = {key: torch.zeros_like(tensor) for key in moment_names(optimizer)}
            if "momentum_buffer" not in moments:  # Adam counts its steps, SGD does not
                device = tensor.device if optimizer.defaults.get("fused") else "cpu"
                step = torch.zeros((), dtype=torch.float32, device=device)
                moments = {"step": step, **moments}
            optimizer.state[tensor].update(moments)


def moment_names(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """The names under which an optimizer keeps its moments."""
    return SGD if isinstance(optimizer, torch.optim.SGD) else ADAM


def finish_load(engine: Any, updates: int) -> None:
    """After all fragments are written: set Adam's step count, and update the working weights.

    All ranks call it.
    """
    optimizer = deepspeed_internals.torch_optimizer(engine)
    for tensor in deepspeed_internals.optimized_tensors(engine):
        if "step" in optimizer.state[tensor]:
            optimizer.state[tensor]["step"].fill_(updates)
    deepspeed_internals.update_working_weights(engine)
