"""Eq. 1 to 3 and the selection against slow versions."""

import math

import pytest
import torch
from torch.nn import functional

from scemae.models import carb, losses
from scemae.models.projector import PROJECTORS, Projector
from scemae.models.vit import Encoder


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(48, 6, 3).eval().requires_grad_(False)


def slow_clustering(tokens, clusters, neighbours=None):
    """Eq. 2 and 3, one token at a time, in double precision, delta without logarithms."""
    n, c = tokens.shape
    d = [
        [float((tokens[i].double() - tokens[j].double()).norm()) / math.sqrt(c) for j in range(n)]
        for i in range(n)
    ]
    if neighbours is None:
        log_rho = [-sum(x * x for x in row) / (n - 1) for row in d]
    else:
        log_rho = [-sum(sorted(x * x for x in row)[:neighbours]) / neighbours for row in d]
    score = []
    for i in range(n):
        denser = [
            d[i][j]
            for j in range(n)
            if log_rho[j] > log_rho[i] or (log_rho[j] == log_rho[i] and j < i)
        ]
        score.append(log_rho[i] + math.log(min(denser) if denser else max(d[i])))
    centres = sorted(sorted(range(n), key=lambda i: -score[i])[:clusters])
    return centres, [min(range(clusters), key=lambda k: d[i][centres[k]]) for i in range(n)]


@pytest.mark.parametrize("neighbours", [None, 5])
def test_clustering_equals_the_slow_version(neighbours):
    torch.manual_seed(1)
    tokens = torch.randn(4, 40, 16) + 3 * torch.randn(4, 5, 16)[:, torch.arange(40) % 5]
    centres, assignment = carb.density_peak_clustering(tokens, 4, neighbours)
    for image in range(4):
        slow_centres, slow_assignment = slow_clustering(tokens[image], 4, neighbours)
        assert centres[image].tolist() == slow_centres
        assert assignment[image].tolist() == slow_assignment


def test_clustering_finds_well_separated_groups():
    groups = torch.arange(30) % 3
    tokens = (torch.eye(3)[groups].repeat_interleave(8, 1) * 9 + 0.1 * torch.randn(30, 24))[None]
    _, assignment = carb.density_peak_clustering(tokens, 3)
    assert all(len(set(assignment[0][groups == g].tolist())) == 1 for g in range(3))
    assert len(set(assignment[0].tolist())) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clustering_is_finite_at_the_scale_of_real_tokens(dtype):
    tokens = (torch.nn.functional.layer_norm(torch.randn(2, 130, 768), (768,)) * 3).to(dtype)
    squared = torch.cdist(tokens.float(), tokens.float()).square() / 768
    assert carb.log_density(squared).isfinite().all()
    assert math.isinf(float(squared[0, 0].double().mul(768).sum().exp()))  # Eq. 2 as printed
    centres, assignment = carb.density_peak_clustering(tokens, 4)
    assert all(len(set(row.tolist())) == 4 for row in centres) and assignment.max() == 3


def test_equal_tokens_go_to_the_lower_index():
    centres, assignment = carb.density_peak_clustering(torch.ones(1, 9, 4), 3)
    assert centres[0, 0] == 0 and len(set(centres[0].tolist())) == 3
    again, _ = carb.density_peak_clustering(torch.ones(1, 9, 4), 3)
    assert torch.equal(centres, again)
    assert [int(assignment[0, c]) for c in centres[0]] == [0, 1, 2]  # a centre stands for itself


@pytest.mark.parametrize("heads", ["mean", "joint"])
def test_cls_similarity_equals_the_slow_version(encoder, heads):
    tokens, block = torch.randn(2, 10, 48), encoder.blocks[3]
    ours = carb.cls_similarity(block, tokens, heads)
    normed = block.norm1(tokens)
    weight, bias = block.attn.qkv.weight, block.attn.qkv.bias
    q, k = normed @ weight[:48].T + bias[:48], normed @ weight[48:96].T + bias[48:96]
    width = 16 if heads == "mean" else 48
    for image in range(2):
        rows = []
        for start in range(0, 48, width):
            part = slice(start, start + width)
            logits = torch.stack(
                [k[image, j, part] @ q[image, 0, part] / math.sqrt(width) for j in range(1, 10)]
            )
            rows.append(logits.softmax(0))
        assert torch.allclose(ours[image], torch.stack(rows).mean(0), atol=1e-5)
    assert torch.allclose(ours.sum(1), torch.ones(2), atol=1e-5)


@pytest.mark.parametrize(("eta", "count"), [(0.1, 14), (0.25, 36)])
def test_split_takes_the_most_similar_share(eta, count):
    similarity = torch.rand(3, 144)
    attentive, inattentive = carb.split(similarity, eta)
    for row in range(3):
        slow = sorted(range(144), key=lambda i: -similarity[row, i])
        assert attentive[row].tolist() == sorted(slow[:count]) and inattentive[
            row
        ].tolist() == sorted(slow[count:])


def choose(encoder, images, layer="after", heads="mean", eta=0.1, clusters=4, **options):
    return carb.select(
        encoder, carb.third(encoder, images, layer, heads), eta=eta, clusters=clusters, **options
    )


def slow_map(
    encoder,
    image,
    eta,
    clusters,
    layer="after",
    heads="mean",
    density="mean",
    remaining="selected",
    aggregate=False,
    cluster_norm=False,
):
    """Paper 3.2 and 3.3 for one image, a token at a time.

    Returns its feature map (n, d), the places of T in order, and how many of them are attentive.
    """
    tokens = encoder.run(encoder.embed(image[None]), 0, 3)
    given = tokens if layer == "after" else encoder.run(encoder.embed(image[None]), 0, 2)
    similarity = carb.cls_similarity(encoder.blocks[3 if layer == "after" else 2], given, heads)[0]
    n = len(similarity)
    ranked = sorted(range(n), key=lambda i: -similarity[i])
    attentive, inattentive = sorted(ranked[: round(eta * n)]), sorted(ranked[round(eta * n) :])
    patches = tokens[0, 1:].clone()
    clustered = patches[inattentive]
    if cluster_norm:
        mean, spread = clustered.mean(1, keepdim=True), clustered.std(1, unbiased=False)
        clustered = (clustered - mean) / (spread[:, None] ** 2 + 1e-5).sqrt()
    centres, joined = carb.density_peak_clustering(
        clustered[None], clusters, 5 if density == "knn" else None
    )
    proxies = [inattentive[i] for i in centres[0]]
    stands_for = {
        **{i: i for i in attentive},
        **{i: proxies[c] for i, c in zip(inattentive, joined[0])},
    }
    if aggregate:
        means = {
            c: patches[[i for i in range(n) if stands_for[i] == c]].mean(0)
            for c in set(stands_for.values())
        }
        patches = torch.stack([means[stands_for[i]] for i in range(n)])
    places = attentive + proxies
    sent = patches if remaining == "all" else patches[places]
    final = encoder.run(torch.cat([tokens[0, :1], sent])[None], 3)[0, 1:]
    where = {place: i for i, place in enumerate(range(n) if remaining == "all" else places)}
    return torch.stack([final[where[stands_for[i]]] for i in range(n)]), places, len(attentive)


READINGS = [
    {},
    {"eta": 0.25},
    {"layer": "inside"},
    {"density": "knn"},
    {"heads": "joint"},
    {"aggregate": True},
    {"remaining": "all"},
    {"remaining": "all", "aggregate": True},
    {"cluster_norm": True},
]


@pytest.mark.parametrize("options", READINGS, ids=str)
def test_selection_and_its_map_equal_the_slow_version(encoder, options):
    images = torch.randn(2, 3, 96, 96)
    chosen = choose(encoder, images, **options)
    maps = carb.substitute(chosen.tokens, chosen.slot)
    assert maps.shape == (2, 48, 12, 12)
    for i, image in enumerate(images):
        slow, places, count = slow_map(encoder, image, **{"eta": 0.1, "clusters": 4, **options})
        assert chosen.ids[i].tolist() == places and count == len(places) - 4
        assert chosen.slot[i, places].tolist() == list(
            range(len(places))
        )  # each of T stands for itself
        assert torch.allclose(maps[i].flatten(1).T, slow, atol=1e-4)


def test_final_tokens_that_somebody_kept_are_not_computed_again(encoder):
    early = carb.third(encoder, torch.randn(2, 3, 96, 96))
    slow = carb.select(encoder, early, eta=0.1, clusters=4, remaining="all")
    kept = carb.Third(early.tokens, early.similarity, encoder.run(early.tokens, 3)[:, 1:])
    for name, value in vars(carb.select(None, kept, eta=0.1, clusters=4, remaining="all")).items():
        assert torch.equal(value, getattr(slow, name))


@pytest.mark.parametrize("kind", PROJECTORS)
def test_the_loss_equals_that_of_the_whole_map(encoder, kind):
    chosen = choose(encoder, torch.randn(2, 3, 96, 96))
    module = carb.CARB(Projector(kind, 48, 16), clusters=4, tau=1 / 7, coefficients=(5, 4, 2))
    whole = module.projector(carb.substitute(chosen.tokens, chosen.slot)).flatten(2).transpose(1, 2)
    features = torch.stack([whole[i, chosen.ids[i]] for i in range(2)])
    places = torch.stack([chosen.ids % 12, chosen.ids // 12], dim=-1)
    is_attentive = torch.tensor([[True] * 14 + [False] * 4] * 2)
    slow = losses.lcr(features, places, is_attentive, 1 / 7, (5, 4, 2))
    weights = torch.tensor([0.25, 0.75])
    fast = module(chosen.tokens, chosen.ids, chosen.slot, weights)
    assert torch.allclose(fast, (slow * weights).sum(), rtol=1e-5)
    for mine, theirs in zip(
        torch.autograd.grad(fast, module.parameters()),
        torch.autograd.grad((slow * weights).sum(), module.parameters()),
    ):
        assert torch.allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("kind", PROJECTORS)
def test_the_projector_learns_and_the_backbone_does_not(encoder, kind):
    chosen = choose(encoder, torch.randn(2, 3, 96, 96))
    module = carb.CARB(Projector(kind, 48, 16), clusters=4, tau=1 / 7, coefficients=(5, 5, 2))
    module(chosen.tokens, chosen.ids, chosen.slot, torch.ones(2) / 2).backward()
    assert all(p.grad.abs().sum() > 0 for p in module.parameters() if p.ndim > 1)
    assert not chosen.tokens.requires_grad
    maps = module.projector(carb.substitute(chosen.tokens, chosen.slot))
    assert torch.allclose(functional.normalize(maps, dim=1), maps, atol=1e-4)


@pytest.mark.parametrize(("eta", "attentive"), [(0.1, 14), (0.15, 22), (0.25, 36), (0.0, 0)])
def test_the_attentive_share_is_rounded_to_the_nearest_count(eta, attentive):
    assert carb.count_attentive(eta, 144) == attentive  # 0.15 * 144 = 21.6
    assert carb.count_selected(eta, 4, 144) == attentive + 4
    similarity = torch.rand(2, 144)
    kept, others = carb.split(similarity, eta)
    assert kept.shape == (2, attentive) and others.shape == (2, 144 - attentive)
