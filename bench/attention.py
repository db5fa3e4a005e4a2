"""python -m bench attention: torch's back ends of attention, alone and in a step of stage 1.

  python -m bench attention --model deit_small --decoder mae --batch 512 [--precision bf16]

Kernels work on tiles of 64 or 128 tokens, so that 37 tokens of the encoder fill a part of one, and
145 of the decoder a part of two. Cases: torch's own choice, each back end by itself, and plain
products (timm's attention without the fused operator), everywhere or in the encoder alone. A back
end that does not serve these shapes on this machine is left out, with the reason.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench import machine, training_step
from bench.repeat import interleave, ratio, summary
from scemae.distributed.process_group import Place, process_group

CHOSEN = "torch's choice"
BACK_ENDS = {
    CHOSEN: None,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
PLAIN = {"plain products": ("encoder", "decoder"), "plain products in the encoder": ("encoder",)}
# Each takes a minute to compile, and torch stops compiling the same code after 8.
COMPILED = (CHOSEN, "cuDNN", "flash", "plain products in the encoder")


@dataclass
class Shape:
    """Attention in one half of the autoencoder: b images, h heads, n tokens, d channels a head."""

    part: str
    b: int
    h: int
    n: int
    d: int


def main(argv: list[str]) -> None:
    """Measure both and write attention-*.json and .md."""
    options = parse(argv)
    with process_group(options.device) as place:
        alone(options, place)
        in_a_step(options, place)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--model", default="deit_small")
    parser.add_argument("--decoder", default="mae")
    parser.add_argument("--batch", type=int, default=512 if on_gpu else 4)
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--precision", default="bf16" if on_gpu else "fp32", choices=("fp32", "bf16")
    )
    parser.add_argument("--repeats", type=int, default=5 if on_gpu else 1)
    parser.add_argument(
        "--steps", type=int, default=20 if on_gpu else 1, help="in one measured block"
    )
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=on_gpu,
        help="the step also compiled",
    )
    parser.add_argument("--out", default=machine.OUT)
    return parser.parse_args(argv)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's `scaled_dot_product_attention` by two products and a softmax; all (b, h, n, d)."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v


def back_end(name: str) -> AbstractContextManager:
    """In which torch may use the back end of this name alone."""
    return nullcontext() if BACK_ENDS.get(name) is None else sdpa_kernel(BACK_ENDS[name])


def shapes(options: argparse.Namespace) -> list[Shape]:
    """Of the encoder, which sees CLS and what is not hidden, and the decoder, which sees all."""
    config = training_step.settings(options)
    patches = (config.model.image_size // config.model.patch_size) ** 2
    seen = round(patches * (1 - config.mask_ratio))
    return [
        Shape(part, options.batch, net.heads, 1 + n, net.width // net.heads)
        for part, net, n in (("encoder", config.model, seen), ("decoder", config.decoder, patches))
    ]


def alone(options: argparse.Namespace, place: Place) -> None:
    """Forward and backward pass of one attention, in microseconds for each half and back end."""
    rows, reasons, dtype = [], {}, torch.bfloat16 if options.precision == "bf16" else torch.float32
    for shape in shapes(options):
        cases = {
            name: attention(name, shape, dtype, place.device)
            for name in (*BACK_ENDS, "plain products")
        }
        found = measure(cases, reasons, options, place, f"{shape.part}, ")
        rows += [
            {
                "half": shape.part,
                "tokens": shape.n,
                "back end": name,
                "us": 1e6 * options.batch / summary(values)["median"],
                "x torch's choice": ratio(values, found[CHOSEN]),
                "repeats": values,
            }
            for name, values in found.items()
        ]
    write("alone", options, rows, reasons)


def attention(
    name: str, shape: Shape, dtype: torch.dtype, device: torch.device
) -> training_step.Step:
    """One forward and backward pass."""
    size = shape.b, shape.h, shape.n, shape.d
    q, k, v = (torch.randn(size, dtype=dtype, device=device, requires_grad=True) for _ in range(3))
    call = functional.scaled_dot_product_attention if name in BACK_ENDS else plain_attention

    def run() -> None:
        with back_end(name):
            torch.autograd.grad(call(q, k, v), (q, k, v), v.detach())

    return run


def in_a_step(options: argparse.Namespace, place: Place) -> None:
    """Images per second of the whole training step, through the engine of `scemae pretrain`."""
    cases, reasons = {}, {}
    kinds = {"eager": (*BACK_ENDS, *PLAIN), "compiled": COMPILED if options.compile else ()}
    for kind, names in kinds.items():
        cases |= {f"{name}, {kind}": training(name, kind, options, place) for name in names}
    found = measure(cases, reasons, options, place)
    rows = [
        {
            "case": name,
            "images/s": summary(values)["median"],
            "x torch's choice, eager": ratio(values, found[f"{CHOSEN}, eager"]),
            "repeats": values,
        }
        for name, values in found.items()
    ]
    write("step", options, rows, reasons)


def training(name: str, kind: str, options: argparse.Namespace, place: Place) -> training_step.Step:
    """One training step with this attention."""

    def make_plain(module: nn.Module) -> None:
        for part in PLAIN.get(name, ()):
            for block in getattr(module, part).blocks:
                block.attn.fused_attn = False

    one = training_step.build_ours(f"ours-{kind}", options, place, make_plain)

    def run() -> None:
        with back_end(name):
            one()

    return run


def measure(
    cases: dict[str, training_step.Step],
    reasons: dict[str, str],
    options: argparse.Namespace,
    place: Place,
    where: str = "",
) -> dict[str, list[float]]:
    """Images per second of the cases that run here, in turns; the others go to `reasons`."""
    usable = usable_of(cases, reasons, where)
    return interleave(
        {name: timed(case, options, place.device) for name, case in usable.items()}, options.repeats
    )


def usable_of(
    cases: dict[str, training_step.Step], reasons: dict[str, str], where: str = ""
) -> dict[str, training_step.Step]:
    """Warm each case up; those that cannot run go to `reasons`."""
    usable = {}
    for name, case in cases.items():
        try:
            for _ in range(3):
                case()
            usable[name] = case
        except RuntimeError as error:  # "No available kernel"; the compiler wraps it
            reasons[f"{where}{name}"] = "not here: " + str(error).strip().splitlines()[-1][:100]
    return usable


def timed(
    case: training_step.Step, options: argparse.Namespace, device: torch.device
) -> Callable[[], float]:
    """Images per second of one block of it."""

    def block() -> float:
        training_step.wait_for(device)
        began = time.perf_counter()
        for _ in range(options.steps):
            case()
        training_step.wait_for(device)
        return options.steps * options.batch / (time.perf_counter() - began)

    return block


def write(
    kind: str, options: argparse.Namespace, rows: list[dict], reasons: dict[str, str]
) -> None:
    """One table, with what was measured, on what, and what could not be."""
    machine.write(
        f"attention-{kind}-{options.model}-{options.device}-{options.precision}",
        options.out,
        rows,
        {
            "batch": options.batch,
            "steps per repeat": options.steps,
            "repeats": options.repeats,
            "precision": options.precision,
            **machine.facts(),
            **reasons,
        },
    )
