"""Selective correspondence (paper 3.2), and the Correspondence Approximation and Refinement Block,
CARB (paper 3.3).

The frozen encoder's part has two steps, which the token store keeps separately. `third` computes
the tokens after the third block and Eq. 1. `select` chooses the tokens T, attentive ones and
cluster centres (Eq. 2 and 3), and for each place of the feature map its slot: which token of T
stands for it. `CARB` projects T and computes the LCR loss (Eq. 4 to 7, in losses.py). All functions
work on batches. Of equal scores the one with the lower index wins, so that every device and rank
makes the same choice.
"""

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from scemae.models import losses
from scemae.models.projector import Projector
from scemae.models.vit import FIRST_BLOCKS, Encoder, take


@dataclass
class Third:
    """The part of the selection that does not depend on eta and K_c.

    tokens (b, 1 + n, d) after the third block; similarity (b, n), Eq. 1; final (b, n, d) the patch
    tokens after the last block, if all tokens went through it and the store kept them, else None.
    """

    tokens: Tensor
    similarity: Tensor
    final: Tensor | None = None


@dataclass
class Selection:
    """What stage 2 learns from: T = T_att + T_inatt' (paper 3.3), of k = round(eta n) + K_c tokens.

    tokens (b, k, d) of T after the last block, attentive ones first, then the proxies; ids (b, k)
    their places in the map; slot (b, n): for each place of the map which of the k stands for it
    (its own token, or its centre).
    """

    tokens: Tensor
    ids: Tensor
    slot: Tensor


def cls_similarity(block: Any, tokens: Tensor, heads: str = "mean") -> Tensor:
    """Eq. 1: Sim_cls = Softmax(K q_cls / sqrt(d)) over the patch tokens, (b, 1 + n, d) to (b, n).

    q and K are those of `block`, a timm Block. heads="mean": a softmax per head, then the mean over
    heads (EViT's convention); "joint": one head of full width, as Eq. 1 is printed (PROTOCOL 1.6
    [U]).
    """
    attention = block.attn
    q, k, _ = attention.qkv(block.norm1(tokens)).chunk(3, dim=-1)
    h = attention.num_heads if heads == "mean" else 1
    q_cls = rearrange(q[:, 0], "b (h d) -> b h d", h=h).float()
    keys = rearrange(k[:, 1:], "b n (h d) -> b h n d", h=h).float()
    logits = torch.einsum("bhnd,bhd->bhn", keys, q_cls) / keys.shape[-1] ** 0.5
    return logits.softmax(-1).mean(1)


def paper_eta(width: int) -> float:
    """The share of attentive tokens that the paper takes (4): 0.25 for DeiT-B, 0.1 for T and S.

    width: channels of a token.
    """
    return 0.25 if width == 768 else 0.1


def count_attentive(eta: float, n: int) -> int:
    """How many of n patch tokens are attentive: round(eta n) (paper 3.2; PROTOCOL 1.3 [D])."""
    return round(eta * n)


def count_selected(eta: float, clusters: int, n: int) -> int:
    """k, the size of T: the attentive of n patch tokens and K_c proxies (paper 3.3)."""
    return count_attentive(eta, n) + clusters


def split(similarity: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """The tokens most similar to CLS are attentive, the rest inattentive (paper 3.2).

    similarity (b, n). Returns positions (b, eta n) and (b, n - eta n), each in ascending order.
    """
    count = count_attentive(eta, similarity.shape[1])
    ranked = similarity.argsort(dim=1, descending=True, stable=True)
    return ranked[:, :count].sort(dim=1).values, ranked[:, count:].sort(dim=1).values


def log_density(squared: Tensor, neighbours: int | None = None) -> Tensor:
    """Eq. 2 in the log domain: ln rho_i = - mean_j ||t_i - t_j||^2 / C.

    squared (b, n, n): ||t_i - t_j||^2 / C. Returns (b, n). As printed, with a plus sign and a sum,
    rho overflows and is largest for outliers; sign and mean are those of DPC-KNN (PROTOCOL 6). The
    mean is over all other tokens, or over the `neighbours` nearest, the token itself among them
    (DPC-KNN).
    """
    if neighbours is None:
        return -squared.sum(-1) / max(squared.shape[-1] - 1, 1)
    return -squared.topk(min(neighbours, squared.shape[-1]), dim=-1, largest=False).values.mean(-1)


def distance_to_denser(distance: Tensor, log_rho: Tensor) -> Tensor:
    """Eq. 3: delta_i, the distance to the nearest denser token, or to the farthest token of all if
    none is denser.

    distance (b, n, n), log_rho (b, n). Returns (b, n). "Denser" is a higher ln rho, or an equal one
    at a lower index (PROTOCOL 6).
    """
    order = torch.arange(log_rho.shape[1], device=log_rho.device)
    mine, other = log_rho.unsqueeze(2), log_rho.unsqueeze(1)
    denser = (other > mine) | ((other == mine) & (order.unsqueeze(0) < order.unsqueeze(1)))
    nearest = distance.masked_fill(~denser, torch.inf).amin(-1)
    return torch.where(denser.any(-1), nearest, distance.amax(-1))


def density_peak_clustering(
    tokens: Tensor, clusters: int, neighbours: int | None = None
) -> tuple[Tensor, Tensor]:
    """Cluster tokens (b, n, d): the K_c = `clusters` with the highest rho * delta are centres, and
    each token joins the nearest centre.

    Returns centres (b, K_c), ascending positions among the n, and assignment (b, n), 0..K_c-1.
    Computed in fp32.
    """
    tokens = tokens.float()
    distance = (
        torch.cdist(tokens, tokens, compute_mode="donot_use_mm_for_euclid_dist")
        / tokens.shape[-1] ** 0.5
    )
    log_rho = log_density(distance.square(), neighbours)
    log_score = log_rho + distance_to_denser(distance, log_rho).clamp_min(1e-12).log()
    centres = (
        log_score.argsort(dim=1, descending=True, stable=True)[:, :clusters].sort(dim=1).values
    )
    to_centres = distance.gather(
        2, centres.unsqueeze(1).expand(-1, distance.shape[1], -1)
    )  # b n K_c
    assignment = to_centres.argmin(-1)
    return centres, assignment.scatter(
        1, centres, torch.arange(clusters, device=tokens.device).expand_as(centres)
    )


def aggregate_members(tokens: Tensor, cluster: Tensor) -> Tensor:
    """Each token of (b, n, d) replaced by the mean of the tokens of its cluster.

    cluster (b, n): for each token the position of its centre among the n.
    """
    index = cluster.unsqueeze(-1).expand_as(tokens)
    mean = torch.zeros_like(tokens, dtype=torch.float32)
    mean = mean.scatter_reduce(1, index, tokens.float(), "mean", include_self=False)
    return take(mean.to(tokens.dtype), cluster)


def substitute(tokens: Tensor, slot: Tensor) -> Tensor:
    """The feature map (b, d, h, w), each discarded token substituted by its centre (paper 3.3).

    tokens (b, k, d) of T, slot (b, n) as in `Selection`.
    """
    return rearrange(take(tokens, slot), "b (h w) d -> b d h w", h=int(slot.shape[1] ** 0.5))


@torch.no_grad()
def third(encoder: Encoder, images: Tensor, layer: str = "after", heads: str = "mean") -> Third:
    """The tokens after the third block and Eq. 1, for normalised images (b, 3, 96, 96).

    layer: q and K of Eq. 1 from the block "after" the third, or "inside" the third; heads: as in
    `cls_similarity`. Both are choices of PROTOCOL 1.6 [U].
    """
    before = encoder.run(encoder.embed(images), stop=FIRST_BLOCKS - 1)
    tokens = encoder.run(before, FIRST_BLOCKS - 1, FIRST_BLOCKS)
    block, given = (FIRST_BLOCKS, tokens) if layer == "after" else (FIRST_BLOCKS - 1, before)
    return Third(tokens, cls_similarity(encoder.blocks[block], given, heads))


@torch.no_grad()
def select(
    encoder: Encoder,
    third: Third,
    *,
    eta: float,
    clusters: int,
    density: str = "mean",
    remaining: str = "selected",
    aggregate: bool = False,
    cluster_norm: bool = False,
) -> Selection:
    """The tokens T and what each stands for (paper figure 2).

    density: Eq. 2 over all tokens ("mean") or the 5 nearest ("knn"). remaining: "selected" sends
    only CLS and T through the other blocks, "all" every token. aggregate: a centre is its members'
    mean (not the paper's). All are choices of PROTOCOL 1.6 [U]. cluster_norm: cluster the tokens
    after a LayerNorm without parameters (ours, PROTOCOL 6).
    """
    attentive, inattentive = split(third.similarity, eta)
    patches = third.tokens[:, 1:]
    clustered = take(patches, inattentive).float()
    if cluster_norm:
        clustered = F.layer_norm(clustered, clustered.shape[-1:])
    centres, assignment = density_peak_clustering(
        clustered, clusters, 5 if density == "knn" else None
    )
    ids = torch.cat([attentive, inattentive.gather(1, centres)], dim=1)
    count = attentive.shape[1]
    slot = torch.empty_like(third.similarity, dtype=torch.long)
    slot = slot.scatter(1, attentive, torch.arange(count, device=slot.device).expand_as(attentive))
    slot = slot.scatter(1, inattentive, count + assignment)
    if aggregate:
        patches = aggregate_members(patches, ids.gather(1, slot))
    if remaining == "all" and not aggregate and third.final is not None:
        return Selection(take(third.final, ids), ids, slot)
    through = patches if remaining == "all" else take(patches, ids)
    final = encoder.run(torch.cat([third.tokens[:, :1], through], dim=1), FIRST_BLOCKS)[:, 1:]
    return Selection(take(final, ids) if remaining == "all" else final, ids, slot)


class CARB(nn.Module):
    """The trained part of stage 2: the projector Phi under the LCR loss (paper 3.3)."""

    def __init__(
        self,
        projector: Projector,
        *,
        clusters: int,
        tau: float,
        coefficients: tuple[float, float, float],
        place_unit: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        """clusters: K_c, how many of the k tokens are proxies. place_unit: the length of one grid
        cell in f_loc, 1 (grid units) or 8 (input pixels)."""
        super().__init__()
        self.projector, self.clusters = projector, clusters
        self.tau, self.coefficients = tau, coefficients
        self.place_unit, self.reduction = place_unit, reduction

    def forward(self, tokens: Tensor, ids: Tensor, slot: Tensor, weights: Tensor) -> Tensor:
        """The sum over images of weight * LCR loss, a scalar.

        Arguments as in `Selection`; weights (b,).
        """
        grid, kept = int(slot.shape[1] ** 0.5), ids.shape[1]
        places = torch.stack([ids % grid, ids // grid], dim=-1) * self.place_unit
        is_attentive = torch.arange(kept, device=ids.device) < kept - self.clusters
        per_image = losses.lcr(
            self.project(tokens, ids, slot),
            places,
            is_attentive.expand_as(ids),
            self.tau,
            self.coefficients,
            self.reduction,
        )
        return (per_image * weights).sum()

    def head(self, maps: list[Tensor], side: int) -> Tensor:
        """Projected features of the encoder's one map (b, d, h, w), (b, dim, h, w), not yet of
        length one: the matcher enlarges them first (PROTOCOL 5.2)."""
        return self.projector.project(maps[0])

    def project(self, tokens: Tensor, ids: Tensor, slot: Tensor) -> Tensor:
        """Phi of the tokens of T, (b, k, out).

        A pointwise Phi maps each token without its neighbours, so it is given the k tokens alone:
        the same numbers, computed from an eighth of the map at eta 0.1.
        """
        if self.projector.is_pointwise:
            return rearrange(
                self.projector(rearrange(tokens, "b k d -> b d k 1")), "b d k 1 -> b k d"
            )
        return take(
            rearrange(self.projector(substitute(tokens, slot)), "b d h w -> b (h w) d"), ids
        )
