"""The search space: draws by (seed, number) alone, constraints, and an error for every mistake."""

import json
import math
import operator
import shutil
import subprocess
import sys
from collections import Counter
from itertools import product

import pytest

from scemae.config.load import configs_dir, load_config
from scemae.config.schema.jobs import SpaceConfig
from scemae.errors import ConfigError
from scemae.sweep import space as spaces
from scemae.sweep import spec as sweeps

CARB = {
    "carb": {
        "eta": {"low": 0.05, "high": 0.5, "step": 0.025},
        "clusters": {"low": 1, "high": 16, "log": True},
        "r_att_att": {"low": 1.0, "high": 16.0, "log": True},
        "r_inatt_inatt": {"low": 0.5, "high": 8.0},
        "projector": {"values": ["linear", "mlp"]},
        "dim": {"low": 8, "high": 32, "step": 8},
    }
}
ORDERED = ["carb.r_att_att > carb.r_inatt_inatt", "carb.clusters <= 12"]


def space(parameters, constraints=(), stage="correspond"):
    return spaces.read(SpaceConfig(stage, parameters, list(constraints)))


def draws(found, count, seed=0):
    return [found.draw(seed, number) for number in range(count)]


def test_a_point_is_the_same_in_any_order_and_any_process():
    forwards = draws(space(CARB, ORDERED), 40, seed=3)
    backwards = [space(CARB, ORDERED).draw(3, number) for number in reversed(range(40))]
    code = (
        "import json, sys\nfrom scemae.config.schema.jobs import SpaceConfig\n"
        "from scemae.sweep.space import read\n"
        "space = read(SpaceConfig(**json.load(sys.stdin)))\n"
        "print(json.dumps([space.draw(3, number) for number in (39, 7)]))"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        input=json.dumps({"stage": "correspond", "parameters": CARB, "constraints": ORDERED}),
    )
    assert forwards == backwards[::-1] and json.loads(elsewhere.stdout) == [
        forwards[39],
        forwards[7],
    ]
    assert len({str(values) for values in forwards}) == 40 and forwards != draws(
        space(CARB, ORDERED), 40, seed=4
    )


def test_draws_keep_to_ranges_steps_and_whole_numbers():
    found = draws(space(CARB), 600)
    assert {values["carb.eta"] for values in found} == {
        float(f"{0.05 + 0.025 * i:.6g}") for i in range(19)
    }
    assert {values["carb.clusters"] for values in found} == set(range(1, 17))
    assert {values["carb.dim"] for values in found} == {8, 16, 24, 32}
    assert all(
        type(values[name]) is int for values in found for name in ("carb.clusters", "carb.dim")
    )
    assert {values["carb.projector"] for values in found} == {"linear", "mlp"}
    assert all(
        1 <= values["carb.r_att_att"] <= 16 and 0.5 <= values["carb.r_inatt_inatt"] <= 8
        for values in found
    )


def test_a_typed_value_is_the_drawn_one():
    found = space(CARB)
    for values in draws(found, 50):
        assert all(
            float(f"{value:.6g}") == value
            for value in values.values()
            if not isinstance(value, str)
        )
        assert found.contains(json.loads(json.dumps(values)))


def test_a_log_range_is_uniform_in_the_logarithm_and_a_plain_one_in_the_number():
    found = space(
        {
            "optim": {"lr": {"low": 1e-4, "high": 1e-1, "log": True}},
            "carb": {"tau": {"low": 0.0, "high": 3.0}},
        }
    )
    rates, taus = (
        [values[name] for values in draws(found, 3000)] for name in ("optim.lr", "carb.tau")
    )
    decades = Counter(math.floor(math.log10(rate)) for rate in rates)
    thirds = Counter(int(tau) for tau in taus)
    assert all(900 < decades[decade] < 1100 for decade in (-4, -3, -2)), decades
    assert all(900 < thirds[third] < 1100 for third in (0, 1, 2)), thirds


def test_whole_numbers_of_a_log_range_are_as_likely_as_their_part_of_the_logarithms():
    alone = space({"carb": {"clusters": CARB["carb"]["clusters"]}})
    found = Counter(values["carb.clusters"] for values in draws(alone, 4000))
    whole = math.log(16.5 / 0.5)
    for value in range(1, 17):
        expected = 4000 * math.log((value + 0.5) / (value - 0.5)) / whole
        assert abs(found[value] - expected) < 5 * math.sqrt(expected), (
            value,
            found[value],
            expected,
        )


@pytest.mark.parametrize("sign", ["<", "<=", ">", ">="])
def test_every_draw_keeps_its_constraints(sign):
    compare = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}[sign]
    for values in draws(
        space(CARB, [f"carb.clusters {sign} carb.dim", f"carb.r_att_att {sign} 9.5"]), 60
    ):
        assert compare(values["carb.clusters"], values["carb.dim"]) and compare(
            values["carb.r_att_att"], 9.5
        )


@pytest.mark.parametrize(("sign", "kept"), [("<", [1]), ("<=", [1, 2]), (">", [3]), (">=", [2, 3])])
def test_a_bound_is_in_or_out_as_its_sign_says(sign, kept):
    found = space({"carb": {"clusters": {"low": 1, "high": 3}}}, [f"carb.clusters {sign} 2"])
    assert [values["carb.clusters"] for values in found.grid()] == kept


def test_a_grid_is_the_product_without_what_breaks_a_constraint():
    found = space(
        {
            "carb": {
                "eta": {"low": 0.1, "high": 0.3, "step": 0.1},
                "clusters": {"low": 2, "high": 5},
                "projector": {"values": ["linear", "mlp"]},
            }
        },
        ["carb.clusters < 4"],
    )
    slow = [
        {"carb.eta": eta, "carb.clusters": clusters, "carb.projector": kind}
        for eta, clusters, kind in product([0.1, 0.2, 0.3], [2, 3, 4, 5], ["linear", "mlp"])
        if clusters < 4
    ]
    assert found.grid() == slow and len(slow) == 12


def test_corners_are_the_ends_that_fit():
    found = list(
        space(
            {"carb": {"eta": {"low": 0.1, "high": 0.3}, "clusters": {"low": 2, "high": 5}}},
            ["carb.clusters < 5"],
        ).corners()
    )
    assert found == [{"carb.eta": 0.1, "carb.clusters": 2}, {"carb.eta": 0.3, "carb.clusters": 2}]


@pytest.mark.parametrize(
    ("tree", "constraints", "sentence"),
    [
        ({}, [], "found no parameters to search"),
        ({"carb": {"etta": {"low": 0.1, "high": 0.2}}}, [], "found no setting 'carb.etta'"),
        ({"carb": {"eta": 0.1}}, [], "carb.eta: found 0.1, {low, high} or {values"),
        ({"carb": {"eta": {"low": 0.2, "high": 0.1}}}, [], "numbers low < high were needed"),
        ({"carb": {"eta": {"low": 0.1}}}, [], "numbers low < high were needed"),
        ({"carb": {"eta": {"low": "a", "high": "b"}}}, [], "numbers low < high were needed"),
        (
            {"carb": {"eta": {"low": 0.1, "high": 0.2, "steps": 3}}},
            [],
            "found 'steps'; there are low, high, step",
        ),
        ({"carb": {"eta": {"low": 0.1, "high": 0.2, "step": 0}}}, [], "step must be above 0"),
        ({"carb": {"eta": {"low": 0, "high": 0.2, "log": True}}}, [], "log needs low above 0"),
        (
            {"carb": {"eta": {"low": 0.1, "high": 0.2, "log": True, "step": 0.1}}},
            [],
            "log needs low above 0 and no step",
        ),
        ({"carb": {"clusters": {"low": 1.5, "high": 3}}}, [], "whole numbers were needed"),
        ({"carb": {"eta": {"values": []}}}, [], "at least one value"),
        ({"carb": {"eta": {"values": [0.1], "low": 0}}}, [], "nothing beside it"),
        (CARB, ["carb.eta=0.1"], "found no comparison"),
        (
            CARB,
            ["carb.eta < carb.tau"],
            "found 'carb.tau', which is neither a number nor one of the parameters",
        ),
        (
            CARB,
            ["carb.projector > 3"],
            "found 'carb.projector', which is neither a number nor one of the parameters that are",
        ),
        (CARB, ["carb.eta == 0.1"], "found no comparison"),
    ],
)
def test_an_impossible_space_is_refused(tree, constraints, sentence):
    with pytest.raises(ConfigError) as caught:
        space(tree, constraints)
    assert (
        sentence in str(caught.value)
        and str(caught.value).startswith("space: ")
        and "\n" not in str(caught.value)
    )


def test_a_space_has_settings_of_its_own_stage_only():
    assert space({"mask_ratio": {"low": 0.5, "high": 0.9}}, stage="pretrain").draw(0, 0).keys() == {
        "mask_ratio"
    }
    with pytest.raises(ConfigError, match="found no setting 'mask_ratio' of `scemae correspond`"):
        space({"mask_ratio": {"low": 0.5, "high": 0.9}})
    with pytest.raises(ConfigError, match="space.stage: found evaluate"):
        space(CARB, stage="evaluate")


def test_constraints_that_no_point_keeps_are_refused():
    found = space({"carb": {"eta": {"low": 0.1, "high": 0.2, "step": 0.1}}}, ["carb.eta > 0.3"])
    for search in (lambda: found.draw(0, 1), found.grid):
        with pytest.raises(
            ConfigError, match=r"keeps its constraints \(carb.eta > 0.3\); widen the ranges"
        ):
            search()
    assert list(found.corners()) == []


def test_a_grid_without_steps_or_of_too_many_points_is_refused():
    with pytest.raises(ConfigError, match="carb.eta has no step, and search=grid needs one"):
        space({"carb": {"eta": {"low": 0.1, "high": 0.2}}}).grid()
    with pytest.raises(ConfigError, match="a grid of 101,000,000 points; at most 100,000"):
        space(
            {"carb": {"dim": {"low": 1, "high": 101}, "clusters": {"low": 1, "high": 1_000_000}}}
        ).grid()


def test_a_file_of_the_user_is_a_space(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "stage: correspond\nparameters:\n  carb:\n    eta: {low: 0.1, high: 0.2}\n"
        "    projector: {values: [linear, mlp]}\nconstraints:\n  - carb.eta > 0.15\n"
    )
    found = spaces.read(load_config("sweep", ["run_dir=x", f"space={path}"]).space)
    assert (found.stage, found.constraints) == ("correspond", ["carb.eta > 0.15"])
    assert [(one.name, one.low, one.high, one.values) for one in found.parameters] == [
        ("carb.eta", 0.1, 0.2, None),
        ("carb.projector", 0.0, 0.0, ["linear", "mlp"]),
    ]
    moved = spaces.read(
        load_config(
            "sweep", ["run_dir=x", "space.parameters.carb.eta.high=0.4", f"space={path}"]
        ).space
    )
    # The command line wins, in any order of its words.
    assert [one.high for one in moved.parameters] == [0.4, 0.0]
    path.write_text("parameters: [")
    with pytest.raises(
        ConfigError, match="mine.yaml: cannot be read as YAML, found what does not belong there"
    ):
        load_config("sweep", ["run_dir=x", f"space={path}"])
    with pytest.raises(ConfigError, match="gone.yaml: cannot be read"):
        load_config("sweep", ["run_dir=x", "space=gone.yaml"])


def test_a_copy_of_a_named_space_is_the_same_space(tmp_path):
    path = shutil.copy(configs_dir() / "space" / "mae.yaml", tmp_path / "mine.yaml")
    own, named = (
        spaces.read(load_config("sweep", ["run_dir=x", f"space={name}"]).space)
        for name in (path, "mae")
    )
    assert own == named


def test_a_range_of_a_named_space_is_changed_on_the_command_line():
    found = spaces.read(
        load_config(
            "sweep",
            [
                "run_dir=x",
                "space=carb",
                "space.parameters.carb.eta.high=0.4",
                "space.parameters.carb.tau={low: 0.1, high: 0.2}",
            ],
        ).space
    )
    named = {one.name: one for one in found.parameters}
    assert (named["carb.eta"].low, named["carb.eta"].high, named["carb.eta"].step) == (
        0.05,
        0.4,
        0.025,
    )
    assert named["carb.tau"].high == 0.2 and len(named) == 6


def test_an_experiment_is_a_file_too(tmp_path):
    path = tmp_path / "best.yaml"
    path.write_text("carb:\n  eta: 0.3\n  projector: mlp\noptim:\n  epochs: 4.0\n")
    found = load_config(
        "correspond", ["run_dir=x", "backbone=y", "carb.eta=0.2", f"experiment={path}"]
    )
    assert (found.carb.eta, found.carb.projector, found.optim.epochs) == (0.2, "mlp", 4.0)
    path.write_text("carb:\n  etta: 0.3\n")
    with pytest.raises(ConfigError, match="found no setting 'carb.etta', did you mean 'carb.eta'"):
        load_config("correspond", ["run_dir=x", "backbone=y", f"experiment={path}"])


def test_settings_of_a_trial_are_separate_from_those_of_the_sweep():
    words = ["run_dir=x", "correspond.backbone=y", "correspond.optim.epochs=3", "trials=7"]
    found = sweeps.load(words)
    assert found.base == ["backbone=y", "optim.epochs=3"] and found.config.trials == 7
    for more, sentence in (
        (["pretrain.optim.epochs=3"], "settings of the other stage"),
        (["correspond.run_dir=z"], "each trial has a folder of its own"),
        (["trails=7"], "did you mean 'trials'"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            sweeps.load([*words, *more])


@pytest.mark.parametrize("name", ["carb", "carb_ordered", "carb_more", "eta_clusters", "mae"])
def test_the_named_spaces_can_be_drawn_from_and_hold_the_papers_setting(name):
    stage = "pretrain" if name == "mae" else "correspond"
    found = sweeps.load(
        ["run_dir=x", f"space={name}", "correspond.backbone=y"][: 3 if stage == "correspond" else 2]
    )
    assert found.stage == stage and found.space.fits(found.paper)
    for number in range(20):
        found.with_values(found.space.draw(0, number))
