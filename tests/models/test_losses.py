"""Eq. 4 to 7 against double loops."""

import math

import pytest
import torch

from scemae.models import losses


def slow_lcr(features, places, is_attentive, tau, r, reduction):
    """Eq. 4 to 7, one token pair at a time."""
    k = len(features)
    unit = [f / f.norm() for f in features]
    rows = []
    for i in range(k):
        weights = [math.exp(float(unit[i] @ unit[j]) / tau) for j in range(k)]
        row = 0.0
        for j in range(k):
            p = weights[j] / sum(weights)
            f_loc = math.log(math.dist(places[i].tolist(), places[j].tolist()) + 1)
            kinds = bool(is_attentive[i]) + bool(is_attentive[j])
            row += f_loc * {2: r[0], 1: r[1], 0: r[2]}[kinds] * p
        rows.append(row)
    return sum(rows) / (k if reduction == "mean" else 1)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_lcr_equals_a_double_loop(reduction):
    features, places = torch.randn(3, 7, 5), torch.randint(0, 12, (3, 7, 2))
    is_attentive, r = torch.rand(3, 7) < 0.6, (5.0, 4.0, 2.0)
    ours = losses.lcr(features, places, is_attentive, 0.2, r, reduction)
    for image in range(3):
        slow = slow_lcr(
            features[image], places[image].double(), is_attentive[image], 0.2, r, reduction
        )
        assert float(ours[image]) == pytest.approx(slow, rel=1e-5)


def test_a_token_in_correspondence_with_itself_alone_costs_nothing():
    features = torch.eye(6)[None] * 3
    loss = losses.lcr(
        features,
        torch.arange(12).view(1, 6, 2),
        torch.ones(1, 6, dtype=torch.bool),
        0.01,
        (5, 5, 2),
    )
    assert float(loss) == pytest.approx(0, abs=1e-6)


def test_distant_likeness_costs_more_than_near_likeness():
    features = torch.tensor([[[1.0, 0], [1, 0], [0, 1]]])
    kinds = torch.ones(1, 3, dtype=torch.bool)
    near = losses.lcr(features, torch.tensor([[[0, 0], [1, 0], [9, 9]]]), kinds, 0.1, (5, 5, 2))
    far = losses.lcr(features, torch.tensor([[[0, 0], [9, 9], [1, 0]]]), kinds, 0.1, (5, 5, 2))
    assert far > near


def test_bf16_features_give_a_finite_loss_with_a_gradient():
    features = (30 * torch.randn(2, 18, 64)).bfloat16().requires_grad_()
    losses.lcr(
        features, torch.randint(0, 12, (2, 18, 2)), torch.rand(2, 18) < 0.7, 1 / 7, (5, 5, 2)
    ).sum().backward()
    assert features.grad.isfinite().all() and features.grad.abs().sum() > 0
