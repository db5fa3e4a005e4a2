"""The page of a sweep: what is best, what matters, and a page for every state of a sweep."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr

from scemae.errors import LaunchError, RunFolderError
from scemae.sweep.page import score_figures, setting_figures
from scemae.sweep.page.canvas import Picture, score_limits
from scemae.sweep.page.importance import importances
from scemae.sweep.page.page import command_in, write_page
from scemae.sweep.page.results import refuse_fruitless
from scemae.sweep.page.setting_axes import SettingAxis, as_text, axes_of, axis_of
from scemae.sweep.page.summary import by_rank, causes, summary
from scemae.sweep.ranking import agreement, best, pareto_front, ranked
from scemae.sweep.trials import FAILED, FINISHED, RUNNING, STOPPED, WAITING, TrialRecord
from tests import axe

PARAMETERS = {
    "carb.eta": {"low": 0.05, "high": 0.5, "step": 0.05},
    "carb.clusters": {"low": 1, "high": 16, "log": True},
    "carb.projector": {"low": 0.0, "high": 0.0, "values": ["linear", "mlp"]},
    "carb.aggregate": {},
}
BOTH = ["different", "same"]


def record(
    number: int, different: float = math.nan, outcome: str = FINISHED, **scores: float
) -> TrialRecord:
    """A trial with a score and no settings."""
    return TrialRecord(
        number,
        {},
        "paper" if number == 0 else "random",
        outcome,
        90,
        90,
        {"different": different, **scores},
    )


def sweep(count: int, seed: int = 0) -> list[TrialRecord]:
    """A search in which eta alone matters, with noise, and trials of every outcome."""
    draw, found = np.random.default_rng(seed), []
    for number in range(count):
        values = {
            "carb.eta": round(0.05 * int(draw.integers(1, 11)), 2),
            "carb.clusters": int(draw.integers(1, 17)),
            "carb.projector": ["linear", "mlp"][draw.integers(2)],
            "carb.aggregate": bool(draw.integers(2)),
        }
        score = 5 + 10 * abs(values["carb.eta"] - 0.2) + 0.1 * draw.normal()
        outcome = (
            FINISHED if number % 5 < 3 else [STOPPED, FAILED, RUNNING, WAITING][number // 5 % 4]
        )
        evaluations = {FINISHED: 9, WAITING: 0}.get(outcome, 3)
        curve = [
            (
                10 * step,
                {
                    "different": score + 3 / step,
                    "same": 7 - score / 2,
                    "cycle": score + draw.normal(),
                },
            )
            for step in range(1, evaluations + 1)
        ]
        if number == 7:
            curve[-1] = (90, {"different": math.nan, "same": math.inf})
        found.append(
            TrialRecord(
                number,
                values,
                "paper" if number == 0 else "tpe",
                outcome,
                10 * evaluations,
                90 if evaluations else 0,
                curve[-1][1] if curve else {},
                curve,
                60.0,
                1,
                reason="<it broke>" if outcome == FAILED else "",
            )
        )
    return found


def written(folder, records: list[TrialRecord], objectives: list[str] = BOTH, **others) -> str:
    others = {"facts": {}, "parameters": PARAMETERS, "best_yaml": None} | others
    path = write_page(folder, "A search", records, objectives, **others)
    return path.read_text(encoding="utf8")


def test_the_best_is_the_lowest_finished_score_and_of_equal_ones_the_first():
    records = [
        record(0, 6.0),
        record(3, 5.0),
        record(2, 5.0),
        record(4, 1.0, STOPPED),
        record(5),
        record(6, -math.inf),
    ]
    assert best(records, "different") is records[2]
    assert [one.number for one in ranked(records, "different")] == [2, 3, 0]
    assert best([record(1), record(2, 3.0, FAILED)], "different") is None


@pytest.mark.parametrize("names", [BOTH, ["different", "same", "cycle"]])
def test_the_pareto_front_is_what_a_double_loop_finds(names):
    draw = np.random.default_rng(0)
    drawn = draw.integers(12, size=(80, 3)).astype(float)
    records = [record(i, a, same=b, cycle=c) for i, (a, b, c) in enumerate(drawn)]
    left_out = [record(80, -1.0, STOPPED, same=0.0, cycle=0.0), record(81, -1.0)]
    records += left_out
    points = {one.number: [one.scores[name] for name in names] for one in records[:80]}
    slow = {
        a
        for a in points
        if not any(
            all(x <= y for x, y in zip(points[b], points[a])) and points[b] != points[a]
            for b in points
        )
    }
    front = pareto_front(records, names)
    assert {one.number for one in front} == slow
    assert [one.scores["different"] for one in front] == sorted(
        one.scores["different"] for one in front
    )


def test_agreement_is_spearmans_with_an_interval_that_repeats_and_needs_two_scores_that_vary():
    x, y = np.random.default_rng(0).normal(size=(2, 40))
    records = [record(i, float(a), cycle=float(a + b)) for i, (a, b) in enumerate(zip(x, y))]
    found = agreement(records, "cycle", "different")
    assert found.rho == pytest.approx(spearmanr(x + y, x).statistic) and found.n == 40
    draw = np.random.default_rng(1)
    slow = [
        spearmanr((x + y)[part], x[part]).statistic for part in draw.integers(40, size=(1000, 40))
    ]
    assert (found.low, found.high) == pytest.approx(np.percentile(slow, (2.5, 97.5)), abs=0.03)
    assert agreement(records, "cycle", "different") == found
    assert (
        agreement([record(i, float(i), cycle=1.0) for i in range(20)], "cycle", "different") is None
    )


def test_the_setting_that_decides_is_the_most_important_and_numbers_repeat():
    records = sweep(200)
    axes = axes_of(records, PARAMETERS)
    found = importances(records, "different", axes)
    assert next(iter(found.shares)) == "carb.eta" and found.shares["carb.eta"] > 0.7
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.low["carb.eta"] > max(
        found.high[name] for name in PARAMETERS if name != "carb.eta"
    )
    assert importances(records, "different", axes) == found


def test_importance_says_why_there_is_none():
    few, equal, one_setting = sweep(12), sweep(60), sweep(60)
    for one in equal:
        one.scores = {"different": 5.0}
    assert "needed 10" in importances(few, "different", axes_of(few, PARAMETERS)).missing
    assert "same score" in importances(equal, "different", axes_of(equal, PARAMETERS)).missing
    alone = axes_of(one_setting, {"carb.eta": PARAMETERS["carb.eta"]})
    assert "fewer than two" in importances(one_setting, "different", alone).missing


def test_an_axis_places_numbers_logarithms_and_categories():
    tried = [TrialRecord(i, {"x": value}, "random") for i, value in enumerate((1, 4, 30))]
    axis = axis_of("x", "x", tried, {"low": 1, "high": 16, "log": True})
    assert [axis.place(value) for value in (1, 30)] == [0, 1] and axis.place(4) == pytest.approx(
        math.log(4) / math.log(30)
    )
    words = axis_of(
        "x",
        "x",
        [TrialRecord(0, {"x": True}, "random"), TrialRecord(1, {"x": False}, "random")],
        {},
    )
    assert (
        words.categories == ["false", "true"]
        and words.place(True) == 0.75
        and math.isnan(words.place("else"))
    )
    mixed = axis_of("x", "x", [TrialRecord(0, {"x": None}, "random"), *tried], {})
    assert not mixed.categories and math.isnan(mixed.place(None))


@pytest.mark.parametrize(
    "axis",
    [
        SettingAxis("x", low=0.11, high=0.14, is_log=True),
        SettingAxis("x", low=1e-4, high=1e-2, is_log=True),
        SettingAxis("x", low=-3.0, high=17.0),
        SettingAxis("x", low=2.0, high=2.0),
        SettingAxis("x", categories=list("abc")),
    ],
)
def test_ticks_stand_on_the_axis_in_order_and_apart(axis):
    for least in (0.05, 0.2):
        places = [at for at, _ in axis.ticks(least)]
        assert places and all(-1e-9 <= at <= 1 + 1e-9 for at in places)
        assert all(right - left >= least for left, right in zip(places, places[1:]))


def test_each_trial_is_in_one_cell_of_the_heat_map():
    records = ranked(sweep(100), "different")
    for axis in axes_of(records, PARAMETERS):
        names, cells = setting_figures.cells(axis, records)
        assert len(cells) == len(records) and 0 <= cells.min() and cells.max() < len(names) <= 10
        for name, cell in zip(names, range(len(names))):
            values = [one.values[axis.name] for one, at in zip(records, cells) if at == cell]
            ends = [float(end) for end in name.split("–")] if not axis.categories else []
            assert all(
                ends[0] <= value <= ends[-1] if ends else as_text(value) == name for value in values
            )


def test_a_diverged_score_does_not_stretch_the_axis():
    low, high = score_limits([5.0, 5.5, 6.0, 6.5, 1000.0], [])
    assert low < 5 and 6.5 < high < 8
    # The paper's setting is always visible.
    assert score_limits([5.0, 5.5, 6.0, 6.5, 1000.0], [12.0])[1] > 12
    assert score_limits([5.0], [])[0] < 5 < score_limits([5.0], [])[1]


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([], "No trial has finished"),
        ([record(0, 5.0, RUNNING)], "No trial has finished"),
        ([record(0, 5.0)], "only one that finished"),
        ([record(0, 5.0), record(1, 6.0)], "no other finished trial did better"),
        (
            [record(0, 5.0), record(1, 4.0)],
            "4.00 px on “different”, 1.00 px (20.0 %) less than the paper's setting (5.00 px).",
        ),
        ([record(0), record(1, 4.0)], "no score to compare with"),
    ],
)
def test_the_summary_says_what_won_and_by_how_much(records, words):
    assert words in summary(records, "different")[0]


def test_the_summary_counts_how_trials_ended():
    records = [
        record(0, 5.0),
        record(1),
        record(2, 9.0, STOPPED),
        record(3, outcome=FAILED),
        record(4, outcome=WAITING),
    ]
    text = " ".join(summary(records, "different"))
    assert (
        "Of 5 trials: 2 finished, 1 stopped early, 1 failed, 1 waiting." in text
        and "(diverged): 1 of the finished" in text
    )


def test_the_table_has_finished_trials_first_and_failures_are_grouped():
    records = [
        record(0, 5.0, WAITING),
        record(1, 4.0, STOPPED),
        record(2),
        record(3, 6.0),
        record(4, 5.0),
    ]
    assert [one.number for one in by_rank(records, "different")] == [4, 3, 2, 1, 0]
    failed = [
        TrialRecord(i, {}, "random", FAILED, reason="out of memory" if i else "") for i in range(3)
    ]
    assert [(one.reason, one.numbers) for one in causes(failed)] == [
        ("out of memory", [1, 2]),
        ("no reason is known", [0]),
    ]


def test_the_command_is_the_line_of_the_best_settings_file_that_calls_scemae():
    text = "# Trial 3\n# scemae pretrain run_dir=RUN\na: 1\n"
    assert command_in(text) == "scemae pretrain run_dir=RUN" and command_in("a: 1\n") is None


class Page(HTMLParser):
    """Checks that tags close, and collects identifiers, links and pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.identifiers, self.links, self.images = [], set(), [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.identifiers.add(found.get("id"))
        self.links += [found[key] for key in ("href", "src") if key in found]
        self.images += [found] if tag == "img" else []
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("count", "objectives"),
    [(0, BOTH), (0, ["different"]), (1, BOTH), (2, ["different"]), (13, BOTH), (60, ["different"])],
)
def test_a_sweep_of_any_size_has_a_complete_page_that_fetches_nothing(tmp_path, count, objectives):
    text = written(
        tmp_path, sweep(count), objectives, facts={"seed": "0"}, best_yaml="carb:\n  eta: 0.2\n"
    )
    page = Page(text)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert all(link[1:] in page.identifiers for link in page.links if link.startswith("#"))
    assert all(image["alt"] for image in page.images)
    assert len(page.images) == {0: 0, 1: 3, 2: 5, 13: 5, 60: 7}[count] + (
        count > 0 and objectives == BOTH
    )
    assert "eta: 0.2" in text and ("Pareto front" in text) == (objectives == BOTH)
    assert list(tmp_path.iterdir()) == [tmp_path / "sweep.html"]


@pytest.mark.parametrize("outcome", [FAILED, RUNNING, WAITING, STOPPED])
def test_a_sweep_of_which_nothing_finished_has_a_page(tmp_path, outcome):
    records = sweep(30)
    for one in records:
        one.outcome = outcome
    assert "No trial has finished with a score yet." in written(tmp_path, records)


def test_scores_that_are_not_finite_and_missing_settings_do_not_stop_the_page(tmp_path):
    records = sweep(40)
    for i, one in enumerate(records):
        one.values["carb.clusters"] = None if i % 3 else 4
        one.scores = {"different": math.nan, "cycle": math.inf}
        one.curve = [(0, {}), (90, {"different": math.nan})]
        one.total *= i % 2
    assert "(diverged)" in written(tmp_path, records)
    records[5].scores, records[6].scores = {"different": 5.0}, {"different": 5.0}
    assert "Trial 5 is the best" in written(tmp_path, records) and "Trial 6 is the best" in written(
        tmp_path, records[6:]
    )


def test_texts_of_users_are_escaped_and_the_papers_setting_is_marked(tmp_path):
    records = sweep(60)
    text = written(tmp_path, records, facts={"<b>": "<i>"}, best_yaml="<u>")
    assert (
        "&lt;it broke&gt;" in text
        and "<it broke>" not in text
        and "<u>" not in text
        and "<i>" not in text
    )
    assert (
        len(re.findall('<tr class="paper">', text)) + len(re.findall('<tr class="winner">', text))
        >= 2
    )


def test_of_many_trials_the_table_has_the_best_and_the_papers_and_says_so(tmp_path):
    records = [
        TrialRecord(
            i,
            {"carb.eta": 0.001 * i},
            "random" if i else "paper",
            FINISHED,
            90,
            90,
            {"different": 9 - 0.001 * i},
        )
        for i in range(1200)
    ]
    text = written(tmp_path, records, ["different"], parameters={"carb.eta": {"low": 0, "high": 2}})
    assert text.count("<tr") == 1 + 500 + 1 and "best 501 of 1,200" in text


def test_a_page_that_cannot_be_written_is_an_error_of_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        written(tmp_path / "file", sweep(1))


@pytest.mark.slow
def test_ten_thousand_trials_fit_on_a_page_of_three_megabytes(tmp_path):
    text = written(tmp_path, sweep(10_000))
    assert len(text) < 3e6 and isinstance(score_figures.history(sweep(10), "different"), Picture)


def test_a_sweep_of_which_no_trial_finished_fails_with_the_most_frequent_reason():
    failed = [record(number, outcome=FAILED) for number in range(3)]
    for one, reason in zip(failed, ("no room", "no such folder", "no such folder")):
        one.reason = reason
    made = SimpleNamespace(folder=Path("s"), size=3, records=lambda: failed)
    with pytest.raises(
        LaunchError,
        match="^s: none of its 3 trials finished; of 2 the reason was: no such folder; see ",
    ):
        refuse_fruitless(made)
    # One trial has yet to begin.
    refuse_fruitless(SimpleNamespace(folder=Path("s"), size=4, records=lambda: failed))
    failed[1].outcome = FINISHED
    refuse_fruitless(made)


def test_axe_finds_nothing_serious_on_a_sweep(tmp_path):
    written(tmp_path, sweep(60))
    axe.check_file(tmp_path / "sweep.html")
