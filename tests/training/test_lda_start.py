"""carb.init=lda: the projector starts as the LDA of its backbone's tokens on training images."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from scemae.config.load import load_config
from scemae.data import augment
from scemae.data.frame_sources import StreamedFrames
from scemae.data.order import Slice
from scemae.data.pipeline import Batch, crop_pairs
from scemae.data.storage.shard_set import open_shards
from scemae.errors import ConfigError
from scemae.evaluation.landmarks import features
from scemae.methods import carb, registry
from scemae.models import lda
from scemae.models.projector import Projector
from tests.support import scemae, write_backbone, write_shards

COUNT = 40
STAGE_2 = ["data.jpeg_noise=false", "optim.global_batch_size=8", "carb.dim=16", "carb.init=lda"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lda")
    write_shards(folder / "shards", COUNT)
    write_backbone(folder / "mae")
    correspond(folder, "none", "optim.epochs=0")
    return folder


def correspond(root, run, *settings, ranks=1):
    places = [f"backbone={root / 'mae'}", f"data.shards={root / 'shards'}", f"run_dir={root / run}"]
    return scemae("correspond", *places, *STAGE_2, *settings, ranks=ranks)


def projector_of(root, run):
    network, folder = registry.load_trunk(root / "mae")
    return network, registry.load_stage_2(root / run, folder, network).module.projector.map


def batch_of(root, samples):
    frames = StreamedFrames(open_shards(str(root / "shards")), 136).frames(samples)[1]
    rows = np.arange(len(samples))
    part = Slice(1, samples, np.zeros_like(samples), np.ones(len(samples)), rows)
    return Batch(torch.from_numpy(frames).permute(0, 3, 1, 2), part, 0)


def test_the_run_without_a_step_is_the_lda_of_all_images_taken_one_by_one(root):
    network, found = projector_of(root, "none")
    scatter = lda.Scatter(48)

    def tokens(images):
        return network(images)[:, 1:].transpose(1, 2).unflatten(2, (12, 12))

    with torch.no_grad():
        for sample in range(COUNT):
            batch = batch_of(root, np.array([sample]))
            centre, *crops, first, second = crop_pairs(batch, 96, (0.35, 1.0))
            assert torch.equal(centre, augment.normalise(batch.images[..., 20:-20, 20:-20]))
            scatter.add_faces(tokens(centre))
            scatter.add_pairs(*lda.shared_points(*map(tokens, crops), first, second))
    weight = lda.discriminants(scatter.within, scatter.total, 16).float()
    mine = found.weight[:, :, 0, 0]
    signs = (mine * weight).sum(1).sign()[:, None]  # an eigenvector has none
    assert torch.allclose(mine, signs * weight, atol=1e-3 * weight.abs().max())
    assert torch.allclose(found.bias, -(mine @ scatter.mean.float()), atol=1e-3)
    assert (
        "initial weights computed" not in correspond(root, "none", "optim.epochs=0").stderr
    )  # kept
    state = json.loads((root / "none" / "provenance.json").read_text())
    assert state["total_steps"] == 0 and state["backbone"].startswith(str(root / "mae"))


def test_training_goes_on_from_there_on_any_number_of_ranks(root):
    correspond(root, "ranks", "optim.epochs=0.4", "optim.lr=1e-6", ranks=2)  # 2 steps
    _, none = projector_of(root, "none")
    _, found = projector_of(root, "ranks")
    assert not torch.equal(found.weight, none.weight)
    assert torch.allclose(found.weight, none.weight, atol=1e-5)


def test_the_matcher_enlarges_the_map_before_its_features_get_length_one(root):
    network, folder = registry.load_trunk(root / "mae")
    head = registry.load_stage_2(root / "none", folder, network).module.head
    maps = features.trunk_of(network).maps(torch.rand(1, 3, 136, 136), 8)
    _, found = projector_of(root, "none")
    with torch.no_grad():
        assert torch.equal(head(maps, 12), functional.conv2d(maps[0], found.weight, found.bias))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optim.epochs=0", "carb.init=random"], "optim.epochs=0: trains nothing"),
        (["carb.init=pca"], "carb.init: found pca, one of random, lda"),
    ],
)
def test_settings_that_make_no_projector_are_refused(root, settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config("correspond", ["run_dir=-", "backbone=-", *STAGE_2, *settings])


@pytest.mark.parametrize("settings", [{"projector": "mlp"}, {"dim": 64}])
def test_lda_needs_a_linear_projector_no_wider_than_the_backbone(root, settings):
    values = [f"carb.{name}={value}" for name, value in settings.items()]
    config = load_config("correspond", ["run_dir=-", "backbone=-", *STAGE_2, *values])
    method = registry.find("carb", 2)
    network, _ = registry.load_trunk(root / "mae")
    with pytest.raises(ConfigError, match="at most 48 dimensions"):
        method.build(registry.settings_of(method, config), network, seed=0)


def test_a_spatial_softmax_stays_one_before_it_gets_length_one():
    torch.manual_seed(0)
    projector, maps = Projector("spatial_softmax", 8, 4), torch.randn(2, 8, 3, 3)
    projected = projector.project(maps)
    assert torch.allclose(projected.sum((2, 3)), torch.ones(2, 4))
    assert torch.allclose(projector(maps), functional.normalize(projected, dim=1))


@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_tokens_without_a_finite_scatter_are_refused(value):
    """Such as those of a backbone that has diverged."""

    class Trunk:
        width, grid = 48, 12

        def __call__(self, images):
            return torch.full((len(images), 145, 48), value)

    batch = (*torch.zeros(3, 2, 3, 96, 96), *torch.tensor([[[0, 0, 136, 136.0]] * 2] * 2))
    with pytest.raises(ConfigError, match="not finite"):
        carb.start(None, Trunk(), [batch])
