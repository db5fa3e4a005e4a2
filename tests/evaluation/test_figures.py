"""Figures 1, 4 and 5: the choice of what they show, the facts beside them, and refusals."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from scemae.errors import ConfigError, DataError
from scemae.evaluation.landmarks.embedding import Embeddings, spread
from scemae.evaluation.landmarks.matching import MatchingErrors
from scemae.evaluation.landmarks.pairs import build_pairs
from scemae.evaluation.tables import figures
from scemae.evaluation.tables.figures import (
    choose_couples,
    figure1,
    figure4,
    figure5,
    median_couple,
)
from tests.data.test_tps_warps import smooth_frames

COUPLES = 16


@pytest.fixture(scope="module")
def pairs():
    return build_pairs(smooth_frames(2 * COUPLES), couples=None)


def measured(pairs, seed: int, scale: float = 1.0) -> MatchingErrors:
    """Made-up errors and matches."""
    random, shape = np.random.default_rng(seed), pairs.landmarks[:, 0].shape
    errors, places = scale * random.random((2, *shape[:2])), 96 * random.random((2, *shape))
    return MatchingErrors(pairs.hash, *errors, *places)


def embedded(seed: int, repeats: int) -> Embeddings:
    random, labels = np.random.default_rng(seed), np.tile(np.arange(5), 8)
    return Embeddings(random.random((40, 2)), labels, random.random(repeats), 0.25)


def opened(uri: str) -> Image.Image:
    kind, data = uri.split(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture
def errors(pairs):
    return {name: measured(pairs, seed) for seed, name in enumerate(["CL", "LEAD", "SCE-MAE"])}


def test_failures_are_the_couples_of_our_largest_errors(errors):
    failures = choose_couples(errors)[-1]
    ours = errors["SCE-MAE"].different.mean(axis=1)
    assert (
        failures.title == "failures"
        and failures.couples == sorted(range(COUPLES), key=lambda i: -ours[i])[:3]
    )


def test_a_group_holds_the_couples_in_which_every_rival_errs_there(errors):
    *groups, failures = choose_couples(errors)
    taken = list(failures.couples)
    for group, landmarks in zip(groups, ([0, 1], [2], [3, 4])):
        worst = {
            i: min(
                np.mean([errors[name].different[i, j] for j in landmarks])
                for name in ("CL", "LEAD")
            )
            for i in range(COUPLES)
            if i not in taken
        }
        assert (
            group.landmarks == landmarks
            and group.couples == sorted(worst, key=lambda i: -worst[i])[:3]
        )
        taken += group.couples
    assert [group.title for group in groups] == ["eyes", "nose", "lip corners"] and len(
        set(taken)
    ) == 12


def test_how_well_we_do_does_not_move_a_couple_in_or_out_of_the_rivals_groups(errors):
    before = choose_couples(errors)
    ours = errors["SCE-MAE"]
    rest = [i for i in range(COUPLES) if i not in before[-1].couples]
    better = ours.different.copy()
    better[rest] *= 0.1
    assert choose_couples(errors | {"SCE-MAE": replace(ours, different=better)}) == before


@pytest.mark.parametrize(
    "couples, sizes",
    [(16, [3, 3, 3, 3]), (8, [2, 2, 2, 2]), (4, [1, 1, 1, 1]), (2, [1, 1]), (1, [1])],
)
def test_few_couples_are_divided_among_the_groups(errors, couples, sizes):
    few = {
        name: replace(found, different=found.different[:couples]) for name, found in errors.items()
    }
    assert [len(group.couples) for group in choose_couples(few)] == sizes


def test_without_a_rival_there_are_only_failures(pairs):
    image, facts = figure4(pairs, {"SCE-MAE": measured(pairs, 0)})
    assert (
        list(facts["groups"]) == ["failures"]
        and facts["rivals"] == []
        and "rivals" not in facts["rule"]
    )
    assert (
        opened(image).width
        < opened(figure4(pairs, {name: measured(pairs, 0) for name in "ab"})[0]).width
    )


def test_figure_4_states_its_rule_and_the_errors_it_shows(pairs, errors):
    image, facts = figure4(pairs, errors)
    eyes = facts["groups"]["eyes"]
    assert eyes["errors"]["LEAD"] == pytest.approx(
        [errors["LEAD"].different[i, :2].mean() for i in eyes["couples"]]
    )
    assert facts["ours"] == "SCE-MAE" and "best of the rivals (CL, LEAD)" in facts["rule"]
    assert opened(image).height > 2 * 5 * 192  # two bands: reference, three methods, truth


def test_matches_on_other_pairs_are_refused(pairs, errors):
    errors["CL"].pairs_hash = "0" * 64
    with pytest.raises(DataError, match="CL has matched 16 couples of hash 000000000000"):
        figure4(pairs, errors)


def test_figure_1_measures_peak_and_sharpness_of_each_map(pairs):
    maps = {"CL": torch.rand(3, 96, 96), "SCE-MAE DeiT-S with a long name": torch.zeros(3, 96, 96)}
    x, y = (pairs.landmarks[2, 2, 2] - 20).long().tolist()  # the nose of the target
    maps["SCE-MAE DeiT-S with a long name"][1, y, x] = 1
    image, facts = figure1(pairs, maps, 2)
    found = facts["methods"]["SCE-MAE DeiT-S with a long name"]
    assert found["peak_error"][1] == 0 and found["share_above_middle"][1] == pytest.approx(1 / 9216)
    assert found["peak_over_mean_in_sd"][1] == pytest.approx(96, rel=0.01)
    assert facts["methods"]["CL"]["share_above_middle"] == spread(maps["CL"])
    assert facts["landmarks"][1] == "nose" and opened(image).width == 4 * 202


def test_figure_1_shows_our_median_couple(errors):
    ours = errors["SCE-MAE"].different.mean(axis=1)
    assert (ours < ours[median_couple(errors)]).sum() == (COUPLES - 1) // 2


def test_maps_of_another_shape_are_refused(pairs):
    with pytest.raises(ConfigError, match="found maps \\(2, 96, 96\\) of CL"):
        figure1(pairs, {"CL": torch.rand(2, 96, 96)}, 0)


def test_figure_5_gives_mean_and_deviation_of_the_coefficients():
    found = {"CL": embedded(0, 10), "SCE-MAE": embedded(1, 1)}
    image, facts = figure5(found)
    assert facts["methods"]["CL"]["mean"] == pytest.approx(found["CL"].coefficients.mean())
    assert facts["methods"]["CL"]["sd"] == pytest.approx(found["CL"].coefficients.std(ddof=1))
    assert (
        facts["methods"]["SCE-MAE"]["sd"] is None
        and facts["methods"]["SCE-MAE"]["of_vectors"] == 0.25
    )
    assert opened(image).width > 600


def test_the_title_of_a_panel_has_the_papers_form():
    facts = {"mean": 0.6791, "sd": 0.0128, "repeats": 100}
    assert figures._sc_text(facts) == "SC 0.679 ± 0.013, 100 runs"
    assert figures._sc_text(facts | {"sd": None, "repeats": 1}) == "SC 0.679, 1 run"


def test_each_figure_is_of_five_landmarks(pairs, errors):
    more = replace(pairs, landmarks=pairs.landmarks.repeat(1, 1, 2, 1))
    for draw in (
        lambda: figure4(more, errors),
        lambda: figure1(more, {"CL": torch.rand(3, 96, 96)}, 0),
        lambda: figure5({"CL": replace(embedded(0, 1), labels=np.arange(40))}),
    ):
        with pytest.raises(ConfigError, match="needed five"):
            draw()


@pytest.mark.parametrize(
    "draw",
    [
        lambda pairs: figure4(pairs, {}),
        lambda pairs: figure1(pairs, {}, 0),
        lambda pairs: figure5({}),
    ],
)
def test_a_figure_of_no_method_is_refused(pairs, draw):
    with pytest.raises(ConfigError, match="needed"):
        draw(pairs)
