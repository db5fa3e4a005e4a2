"""From settings to a DeepSpeed engine: ZeRO stage, precision, accumulation, clipping, optimizer,
compilation.

Gradient norms stay on the device as tensors, and heartbeats find what is not finite
(training/bad_steps.py), so our own code makes no step wait for the device. DeepSpeed's ZeRO 3 waits
for its own streams at least once in each backward pass, and offload waits for its copies.
"""

import importlib.util
import logging
import os
import shutil
import warnings
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.zero import GatheredParameters
from deepspeed.utils import logger, safe_get_full_fp32_param
from torch import Tensor, nn

from scemae.config.schema.training import Optim, Runtime
from scemae.distributed import deepspeed_internals, tf32, zero_state
from scemae.distributed.process_group import Place, precision

logger.setLevel(logging.WARNING)
warnings.filterwarnings(
    "ignore", message=".*is deprecated", category=FutureWarning, module="torch.distributed"
)
# the compiler's advice to allow what tf32.py turns off
warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")


def zero_stage(runtime: Runtime, place: Place) -> int:
    """The ZeRO stage. "auto" is 1, or 0 for a single rank without offload."""
    if runtime.zero_stage == "auto":
        return int(place.world_size > 1 or runtime.offload)
    return int(runtime.zero_stage)


def deepspeed_settings(
    optim: Optim, runtime: Runtime, place: Place, accumulation_steps: int, parameters: int
) -> dict:
    """DeepSpeed's own configuration for a module with so many trained `parameters`.

    Its micro-batch size is nominal: ours may be uneven, with weights.
    """
    is_bf16 = precision(runtime.precision, place.device) == torch.bfloat16
    # DeepSpeed's stage 0 has no fp32 master weights under bf16. Stage 1 on one rank has them, and
    # is the same otherwise.
    stage = zero_stage(runtime, place)
    zero: dict = {
        "stage": max(stage, 1) if is_bf16 else stage,
        # One bucket, as by default. The default takes the memory of 5e8 gradients for any model.
        "reduce_bucket_size": min(max(parameters, 1), 500_000_000),
    }
    if runtime.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": place.device.type == "cuda"}
    # Stage 0 computes a gradient norm only where it clips.
    clipping = optim.clip_grad or (0.0 if zero["stage"] else float("inf"))
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation_steps,
        "gradient_clipping": clipping,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": is_bf16, "check_grad_overflow": False},
        **({"data_types": {"grad_accum_dtype": "fp32"}} if is_bf16 else {}),
        "steps_per_print": 2**31,
        # DeepSpeed's timer waits for the device twice in every micro-step.
        "timers": {"throughput": {"enabled": False}},
    }


def start(
    module: nn.Module, optim: Optim, runtime: Runtime, place: Place, accumulation_steps: int
) -> deepspeed.DeepSpeedEngine:
    """Wrap `module` and its optimizer in an engine. All ranks call it together."""
    tf32.allow(runtime.precision == "tf32")
    groups = parameter_groups(module, optim.weight_decay)
    optimizer = _torch_optimizer(groups, optim, runtime, place)
    if place.device.type == "cpu" and precision(runtime.precision, place.device) == torch.bfloat16:
        # On a CPU the fused kernel's backward takes 3 to 4 times as long as plain products.
        part: Any
        for part in module.modules():
            if hasattr(part, "fused_attn"):
                part.fused_attn = False
    parameters = sum(p.numel() for group in groups for p in group["params"])
    settings = deepspeed_settings(optim, runtime, place, accumulation_steps, parameters)
    deepspeed_internals.report_no_memory()
    deepspeed_internals.leave_muon_uncompiled()
    engine = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)[0]
    deepspeed_internals.keep_norms_on_device(engine, optim.clip_grad)
    deepspeed_internals.skip_needless_kernels(engine, is_alone=place.world_size == 1)
    if is_compiled(runtime.compile, place.device, module):
        engine.compile()  # after initialize: a module compiled before it fails at stage 3
    return engine


def _torch_optimizer(
    groups: list[dict], optim: Optim, runtime: Runtime, place: Place
) -> torch.optim.Optimizer:
    # Fused on CUDA alone. On a CPU the fused kernel rounds by a parameter's place in memory, so a
    # resume at another ZeRO stage or number of ranks would not be exact.
    fused = place.device.type == "cuda" and not runtime.offload
    if optim.name == "sgd":
        # SGD's momentum is set by the first of the two betas.
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.betas[0], fused=fused)
    kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=optim.lr, betas=(optim.betas[0], optim.betas[1]), fused=fused)


def is_compiled(asked: str | bool, device: torch.device, module: nn.Module) -> bool:
    """Whether to use torch.compile.

    auto: on CUDA, where Triton and the C compiler that it calls are installed, unless `module` says
    `worth_compiling = False`; not on a CPU, where it gains nothing.
    """
    if asked != "auto":
        return bool(asked)
    if device.type != "cuda" or not getattr(module, "worth_compiling", True):
        return False
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return compiler is not None and importlib.util.find_spec("triton") is not None


def set_learning_rate(engine: deepspeed.DeepSpeedEngine, lr: float) -> None:
    """Give every parameter group the learning rate of this step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def full_weights(engine: deepspeed.DeepSpeedEngine, keep: bool) -> dict[str, Tensor]:
    """The whole module's weights in fp32 on the CPU, on the ranks that `keep` them.

    Parameters are collected from all ranks, so all ranks call it. Persistent buffers (BatchNorm's
    statistics, MoCo's queue) are rank 0's, as under DDP.
    """
    kept = zero_state.not_optimized(engine.module) if keep else {}
    weights = {name: value.to("cpu", copy=True).contiguous() for name, value in kept.items()}
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        whole = safe_get_full_fp32_param(parameter)
        if whole is None:
            cut = deepspeed_internals.is_partitioned(parameter)
            with GatheredParameters([parameter], enabled=cut):
                whole = parameter.detach().float().clone()
        if keep:
            weights[name] = whole.detach().to("cpu", copy=True).contiguous()
    return weights


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: biases and parameters of one dimension (LayerNorm) get no weight decay.

    That is MAE's rule (PROTOCOL 2.1); by it the CLS and mask tokens, stored with three dimensions,
    decay.
    """
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    not_decayed = [p for name, p in trained if p.ndim <= 1 or name.endswith(".bias")]
    decayed = [p for name, p in trained if not (p.ndim <= 1 or name.endswith(".bias"))]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": not_decayed, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
