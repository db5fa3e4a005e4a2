"""Small feature maps of a few test faces inside the report, so that its readers can click a point
and see where the other faces have its like.

Maps at stride 4, reduced to few channels (a singular value decomposition without a mean, which
keeps inner products) and 8 bits. The page's matcher is page/matcher.js; how often it answers as the
whole features do is computed here and printed there.
"""

import base64
import io
import json

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scemae.data.geometry import CROP, INPUT
from scemae.evaluation.landmarks import features, matching
from scemae.evaluation.landmarks.pairs import DIFFERENT, SOURCE
from scemae.evaluation.report.source import Source

STRIDE = 4  # of the maps, in pixels of the crop
CHANNELS = 64  # at most, of a reduced map
ACROSS = 8  # points of the grid, each way, on which whole and reduced features are compared
NEAR = 2.0  # pixels of the crop within which two answers are called the same
LEVELS = 127  # of a signed byte


def clickable(source: Source) -> tuple[str, dict]:
    """The JSON that report.html embeds, and the facts of report.json.

    Raises RunFolderError, DataError or CheckpointError where the run has no matching test, or its
    faces or networks are not to be found.
    """
    views = source.pairs.views[:, [SOURCE, DIFFERENT]].flatten(0, 1)
    maps = features.backbone(source.autoencoder.encoder, STRIDE)(views.float() / 255)
    side, methods, agreement = INPUT // STRIDE, [], {}
    for name, head in source.heads.items():
        whole = head(maps).float()
        values, scales = quantised(reduced(whole, CHANNELS))
        restored = torch.from_numpy(values * scales[:, None, None, None])
        agreement[name] = agree(whole, restored)
        methods.append(
            {
                "name": name,
                "channels": values.shape[1],
                "maps": [base64.b64encode(one.tobytes()).decode() for one in values],
            }
        )
    shown = {"side": side, "methods": methods, "faces": [_jpeg(view) for view in views]}
    facts = {"stride": STRIDE, "faces": len(views), "near": NEAR, "agreement": agreement}
    return json.dumps(shown).replace("<", "\\u003c"), facts


def reduced(maps: Tensor, channels: int) -> Tensor:
    """Maps (b, d, h, w) turned into the `channels` directions that hold most of their squares."""
    if maps.shape[1] <= channels:
        return maps
    vectors = maps.permute(0, 2, 3, 1).flatten(0, 2).double()
    _, directions = torch.linalg.eigh(vectors.T @ vectors)  # ascending
    return torch.einsum("bdhw,dc->bchw", maps.double(), directions[:, -channels:]).float()


def quantised(maps: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Maps (b, c, h, w) as signed bytes, and the step (b,) of each map."""
    steps = maps.abs().amax(dim=(1, 2, 3)).clamp_min(1e-12) / LEVELS
    values = (maps / steps[:, None, None, None]).round().to(torch.int8)
    return values.numpy(), steps.numpy()


def agree(whole: Tensor, small: Tensor) -> float:
    """The share of a grid's points that both features (b, d, h, w) find at places no more than NEAR
    apart, each face searched in the next one.
    """
    line = (torch.arange(ACROSS) + 0.5) * (INPUT / ACROSS) - 0.5
    points = torch.cartesian_prod(line, line).flip(1).expand(len(whole), -1, -1)
    answers = [matching.match(one, one.roll(-1, 0), points) for one in (whole, small)]
    return float(((answers[0] - answers[1]).norm(dim=2) <= NEAR).float().mean())


def _jpeg(view: Tensor) -> str:
    """The crop of a frame (3, 136, 136) uint8 as a data URI."""
    pixels = view[:, CROP:-CROP, CROP:-CROP].permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
