"""Every private name of DeepSpeed that scemae reads, calls or replaces, in this one file.

A release of DeepSpeed may move any of them, so pyproject.toml caps its version below 0.20, and
tests/distributed/test_deepspeed_internals.py fails with the name that moved. The replacements
compute what DeepSpeed 0.19 computes, in fewer kernels or without a copy to the host.

deepspeed is imported inside the functions that need it: the import takes seconds, and commands
that only read checkpoints do without it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn


def probe_no_operators() -> None:
    """Tell DeepSpeed that none of its own operators can be built; scemae uses none of them.

    DeepSpeed would look for a compiler and a GPU for each operator (1 to 2 s on CUDA), and on a CPU
    would compile one for 40 s, or fail where there is no compiler.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}


def report_no_memory() -> None:
    """Turn off the bf16 optimizer's memory reports: each collects garbage and prints."""
    from deepspeed.runtime import bf16_optimizer

    bf16_optimizer.see_memory_usage = lambda message, force=False: None


def leave_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon, which ZeRO asks for, with its functions as they are written.

    No optimizer here calls them, and to compile them each rank would load torch's compiler: 2 s.
    """
    from deepspeed.runtime import compiler

    compile_, compiler.compile = compiler.compile, lambda: lambda function: function
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    finally:
        compiler.compile = compile_


def keep_norms_on_device(engine: Any, clip_grad: float) -> None:
    """Let gradient norms stay on the device as tensors. clip_grad: the largest norm, 0 for any.

    DeepSpeed copies each norm to the host, to skip a step whose norm is not finite, and to skip
    clipping by a factor of 1. scemae finds such steps at heartbeats instead.
    """
    from deepspeed.runtime import bf16_optimizer, utils
    from deepspeed.runtime.zero import stage3, stage_1_and_2

    for module in (stage_1_and_2, stage3, bf16_optimizer):
        module.is_invalid_grad_norm = lambda norm: False
    for module in (utils, stage_1_and_2, stage3):  # DeepSpeed would turn a NaN into -1
        module.mask_nan_or_inf_with_val_inplace = lambda norm, device=None: None
    bf16_optimizer.clip_tensors_by_global_norm = clip
    bf16_optimizer.get_global_norm_of_tensors = norm
    if engine.zero_optimization_stage() == 3:
        engine.optimizer.get_grad_norm_direct = _norm_over_ranks
    if engine.zero_optimization_stage() == 0:
        engine.clip_fp32_gradients = partial(_clip_replicated, engine, clip_grad)


def skip_needless_kernels(engine: Any, is_alone: bool) -> None:
    """Remove kernels that change no number: the bf16 optimizer's, and reductions over one rank."""
    if has_bf16_optimizer(engine):
        zero = engine.optimizer
        zero.update_hp_grads = partial(_add_gradients, zero)
        zero.clear_hp_grads = partial(_forget_gradients, zero)
        if is_alone:
            micro_steps = engine.gradient_accumulation_steps()
            engine.buffered_allreduce_fallback = partial(_round, zero, micro_steps)
    elif is_alone and engine.zero_optimization_stage() == 0:
        # This call still has to be made: it gives zeros to a parameter without a gradient, and
        # only a parameter with a gradient gets its weight decay.
        def reduce(grads: None, elements_per_buffer: int) -> None:
            engine._get_gradients_for_reduction()

        engine.buffered_allreduce_fallback = reduce


def has_bf16_optimizer(engine: Any) -> bool:
    """True where the engine has DeepSpeed's BF16_Optimizer, which is its ZeRO stage 1 under bf16.

    It keeps fp32 master weights of a bf16 model and sums the micro-steps' gradients in fp32.
    DeepSpeed casts, adds, measures, clips and zeroes each parameter's gradient by itself: 250 times
    each for a DeiT-S. The functions below do it for all parameters at once.
    """
    return hasattr(engine.optimizer, "fp32_groups_gradients_flat")


@torch.no_grad()
def _add_gradients(zero: Any, clear_lp_grads: bool = False) -> None:
    """Add the bf16 gradients of a micro-step to the fp32 sums; a missing gradient counts as 0."""
    for group, sums in enumerate(zero.fp32_groups_actual_gradients_flat):
        params, has_gradients = zero.bf16_groups[group], zero.fp32_groups_has_gradients[group]
        flat = zero.flatten([torch.zeros_like(p) if p.grad is None else p.grad for p in params])
        sums.add_(flat) if any(has_gradients) else sums.copy_(flat)
        has_gradients[:] = [True] * len(params)
        for parameter in params:
            parameter.grad = None  # the next backward pass then stores its gradient without adding


def _forget_gradients(zero: Any) -> None:
    """Start new sums: the next micro-step overwrites the old ones."""
    for has_gradients in zero.fp32_groups_has_gradients:
        has_gradients[:] = [False] * len(has_gradients)


def _round(zero: Any, micro_steps: int, grads: None = None, elements_per_buffer: int = 0) -> None:
    """Round the sums to bf16, which is all that DeepSpeed's reduction over one rank does.

    The gradient of a single micro-step is already bf16.
    """
    if micro_steps > 1:
        for sums in zero.fp32_groups_gradients_flat:
            sums.copy_(sums.bfloat16())


def norm(
    input_tensors: list[Tensor], norm_type: float = 2, mpu: None = None, moe_ep_group: None = None
) -> Tensor:
    """The 2-norm of all `input_tensors` as one vector: replaces `get_global_norm_of_tensors`."""
    return torch.stack(torch._foreach_norm(input_tensors, 2)).square().sum().sqrt()


def clip(
    input_tensors: list[Tensor], max_norm: float, global_norm: Tensor, mpu: None = None
) -> None:
    """Scale `input_tensors`, whose norm is `global_norm`, to a norm of at most `max_norm`.

    It replaces DeepSpeed's `clip_tensors_by_global_norm`.
    """
    torch._foreach_mul_(input_tensors, (max_norm / (global_norm + 1e-6)).clamp(max=1))


def _clip_replicated(engine: Any, most: float) -> None:
    """Stage 0: record the gradient norm, as DeepSpeed does not, and clip it to `most` (0: not)."""
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    engine._global_grad_norm = norm = nn.utils.get_total_norm(gradients, foreach=True)
    if most:
        nn.utils.clip_grads_with_norm_(engine.module.parameters(), most, norm, foreach=True)


def _norm_over_ranks(gradients: list[Tensor], params: list[Tensor], norm_type: float = 2) -> Tensor:
    """Stage 3: the norm of gradients of which each rank holds a part. All ranks call it."""
    squared = torch.stack([gradient.double().norm() for gradient in gradients]).square().sum()
    distributed.all_reduce(squared)
    return squared.sqrt()


@dataclass
class Location:
    """Where a rank keeps its part of a parameter: elements offset .. offset + length - 1 of `flat`.

    They are elements start .. start + length - 1 of the flattened parameter.
    """

    flat: Tensor
    offset: int
    length: int
    start: int


def locate(engine: Any, parameter: Tensor) -> Location | None:
    """Where this rank keeps its part of a parameter's fp32 weights; None where it holds none."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return Location(parameter, 0, parameter.numel(), 0)
    where = _locate_partitioned if stage == 3 else _locate_in_group
    return where(engine.optimizer, parameter)


def _locate_in_group(zero: Any, parameter: Any) -> Location | None:
    """Stages 1 and 2: the parameters of a group form one flat tensor, cut into parts by rank."""
    mapping = parameter._hp_mapping
    if mapping is None:  # it lies wholly in other ranks' parts
        return None
    stored, flat = mapping.hp_fragment_address, _group_weights(zero)[mapping.param_group_index]
    return Location(flat, stored.start, stored.numel, mapping.lp_fragment_address.start)


def _locate_partitioned(zero: Any, parameter: Any) -> Location:
    """Stage 3: each parameter is cut into parts by rank; the last rank's part is padded."""
    group, offset, padded = zero.grad_position[zero.get_param_id(parameter)]
    start = padded * distributed.get_rank()
    length = max(min(padded, parameter.ds_numel - start), 0)
    return Location(zero.fp32_partitioned_groups_flat[group], offset, length, start)


def _group_weights(zero: Any) -> list[Tensor]:
    """Stages 1 and 2: this rank's fp32 weights, one flat tensor for each parameter group."""
    bf16 = "fp32_groups_flat_partition"  # of BF16_Optimizer
    return getattr(zero, bf16) if hasattr(zero, bf16) else zero.single_partition_of_fp32_groups


def optimized_tensors(engine: Any) -> list[Tensor]:
    """What torch's optimizer updates: flat tensors from stage 1 on, else the parameters."""
    stage, zero = engine.zero_optimization_stage(), engine.optimizer
    if stage == 0:
        return [parameter for group in zero.param_groups for parameter in group["params"]]
    return zero.fp32_partitioned_groups_flat if stage == 3 else _group_weights(zero)


def torch_optimizer(engine: Any) -> torch.optim.Optimizer:
    """torch's optimizer inside the engine."""
    return engine.optimizer.optimizer if engine.zero_optimization_stage() else engine.optimizer


def update_working_weights(engine: Any) -> None:
    """Copy changed fp32 weights to where the module computes with them. All ranks call it."""
    stage, zero = engine.zero_optimization_stage(), engine.optimizer
    if stage in (1, 2):
        zero.update_lp_params()
    elif stage == 3:
        for group in range(len(zero.fp32_partitioned_groups_flat)):
            zero._reassign_or_swap_out_partitioned_parameters(group)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].partition(zero.persistent_parameters)
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)


def is_partitioned(parameter: Any) -> bool:
    """True where stage 3 has cut the parameter into parts, so that its own data is empty."""
    return hasattr(parameter, "ds_id")


def numel(parameter: Any) -> int:
    """Elements of the whole parameter, also where stage 3 has cut it into parts."""
    return parameter.ds_numel if is_partitioned(parameter) else parameter.numel()
