"""From config to a DeepSpeed engine: ZeRO stage, precision, accumulation, clipping and optimizer."""

import logging
import warnings

import deepspeed
import torch
from deepspeed.runtime.zero import GatheredParameters
from deepspeed.utils import logger, safe_get_full_fp32_param
from torch import Tensor, nn

from scemae import schedule
from scemae.schema import Optim, Runtime
from scemae.distributed import Place, precision

logger.setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*is deprecated", category=FutureWarning, module="torch.distributed")


def deepspeed_settings(optim: Optim, runtime: Runtime, place: Place, accumulation_steps: int) -> dict:
    """DeepSpeed's own configuration. The micro-batch size there is nominal: ours may be uneven and weighted."""
    is_bf16 = precision(runtime.precision, place.device) == torch.bfloat16
    # DeepSpeed's stage 0 has no fp32 master weights under bf16; one rank's stage 1 has, and is the same otherwise.
    zero: dict = {"stage": max(runtime.zero_stage, 1) if is_bf16 else runtime.zero_stage}
    if runtime.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": place.device.type == "cuda"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation_steps,
        "gradient_clipping": optim.clip_grad,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": is_bf16},
        **({"data_types": {"grad_accum_dtype": "fp32"}} if is_bf16 else {}),
        "steps_per_print": 2**31,
    }


def start(module: nn.Module, optim: Optim, runtime: Runtime, place: Place,
          accumulation_steps: int) -> deepspeed.DeepSpeedEngine:
    """Wrap `module` and its optimizer. All ranks call it together."""
    groups = schedule.parameter_groups(module, optim.weight_decay)
    kind = torch.optim.AdamW if optim.decoupled else torch.optim.Adam
    fused = place.device.type == "cuda" and not runtime.offload
    optimizer = kind(groups, lr=optim.lr, betas=tuple(optim.betas), fused=fused)
    settings = deepspeed_settings(optim, runtime, place, accumulation_steps)
    return deepspeed.initialize(model=module, optimizer=optimizer, config=settings)[0]


def set_learning_rate(engine: deepspeed.DeepSpeedEngine, lr: float) -> None:
    """Give every parameter group the rate of this step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def full_weights(engine: deepspeed.DeepSpeedEngine, keep: bool) -> dict[str, Tensor]:
    """The whole module's parameters in fp32 on the CPU, put together from all ranks, where `keep`. All ranks call it."""
    weights = {}
    for name, parameter in engine.module.named_parameters():
        whole = safe_get_full_fp32_param(parameter)
        if whole is None:
            with GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                whole = parameter.detach().float().clone()
        if keep:
            weights[name] = whole.detach().to("cpu", copy=True).contiguous()
    return weights
