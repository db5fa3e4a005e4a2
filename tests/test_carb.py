"""Eq. 1 to 3 and the selection against slow versions."""

import math

import pytest
import torch

from scemae.models import carb
from scemae.models.projector import PROJECTORS, Projector
from scemae.models.vit import Encoder


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(48, 6, 3).eval().requires_grad_(False)


def slow_clustering(tokens, clusters, neighbours=None):
    """Eq. 2 and 3, one token at a time, in double precision and without the logarithm's help in delta."""
    n, c = tokens.shape
    d = [[float((tokens[i].double() - tokens[j].double()).norm()) / math.sqrt(c) for j in range(n)] for i in range(n)]
    if neighbours is None:
        log_rho = [-sum(x * x for x in row) / (n - 1) for row in d]
    else:
        log_rho = [-sum(sorted(x * x for x in row)[:neighbours]) / neighbours for row in d]
    score = []
    for i in range(n):
        denser = [d[i][j] for j in range(n) if log_rho[j] > log_rho[i] or (log_rho[j] == log_rho[i] and j < i)]
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
            logits = torch.stack([k[image, j, part] @ q[image, 0, part] / math.sqrt(width) for j in range(1, 10)])
            rows.append(logits.softmax(0))
        assert torch.allclose(ours[image], torch.stack(rows).mean(0), atol=1e-5)
    assert torch.allclose(ours.sum(1), torch.ones(2), atol=1e-5)


@pytest.mark.parametrize(("eta", "count"), [(0.1, 14), (0.25, 36)])
def test_split_takes_the_most_similar_share(eta, count):
    similarity = torch.rand(3, 144)
    attentive, inattentive = carb.split(similarity, eta)
    for row in range(3):
        slow = sorted(range(144), key=lambda i: -similarity[row, i])
        assert attentive[row].tolist() == sorted(slow[:count]) and inattentive[row].tolist() == sorted(slow[count:])


def test_selection_substitutes_each_inattentive_token_by_its_centre(encoder):
    chosen = carb.select(encoder, torch.randn(2, 3, 96, 96), eta=0.1, clusters=4)
    assert chosen.ids.shape == (2, 18) and chosen.is_attentive.sum(1).tolist() == [14, 14]
    flat = chosen.feature_map.flatten(2).transpose(1, 2)
    for image in range(2):
        proxies = set(chosen.ids[image, 14:].tolist())
        for token in range(144):
            stand_in = int(chosen.cluster[image, token])
            assert torch.equal(flat[image, token], flat[image, stand_in])
            assert stand_in == token if token in chosen.ids[image].tolist() else stand_in in proxies


def test_selected_tokens_alone_go_through_the_later_blocks(encoder):
    images = torch.randn(1, 3, 96, 96)
    chosen = carb.select(encoder, images, eta=0.1, clusters=4)
    tokens = encoder.run(encoder.embed(images), 0, 3)
    slow = encoder.run(torch.cat([tokens[:, :1], tokens[:, 1:][:, chosen.ids[0]]], 1), 3)[:, 1:]
    assert torch.allclose(chosen.feature_map.flatten(2)[0].T[chosen.ids[0]], slow[0], atol=1e-5)
    everything = carb.select(encoder, images, eta=0.1, clusters=4, remaining="all")
    assert torch.equal(everything.ids, chosen.ids)
    assert torch.allclose(everything.feature_map.flatten(2)[0].T[chosen.ids[0]], encoder(images)[0, 1:][chosen.ids[0]],
                          atol=1e-5)


@pytest.mark.parametrize("options", [{"layer": "inside"}, {"density": "knn"}, {"aggregate": True}, {"heads": "joint"}])
def test_every_reading_of_the_paper_gives_a_whole_selection(encoder, options):
    chosen = carb.select(encoder, torch.randn(2, 3, 96, 96), eta=0.25, clusters=4, **options)
    assert chosen.feature_map.shape == (2, 48, 12, 12) and chosen.feature_map.isfinite().all()
    assert all(len(set(row.tolist())) == 40 for row in chosen.ids)


@pytest.mark.parametrize("kind", PROJECTORS)
def test_the_projector_learns_and_the_backbone_does_not(encoder, kind):
    chosen = carb.select(encoder, torch.randn(2, 3, 96, 96), eta=0.1, clusters=4)
    module = carb.CARB(Projector(kind, 48, 16), tau=1 / 7, coefficients=(5, 5, 2))
    loss = module(chosen.feature_map, chosen.ids, chosen.is_attentive, torch.ones(2) / 2)
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in module.parameters() if p.ndim > 1)
    assert not chosen.feature_map.requires_grad
    assert torch.allclose(module.projector(chosen.feature_map).norm(dim=1), torch.ones(2, 12, 12), atol=1e-4)
