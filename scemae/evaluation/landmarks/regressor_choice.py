"""Choose the weight of stage 2 and the weight decay of a regressor on held-out training images (our
choice, PROTOCOL 4.7 [D]; never on test images).

Of the joined features (paper 4.2) each stage has length one per place, so that both weigh the same.
Stage 2 lets the regressor fit the training images better, and may over-fit few of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from scemae.errors import ConfigError
from scemae.evaluation.landmarks.feature_cache import Features, Weighted
from scemae.evaluation.landmarks.regression import (
    LandmarkRegressor,
    RegressionConfig,
    detection_errors,
    train_regressor,
)

HELD_OUT = 5  # of the training images every fifth


@dataclass(frozen=True)
class Choice:
    """The weight of stage 2's channels in the joined features, and the weight decay."""

    stage_2_weight: float
    weight_decay: float


def fit_best(
    features: Features,
    landmarks: Tensor,
    cfg: RegressionConfig,
    *,
    stage_2: int,
    choices: list[Choice],
    eyes: tuple[int, int],
    device: torch.device,
    progress: Callable[[int, float], object],
) -> tuple[LandmarkRegressor, Choice]:
    """A regressor of features (n, d, h, w) and normalised landmarks (n, l, 2), by the choice with
    the least error in % of the IOD on the held-out images, and that choice.

    stage_2: how many of the last channels are stage 2's. Of several choices each is trained
    without the held-out images, and the best once more on all images. The regressor reads the
    features unweighted. Raises ConfigError where there is a choice and too few images to hold
    any out.
    """
    chosen = choices[0]
    if len(choices) > 1:
        if len(features) < HELD_OUT:
            raise ConfigError(
                f"detection: found {len(features)} training images, at least {HELD_OUT} are needed "
                "to choose among several stage_2_weights or weight_decays; give one of each"
            )
        rows = torch.arange(len(features))
        is_held_out = rows % HELD_OUT == HELD_OUT - 1
        kept, held_out = rows[~is_held_out], rows[is_held_out]
        errors = []
        for one in choices:
            regressor = _fit(features, landmarks, kept, cfg, stage_2, one, device, progress)
            test = Weighted(features, torch.ones(features.shape[1]), held_out)
            found = detection_errors(regressor, test, landmarks[held_out], eyes, device=device)
            errors.append(found.mean())
        chosen = choices[int(np.argmin(errors))]
    return _fit(features, landmarks, None, cfg, stage_2, chosen, device, progress), chosen


def list_choices(weights: list[float], decays: list[float], stage_2: int) -> list[Choice]:
    """Every pair of a weight and a decay; features without stage 2 have the weight 1 alone."""
    return [Choice(*each) for each in product(weights if stage_2 else [1.0], decays)]


def _fit(
    features: Features,
    landmarks: Tensor,
    rows: Tensor | None,
    cfg: RegressionConfig,
    stage_2: int,
    choice: Choice,
    device: torch.device,
    progress: Callable[[int, float], object],
) -> LandmarkRegressor:
    """The regressor of one choice on the images `rows` (None: all)."""
    scale = torch.ones(features.shape[1])
    scale[len(scale) - stage_2 :] = choice.stage_2_weight
    is_whole = rows is None and choice.stage_2_weight == 1
    seen = features if is_whole else Weighted(features, scale, rows)
    marks = landmarks if rows is None else landmarks[rows]
    settings = replace(cfg, weight_decay=choice.weight_decay)
    regressor = train_regressor(seen, marks, settings, device=device, progress=progress)
    with torch.no_grad():  # from now on it reads the features without their weight
        regressor.heatmaps.weight *= scale.to(device)[:, None, None]
    return regressor
