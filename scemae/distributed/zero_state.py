"""A rank's share of the training state, named by parameter and free of world size and ZeRO stage.

Under every stage a rank holds, of each parameter flattened, one stretch: of its fp32 weights and of the optimizer's moments
(stage 0 holds all, 1 and 2 a stretch of a flat group, 3 a stretch of each parameter). `held` gives these stretches as
views into the live state: reading them is a save, writing them a load, at any other number of ranks or stage.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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
        return Fragment(
            self.name,
            self.start + offset,
            self.weights.narrow(0, offset, length),
            {key: value.narrow(0, offset, length) for key, value in self.moments.items()},
        )


def held(engine: Any) -> list[Fragment]:
    """Every fragment this rank holds, for reading and writing in place."""
    prepare(engine)
    trained = [(name, p) for name, p in engine.module.named_parameters() if p.requires_grad]
    view = {0: _replicated, 1: _flat_group, 2: _flat_group, 3: _partitioned}[
        engine.zero_optimization_stage()
    ]
    found = [view(engine, name, parameter) for name, parameter in trained]
    return [fragment for fragment in found if fragment is not None and len(fragment)]


def still(module: nn.Module) -> dict[str, Tensor]:
    """What `module` keeps and no optimizer moves: persistent buffers, and parameters that want no gradient."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in trained}


def owned(engine: Any, rank: int, world_size: int) -> list[Fragment]:
    """The fragments this rank has to save: those it holds, or under stage 0, where all hold all, its part of each."""
    if engine.zero_optimization_stage():
        return held(engine)
    parts = []
    for fragment in held(engine):
        start, end = (len(fragment) * r // world_size for r in (rank, rank + 1))
        if end > start:
            parts.append(fragment.narrow(start, end - start))
    return parts


def prepare(engine: Any) -> None:
    """Give the optimizer its moments now, as zeros at step 0, where it would make the same at its first step."""
    for parameter, optimizer in _flat_parameters(engine):
        if not optimizer.state[parameter]:
            zeros = {key: torch.zeros_like(parameter) for key in moments_of(optimizer)}
            on = parameter.device if optimizer.defaults.get("fused") else "cpu"
            step = (
                {}
                if "momentum_buffer" in zeros
                else {"step": torch.zeros((), dtype=torch.float32, device=on)}
            )
            optimizer.state[parameter].update(step, **zeros)


def moments_of(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """The names under which an optimizer keeps its moments."""
    return SGD if isinstance(optimizer, torch.optim.SGD) else ADAM


def finish_load(engine: Any, updates: int) -> None:
    """After all fragments have been written: set Adam's step count, and renew what follows from the fp32 weights.
    All ranks call it."""
    for parameter, optimizer in _flat_parameters(engine):
        if "step" in optimizer.state[parameter]:
            optimizer.state[parameter]["step"].fill_(updates)
    zero = engine.optimizer
    if engine.zero_optimization_stage() in (1, 2):
        zero.update_lp_params()
    elif engine.zero_optimization_stage() == 3:
        for group in range(len(zero.fp32_partitioned_groups_flat)):
            zero._reassign_or_swap_out_partitioned_parameters(group)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].partition(zero.persistent_parameters)
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)


def _flat_parameters(engine: Any) -> list[tuple[Tensor, torch.optim.Optimizer]]:
    """What torch's Adam sees as its parameters, each with that Adam."""
    stage, zero = engine.zero_optimization_stage(), engine.optimizer
    if stage == 0:
        return [(parameter, zero) for group in zero.param_groups for parameter in group["params"]]
    return [(parameter, zero.optimizer) for parameter in _flat(zero, stage)]


def _flat(zero: Any, stage: int) -> list[Tensor]:
    """This rank's fp32 weights, one flat tensor per parameter group (stage 3: per sub-group)."""
    if stage == 3:
        return zero.fp32_partitioned_groups_flat
    bf16 = "fp32_groups_flat_partition"  # DeepSpeed's stage 1 in bf16 is a class of its own
    return getattr(zero, bf16) if hasattr(zero, bf16) else zero.single_partition_of_fp32_groups


def _replicated(engine: Any, name: str, parameter: Tensor) -> Fragment:
    state = engine.optimizer.state[parameter]
    return Fragment(
        name,
        0,
        parameter.data.view(-1),
        {key: state[key].view(-1) for key in moments_of(engine.optimizer)},
    )


def _flat_group(engine: Any, name: str, parameter: Tensor) -> Fragment | None:
    mapping, zero = parameter._hp_mapping, engine.optimizer
    if mapping is None:  # another rank's altogether
        return None
    where = mapping.hp_fragment_address
    flat = _flat(zero, 1)[mapping.param_group_index]
    return Fragment(
        name,
        mapping.lp_fragment_address.start,
        flat.data.narrow(0, where.start, where.numel),
        {
            key: zero.optimizer.state[flat][key].narrow(0, where.start, where.numel)
            for key in moments_of(zero.optimizer)
        },
    )


def _partitioned(engine: Any, name: str, parameter: Tensor) -> Fragment:
    zero = engine.optimizer
    group, offset, length = zero.grad_position[zero.get_param_id(parameter)]
    start = length * torch.distributed.get_rank()
    length = max(min(length, parameter.ds_numel - start), 0)  # the last rank's share is padded
    flat = zero.fp32_partitioned_groups_flat[group]
    return Fragment(
        name,
        start,
        flat.data.narrow(0, offset, length),
        {
            key: zero.optimizer.state[flat][key].narrow(0, offset, length)
            for key in moments_of(zero.optimizer)
        },
    )
