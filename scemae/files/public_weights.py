"""Weights of others as named tensors: .safetensors, or what torch.save wrote, read as plain tensors and nothing else.

A file of a thousand bytes may say that it holds 10^10 numbers, or name one storage a million times. Nothing is allocated
by the word of a file: tensors stay views of it until they are known to be no larger than it.
"""

import argparse
import io
import os
import pickletools
import re
import tarfile
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor

from scemae.errors import CheckpointError
from scemae.files import disk

WRAPPERS = ("model", "state_dict", "model_state_dict")  # what a .pth may have around its tensors
AVERAGED = ("state_dict_ema", "model_ema")  # of these the averaged ones, which timm prefers
PREFIXES = re.compile(
    r"(?:(?:module|model|encoder|backbone|_orig_mod)\.)*"
)  # of DDP, torch.compile, MAE, timm, detectors
ANCHORS = ("cls_token", "patch_embed.proj.weight")  # what every ViT has
MOST_PICKLE = 16 * disk.MIB  # bytes of what describes the tensors of a file
MOST_OPCODES = 5_000_000  # in it
MOST_NESTED = 1_000_000  # parts of one tuple, with all that is in it


class _Refused(Exception):
    """Why a file of weights is not read."""


def read_weights(path: Path, *, wrappers: tuple[str, ...] = WRAPPERS) -> dict[str, Tensor]:
    """The named tensors of a .safetensors file, or of a .pth that holds nothing but tensors, without what training put
    before their names. They are views of the file. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(
            f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; give a local file of weights"
        )
    try:
        found = load_file(path) if path.suffix == ".safetensors" else _load(path)
        for key in wrappers:
            if isinstance(found, dict) and isinstance(found.get(key), dict):
                found = found[key]
        tensors = (
            {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
            if isinstance(found, dict)
            else {}
        )
        _check_sizes(tensors, path.stat().st_size)
    except Exception as error:  # unpickling, zip and safetensors raise all kinds on damaged files
        raise CheckpointError(
            f"{path}: cannot be read as weights alone ({' '.join(str(error).split())[:160]}); give a "
            ".safetensors file, or a .pth that holds nothing but tensors"
        ) from error
    if not tensors:
        raise CheckpointError(
            f"{path}: found no named tensors in it; give the weights of a ViT, as MAE or timm save them"
        )
    return {key.replace("_orig_mod.", ""): value for key, value in without_prefix(tensors).items()}


def without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the ViT alone, under its own names: `module.encoder.cls_token` is its `cls_token`."""
    for anchor in ANCHORS:
        found = [key.removesuffix(anchor) for key in tensors if key.endswith(anchor)]
        if known := sorted((start for start in found if PREFIXES.fullmatch(start)), key=len):
            return {
                key.removeprefix(known[0]): value
                for key, value in tensors.items()
                if key.startswith(known[0])
            }
    return tensors


def _load(path: Path) -> object:
    """What torch.save wrote. Where it is a zip, as since torch 1.6, tensors are views of the file: what a name in it says of
    a storage's size allocates nothing, and cannot reach beyond the file."""
    with disk.open_regular(path) as file:
        head = file.read(tarfile.BLOCKSIZE)
        is_zip = head[:4] == b"PK\x03\x04"
        if is_zip:
            _check_pickle(io.BytesIO(_pickle_of(file)))
        elif head[:1] == b"\x80" and not _is_tar(head):
            file.seek(0)
            for _ in range(
                5
            ):  # of the older format: a number, a version, the machine, the tensors, their storages
                _check_pickle(file)
        else:
            raise _Refused("it is no file of torch.save")
    with torch.serialization.safe_globals(
        [argparse.Namespace]
    ):  # MAE's and DeiT's own checkpoints keep their arguments
        return torch.load(path, "cpu", weights_only=True, mmap=is_zip)


def _is_tar(head: bytes) -> bool:
    """True of torch's oldest format, for which torch would use tarfile."""
    try:
        tarfile.TarInfo.frombuf(head, "utf8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _pickle_of(file: BinaryIO) -> bytes:
    """The description of the tensors in a zip. Raises _Refused where the zip claims more than it holds."""
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if (
            any(member.compress_type != zipfile.ZIP_STORED for member in members)
            or sum(m.file_size for m in members) > size
        ):
            raise _Refused("it is compressed, which torch.save does not do")
        described = [member for member in members if member.filename.split("/")[1:] == ["data.pkl"]]
        if len(described) != 1 or described[0].file_size > MOST_PICKLE:
            raise _Refused("it is no file of torch.save")
        return archive.read(described[0])


def _check_pickle(file: BinaryIO) -> None:
    """Raises _Refused where a pickle would build a tuple of a million parts out of itself. Nothing in it is executed.

    To hash such a tuple, as a key, takes for ever. Only the number of parts of what lies on the stack is followed.
    """
    stack: list[int | None] = []  # parts of each entry; None is a mark
    memo: dict[int, int] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count > MOST_OPCODES:
            raise _Refused("it describes more than weights are made of")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1] or 1
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo.get(argument, 1))
        elif opcode.name == "MARK":
            stack.append(None)
        else:
            parts = 1 + sum(_taken(stack, opcode))
            if parts > MOST_NESTED:
                raise _Refused("it nests tuples without end")
            stack += [
                parts if opcode.name.startswith(("TUPLE", "REDUCE", "NEWOBJ", "BUILD")) else 1
            ] * len(opcode.stack_after)


def _taken(stack: list[int | None], opcode: pickletools.OpcodeInfo) -> list[int]:
    """Take from the stack what an opcode takes."""
    names = [entry.name for entry in opcode.stack_before]
    taken: list[int] = []
    if "mark" in names:
        while (entry := stack.pop()) is not None:
            taken.append(entry)
        names = names[: names.index("mark")]
    for _ in names:
        taken.append(stack.pop() or 1)
    return taken


def _check_sizes(tensors: dict[str, Tensor], size: int) -> None:
    """Raises _Refused where tensors hold more numbers than a file of `size` bytes can (some share theirs)."""
    total = 0
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise _Refused(f"{name[:80]} is no plain tensor")
        total += tensor.numel() * tensor.element_size()
        if (
            tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
            or total > 2 * size
        ):
            raise _Refused(
                f"{name[:80]} holds {tensor.numel():,} numbers, more than are in the file"
            )
