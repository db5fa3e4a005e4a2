"""Public weights as named tensors, from .safetensors or from a file of torch.save, which is read as
plain tensors and nothing else.

A file of a thousand bytes may claim 10^10 numbers, or name one storage a million times. So tensors
stay views of the file until their sizes are checked against its size; nothing else is allocated.
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

WRAPPERS = ("model", "state_dict", "model_state_dict")  # keys of a .pth that hold all its tensors
AVERAGED = ("state_dict_ema", "model_ema")  # as above, for averaged weights, which timm prefers
# Prefixes of names by DDP, torch.compile, MAE, timm and detectors.
PREFIXES = re.compile(r"(?:(?:module|model|encoder|backbone|_orig_mod)\.)*")
ANCHORS = ("cls_token", "patch_embed.proj.weight")  # every ViT has them
MOST_PICKLE = 16 * disk.MIB  # bytes of the pickle that describes the tensors of a file
MOST_OPCODES = 5_000_000  # of that pickle
MOST_NESTED = 1_000_000  # parts of one tuple, with the parts of its parts


class _Refused(Exception):
    """Why a file of weights is not read."""


def read_weights(path: Path, *, wrappers: tuple[str, ...] = WRAPPERS) -> dict[str, Tensor]:
    """The named tensors of a .safetensors file, or of a .pth that holds nothing but tensors.

    Prefixes that training puts before names are removed. The tensors are views of the file. Raises
    CheckpointError.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; give a local file of "
            "weights"
        )
    try:
        found = load_file(path) if path.suffix == ".safetensors" else _load(path)
        for key in wrappers:
            if isinstance(found, dict) and isinstance(found.get(key), dict):
                found = found[key]
        entries = found.items() if isinstance(found, dict) else ()
        tensors = {str(key): value for key, value in entries if isinstance(value, Tensor)}
        _check_sizes(tensors, path.stat().st_size)
    except Exception as error:  # unpickling, zip and safetensors raise all kinds on damaged files
        raise CheckpointError(
            f"{path}: cannot be read as weights alone ({' '.join(str(error).split())[:160]}); give "
            "a .safetensors file, or a .pth that holds nothing but tensors"
        ) from error
    if not tensors:
        raise CheckpointError(
            f"{path}: found no named tensors in it; give the weights of a ViT, as MAE or timm save "
            "them"
        )
    return {key.replace("_orig_mod.", ""): value for key, value in without_prefix(tensors).items()}


def without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the ViT alone, without prefix: `module.encoder.cls_token` is `cls_token`."""
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
    """The content of a file of torch.save.

    From torch 1.6 on it is a zip, whose tensors become views of the file: a false size of a storage
    allocates nothing, and cannot reach beyond the file.
    """
    with disk.open_regular(path) as file:
        head = file.read(tarfile.BLOCKSIZE)
        is_zip = head[:4] == b"PK\x03\x04"
        if is_zip:
            _check_pickle(io.BytesIO(_pickle_of(file)))
        elif head[:1] == b"\x80" and not _is_tar(head):
            file.seek(0)
            # The older format has 5 pickles: a magic number, a version, the machine, the tensors,
            # their storages.
            for _ in range(5):
                _check_pickle(file)
        else:
            raise _Refused("it is no file of torch.save")
    # The checkpoints of MAE and DeiT hold the arguments of their training as a Namespace.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, "cpu", weights_only=True, mmap=is_zip)


def _is_tar(head: bytes) -> bool:
    """True for torch's oldest format, which torch would open by tarfile."""
    try:
        tarfile.TarInfo.frombuf(head, "utf8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _pickle_of(file: BinaryIO) -> bytes:
    """The pickle in a zip that describes its tensors.

    Raises _Refused where the zip claims to hold more bytes than it has.
    """
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        is_compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if is_compressed or sum(member.file_size for member in members) > size:
            raise _Refused("it is compressed, which torch.save does not do")
        described = [member for member in members if member.filename.split("/")[1:] == ["data.pkl"]]
        if len(described) != 1 or described[0].file_size > MOST_PICKLE:
            raise _Refused("it is no file of torch.save")
        return archive.read(described[0])


def _check_pickle(file: BinaryIO) -> None:
    """Raise _Refused where a pickle would build a tuple of over MOST_NESTED parts from a few bytes.

    To hash such a tuple, as the key of a dict, would take for ever. Nothing is executed: for each
    entry of the pickle's stack only the number of its parts is computed.
    """
    stack: list[int | None] = []  # the number of parts of each entry; None for a mark
    memo: dict[int, int] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count > MOST_OPCODES:
            raise _Refused("it describes more than weights are made of")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1] or 1
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo.get(int(argument or 0), 1))
        elif opcode.name == "MARK":
            stack.append(None)
        else:
            parts = 1 + sum(_taken(stack, opcode))
            if parts > MOST_NESTED:
                raise _Refused("it nests tuples without end")
            is_built = opcode.name.startswith(("TUPLE", "REDUCE", "NEWOBJ", "BUILD"))
            stack += [parts if is_built else 1] * len(opcode.stack_after)


def _taken(stack: list[int | None], opcode: pickletools.OpcodeInfo) -> list[int]:
    """Remove from the stack the entries that an opcode takes; returns the parts of each."""
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
    """Raise _Refused where tensors hold more numbers than a file of `size` bytes can.

    Twice its size is allowed, because tensors may share their numbers.
    """
    total = 0
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise _Refused(f"{name[:80]} is no plain tensor")
        needed = tensor.numel() * tensor.element_size()
        total += needed
        if needed > tensor.untyped_storage().nbytes() or total > 2 * size:
            raise _Refused(
                f"{name[:80]} holds {tensor.numel():,} numbers, more than are in the file"
            )
