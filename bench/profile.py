"""python -m bench profile: where the time of a training step of stage 1 goes, by kind of work.

  python -m bench profile --model deit_small --batch 16 [--compile] [--out DIR]

Self time of every operator (on a GPU: kernel) from torch's profiler, in the real engine.
"""

import argparse

import torch
from torch.profiler import ProfilerActivity

from bench import machine, step, training_step
from scemae.distributed.process_group import process_group

# The first kind with a word in the operator's name counts. Fused kernels come first: their names
# hold the names of all that they fuse.
KINDS = {
    "fused by the compiler": ("triton",),
    "attention": ("attention", "flash", "fmha", "mha", "softmax"),
    "matrix products": ("mm", "gemm", "cutlass", "nvjet", "dot", "linear"),
    "GELU": ("gelu",),
    "LayerNorm": ("layer_norm", "layernorm", "native_layer"),
    "optimizer": ("adam", "foreach", "multi_tensor", "lerp", "addcdiv", "addcmul"),
    "gather, scatter, sort": ("gather", "scatter", "index", "sort"),
    "copies": ("copy", "memcpy", "cat", "clone", "memset", "fill", "zero"),
    "elementwise": (
        "add",
        "mul",
        "div",
        "sub",
        "sum",
        "mean",
        "where",
        "elementwise",
        "reduce",
        "square",
        "pow",
    ),
}


def main(argv: list[str]) -> int:
    """Profile and write profile-*.json and .md."""
    parser = argparse.ArgumentParser(
        "python -m bench profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="deit_small")
    parser.add_argument("--decoder", default="mae")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", default=machine.OUT)
    options = parser.parse_args(argv)
    on_gpu = torch.cuda.is_available()
    name = "ours-compiled" if options.compile else "ours-eager"
    given = step.parse(
        [
            "--model",
            options.model,
            "--decoder",
            options.decoder,
            "--batch",
            str(options.batch),
            "--precision",
            "bf16" if on_gpu else "fp32",
        ]
    )
    with process_group("auto") as place:
        one = training_step.build(name, given, place)
        for _ in range(3):
            one()
        training_step.wait_for(place.device)
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
        with torch.profiler.profile(activities=activities) as profiler:
            for _ in range(options.steps):
                one()
            training_step.wait_for(place.device)
    rows = table(profiler.key_averages(), on_gpu, options.steps)
    how, device = "compiled" if options.compile else "eager", "cuda" if on_gpu else "cpu"
    machine.write(
        f"profile-{options.model}-{how}-{device}",
        options.out,
        rows,
        machine.facts() | {"batch": options.batch, "steps": options.steps},
    )
    return 0


def kind_of(name: str) -> str:
    """The kind of work that an operator or kernel of this name does."""
    return next(
        (kind for kind, words in KINDS.items() if any(word in name.lower() for word in words)),
        "other",
    )


def table(events, on_gpu: bool, steps: int) -> list[dict]:
    """One row per kind: milliseconds per step, share, and the operators that take most of it."""
    found: dict[str, list[tuple[float, str]]] = {}
    for event in events:
        is_kernel = event.device_type == torch.autograd.DeviceType.CUDA
        took = (
            event.self_device_time_total
            if on_gpu and is_kernel
            else 0
            if on_gpu
            else event.self_cpu_time_total
        )
        found.setdefault(kind_of(event.key), []).append((took, event.key))
    whole = sum(took for part in found.values() for took, _ in part)
    rows = [
        {
            "kind": kind,
            "ms per step": sum(took for took, _ in part) / 1e3 / steps,
            "share": f"{sum(took for took, _ in part) / whole:.1%}",
            "most of it": ", ".join(
                name[:40] for took, name in sorted(part, reverse=True)[:3] if took
            ),
        }
        for kind, part in found.items()
    ]
    return sorted(rows, key=lambda row: -row["ms per step"])
