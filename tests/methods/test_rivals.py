"""The rivals' networks, views and losses, against slow versions and by what a few steps do."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("lightly")  # MoCo's and BYOL's heads; a GPU machine may not have it

from scemae.data import pipeline, randomness, tps_warps
from scemae.data.order import Slice
from scemae.data.pipeline import Batch
from scemae.errors import ConfigError
from scemae.methods import byol, cl, dve, lead, moco
from scemae.models.hourglass import Hourglass
from scemae.models.hypercolumn import (
    KINDS,
    HypercolumnProjector,
    ResNetTrunk,
    join,
    join_normalised,
)
from scemae.models.projector import Projector

WIDTHS, SIDES = [16, 8, 4, 2], [2, 3, 6, 12]  # of small maps, deepest first
SMALL = {
    moco: moco.Settings("resnet10t", hidden=16, dim=8, queue=10),
    byol: byol.Settings("resnet10t", hidden=16, dim=8),
    dve: dve.Settings(width=16, depth=2, blocks=1, dim=8, step=4),
    cl: cl.Settings(dim=8, side=12, pixels=2.0),
    lead: lead.Settings(dim=8, side=12),
}
SIZE = 32  # of the images of the small networks
BOTH = pytest.mark.parametrize(
    "method", SMALL, ids=lambda method: method.__name__.rpartition(".")[2]
)


class Widths:
    widths = WIDTHS


def build(method, seed=0):
    if method.STAGE == 1:
        return method.build(SMALL[method], seed=seed)
    return method.build(SMALL[method], Widths(), seed=seed)


def batch_of(samples, epoch=0, frame=136, seed=5):
    """Smooth pictures, as the pipeline hands them over."""
    pictures = [
        F.interpolate(
            torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(s)),
            (frame, frame),
            mode="bicubic",
        ).clamp(0, 1)
        for s in samples
    ]
    b, samples = len(samples), np.asarray(samples)
    part = Slice(1, samples, np.full(b, epoch), np.full(b, 1 / b, np.float32), np.arange(b))
    return Batch((torch.cat(pictures) * 255).round().byte(), part, seed)


def inputs(method, samples=range(6), weights=None):
    """What a method's forward takes for some samples."""
    if method.STAGE == 1:
        given = method.views(SMALL[method], size=SIZE, scale=(0.2, 1.0))(batch_of(list(samples)))
    else:
        random = torch.Generator().manual_seed(3)
        maps = [
            torch.randn(100, d, s, s, generator=random)[list(samples)]
            for d, s in zip(WIDTHS, SIDES)
        ]
        given = (*maps, torch.full((len(samples),), 1 / len(samples)))
    return given if weights is None else (*given[:-1], torch.as_tensor(weights))


def train(module, steps, given, optimizer):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(module(*given))
        losses[-1].backward()
        optimizer.step()
        getattr(module, "after_step", lambda: None)()
    return torch.stack(losses).detach()


def sgd(module):
    return torch.optim.SGD(
        [p for p in module.parameters() if p.requires_grad], lr=0.01, momentum=0.9
    )


@pytest.mark.parametrize("kind", KINDS)
def test_projecting_map_by_map_equals_the_projector_on_the_hypercolumn(kind):
    maps = [torch.randn(2, d, s, s) for d, s in zip(WIDTHS, SIDES)]
    blockwise, whole = HypercolumnProjector(WIDTHS, 64, kind), Projector(kind, sum(WIDTHS), 64)
    whole.load_state_dict(blockwise.joined.state_dict())
    for side in (2, 12, 17):
        assert torch.allclose(blockwise(maps, side), whole(join(maps, side)), atol=1e-5)


def test_the_hypercolumn_is_that_of_resnet_50_deepest_first():
    trunk = ResNetTrunk("resnet50").eval()
    with torch.no_grad():
        maps = trunk(torch.randn(1, 3, 96, 96))
    assert [tuple(one.shape[1:]) for one in maps] == [
        (2048, 3, 3),
        (1024, 6, 6),
        (512, 12, 12),
        (256, 24, 24),
    ]
    assert (
        trunk.count_parameters() == 23_508_032
        and trunk.width == 3840
        and join(maps, 24).shape == (1, 3840, 24, 24)
    )
    assert torch.allclose(
        trunk.pooled(torch.zeros(1, 3, 96, 96)), trunk(torch.zeros(1, 3, 96, 96))[0].mean((2, 3))
    )


def test_a_trunk_that_timm_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="found 'resnet51'"):
        ResNetTrunk("resnet51")
    with pytest.raises(ConfigError, match="found 'mlp'"):
        HypercolumnProjector(WIDTHS, 8, "mlp")


def test_each_block_of_a_normalised_hypercolumn_has_length_one():
    maps = [torch.randn(2, d, s, s) for d, s in zip(WIDTHS, SIDES)]
    for block in join_normalised(maps, 7).split(WIDTHS, 1):
        assert torch.allclose(block.norm(dim=1), torch.ones(2, 7, 7), atol=1e-5)


def test_the_hourglass_has_the_parameters_of_dve_and_half_the_resolution():
    assert Hourglass().count_parameters() == 12_609_472
    assert Hourglass(16, 2, 1, out=8)(torch.randn(2, 3, 96, 96)).shape == (2, 8, 48, 48)
    with pytest.raises(ConfigError, match="images of 90 px, depth 4 needs a multiple of 32"):
        Hourglass(16).check_size(90)


def test_a_second_view_is_another_draw_and_belongs_to_its_sample():
    batch = batch_of([7, 3, 11])
    first, second, weights = pipeline.view_pairs(batch, 96, (0.2, 1.0))
    assert torch.equal(first, pipeline.correspondence_views(batch, 96, (0.2, 1.0)))
    assert (first - second).abs().mean() > 0.2 and weights.sum() == 1
    alone = pipeline.view_pairs(batch_of([11]), 96, (0.2, 1.0))
    assert torch.equal(alone[0][0], first[2]) and torch.equal(alone[1][0], second[2])


@BOTH
def test_a_seed_gives_the_same_weights(method):
    one, same, other = (
        build(method, 1).state_dict(),
        build(method, 1).state_dict(),
        build(method, 2).state_dict(),
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@BOTH
def test_a_few_steps_lower_the_loss(method):
    module = build(method)
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=3e-3)
    losses = train(module, 8, inputs(method), optimizer)
    assert losses.isfinite().all() and losses[-2:].mean() < losses[:2].mean()


@BOTH
def test_state_dict_resumes_bit_equal(method):
    given, module = inputs(method), build(method)
    train(module, 2, given, sgd(module))
    resumed = build(method, seed=9)
    resumed.load_state_dict(copy.deepcopy(module.state_dict()), strict=True)
    assert torch.equal(train(module, 3, given, sgd(module)), train(resumed, 3, given, sgd(resumed)))


@BOTH
def test_the_loss_is_the_sum_of_weighted_losses_of_images(method):
    module = build(
        method
    ).eval()  # no statistics of the batch, and MoCo's queue stands still without gradients
    with torch.no_grad():
        per_image = torch.stack([module(*inputs(method, weights=row)) for row in torch.eye(6)])
        weights = torch.tensor([0.5, 0.1, 0.0, 0.2, 0.1, 0.1])
        assert torch.allclose(
            module(*inputs(method, weights=weights)), (weights * per_image).sum(), rtol=1e-4
        )


@pytest.mark.parametrize("method", (moco, byol, cl), ids=("moco", "byol", "cl"))
def test_uneven_slices_add_up_to_the_global_mean(method):
    module = build(method).eval()  # dve and lead pair images of a slice, so their loss hangs on it
    with torch.no_grad():
        whole = module(*inputs(method))
        parts = [
            module(*inputs(method, range(4), [1 / 6] * 4)),
            module(*inputs(method, [4, 5, 4, 5], [1 / 6, 1 / 6, 0, 0])),
        ]
    assert torch.allclose(sum(parts), whole, rtol=1e-4)


def test_moco_equals_its_formula_image_by_image():
    module, (first, second, weights) = build(moco).eval(), inputs(moco)
    with torch.no_grad():
        found = module(first, second, weights)
        queries = F.normalize(module.head(module.trunk.pooled(first)), dim=1)
        keys = F.normalize(module.head_momentum(module.trunk_momentum.pooled(second)), dim=1)
    slow = 0.0
    for q, k, weight in zip(queries, keys, weights):
        positive, others = (
            math.exp(q @ k / 0.07),
            [math.exp(q @ n / 0.07) for n in module.contrast.memory_bank.keys],
        )
        slow -= weight * math.log(positive / (positive + sum(others)))
    assert torch.allclose(found, slow, rtol=1e-4)


def test_keys_carry_no_gradient_and_the_momentum_encoder_moves_after_a_step_alone():
    module, given = build(moco), inputs(moco)
    before = [p.clone() for p in module.trunk_momentum.parameters()]
    optimizer = sgd(module)
    for _ in range(2):  # micro-steps
        module(*given).backward()
    assert all(
        p.grad is None
        for p in [*module.trunk_momentum.parameters(), *module.head_momentum.parameters()]
    )
    optimizer.step()
    assert all(torch.equal(*pair) for pair in zip(before, module.trunk_momentum.parameters()))
    module.after_step()
    for old, new, trained in zip(
        before, module.trunk_momentum.parameters(), module.trunk.parameters()
    ):
        assert torch.allclose(new, 0.999 * old + 0.001 * trained, atol=1e-7)


def test_the_queue_holds_the_last_keys_in_a_ring():
    queue, listed = moco.Queue(10, 4), []
    for _ in range(6):
        keys = F.normalize(torch.randn(4, 4), dim=1)
        before = queue.keys.clone()
        assert torch.equal(queue(keys, update=True)[1], before.t())
        listed += list(keys)
    assert queue.place == 24 % 10
    assert torch.equal(queue.keys.roll(-4, 0), torch.stack(listed[-10:]))
    queue(torch.randn(13, 4), update=True)  # more than it holds


def test_queries_and_keys_share_few_companions_and_keep_their_order():
    settings = moco.Settings("resnet10t", hidden=16, dim=8, queue=10, companions=2)
    module, images = (moco.build(settings, seed=0).eval(), torch.randn(7, 3, SIZE, SIZE))
    with torch.no_grad():
        assert torch.allclose(module._keys(images, 3), module._keys(images, 1), atol=1e-5)
        module.train()
        assert not torch.allclose(module._keys(images, 3), module._keys(images, 1), atol=1e-3)


def test_byol_equals_its_formula_image_by_image():
    module, (first, second, weights) = build(byol).eval(), inputs(byol)
    slow = torch.zeros(())
    with torch.no_grad():
        for one, other, weight in zip(first, second, weights):
            for seen, wanted in ((one, other), (other, one)):
                q = module.predictor(module.head(module.trunk.pooled(seen[None])))[0]
                z = module.head_target(module.trunk_target.pooled(wanted[None]))[0]
                slow += weight * (1 - q @ z / (q.norm() * z.norm()))
        assert torch.allclose(module(first, second, weights), slow, atol=1e-5)


def test_dve_exchange_equals_a_loop_over_places():
    random = torch.Generator().manual_seed(0)
    f1, fa, f2 = (torch.randn(2, 3, 4, 4, generator=random) for _ in range(3))
    meets = 8 * torch.rand(2, 2, 4, 4, generator=random)
    for b, found in enumerate(dve.exchange(f1, fa, f2, meets, power=0.5)):
        places, slow = [(y, x) for y in range(4) for x in range(4)], 0.0
        for u in places:
            alike = [math.exp(f1[b, :, *u] @ fa[b, :, *w]) for w in places]
            exchanged = sum(a * fa[b, :, *w] for a, w in zip(alike, places)) / sum(alike)
            scores = [math.exp(exchanged @ f2[b, :, *v]) for v in places]
            distances = [math.dist(meets[b, :, *u].tolist(), (2 * v[1], 2 * v[0])) for v in places]
            slow += sum(s * d**0.5 for s, d in zip(scores, distances)) / sum(scores) / 16
        assert found.item() == pytest.approx(slow, rel=1e-4)


def test_both_warps_of_dve_are_made_at_once_and_are_those_of_each(monkeypatch):
    batch, made, grid = batch_of([1, 2, 3]), [], tps_warps.warp_grid
    monkeypatch.setattr(tps_warps, "warp_grid", lambda warps: made.append(warps) or grid(warps))
    found = dve._warps(batch)
    assert len(made) == 1
    for view, (name, warp) in enumerate(zip(("dve-both", "dve-on-top"), found)):
        normal = batch.normal(randomness.WARP + view * randomness.VIEW, tps_warps.NORMALS)
        assert torch.equal(warp, grid(tps_warps.make_warps(normal, tps_warps.SCALES[name])))


def test_the_views_of_dve_meet_where_they_say(monkeypatch):
    monkeypatch.setattr(dve, "recoloured", lambda batch, images, view: images)
    first, second, meets, _ = dve.warped_views(batch_of([1, 2, 3]), 96)
    assert meets.shape == (3, 48, 48, 2)
    inside = ((meets > 2) & (meets < 93)).all(-1)
    there = F.grid_sample(second, meets / 95 * 2 - 1, align_corners=True).permute(0, 2, 3, 1)
    shown = first[:, :, ::2, ::2].permute(0, 2, 3, 1)
    assert inside.float().mean() > 0.5 and (there - shown)[inside].abs().max() < 0.02
    assert (second[:, :, ::2, ::2].permute(0, 2, 3, 1) - shown)[inside].abs().mean() > 0.1
    with pytest.raises(ConfigError, match="data.frame=178"):
        dve.warped_views(batch_of([1], frame=178), 96)


def test_cl_equals_a_double_loop_over_places():
    module, (*maps, weights) = build(cl), inputs(cl, range(2))
    features, slow = module.projector(maps, 12).flatten(2).double(), 0.0
    for b, weight in enumerate(weights):
        for u in range(144):
            scores = (7 * features[b, :, u] @ features[b]).exp()
            distances = [math.hypot(u // 12 - v // 12, u % 12 - v % 12) * 2 for v in range(144)]
            slow += weight * sum(s * d**0.5 for s, d in zip(scores / scores.sum(), distances)) / 144
    assert torch.allclose(module(*maps, weights).double(), slow, rtol=1e-4)


def test_lead_equals_a_loop_over_places_of_neighbours():
    module, (*maps, weights) = build(lead), inputs(lead, range(3))
    raw = [block.flatten(2) for block in join_normalised(maps, 12).split(WIDTHS, 1)]
    features, slow = module.projector(maps, 12).flatten(2), torch.zeros(())
    for b, weight in enumerate(weights):
        other = (b + 1) % 3
        for u in range(144):
            cosines = sum(block[b, :, u] @ block[other] for block in raw) / 4
            p, q = (20 * cosines).softmax(0), (20 * features[b, :, u] @ features[other]).softmax(0)
            slow = slow - weight * (p * q.log()).sum() / 144
    assert torch.allclose(module(*maps, weights), slow, rtol=1e-4)


def test_dve_exchanges_through_the_next_image_and_no_other():
    module = dve.build(dve.Settings(width=16, depth=2, blocks=1, dim=8), seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 3, 3, 32, 32, generator=generator)
    meets, only_the_first = (
        32 * torch.rand(3, 16, 16, 2, generator=generator),
        torch.tensor([1.0, 0, 0]),
    )
    whole = module(first, second, meets, only_the_first)
    for changed, is_seen in ((1, True), (2, False)):
        other = first.clone()
        other[changed] = torch.rand(3, 32, 32, generator=generator)
        assert (
            torch.allclose(module(other, second, meets, only_the_first), whole, rtol=1e-6)
            != is_seen
        )
