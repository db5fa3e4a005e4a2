"""The features of each row of the tables, compared with the paper's words spelt out."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from scemae.config.load import load_config
from scemae.data.augment import normalise
from scemae.evaluation import subjects
from scemae.evaluation.landmarks import features
from scemae.evaluation.projection import Projection
from scemae.evaluation.subject import DETECTION, EMBEDDING, FEW_SHOT, MATCHING, Subject
from scemae.evaluation.subject_lines import of_hypercolumn, of_tokens
from scemae.models import hypercolumn
from scemae.models.hypercolumn import HypercolumnProjector, ResNetTrunk
from scemae.models.projector import Projector
from scemae.models.timm_vit import TimmVit
from scemae.models.vit import Encoder

FRAMES = torch.rand(2, 3, 136, 136, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(24, 4, 2).eval().requires_grad_(False)


def projection(network, method, dim):
    head = network if method != "carb" else lambda maps, side: network.project(maps[0])
    return Projection(head, dim, network, method, None, Path("run/checkpoints/step"), "digest")


def lines_by(lines):
    return {(line.test, line.table): line for line in lines if line.name != "raw"}


def test_sce_mae_matches_projected_and_detects_with_both_stages_joined(encoder):
    trunk, network = features.vit_trunk(encoder), Projector("linear", 24, 8).eval()
    found = lines_by(of_tokens(trunk, [projection(network, "carb", 8)]))
    maps = trunk.maps(FRAMES, 4)
    raw = maps[0]
    assert raw.shape == (2, 24, 24, 24)
    wanted = {(MATCHING, 1): network.project(raw), (EMBEDDING, 5): network.project(raw)}
    for key, features_of in {**wanted, (FEW_SHOT, 3): network(raw)}.items():
        assert torch.allclose(found[key].head(maps, 24), features_of, atol=1e-6)
        assert found[key].dim == 8
    joined = found[DETECTION, 2]
    assert torch.allclose(
        joined.head(maps, 24),
        torch.cat([functional.normalize(raw, dim=1), network(raw)], 1),
        atol=1e-6,
    )
    assert joined.dim == 32


@pytest.mark.parametrize(("method", "embedded"), [("cl", "cl 8"), ("lead", "hypercolumn")])
def test_cl_and_lead_detect_with_the_raw_hypercolumn_and_match_projected(method, embedded):
    torch.manual_seed(0)
    network = ResNetTrunk("resnet10t").eval()
    trunk = features.trunk_of(network)
    projector = HypercolumnProjector(network.widths, 8, "linear")
    found = of_hypercolumn(trunk, [projection(projector, method, 8)])
    maps = trunk.maps(FRAMES, 2)
    stages = network(normalise(FRAMES)[..., 20:116, 20:116])
    assert all(torch.allclose(mine, stage) for mine, stage in zip(maps, stages))
    detect = next(line for line in found if line.test == DETECTION)
    assert torch.equal(
        detect.head(maps, 12), torch.cat([hypercolumn.resize(stage, 12) for stage in maps], 1)
    )  # PROTOCOL 4.4
    raw = next(line for line in found if (line.test, line.table) == (MATCHING, 4))
    blocks = [
        functional.normalize(hypercolumn.resize(stage, 96), dim=1) for stage in maps
    ]  # PROTOCOL 4.5
    assert torch.allclose(raw.head(maps, 96), torch.cat(blocks, 1), atol=1e-6)
    assert trunk.side(4, matching=True) == 96 and trunk.side(4) == 24
    assert [line.name for line in found if line.test == EMBEDDING] == [
        embedded
    ]  # the paper's figure 5
    assert (
        next(line for line in found if (line.test, line.table) == (MATCHING, 1)).head is projector
    )


@pytest.mark.parametrize(
    ("coefficients", "rows"),
    [((1, 1, 1), [(MATCHING, 4, True, False)]), ((5, 5, 2), [(MATCHING, 1, True, True)])],
)
def test_a_projector_without_repellence_is_the_ablation_with_clusters_alone(
    encoder, coefficients, rows
):
    values = [
        f"carb.r_{name}={value}"
        for name, value in zip(("att_att", "att_inatt", "inatt_inatt"), coefficients, strict=True)
    ]
    settings = load_config("correspond", ["run_dir=-", "backbone=-", *values]).carb
    one = projection(Projector("linear", 24, 64), "carb", 64)
    one.carb = settings
    found = of_tokens(features.vit_trunk(encoder), [one])
    matched = [line for line in found if line.test == MATCHING and line.name != "raw"]
    assert [(line.test, line.table, line.cluster, line.lcr) for line in matched] == rows
    assert [line.test for line in found[2:]].count(DETECTION) == (coefficients == (5, 5, 2))


def test_a_vit_of_timm_sees_the_same_grid_at_any_patch_size():
    network = TimmVit("vit_tiny_patch16_224", None)
    trunk = features.timm_trunk(network, "vit_tiny_patch16_224")
    maps = trunk.maps(FRAMES, 4)[0]
    assert maps.shape == (2, 192, 24, 24)
    moved = FRAMES[
        ..., 18:114, 18:114
    ]  # the first of the shifts -2, 2: every second cell of the map
    assert torch.allclose(maps[:, :, ::2, ::2], network(moved), atol=1e-4)


def test_two_runs_of_one_size_are_told_apart_by_their_folders(encoder):
    trunk = features.vit_trunk(encoder)
    one, two = (
        Subject("SCE-MAE", "ours", trunk, name, name, runs=[f"runs/{name}"])
        for name in ("long", "short")
    )
    subjects.tell_apart([one, two])
    assert one.title == "SCE-MAE ViT 4 x 24 (long)" and two.title.endswith("(short)")


@pytest.mark.parametrize(
    ("init", "is_trained", "variant", "added"),
    [
        ("random", True, "", "CARB"),
        ("lda", False, "LDA, ours", "LDA"),
        ("lda", True, "LDA + CARB, ours", "LDA + CARB"),
    ],
)
def test_rows_say_what_stage_2_adds_and_that_the_lda_is_ours(
    encoder, init, is_trained, variant, added
):
    one = projection(Projector("linear", 24, 64), "carb", 64)
    one.carb = load_config("correspond", ["run_dir=-", "backbone=-", f"carb.init={init}"]).carb
    one.is_trained = is_trained
    found = of_tokens(features.vit_trunk(encoder), [one])[2:]
    assert {(line.variant, line.added) for line in found} == {(variant, added)}
    one.run = "again"
    found = of_tokens(features.vit_trunk(encoder), [one])[2:]
    assert {line.added for line in found} == {f"{added} (again)"}
    assert {line.variant for line in found} == {f"{variant}, again".removeprefix(", ")}
