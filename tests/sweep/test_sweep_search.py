"""Which trial comes next: by seed, number and history alone; within constraints; above chance."""

import math
from dataclasses import asdict

import pytest

from scemae.files import disk
from scemae.sweep import spec as sweeps
from scemae.sweep.search import STARTUP, Search
from scemae.sweep.trials import (
    FAILED,
    FINISHED,
    GRID,
    PAPER,
    RANDOM,
    STOPPED,
    TPE,
    TrialRecord,
    read_records,
    write_trial,
)

BEST = {
    "carb.eta": 0.3,
    "carb.clusters": 9,
    "carb.r_att_att": 3.0,
    "carb.r_att_inatt": 9.0,
    "carb.r_inatt_inatt": 1.0,
}


def sweep(folder, *words, search="tpe", seed=0):
    """A sweep of stage 2 whose trials are never trained."""
    return sweeps.load(
        [
            f"run_dir={folder}",
            "space=carb",
            f"search={search}",
            f"seed={seed}",
            "correspond.backbone=x",
            *words,
        ]
    )


def loss(values):
    """A quadratic bowl in the space's own scales; 0 at BEST."""
    eta = (values["carb.eta"] - BEST["carb.eta"]) / 0.45
    logs = [
        math.log(values[name] / best) / math.log(16)
        for name, best in BEST.items()
        if name != "carb.eta"
    ]
    return eta**2 + sum(part**2 for part in logs)


def ended(trial, score, outcome=FINISHED):
    scores = score if isinstance(score, dict) else {"different": score}
    curve = (
        [(9, {name: value + 1 for name, value in scores.items()}), (27, scores)] if scores else []
    )
    return TrialRecord(trial.number, trial.values, trial.origin, outcome, 27, 27, scores, curve)


def play(search, first, last, score=lambda trial: ended(trial, loss(trial.values))):
    """One trial at a time from `first` to below `last`; their records."""
    found = []
    for number in range(first, last):
        found.append(score(search.propose(number)))
        search.add_result(found[-1])
    return found


def test_trial_0_is_the_papers_setting_in_every_search(tmp_path):
    paper = {
        "carb.eta": 0.1,
        "carb.clusters": 4,
        "carb.r_att_att": 5.0,
        "carb.r_att_inatt": 5.0,
        "carb.r_inatt_inatt": 2.0,
    }
    for kind in ("tpe", "random", "grid"):
        found = sweep(tmp_path, *(["space=eta_clusters"] if kind == "grid" else []), search=kind)
        trial = Search(found, []).propose(0)
        assert trial.origin == PAPER and trial.values == {name: paper[name] for name in found.names}
    changed = sweep(tmp_path, "correspond.carb.eta=0.25")
    assert Search(changed, []).propose(0).values == {**paper, "carb.eta": 0.25}


def test_random_and_grid_search_depend_on_the_number_alone(tmp_path):
    random, grid = (
        sweep(tmp_path, search="random"),
        sweep(tmp_path, "space=eta_clusters", "trials=99", search="grid"),
    )
    searcher = Search(random, [])
    records = play(searcher, 0, 5)
    assert [one.values for one in records[1:]] == [
        random.space.draw(0, number) for number in range(1, 5)
    ]
    assert Search(random, []).propose(4).values == records[4].values and records[4].origin == RANDOM
    points = [Search(grid, []).propose(number) for number in range(1, grid.size)]
    assert [one.values for one in points] == [
        values for values in grid.space.grid() if values != grid.paper
    ]
    assert grid.size == 40  # 8 x 5, the paper's among them once
    assert {one.origin for one in points} == {GRID}


def test_a_search_rebuilt_from_disk_proposes_what_an_uninterrupted_one_does(tmp_path):
    found, whole = sweep(tmp_path), Search(sweep(tmp_path), [])
    undisturbed = play(whole, 0, 20)
    assert {one.origin for one in undisturbed[STARTUP:]} == {TPE}
    for cut in (3, STARTUP, 15):
        folder = tmp_path / str(cut)
        for one in undisturbed[:cut]:
            write_trial(folder, one.trial)
            write_end(folder, one)
        again = Search(found, list(read_records(folder)))
        assert play(again, cut, 20) == undisturbed[cut:], cut
    assert play(Search(sweep(tmp_path, seed=1), []), 0, 20)[1:] != undisturbed[1:]


def write_end(folder, record):
    """end.json of a trial whose run scored what the record says."""
    disk.write_json(
        record.trial.folder(folder) / "end.json",
        {
            name: value
            for name, value in asdict(record).items()
            if name not in ("number", "values", "origin")
        },
    )


def test_a_trial_that_runs_when_the_sweep_is_stopped_still_counts_as_running(tmp_path):
    found = sweep(tmp_path)
    records = play(Search(found, []), 0, STARTUP + 3)
    running = Search(found, records[:-1]).propose(STARTUP + 2)
    half = [*records[:-1], TrialRecord(running.number, running.values, running.origin)]
    again, following = Search(found, half), Search(found, records)
    again.add_result(ended(running, loss(running.values)))
    assert running.values == records[-1].values
    assert again.propose(STARTUP + 3).values == following.propose(STARTUP + 3).values


def test_trials_at_once_know_of_each_other_after_a_restart_too(tmp_path):
    found = sweep(tmp_path)
    records = play(Search(found, []), 0, STARTUP + 2)
    live = Search(found, records)
    first = [live.propose(number) for number in range(STARTUP + 2, STARTUP + 8)]
    following = live.propose(STARTUP + 8)
    again = Search(
        found, [*records, *(TrialRecord(one.number, one.values, one.origin) for one in first)]
    )
    assert again.propose(STARTUP + 8).values == following.values
    assert Search(found, records).propose(STARTUP + 8).values != following.values


def test_a_draw_of_tpe_depends_on_seed_and_number_and_what_was_seen(tmp_path):
    records = play(Search(sweep(tmp_path), []), 0, STARTUP + 2)
    worse = [ended(one.trial, -one.scores["different"]) for one in records]
    drawn = [
        Search(sweep(tmp_path, seed=seed), seen).propose(number).values
        for seed, seen, number in (
            (0, records, 12),
            (1, records, 12),
            (0, records, 13),
            (0, worse, 12),
        )
    ]
    assert (
        len({str(values) for values in drawn}) == 4
        and Search(sweep(tmp_path), records).propose(12).values == drawn[0]
    )


def test_tpe_keeps_constraints_steps_and_whole_numbers(tmp_path):
    found = sweep(tmp_path, "space=carb_ordered")
    for one in play(Search(found, []), 0, 40)[1:]:
        values = one.values
        assert (
            min(values["carb.r_att_att"], values["carb.r_att_inatt"]) > values["carb.r_inatt_inatt"]
        )
        assert found.space.contains(values) and type(values["carb.clusters"]) is int
        assert all(value == float(f"{value:.6g}") for value in values.values())


def test_a_constraint_that_tpe_hardly_meets_is_met_by_chance(tmp_path, monkeypatch):
    found = sweep(tmp_path)
    records = play(Search(found, []), 0, STARTUP + 2)
    search = Search(found, records)
    point = found.space.draw(0, STARTUP + 2)
    monkeypatch.setattr(
        type(found.space), "fits", lambda self, values: values["carb.eta"] == point["carb.eta"]
    )
    monkeypatch.setattr("scemae.sweep.search.ATTEMPTS", 1)
    trial = search.propose(STARTUP + 2)
    assert (trial.values, trial.origin) == (point, RANDOM)
    search.add_result(ended(trial, 0.1))


def test_tpe_draws_steps_of_any_number_of_digits(tmp_path):
    eta = "{low: 0.0, high: 0.3333333333, step: 0.1111111111}"
    found = sweep(
        tmp_path,
        "space=own",
        "space.stage=correspond",
        f"space.parameters.carb={{eta: {eta}, clusters: {{low: 1, high: 9}}}}",
    )
    records = play(Search(found, []), 0, 20, score_eta)
    assert all(one.values["carb.eta"] in found.space.parameters[0].steps() for one in records[1:])


def score_eta(trial):
    return ended(trial, trial.values["carb.eta"])


@pytest.mark.parametrize(
    "bad",
    [
        lambda trial: ended(trial, {}, FAILED),
        lambda trial: ended(trial, math.nan),
        lambda trial: ended(trial, {"different": math.nan}, STOPPED),
    ],
)
def test_failed_trials_and_scores_that_are_not_finite_do_not_break_tpe(tmp_path, bad):
    search = Search(sweep(tmp_path), [])
    records = play(
        search,
        0,
        25,
        lambda trial: bad(trial) if trial.number % 3 else ended(trial, loss(trial.values)),
    )
    assert [one.number for one in records] == list(range(25)) and records[24].origin == TPE
    play(Search(sweep(tmp_path), []), 0, 14, bad)  # nor where nothing else has been seen


def test_trials_stopped_early_are_learnt_from(tmp_path):
    found = sweep(tmp_path)
    stopped = [ended(one.trial, one.scores, STOPPED) for one in play(Search(found, []), 0, 14)]
    failed = [ended(one.trial, {}, FAILED) for one in stopped]
    turned = [ended(one.trial, -one.scores["different"], STOPPED) for one in stopped]
    assert (
        len({str(Search(found, seen).propose(14).values) for seen in (stopped, failed, turned)})
        == 3
    )


def test_two_objectives_are_searched_together(tmp_path):
    found = sweep(tmp_path, "objectives=[different,same]")

    def score(trial):
        return ended(
            trial,
            {"different": loss(trial.values), "same": abs(trial.values["carb.eta"] - 0.1)},
            STOPPED if trial.number % 4 == 3 else FINISHED,
        )

    records = play(Search(found, []), 0, 30, score)
    assert records[-1].origin == TPE and all(found.space.contains(one.values) for one in records)
    assert play(Search(found, records[:20]), 20, 30, score) == records[20:]


def test_tpe_finds_a_better_setting_than_chance(tmp_path):
    best = {
        kind: [
            min(
                one.scores["different"]
                for one in play(Search(sweep(tmp_path, search=kind, seed=seed), []), 0, 60)
            )
            for seed in range(3)
        ]
        for kind in ("tpe", "random")
    }
    assert sum(best["tpe"]) < 0.7 * sum(best["random"]), best
