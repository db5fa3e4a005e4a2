"""The networks of the explorer as ONNX: an encoder that also gives Eq. 1 and the tokens after the
third block, and heads.

Each is compared with the original on seeded images before it is used, as `scemae export` does.
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from scemae.data.augment import normalise
from scemae.errors import CheckpointError
from scemae.files import disk
from scemae.interop.export import OPSET, TOLERANCE
from scemae.models.carb import third
from scemae.models.vit import Encoder

MOST = 1 << 31  # bytes of one network: protobuf's own limit


class MapAndThird(nn.Module):
    """Normalised images (b, 3, 96, 96) to the patch tokens as a map (b, d, h, w), to Eq. 1's
    similarity of each patch to CLS (b, n), and to the patch tokens after the third block (b, n, d).

    layer, heads: the choices of Eq. 1 (models/carb.py: third).
    """

    def __init__(self, encoder: Encoder, layer: str, heads: str) -> None:
        super().__init__()
        self.encoder, self.layer, self.heads = encoder, layer, heads

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = self.encoder(images)[:, 1:]
        found = third(self.encoder, images, self.layer, self.heads)
        grid = self.encoder.grid
        feature_map = rearrange(tokens, "b (h w) d -> b d h w", h=grid)
        return feature_map, found.similarity, found.tokens[:, 1:]


class ProjectedMap(nn.Module):
    """A head as a module: the trunk's map (1, d, h, w) at any stride to its features (1, dim, h,
    w), not of length one.
    """

    def __init__(self, network: nn.Module, head: Callable[[list[Tensor], int], Tensor]) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, feature_map: Tensor) -> Tensor:
        return self.head([feature_map], 0)


def encoder_bytes(encoder: Encoder, layer: str, heads: str) -> bytes:
    """An ONNX file: `images` (1, 3, s, s) to `map`, `similarity` and `tokens`. Raises
    CheckpointError."""
    network = MapAndThird(encoder, layer, heads).eval()
    image = normalise(torch.rand(1, 3, encoder.image_size, encoder.image_size, generator=_seeded()))
    return _checked(network, image, "images", ["map", "similarity", "tokens"], None)


def head_bytes(network: nn.Module, head: Callable[..., Tensor], width: int, grid: int) -> bytes:
    """An ONNX file: `map` (1, width, h, h) of any h to `projected`. Raises CheckpointError."""
    given = torch.randn(1, width, 2 * grid, 2 * grid, generator=_seeded())
    shapes = {2: torch.export.Dim("h", min=2, max=1024), 3: torch.export.Dim("w", min=2, max=1024)}
    return _checked(ProjectedMap(network, head).eval(), given, "map", ["projected"], shapes)


@torch.no_grad()
def _checked(
    network: nn.Module, given: Tensor, name: str, outputs: list[str], shapes: dict[int, Any] | None
) -> bytes:
    """The network as ONNX, after a comparison with what it gives itself. Raises CheckpointError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        # torch warns of its own code
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            torch.onnx.export(
                network,
                (given,),
                path,
                input_names=[name],
                output_names=outputs,
                dynamic_shapes=None if shapes is None else (shapes,),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        truths = network(given)
        found = _by_onnxruntime(path, name, given)
        for output, truth, again in zip(outputs, _as_tuple(truths), found, strict=True):
            _compare(output, truth, again)
        return disk.read_bytes(path, MOST)


def _as_tuple(values: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return values if isinstance(values, tuple) else (values,)


def _compare(output: str, truth: Tensor, again: np.ndarray) -> None:
    allowed = TOLERANCE["onnxruntime"] * float(truth.abs().max())
    difference = float(np.abs(again - truth.numpy()).max())
    if not difference <= allowed:  # also for NaN
        raise CheckpointError(
            f"the network as ONNX: its output `{output}` differs by {difference:.1e} from the "
            f"original's, {allowed:.1e} is allowed; use the versions of constraints-cpu.txt"
        )


def _by_onnxruntime(path: Path, name: str, given: Tensor) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {name: given.numpy()})


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
