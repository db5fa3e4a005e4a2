"""The weight of stage 2 and the weight decay, chosen on held-out training images."""

from dataclasses import replace

import pytest
import torch

from scemae.config.load import load_config
from scemae.errors import ConfigError
from scemae.evaluation.landmarks.feature_cache import Weighted
from scemae.evaluation.landmarks.regression import predict, train_regressor
from scemae.evaluation.landmarks.regressor_choice import Choice, fit_best, list_choices
from tests.evaluation.test_regression import TINY, marked_features

CPU, EYES = torch.device("cpu"), (0, 1)
NOISE = 12  # channels of stage 2


def noisy(n, seed=0):
    """Features that mark the landmarks, and as stage 2 large ones that say nothing."""
    features, landmarks = marked_features(n, seed)
    random = torch.Generator().manual_seed(seed + 1)
    noise = 3 * torch.randn(n, NOISE, *features.shape[2:], generator=random)
    return torch.cat([features, noise], dim=1), landmarks


def fitted(features, landmarks, choices, stage_2=NOISE):
    epochs = []
    found = fit_best(
        features,
        landmarks,
        TINY,
        stage_2=stage_2,
        choices=choices,
        eyes=EYES,
        device=CPU,
        progress=lambda epoch, loss: epochs.append(epoch),
    )
    return *found, len(epochs)


def test_one_choice_is_the_plain_regressor_to_the_last_bit():
    features, landmarks = noisy(20)
    regressor, chosen, epochs = fitted(features, landmarks, [Choice(1.0, 5e-4)])
    plain = train_regressor(features, landmarks, TINY)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, regressor.state_dict()[name]), name
    assert chosen == Choice(1.0, 5e-4) and epochs == TINY.epochs


def test_stage_2_that_only_helps_to_learn_by_heart_gets_a_small_weight():
    features, landmarks = noisy(40)
    choices = list_choices([1.0, 0.01], [5e-4], NOISE)
    regressor, chosen, epochs = fitted(features, landmarks, choices)
    assert chosen.stage_2_weight == 0.01 and epochs == 3 * TINY.epochs
    test, truth = noisy(60, seed=5)
    whole = train_regressor(features, landmarks, TINY)
    mine, theirs = ((predict(one, test) - truth).norm(dim=2).mean() for one in (regressor, whole))
    assert mine < theirs


def test_a_regressor_of_weighted_features_reads_the_unweighted_ones():
    features, landmarks = noisy(20)
    choice = Choice(0.25, 1e-2)
    regressor, _, _ = fitted(features, landmarks, [choice])
    scale = torch.ones(features.shape[1])
    scale[-NOISE:] = 0.25
    slow = train_regressor(
        features * scale[:, None, None], landmarks, replace(TINY, weight_decay=1e-2)
    )
    torch.testing.assert_close(
        predict(regressor, features), predict(slow, features * scale[:, None, None])
    )


def test_held_out_images_are_not_trained_on_until_the_choice_is_made():
    """Landmarks of every fifth image are wrong: the choices are judged by them alone."""
    features, landmarks = noisy(40)
    wrong = landmarks.clone()
    wrong[4::5] += 100
    _, chosen, _ = fitted(features, wrong, list_choices([1.0, 0.5], [5e-4, 0.5], NOISE))
    kept = torch.arange(40) % 5 != 4
    errors = {}
    for one in list_choices([1.0, 0.5], [5e-4, 0.5], NOISE):
        scale = torch.ones(features.shape[1])
        scale[-NOISE:] = one.stage_2_weight
        seen = features * scale[:, None, None]
        settings = replace(TINY, weight_decay=one.weight_decay)
        slow = train_regressor(seen[kept], wrong[kept], settings)
        distance = (wrong[4::5, 0] - wrong[4::5, 1]).norm(dim=1, keepdim=True)
        far = (predict(slow, seen[4::5]) - wrong[4::5]).norm(dim=2) / distance
        errors[one] = float(far.mean())
    assert chosen == min(errors, key=errors.get)


def test_too_few_images_to_hold_any_out_are_refused():
    with pytest.raises(ConfigError, match="found 4 training images, at least 5 are needed"):
        fitted(*noisy(4), list_choices([1.0, 0.5], [5e-4], NOISE))


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("detection.stage_2_weights=[]", "detection.stage_2_weights: found an empty list"),
        ("detection.weight_decays=[-1]", "detection.weight_decays: found -1"),
        ("matching.place_images=-3", "matching.place_images: found -3"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "tables"])
def test_settings_that_cannot_work_are_refused_at_the_start(command, setting, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config(command, ["run_dir=-", setting])


def test_without_stage_2_there_is_one_weight():
    assert list_choices([1.0, 0.5], [1e-4, 1e-3], 0) == [Choice(1.0, 1e-4), Choice(1.0, 1e-3)]


@pytest.mark.parametrize("rows", [None, torch.tensor([4, 0, 2])])
def test_weighted_features_are_the_chosen_rows_times_the_weights(rows):
    features, weights = torch.randn(5, 3, 2, 2), torch.tensor([1.0, 0.5, 2.0])
    found = Weighted(features, weights, rows)
    slow = (features if rows is None else features[rows]) * weights[:, None, None]
    assert len(found) == len(slow) and found.shape == slow.shape
    assert torch.equal(torch.cat(list(found.split(2))), slow)
    assert torch.equal(found[torch.tensor([2, 0])], slow[[2, 0]])
