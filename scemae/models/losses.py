"""The losses of both stages: tensors in, tensors out."""

import torch
from torch import Tensor
from torch.nn import functional as F


def reconstruction(
    predicted: Tensor, patches: Tensor, masked: Tensor | None, norm_pix: bool
) -> Tensor:
    """Stage 1: the mean squared pixel error over the masked patches of each image, (b,) (paper 3.1,
    PROTOCOL 2.2).

    predicted, patches (b, n, p*p*c); masked (b, n), True where hidden, or None if all are hidden.
    With `norm_pix` the target is each patch standardised by its own mean and unbiased variance.
    """
    target = patches.float()
    if norm_pix:
        deviation = (target.var(-1, keepdim=True) + 1e-6).sqrt()
        target = (target - target.mean(-1, keepdim=True)) / deviation
    error = (predicted.float() - target).square().mean(-1)  # b n
    return error.mean(1) if masked is None else (error * masked).sum(1) / masked.sum(1)


def correspondence(features: Tensor, tau: float) -> Tensor:
    """Eq. 4: p(t_j | t_i), the softmax over j in T of <Phi_ti, Phi_tj> / tau.

    (b, k, d) to (b, k, k). Features are L2-normalised first, so that tau has one meaning for every
    projector (PROTOCOL 1.6 [U]; CL's rule).
    """
    features = F.normalize(features.float(), dim=-1)
    return torch.softmax(features @ features.transpose(1, 2) / tau, dim=-1)


def locality(places: Tensor) -> Tensor:
    """Eq. 5: f_loc(t_i, t_j) = log(||t_i - t_j|| + 1) of spatial places (b, k, 2), as (b, k, k)."""
    return torch.log1p(
        torch.cdist(places.float(), places.float(), compute_mode="donot_use_mm_for_euclid_dist")
    )


def repellence(
    is_attentive: Tensor, att_att: float, att_inatt: float, inatt_inatt: float
) -> Tensor:
    """Eq. 6: lambda_rep(t_i, t_j), by whether both, one or none of the tokens are attentive.

    is_attentive (b, k) bool. Returns (b, k, k).
    """
    row, column = is_attentive.unsqueeze(2), is_attentive.unsqueeze(1)
    mixed = torch.where(row | column, att_inatt, inatt_inatt)
    return torch.where(row & column, att_att, mixed)


def lcr(
    features: Tensor,
    places: Tensor,
    is_attentive: Tensor,
    tau: float,
    coefficients: tuple[float, float, float],
    reduction: str = "mean",
) -> Tensor:
    """Eq. 7, the Locality-Constrained Repellence loss of each image, (b,).

    features (b, k, d): projected tokens of T; places (b, k, 2): their x, y; is_attentive (b, k);
    coefficients: r_att-att, r_att-inatt, r_inatt-inatt. Over j the loss is a sum, as printed; the
    `reduction` over i is "mean" (PROTOCOL 1.6 [U], after CL) or "sum" (as printed).
    """
    weights = locality(places) * repellence(is_attentive, *coefficients)
    per_token = (weights * correspondence(features, tau)).sum(-1)  # b k
    return per_token.mean(1) if reduction == "mean" else per_token.sum(1)
