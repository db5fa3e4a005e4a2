"""The engine: bf16, offload, launchers, compilation; no step waits for the device."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import deepspeed
import numpy as np
import pytest
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime import utils
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from scemae.config.load import load_config
from scemae.distributed import deepspeed_internals as internals
from scemae.distributed import engine as engines
from scemae.distributed.process_group import Place, process_group
from scemae.methods import mae, registry
from scemae.runs.checkpoints.checkpoint import committed, read_weights
from scemae.runs.metrics_log import read_metrics
from scemae.training.heartbeat import Meter, RankStatus
from scemae.training.loop import train_step
from tests.support import CUDA, TINY, scemae, write_shards

COMMON = [
    *TINY,
    "optim.global_batch_size=6",
    "optim.epochs=1",
    "optim.warmup_epochs=0",
    "loop.log_every=1",
    "loop.save_every=3",
    "runtime.device=cpu",
    "runtime.micro_batch_size=3",
]


SHALLOW = 1  # blocks of the encoder: where a claim holds for each block, one says as much as four


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("engine") / "shards", 18)


@pytest.fixture(scope="module")
def exact(shards, tmp_path_factory):
    """The losses of a run in fp32 on one rank, without ZeRO and with its optimizer in memory."""
    return run(shards, tmp_path_factory.mktemp("exact") / "run", "runtime.zero_stage=0")


def run(shards, folder, *options):
    scemae("pretrain", *COMMON, f"data.shards={shards}", f"run_dir={folder}", *options)
    return [row["loss"] for row in read_metrics(folder) if "loss" in row]


class HostReads(TorchDispatchMode):
    """Counts operators that make the host wait: reading a number, shapes that depend on numbers."""

    OPERATIONS = {
        torch.ops.aten._local_scalar_dense,
        torch.ops.aten.equal,
        torch.ops.aten.nonzero,
        torch.ops.aten.is_nonzero,
        torch.ops.aten.masked_select,
    }

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.overloadpacket in self.OPERATIONS:
            self.found[str(operation)] += 1
        return operation(*args, **(kwargs or {}))


class HostCopies(TorchFunctionMode):
    """Counts calls that copy between host and device; on a CPU they are the same calls."""

    CALLS = {
        torch.tensor,
        torch.as_tensor,
        torch.Tensor.cpu,
        torch.Tensor.tolist,
        torch.Tensor.numpy,
    }

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, call, types, args=(), kwargs=None):
        if call in self.CALLS:
            self.found[call.__name__] += 1
        return call(*args, **(kwargs or {}))


class Kernels(TorchDispatchMode):
    """Counts the kernels of a GPU: every operator that is not only another view of memory."""

    VIEWS = ("view", "detach", "slice", "record_function", "_is_mkldnn")

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if not any(name in str(operation) for name in self.VIEWS):
            self.found[str(operation)] += 1
        return operation(*args, **(kwargs or {}))


@pytest.fixture
def waits(monkeypatch):
    """Counts DeepSpeed's own waits for the device, which no operator shows."""
    found, kind = Counter(), type(get_accelerator())
    monkeypatch.setattr(kind, "synchronize", lambda *_: found.update(["synchronize"]))
    return found


class Dog:
    def note(self, global_step, phase):
        pass


@pytest.fixture
def place():
    with process_group("cuda" if torch.cuda.is_available() else "cpu") as found:
        yield found


def start(place, *options, accumulation=2, depth=4):
    settings = load_config("pretrain", [*TINY, "run_dir=none", "runtime.compile=false", *options])
    model = replace(settings.model, depth=depth)
    module = mae.build(mae.Settings(model, settings.decoder, 0.75, False), seed=0)
    return engines.start(module, settings.optim, settings.runtime, place, accumulation)


def batches(place, spoilt=1.0):
    random = torch.Generator().manual_seed(0)
    images, noise = (
        torch.randn(3, 3, 96, 96, generator=random),
        torch.rand(3, 144, generator=random),
    )
    while True:
        yield (
            images.to(place.device),
            noise.to(place.device),
            torch.full((3,), spoilt / 3, device=place.device),
        )


def train(engine, meter, feed, steps, accumulation=2):
    for step in steps:
        train_step(engine, feed, step, accumulation, meter, Dog())


def heartbeat(meter):
    return meter.heartbeat(
        RankStatus(False, False, False), np.zeros((len(meter.steps), 8), dtype=np.int64), 0
    )


@pytest.mark.parametrize("clip", [0, 0.1])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_step_never_waits_for_the_device(place, waits, stage, precision, clip):
    engine = start(
        place,
        f"runtime.zero_stage={stage}",
        f"runtime.precision={precision}",
        f"optim.clip_grad={clip}",
        depth=SHALLOW,
    )
    for group in getattr(engine.optimizer, "optimizer", engine.optimizer).param_groups:
        group["fused"], group["foreach"] = (
            True,
            False,
        )  # as on a GPU; on a CPU Adam reads its count of steps
    meter, feed, found = Meter(place, 10, 6), batches(place), Counter()
    train(engine, meter, feed, [1, 2])
    reused = [next(feed)] * 6
    waits.clear()
    with HostReads(found), HostCopies(found):
        train(engine, meter, iter(reused), [3, 4, 5])
    assert not found and (stage == 3 or not waits)
    norms = heartbeat(meter).norms
    assert all(0 < norm < 10 for norm in norms)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("clip", [0, 0.1])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_cuda_sees_no_wait_in_a_step(place, stage, precision, clip):
    engine = start(
        place,
        f"runtime.zero_stage={stage}",
        f"runtime.precision={precision}",
        f"optim.clip_grad={clip}",
        depth=SHALLOW,
    )
    meter, reused = Meter(place, 10, 6), [next(batches(place))] * 10
    train(engine, meter, iter(reused), [1, 2])
    torch.cuda.set_sync_debug_mode("error")
    try:
        train(engine, meter, iter(reused), [3, 4, 5])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "options",
    [
        ("runtime.zero_stage=0", "optim.clip_grad=1"),
        ("runtime.zero_stage=1",),
        ("runtime.zero_stage=1", "optim.clip_grad=1"),
        ("runtime.zero_stage=2",),
        ("runtime.zero_stage=3",),
        ("runtime.zero_stage=1", "runtime.precision=bf16"),
        ("runtime.zero_stage=2", "runtime.precision=bf16", "optim.clip_grad=1"),
    ],
    ids=str,
)
def test_gradients_that_are_no_number_are_known_at_the_heartbeat(place, options):
    engine, meter = start(place, *options, depth=SHALLOW), Meter(place, 10, 6)
    train(engine, meter, batches(place), [1])
    train(engine, meter, batches(place, spoilt=float("nan")), [2])
    first, second = heartbeat(meter).norms
    assert 0 < first < 10 and not second < float("inf")


@pytest.mark.parametrize(
    "stage,precision",
    [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (2, "bf16")],
)
def test_clipping_makes_the_norm_what_was_asked_for(place, stage, precision):
    """Plain gradient descent at rate 1: the weights move by the clipped norm."""
    engine = start(
        place,
        f"runtime.zero_stage={stage}",
        f"runtime.precision={precision}",
        "optim.clip_grad=0.1",
        depth=SHALLOW,
    )
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    before = engines.full_weights(engine, True)
    inner.step = lambda: [
        p.data.sub_(p.grad) for group in inner.param_groups for p in group["params"]
    ]
    engine.optimizer._lazy_init_hp_params_optimizer_state = lambda: None  # there are no moments
    train(engine, Meter(place, 10, 6), batches(place), [1])
    after = engines.full_weights(engine, True)
    moved = torch.stack([(after[name] - before[name]).norm() for name in before]).norm()
    assert moved.item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage,backend",
    [(1, "inductor"), (3, "aot_eager"), pytest.param(1, "inductor", id="cuda-1", marks=CUDA)],
)  # place is CUDA where there is one
def test_a_compiled_run_gives_the_same_losses(place, monkeypatch, stage, backend):
    """At stage 3 without code in C++, which takes minutes: other graphs, of the same operators."""
    compile_ = deepspeed.DeepSpeedEngine.compile
    if backend != "inductor":
        monkeypatch.setattr(
            deepspeed.DeepSpeedEngine, "compile", lambda engine: compile_(engine, backend)
        )
    options, losses = [f"runtime.zero_stage={stage}", "optim.lr=1e-3"], []
    for compiled in ("false", "true"):
        engine = start(place, *options, f"runtime.compile={compiled}", depth=SHALLOW)
        meter = Meter(place, 10, 6)
        assert engine.is_compiled == (compiled == "true")
        train(engine, meter, batches(place), [1, 2, 3])
        losses.append(heartbeat(meter).losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][2] < losses[0][0]


def kernels_beside_the_model(engine, feed, micro_steps, monkeypatch):
    """The operators after the backward pass and of the optimizer, by name, and the reductions."""
    kernels, reductions, after_backward = Kernels(), Counter(), engine._backward_epilogue
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda *_, **__: reductions.update(["all_reduce"])
    )

    def counted():
        with kernels:
            after_backward()

    engine._backward_epilogue = counted
    for _ in range(micro_steps):
        engine.backward(engine(*next(feed)))
        with kernels:
            engine.step()
    return kernels.found + reductions


@pytest.mark.parametrize("precision,micro_steps,most", [("fp32", 2, 15), ("bf16", 2, 30)])
def test_one_rank_adds_few_kernels_to_a_step_and_reduces_nothing(
    place, monkeypatch, precision, micro_steps, most
):
    engine = start(
        place, f"runtime.precision={precision}", "optim.clip_grad=0.1", accumulation=micro_steps
    )
    for group in getattr(engine.optimizer, "optimizer", engine.optimizer).param_groups:
        group["fused"], group["foreach"] = True, False  # as on a GPU
    feed = batches(place)
    kernels_beside_the_model(
        engine, feed, micro_steps, monkeypatch
    )  # the first step makes the optimizer's state
    found = kernels_beside_the_model(engine, feed, micro_steps, monkeypatch)
    assert found["all_reduce"] == 0 and found.total() <= most, found


@pytest.mark.parametrize(
    "options", [("optim.clip_grad=0.1",), ("optim.name=sgd", "optim.lr=0.1")], ids=str
)
def test_fewer_kernels_leave_deepspeeds_numbers(place, monkeypatch, options):
    found = []
    for skips_kernels in (True, False):
        if not skips_kernels:
            monkeypatch.setattr(internals, "skip_needless_kernels", lambda *_, **__: None)
            monkeypatch.setattr(internals, "norm", utils.get_global_norm_of_tensors)
        engine, meter = start(place, "runtime.precision=bf16", *options), Meter(place, 10, 6)
        train(engine, meter, batches(place), [1, 2, 3])
        beat = heartbeat(meter)
        found.append((beat.losses, beat.norms, engines.full_weights(engine, True)))
    assert found[0][:2] == found[1][:2]
    assert all(torch.equal(found[0][2][name], found[1][2][name]) for name in found[1][2])


def test_joining_the_group_probes_none_of_deepspeeds_operators(monkeypatch):
    monkeypatch.delitem(vars(deepspeed.ops), "__compatible_ops__", raising=False)
    monkeypatch.setattr(
        deepspeed.ops,
        "_probe_compatible_ops",
        lambda: pytest.fail("it asks compilers and GPUs for seconds"),
    )
    with process_group("cpu"):
        pass


def test_compilation_is_chosen_by_the_device():
    module = torch.nn.Identity()
    assert engines.is_compiled(True, torch.device("cpu"), module) and not engines.is_compiled(
        "auto", torch.device("cpu"), module
    )
    assert not engines.is_compiled(False, torch.device("cuda"), module)


def stage_1(name):
    if name != "dve":
        pytest.importorskip("lightly")
    method, size = registry.find(name, 1), (2, 3, 96, 96)
    views = [torch.empty(size, device="meta"), torch.empty(size, device="meta")]
    meets = [torch.empty(2, 48, 48, 2, device="meta")] if name == "dve" else []
    return method.build(method.Settings(), seed=0), [*views, *meets, torch.empty(2, device="meta")]


def stage_2(name):
    method, widths, sides = registry.find(name, 2), [2048, 1024, 512, 256], [3, 6, 12, 24]
    maps = [torch.empty(2, d, side, side, device="meta") for d, side in zip(widths, sides)]
    return method.build(method.Settings(), SimpleNamespace(widths=widths), seed=0), [
        *maps,
        torch.empty(2, device="meta"),
    ]


def own(name):
    settings = load_config("pretrain", ["run_dir=none", f"model={name}"])
    module = mae.build(mae.Settings(settings.model, settings.decoder, 0.75, False), seed=0)
    return module, [torch.empty(shape, device="meta") for shape in ((2, 3, 96, 96), (2, 144), (2,))]


@pytest.mark.parametrize(
    "build,name",
    [
        (own, "deit_base"),
        *((stage_1, name) for name in ("moco", "byol", "dve")),
        (stage_2, "cl"),
        (stage_2, "lead"),
    ],
)
def test_what_is_compiled_without_being_asked_for_is_a_small_graph(monkeypatch, build, name):
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(
        engines.importlib.util, "find_spec", lambda name: name
    )  # as where Triton is
    module, given = build(name)
    if engines.is_compiled("auto", torch.device("cuda"), module):
        operators = Kernels()
        with operators:
            module.to("meta")(*given)
        assert operators.found.total() < 1050, (
            "larger graphs take minutes to compile: let it say worth_compiling = False"
        )
    else:
        assert name in ("moco", "byol", "dve")


def test_attention_and_adam_are_fused_where_they_can_be(place):
    engine = start(place)
    assert all(block.attn.fused_attn for block in engine.module.encoder.blocks)
    assert all(block.attn.fused_attn for block in engine.module.decoder.blocks)
    assert engine.optimizer.defaults["fused"] == (place.device.type == "cuda")


def test_one_rank_needs_no_zero_and_several_take_stage_1(place):
    runtime = load_config("pretrain", ["run_dir=none"]).runtime
    assert [engines.zero_stage(runtime, Place(0, ranks, place.device)) for ranks in (1, 2)] == [
        0,
        1,
    ]
    assert engines.zero_stage(replace(runtime, offload=True), place) == 1
    assert engines.zero_stage(replace(runtime, zero_stage=3), place) == 3


def test_a_cpu_in_bf16_gets_plain_attention_and_says_the_same(place):
    engine = start(place, "runtime.precision=bf16")
    assert engine.module.encoder.blocks[0].attn.fused_attn == (place.device.type == "cuda")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_trains_from_fp32_master_weights(shards, exact, tmp_path, stage):
    rounded = run(
        shards, tmp_path / "bf16", "runtime.precision=bf16", f"runtime.zero_stage={stage}"
    )
    assert rounded == pytest.approx(exact, rel=0.02)
    weights = read_weights(committed(tmp_path / "bf16")[-1])
    assert any((w != w.bfloat16().float()).any() for w in weights.values()), (
        "the fp32 master weights were not saved"
    )


@pytest.mark.slow
def test_offloaded_optimizer_state_gives_the_same_losses(shards, exact, tmp_path):
    losses = run(shards, tmp_path / "off", "runtime.offload=true")
    assert losses == pytest.approx(exact, rel=1e-5)


@pytest.mark.slow
def test_the_deepspeed_launcher_starts_it_too(shards, tmp_path):
    launcher = [
        os.path.join(os.path.dirname(sys.executable), "deepspeed"),
        "--num_gpus=2",
        "--module",
        "scemae",
    ]
    command = ["pretrain", *COMMON, f"data.shards={shards}", f"run_dir={tmp_path / 'run'}"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"],
    }
    done = subprocess.run(
        [*launcher, *command], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "2 x cpu" in done.stdout
    losses = [row["loss"] for row in read_metrics(tmp_path / "run") if "loss" in row]
    assert len(losses) == 3 and torch.isfinite(torch.tensor(losses)).all()
