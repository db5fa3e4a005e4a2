"""From config to a DeepSpeed engine: ZeRO stage, precision, accumulation, clipping, optimizer, compilation.

A step never waits for the device: gradient norms stay there as tensors, and what is no number is found at heartbeats
(training/bad_steps.py), which go back to a checkpoint. ZeRO 3 alone waits for streams of its own in DeepSpeed's code (at least once
per backward), and offload for its copies.
"""

import importlib.util
import logging
import os
import shutil
import warnings
from functools import partial

import deepspeed
import torch
from deepspeed.runtime import bf16_optimizer, utils
from deepspeed.runtime.zero import GatheredParameters, stage3, stage_1_and_2
from deepspeed.utils import logger, safe_get_full_fp32_param
from torch import Tensor, distributed, nn

from scemae.config.schema.training import Optim, Runtime
from scemae.distributed import master_weights, tf32, zero_state
from scemae.distributed.process_group import Place, precision

logger.setLevel(logging.WARNING)
warnings.filterwarnings(
    "ignore", message=".*is deprecated", category=FutureWarning, module="torch.distributed"
)
warnings.filterwarnings(
    "ignore", message="TensorFloat32 tensor cores"
)  # the compiler's advice against what tf32.py decides


def zero_stage(runtime: Runtime, place: Place) -> int:
    """The ZeRO stage; "auto" is 0 for one rank, which has nobody to share with, else 1."""
    if runtime.zero_stage == "auto":
        return int(place.world_size > 1 or runtime.offload)
    return int(runtime.zero_stage)


def deepspeed_settings(
    optim: Optim, runtime: Runtime, place: Place, accumulation_steps: int, parameters: int
) -> dict:
    """DeepSpeed's own configuration, for so many trained `parameters`.

    The micro-batch size there is nominal: ours may be uneven and weighted.
    """
    is_bf16 = precision(runtime.precision, place.device) == torch.bfloat16
    # DeepSpeed's stage 0 has no fp32 master weights under bf16; one rank's stage 1 has, and is the same otherwise.
    stage = zero_stage(runtime, place)
    zero: dict = {
        "stage": max(stage, 1) if is_bf16 else stage,
        # One bucket, as by default; but that one takes the memory of 5e8 gradients, whatever the model has.
        "reduce_bucket_size": min(max(parameters, 1), 500_000_000),
    }
    if runtime.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": place.device.type == "cuda"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation_steps,
        "gradient_clipping": optim.clip_grad
        or (float("inf") if not zero["stage"] else 0.0),  # stage 0 then tells its norm
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": is_bf16, "check_grad_overflow": False},
        **({"data_types": {"grad_accum_dtype": "fp32"}} if is_bf16 else {}),
        "steps_per_print": 2**31,
        "timers": {
            "throughput": {"enabled": False}
        },  # it waits for the device twice in every micro-step
    }


def start(
    module: nn.Module, optim: Optim, runtime: Runtime, place: Place, accumulation_steps: int
) -> deepspeed.DeepSpeedEngine:
    """Wrap `module` and its optimizer. All ranks call it together."""
    tf32.allow(runtime.precision == "tf32")
    groups = parameter_groups(module, optim.weight_decay)
    # Not on a CPU: there the fused one rounds by a parameter's place in memory, and a resume under another ZeRO stage or
    # number of ranks would not be exact.
    fused = place.device.type == "cuda" and not runtime.offload
    if optim.name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=optim.lr, momentum=optim.betas[0], fused=fused)
    else:
        kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
        optimizer = kind(groups, lr=optim.lr, betas=tuple(optim.betas), fused=fused)
    if place.device.type == "cpu" and precision(runtime.precision, place.device) == torch.bfloat16:
        for part in (
            module.modules()
        ):  # there the fused kernel's backward takes 3 to 4 times as long as plain products
            if hasattr(part, "fused_attn"):
                part.fused_attn = False
    parameters = sum(p.numel() for group in groups for p in group["params"])
    settings = deepspeed_settings(optim, runtime, place, accumulation_steps, parameters)
    bf16_optimizer.see_memory_usage = lambda message, force=False: (
        None
    )  # it collects garbage and prints, at every group
    engine = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)[0]
    keep_norms_on_device(engine, optim.clip_grad)
    leave_out_the_needless(engine, place)
    if is_compiled(runtime.compile, place.device, module):
        engine.compile()  # after initialize: a module compiled before fails at stage 3
    return engine


def is_compiled(asked: str | bool, device: torch.device, module: nn.Module) -> bool:
    """Whether to use torch.compile. auto: on CUDA, where Triton and the C compiler that it calls are there, unless `module`
    says `worth_compiling = False`; not on a CPU, where it gains nothing."""
    if asked != "auto":
        return bool(asked)
    if device.type != "cuda" or not getattr(module, "worth_compiling", True):
        return False
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return compiler is not None and importlib.util.find_spec("triton") is not None


def keep_norms_on_device(engine: deepspeed.DeepSpeedEngine, clip_grad: float) -> None:
    """Let gradient norms be used and told without being looked at; the numbers stay those of DeepSpeed 0.19.

    DeepSpeed reads each norm on the host, to leave out a step whose norm is no number and to skip a clipping by 1.
    """
    for module in (stage_1_and_2, stage3, bf16_optimizer):
        module.is_invalid_grad_norm = lambda norm: False
    for module in (utils, stage_1_and_2, stage3):  # it would put a -1 in place of what is no number
        module.mask_nan_or_inf_with_val_inplace = lambda norm, device=None: None
    bf16_optimizer.clip_tensors_by_global_norm = master_weights.clip
    bf16_optimizer.get_global_norm_of_tensors = master_weights.norm
    if engine.zero_optimization_stage() == 3:
        engine.optimizer.get_grad_norm_direct = _norm_of_shares
    if engine.zero_optimization_stage() == 0:
        engine.clip_fp32_gradients = partial(_clip_whole, engine, clip_grad)


def leave_out_the_needless(engine: deepspeed.DeepSpeedEngine, place: Place) -> None:
    """Spare a step the kernels that change no number: of the bf16 optimizer, and a reduction over one rank."""
    is_alone = place.world_size == 1
    if master_weights.is_kept(engine):
        master_weights.sum_at_once(engine, is_alone)
    elif is_alone and engine.zero_optimization_stage() == 0:
        # What is left of it: a parameter that got no gradient gets zeros, and so its weight decay.
        engine.buffered_allreduce_fallback = lambda grads, elements_per_buffer: (
            engine._get_gradients_for_reduction()
        )


def _clip_whole(engine: deepspeed.DeepSpeedEngine, most: float) -> None:
    """Stage 0's clipping, `most` 0 for none; unlike DeepSpeed's it tells the norm."""
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    engine._global_grad_norm = norm = nn.utils.get_total_norm(gradients, foreach=True)
    if most:
        nn.utils.clip_grads_with_norm_(engine.module.parameters(), most, norm, foreach=True)


def _norm_of_shares(gradients: list[Tensor], params: list[Tensor], norm_type: float = 2) -> Tensor:
    """The norm of gradients of which each rank holds a share."""
    squared = torch.stack([gradient.double().norm() for gradient in gradients]).square().sum()
    distributed.all_reduce(squared)
    return squared.sqrt()


def set_learning_rate(engine: deepspeed.DeepSpeedEngine, lr: float) -> None:
    """Give every parameter group the rate of this step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def full_weights(engine: deepspeed.DeepSpeedEngine, keep: bool) -> dict[str, Tensor]:
    """The whole module's parameters in fp32 on the CPU, put together from all ranks, where `keep`, and its persistent
    buffers (BatchNorm's statistics, MoCo's queue), which are rank 0's, as under DDP. All ranks call it."""
    kept = zero_state.still(engine.module) if keep else {}
    weights = {name: value.to("cpu", copy=True).contiguous() for name, value in kept.items()}
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        whole = safe_get_full_fp32_param(parameter)
        if whole is None:
            with GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                whole = parameter.detach().float().clone()
        if keep:
            weights[name] = whole.detach().to("cpu", copy=True).contiguous()
    return weights


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: biases and what has one dimension (LayerNorm) do not decay, all else does.

    That is MAE's rule (PROTOCOL 2.1); by it the CLS and mask tokens, stored with three dimensions, decay.
    """
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    still = [p for name, p in trained if p.ndim <= 1 or name.endswith(".bias")]
    decayed = [p for name, p in trained if not (p.ndim <= 1 or name.endswith(".bias"))]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": still, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
