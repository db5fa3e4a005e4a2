"""The landmark regressor against slow versions, and on features that mark the landmarks."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from scemae.errors import ConfigError, DataError
from scemae.evaluation.landmarks.regression import (
    LandmarkRegressor,
    RegressionConfig,
    detection_errors,
    iod_errors,
    join_stages,
    learning_rate,
    mean_face_errors,
    predict,
    soft_argmax,
    train_regressor,
)

TINY = RegressionConfig(intermediate=4, epochs=12, batch=8, lr=1e-2)


def marked_features(n: int, seed: int = 0, side: int = 9):
    """Features with a bump at each of two landmarks, and the landmarks, normalised."""
    random = torch.Generator().manual_seed(seed)
    landmarks = torch.rand(n, 2, 2, generator=random) * torch.tensor([0.7, 1.2]) + torch.tensor(
        [-0.8, -0.6]
    )
    landmarks[:, 1, 0] += 0.9
    line = torch.linspace(-1, 1, side)
    places = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
    far = (places[None, None] - landmarks[:, :, None, None]).square().sum(-1)
    return torch.cat(
        [torch.exp(-far / 0.05), torch.rand(n, 4, side, side, generator=random) * 0.1], dim=1
    ), landmarks


def test_soft_argmax_equals_the_slow_sum():
    responses = torch.randn(2, 3, 4, 5) * 3
    found = soft_argmax(responses)
    for b in range(2):
        for c in range(3):
            weights = responses[b, c].exp() / responses[b, c].exp().sum()
            x = sum(weights[i, j] * (-1 + 2 * j / 4) for i in range(4) for j in range(5))
            y = sum(weights[i, j] * (-1 + 2 * i / 3) for i in range(4) for j in range(5))
            assert torch.allclose(found[b, c], torch.stack([x, y]), atol=1e-6)


def test_each_landmark_reads_its_own_heat_maps_only():
    regressor = LandmarkRegressor(6, 2, TINY)
    features = torch.randn(3, 6, 12, 12)
    before = regressor(features)
    with torch.no_grad():
        regressor.heatmaps.weight[:4].zero_()
    after = regressor(features)
    assert not torch.allclose(before[:, 0], after[:, 0]) and torch.equal(before[:, 1], after[:, 1])


def test_regressor_has_the_protocols_shapes_and_initial_weights():
    regressor = LandmarkRegressor(64, 5, RegressionConfig())
    assert regressor.heatmaps.weight.shape == (250, 64, 3, 3) and regressor.readout.shape == (
        5,
        100,
        2,
    )
    assert (
        regressor.heatmaps.weight.detach().std() == pytest.approx(1, rel=0.02)
        and regressor.heatmaps.bias is None
    )
    assert regressor.readout.abs().max() <= 0.1
    assert torch.equal(LandmarkRegressor(64, 5, RegressionConfig()).readout, regressor.readout)


@pytest.mark.parametrize("settings", [{}, {"kernel": 1, "init_std": 0.05}])
def test_training_finds_landmarks_that_the_features_show(settings):
    cfg = RegressionConfig(**{**vars(TINY), "epochs": 20, "intermediate": 8, **settings})
    losses = []
    regressor = train_regressor(
        *marked_features(96), cfg, progress=lambda epoch, loss: losses.append(loss)
    )
    test, truth = marked_features(40, seed=1)
    errors = detection_errors(regressor, test, truth, (0, 1), batch=16)
    mean = iod_errors(
        torch.zeros_like(truth) + marked_features(96)[1].mean(0), truth, (0, 1)
    ).mean()
    assert len(losses) == 20 and losses[-1] < losses[0] / 4
    assert errors.shape == (40,) and errors.mean() < 0.4 * mean


def test_training_is_reproducible_and_follows_the_seed():
    data = marked_features(24)
    one, again = (train_regressor(*data, TINY).readout for _ in range(2))
    other = train_regressor(*data, RegressionConfig(**{**vars(TINY), "seed": 1})).readout
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_fewer_images_than_a_batch_are_one_batch():
    features, landmarks = marked_features(3)
    regressor = train_regressor(features.half(), landmarks, TINY)
    assert predict(regressor, features).shape == (3, 2, 2)


def test_learning_rates_end_where_the_protocol_says():
    cosine = RegressionConfig()
    assert learning_rate(0, cosine) == 1e-3 and learning_rate(100, cosine) == pytest.approx(
        5.004e-4
    )
    assert learning_rate(200, cosine) == pytest.approx(8e-7)


def test_iod_errors_equal_the_definition_for_the_outer_corners_of_68_points():
    random = np.random.default_rng(0)
    truth, predicted = random.normal(size=(2, 3, 68, 2))
    found = iod_errors(torch.from_numpy(predicted), torch.from_numpy(truth), (36, 45))
    for i in range(3):
        iod = math.dist(truth[i, 36], truth[i, 45])
        slow = [100 * math.dist(predicted[i, j], truth[i, j]) / iod for j in range(68)]
        assert np.allclose(found[i], slow)


def test_an_image_without_eye_distance_is_refused():
    truth = torch.rand(3, 5, 2)
    truth[1, 1] = truth[1, 0]
    with pytest.raises(DataError, match="image 1 both eyes"):
        iod_errors(truth, truth, (0, 1))


def test_mean_face_errors_are_zero_for_one_face():
    face = torch.rand(1, 5, 2) * 90 + 20
    assert mean_face_errors(face.expand(4, 5, 2), face, (0, 1)) == pytest.approx(0, abs=1e-4)


def test_joined_stages_have_length_one_each_per_position():
    first, second = torch.randn(2, 8, 3, 3) * 10, torch.randn(2, 4, 3, 3) * 1e-4
    joined = join_stages(first, second)
    assert torch.allclose(joined[:, :8].norm(dim=1), torch.ones(2, 3, 3))
    assert torch.allclose(joined[:, 8:].norm(dim=1), torch.ones(2, 3, 3))


@pytest.mark.parametrize("settings, named", [({"kernel": 2}, "kernel"), ({"epochs": 0}, "epochs")])
def test_settings_that_cannot_work_are_refused(settings, named):
    with pytest.raises(ConfigError, match=named):
        train_regressor(*marked_features(2), RegressionConfig(**settings))


def test_numbers_too_small_to_be_normal_are_zero_on_every_thread_of_torch():
    program = (
        "from scemae.distributed.process_group import flush_denormals; import torch; "
        "flush_denormals(); torch.set_num_threads(2); "
        "print(int((torch.full((1 << 22,), 1e-38) * 0.01 != 0).sum()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0"
