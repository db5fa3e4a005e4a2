"""Every private name of DeepSpeed in distributed/deepspeed_internals.py is still where it was."""

import inspect
import sys
from importlib import import_module
from operator import attrgetter

import deepspeed
import pytest
import torch
from torch import nn

from scemae.config.load import load_config
from scemae.distributed import deepspeed_internals as internals
from scemae.distributed import engine as engines
from scemae.distributed.process_group import process_group
from tests.support import TINY, Forked

# Names of modules that are replaced, and that the module itself calls.
REPLACED = [
    ("bf16_optimizer", "see_memory_usage"),
    ("bf16_optimizer", "is_invalid_grad_norm"),
    ("bf16_optimizer", "clip_tensors_by_global_norm"),
    ("bf16_optimizer", "get_global_norm_of_tensors"),
    ("utils", "mask_nan_or_inf_with_val_inplace"),
    ("zero.stage_1_and_2", "is_invalid_grad_norm"),
    ("zero.stage_1_and_2", "mask_nan_or_inf_with_val_inplace"),
    ("zero.stage3", "is_invalid_grad_norm"),
    ("zero.stage3", "mask_nan_or_inf_with_val_inplace"),
]
# Attributes of a live engine and of its parameters, by ZeRO stage and precision.
PRESENT = {
    (0, "fp32"): (
        "clip_fp32_gradients",
        "buffered_allreduce_fallback",
        "_get_gradients_for_reduction",
        "_global_grad_norm",
    ),
    (1, "fp32"): (
        "optimizer.optimizer",
        "optimizer.single_partition_of_fp32_groups",
        "optimizer.update_lp_params",
        "parameter._hp_mapping.param_group_index",
        "parameter._hp_mapping.hp_fragment_address.start",
        "parameter._hp_mapping.hp_fragment_address.numel",
        "parameter._hp_mapping.lp_fragment_address.start",
    ),
    (1, "bf16"): (
        "buffered_allreduce_fallback",
        "optimizer.optimizer",
        "optimizer.bf16_groups",
        "optimizer.clear_hp_grads",
        "optimizer.flatten",
        "optimizer.fp32_groups_actual_gradients_flat",
        "optimizer.fp32_groups_flat_partition",
        "optimizer.fp32_groups_gradients_flat",
        "optimizer.fp32_groups_has_gradients",
        "optimizer.update_hp_grads",
        "optimizer.update_lp_params",
        "parameter._hp_mapping",
    ),
    (2, "fp32"): (
        "optimizer.single_partition_of_fp32_groups",
        "optimizer.update_lp_params",
        "parameter._hp_mapping",
    ),
    (3, "fp32"): (
        "optimizer.optimizer",
        "optimizer.fp32_partitioned_groups_flat",
        "optimizer.get_grad_norm_direct",
        "optimizer.get_param_id",
        "optimizer.grad_position",
        "optimizer.persistent_parameters",
        "optimizer._reassign_or_swap_out_partitioned_parameters",
        "parameter.ds_id",
        "parameter.ds_numel",
        "parameter.partition",
        "parameter.all_gather",
    ),
}


def moved(name):
    return (
        f"DeepSpeed {deepspeed.__version__}: found no {name}, which deepspeed_internals.py needs; "
        "find where it went, or cap the version of deepspeed in pyproject.toml below this one"
    )


@pytest.fixture(scope="module")
def place():
    with process_group("cpu") as found:
        yield found


@pytest.mark.parametrize(("module", "name"), REPLACED)
def test_a_replaced_function_is_called_by_its_module(module, name):
    code = inspect.getsource(import_module(f"deepspeed.runtime.{module}"))
    assert f"{name}(" in code, moved(f"call of {name} in deepspeed.runtime.{module}")


def test_the_list_of_operators_that_can_be_built_is_still_read():
    assert "__compatible_ops__" in inspect.getsource(deepspeed.ops), moved("ops.__compatible_ops__")


@pytest.mark.parametrize(("stage", "precision"), PRESENT)
def test_the_attributes_in_use_are_those_of_deepspeed(place, monkeypatch, stage, precision):
    monkeypatch.setattr(internals, "keep_norms_on_device", lambda *_: None)
    monkeypatch.setattr(internals, "skip_needless_kernels", lambda *_, **__: None)
    options = [f"runtime.zero_stage={stage}", f"runtime.precision={precision}", "optim.clip_grad=1"]
    settings = load_config("pretrain", [*TINY, "run_dir=none", "runtime.compile=false", *options])
    engine = engines.start(nn.Linear(4, 4), settings.optim, settings.runtime, place, 1)
    images = torch.ones(1, 4, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    engine.backward(engine(images).sum())
    engine.step()
    for name in PRESENT[stage, precision]:
        owner = engine
        if name.startswith("parameter."):
            owner, name = engine.module.weight, name.removeprefix("parameter.")
        try:
            attrgetter(name)(owner)
        except AttributeError as error:
            pytest.fail(f"{moved(name)} ({error})")
    assert internals.has_bf16_optimizer(engine) == (precision == "bf16")


def start_at_stage_1():
    settings = load_config("pretrain", [*TINY, "run_dir=none", "runtime.zero_stage=1"])
    with process_group("cpu") as place:
        engines.start(nn.Linear(4, 4), settings.optim, settings.runtime, place, 1)
    assert "deepspeed.runtime.zero.muon.original_muon" in sys.modules, moved("Muon")
    assert "torch._inductor.compile_fx" not in sys.modules


def test_zero_starts_without_the_compiler_of_torch(tmp_path):
    rank = Forked(start_at_stage_1, out=tmp_path / "out")
    assert rank.wait() == 0, rank.out.read_text()[-2000:]


@pytest.mark.parametrize("name", ["norm", "clip"])
def test_a_replacement_takes_the_arguments_of_what_it_replaces(name):
    from deepspeed.runtime import utils

    original = {"norm": "get_global_norm_of_tensors", "clip": "clip_tensors_by_global_norm"}[name]
    theirs = inspect.signature(getattr(utils, original)).parameters
    ours = inspect.signature(getattr(internals, name)).parameters
    used = [key for key in theirs if key in ("input_tensors", "norm_type", "max_norm", "mpu")]
    assert set(used) <= set(ours), moved(f"{original}({', '.join(ours)})")
