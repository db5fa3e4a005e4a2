"""Learning rate and weight decay as MAE has them."""

import math

import pytest

from scemae.distributed.engine import parameter_groups
from scemae.models.mae import Decoder, MaskedAutoencoder
from scemae.models.vit import Encoder
from scemae.training.schedule import Schedule


def test_warm_up_is_linear_and_the_rest_half_a_cosine():
    schedule = Schedule(peak=3e-4, floor=1e-6, warmup_steps=10, total_steps=110)
    rates = [schedule.learning_rate(step) for step in range(111)]
    assert rates[0] == 0 and rates[5] == pytest.approx(1.5e-4) and rates[10] == pytest.approx(3e-4)
    assert rates[35] == pytest.approx(1e-6 + (3e-4 - 1e-6) * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[110] == pytest.approx(1e-6)


def test_matrices_decay_and_biases_and_norms_do_not():
    encoder = Encoder(48, 4, 3)
    model = MaskedAutoencoder(encoder, Decoder(48, 32, 1, 2, grid=12, patch_size=8))
    decayed, still = parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], still["weight_decay"]) == (0.05, 0.0)
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim == 1 for p in still["params"])
    assert len(decayed["params"]) + len(still["params"]) == len(list(model.parameters()))
