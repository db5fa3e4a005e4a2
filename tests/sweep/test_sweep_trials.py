"""A sweep on disk: runs that were stopped and resumed, the table, and the queue of trials."""

import csv
import json
import shutil

import pytest

from scemae.errors import RunFolderError
from scemae.files import disk
from scemae.runs.generation_files import METRICS
from scemae.runs.generations import claim, path_of
from scemae.sweep import spec as sweeps
from scemae.sweep.queue import TrialQueue
from scemae.sweep.trials import (
    FAILED,
    FINISHED,
    PAPER,
    RANDOM,
    RUNNING,
    STOPPED,
    WAITING,
    ResultsTable,
    Trial,
    TrialRecord,
    drop_checkpoints,
    end_trial,
    read_record,
    read_records,
    read_run,
    write_trial,
)

VALUES = {"carb.eta": 0.25, "carb.clusters": 3}


def evaluation(step, score, **others):
    return {
        "step": step,
        "probe_different": score,
        "probe_same": score / 2,
        "probe_seconds": 0.1,
        **others,
    }


def start(run, base, rows, seconds=10.0):
    """One start of a run, `seconds` long, that wrote `rows`; a number is a row of that step."""
    generation = claim(run, None, None)
    if base is not None:
        generation.record_base(base)
    rows = [row if isinstance(row, dict) else {"step": row, "loss": 1.0} for row in rows]
    (generation.folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    owner = json.loads((generation.folder / "owner.json").read_text())
    (generation.folder / "ended").write_text(f"{owner['started'] + seconds}\n")


def trial(number=1, values=VALUES, origin=RANDOM):
    return Trial(number, values, origin)


def make(sweep, one, *starts, total=30):
    """A trial on disk, and its run as these starts left it."""
    write_trial(sweep, one)
    run = one.folder(sweep) / "run"
    for base, rows in starts:
        start(run, base, rows)
    if starts:
        disk.write_json(run / "provenance.json", {"total_steps": total})
    return one


def test_a_trial_waits_until_it_has_started(tmp_path):
    record = read_record(tmp_path, make(tmp_path, trial()))
    assert (record.outcome, record.step, record.starts, record.curve, record.has_ended) == (
        WAITING,
        0,
        0,
        [],
        False,
    )


def test_a_run_of_one_start_is_read_as_it_is(tmp_path):
    record = read_run(
        tmp_path,
        make(tmp_path, trial(), (0, [5, 10, evaluation(10, 7.0), 15, 20, evaluation(20, 6.0)])),
    )
    assert record.curve == [
        (10, {"different": 7.0, "same": 3.5}),
        (20, {"different": 6.0, "same": 3.0}),
    ]
    assert record.scores == {"different": 6.0, "same": 3.0} and record.outcome == RUNNING
    assert (record.step, record.total, record.trained, record.starts) == (20, 30, 20, 1)


def test_repeated_steps_count_as_trained_but_not_as_progress(tmp_path):
    killed = (0, [5, 10, evaluation(10, 7.0), 15, 20, evaluation(20, 9.9), 25])  # saved at 10
    later = (10, [15, 20, evaluation(20, 6.0)]), (20, [25, 30, evaluation(30, 5.0)])
    record = read_run(tmp_path, make(tmp_path, trial(), killed, *later))
    assert record.curve == [
        (10, {"different": 7.0, "same": 3.5}),
        (20, {"different": 6.0, "same": 3.0}),
        (30, {"different": 5.0, "same": 2.5}),
    ]
    assert (record.step, record.starts, record.seconds) == (30, 3, pytest.approx(30.0, abs=0.1))
    assert record.trained == len([*range(1, 26), *range(11, 21), *range(21, 31)])


def test_a_start_that_never_trained_counts_as_a_start_only(tmp_path):
    record = read_run(
        tmp_path, make(tmp_path, trial(), (0, [10, evaluation(10, 7.0)]), (None, []), (10, [15]))
    )
    assert (record.step, record.trained, record.starts, record.scores["different"]) == (
        15,
        15,
        3,
        7.0,
    )


def test_an_evaluation_made_up_for_later_counts_once(tmp_path):
    record = read_run(
        tmp_path,
        make(tmp_path, trial(), (0, [15, 30]), (30, [evaluation(30, 5.0, late=True)]), (30, [])),
    )
    assert record.curve == [(30, {"different": 5.0, "same": 2.5})]
    assert (record.trained, record.starts) == (30, 3)
    other = trial(2)
    record = read_run(
        tmp_path,
        make(tmp_path, other, (0, [15, evaluation(15, 8.0)]), (15, [evaluation(15, 9.9), 30])),
    )
    # Not marked as late, so it is a repeated row.
    assert record.curve == [(15, {"different": 8.0, "same": 4.0})]


def test_a_torn_row_is_left_out(tmp_path):
    one = make(tmp_path, trial(), (0, [10, evaluation(10, 7.0)]))
    with open(path_of(one.folder(tmp_path) / "run", 1) / METRICS, "a") as file:
        file.write('{"step": 20, "probe_diff')
    assert (read_run(tmp_path, one).step, len(read_run(tmp_path, one).curve)) == (10, 1)


def test_how_a_trial_ended_is_read_back_as_it_was_written(tmp_path):
    one = make(tmp_path, trial(), (0, [10, evaluation(10, 7.0), 30, evaluation(30, 5.5)]))
    for outcome, reason in ((FINISHED, ""), (STOPPED, ""), (FAILED, 'it "broke", at\nlast')):
        ended = end_trial(tmp_path, one, outcome, reason)
        assert (
            read_record(tmp_path, one) == ended
            and (ended.outcome, ended.reason) == (outcome, reason)
            and ended.has_ended
        )
    nothing = end_trial(tmp_path, make(tmp_path, trial(2)), FAILED, "lost")
    assert list(read_records(tmp_path)) == [ended, nothing] and nothing.scores == {}


def test_a_trial_that_was_stopped_counts_up_to_the_evaluation_that_stopped_it(tmp_path):
    one = make(tmp_path, trial(), (0, [10, evaluation(10, 7.0), 20, evaluation(20, 6.0), 25]))
    ended = end_trial(tmp_path, one, STOPPED, progress=10 / 30)
    assert (
        ended.curve == [(10, {"different": 7.0, "same": 3.5})] and ended.scores == ended.curve[0][1]
    )
    assert (ended.step, ended.trained) == (10, 25)
    assert read_record(tmp_path, one) == ended


def test_a_trial_that_was_half_written_when_the_sweep_ended_had_not_begun(tmp_path):
    kept = make(tmp_path, trial(0, origin=PAPER), (0, [10]))
    (make(tmp_path, trial(1)).folder(tmp_path) / "trial.json").write_text('{"number": 1, "val')
    (tmp_path / "trials" / "000002").mkdir()
    assert [record.number for record in read_records(tmp_path)] == [0]
    end_trial(tmp_path, kept, FINISHED)
    (kept.folder(tmp_path) / "end.json").write_text("{")
    assert [record.outcome for record in read_records(tmp_path)] == [RUNNING]  # then it resumes
    assert list(read_records(tmp_path / "none")) == []


def test_a_moved_folder_holds_the_same_records(tmp_path):
    make(tmp_path / "a", trial(0, origin=PAPER), (0, [10, evaluation(10, 7.0)]), (10, [20]))
    end_trial(
        tmp_path / "a", make(tmp_path / "a", trial(1), (0, [30, evaluation(30, 6.0)])), FINISHED
    )
    before = list(read_records(tmp_path / "a"))
    shutil.move(tmp_path / "a", tmp_path / "elsewhere" / "b")
    assert list(read_records(tmp_path / "elsewhere" / "b")) == before and len(before) == 2


def test_a_rewritten_table_equals_one_that_grew_row_by_row(tmp_path):
    records = [
        TrialRecord(
            0,
            VALUES,
            PAPER,
            FINISHED,
            30,
            30,
            {"different": 5.123456789, "cycle": 1.0},
            seconds=12.34,
            starts=1,
            trained=30,
        ),
        TrialRecord(
            1, VALUES, RANDOM, STOPPED, 10, 30, {"different": float("nan")}, starts=2, trained=20
        ),
        TrialRecord(2, VALUES, RANDOM, FAILED, reason='a "reason", with\na line'),
        TrialRecord(3, VALUES, RANDOM, RUNNING),
    ]
    table = ResultsTable(tmp_path, list(VALUES))
    table.rewrite(iter([]))
    for record in records[:3]:
        table.append(record)
    grown = (tmp_path / "results.csv").read_text()
    table.rewrite(iter(records))
    assert (tmp_path / "results.csv").read_text() == grown
    rows = list(csv.DictReader((tmp_path / "results.csv").open(newline="")))
    assert [
        (row["trial"], row["outcome"], row["carb.eta"], row["different"], row["same"])
        for row in rows
    ] == [
        ("0", FINISHED, "0.25", "5.12346", ""),
        ("1", STOPPED, "0.25", "nan", ""),
        ("2", FAILED, "0.25", "", ""),
    ]
    assert (
        rows[2]["reason"] == records[2].reason
        and rows[0]["seconds"] == "12.3"
        and rows[1]["steps_trained"] == "20"
    )


def test_dropping_checkpoints_keeps_the_scores(tmp_path):
    one = make(tmp_path, trial(), (0, [30, evaluation(30, 5.0)]))
    (one.folder(tmp_path) / "run" / "checkpoints" / "step-00000030.g0001").mkdir(parents=True)
    before = read_run(tmp_path, one)
    drop_checkpoints(tmp_path, one)
    assert (
        not (one.folder(tmp_path) / "run" / "checkpoints").exists()
        and read_run(tmp_path, one) == before
    )


# The queue of trials.


def open_queue(folder, *words):
    """The queue of a random search of 6 trials, none of which is trained."""
    sweep = sweeps.load(
        [
            f"run_dir={folder}",
            "space=carb",
            "search=random",
            "trials=6",
            "correspond.backbone=x",
            *words,
        ]
    )
    return TrialQueue(sweep, claim(folder, "sweep", None))


def run_to_end(queue, one, score, outcome=FINISHED, total=30):
    """Write a run of no training, with a checkpoint and tokens of its own, and end its trial."""
    make(
        queue.sweep.folder,
        one,
        (0, [10, evaluation(10, score + 1), 30, evaluation(30, score)]),
        total=total,
    )
    for part in ("run/checkpoints/step-00000030.g0001", "tokens"):
        (one.folder(queue.sweep.folder) / part).mkdir(parents=True)
    queue.end(one, outcome)


def with_checkpoints(queue):
    return {
        one.number
        for one in queue.ended.values()
        if (one.trial.folder(queue.sweep.folder) / "run" / "checkpoints").exists()
    }


def test_every_trial_is_handed_out_once_and_is_on_disk_before(tmp_path):
    queue, found = open_queue(tmp_path), []
    while (one := queue.next()) is not None:
        assert (
            read_record(tmp_path, one).outcome == WAITING
            and (one.folder(tmp_path) / "trial.json").exists()
        )
        found.append(one)
    assert [one.number for one in found] == list(range(6)) and [one.origin for one in found] == [
        PAPER
    ] + 5 * [RANDOM]
    assert [one.values for one in found[1:]] == [
        queue.sweep.space.draw(0, number) for number in range(1, 6)
    ]
    for one in found:
        assert not queue.is_done
        run_to_end(queue, one, 5.0)
    assert queue.is_done and queue.next() is None


def test_a_reopened_queue_goes_on_where_it_stood(tmp_path):
    queue = open_queue(tmp_path)
    first, second, third, _ = (queue.next() for _ in range(4))
    run_to_end(queue, second, 5.0)
    queue.put_back(third)
    assert queue.next() == third
    table = (tmp_path / "results.csv").read_text()
    again = open_queue(tmp_path)
    assert (
        (tmp_path / "results.csv").read_text() == table
        and again.ended == queue.ended
        and list(again.ended) == [1]
    )
    assert [again.next().number for _ in range(5)] == [0, 2, 3, 4, 5] and again.next() is None
    assert first.values == read_record(tmp_path, first).values


def test_a_trial_that_is_lost_too_often_has_failed(tmp_path, capsys):
    queue = open_queue(tmp_path, "retries=2")
    one = queue.next()
    for _ in range(2):
        queue.lose(one, "killed by SIGKILL")
        assert not queue.ended and queue.next() == one
    assert (
        "trial 0: killed by SIGKILL; it resumes from its last checkpoint" in capsys.readouterr().out
    )
    queue.lose(one, "killed by SIGKILL")
    assert (
        queue.ended[0].outcome == FAILED
        and queue.ended[0].reason == "lost 3 times: killed by SIGKILL"
    )
    assert queue.next().number == 1


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_only_the_best_and_the_papers_setting_keep_their_checkpoints(tmp_path, keep):
    queue, scores = open_queue(tmp_path, f"keep={keep}"), [9.0, 4.0, 6.0, 1.0, 2.0, float("nan")]
    for score in scores:
        one = queue.next()
        run_to_end(queue, one, score, STOPPED if score == 1.0 else FINISHED)
        assert one.number in with_checkpoints(queue)  # its processes may live
    queue.close()
    finished = sorted((score, number) for number, score in enumerate(scores) if score > 1.0)
    assert with_checkpoints(queue) == (
        {0} | {number for _, number in finished[:keep]} if keep else set(range(6))
    )
    assert not list(tmp_path.glob("trials/*/tokens"))
    assert len(list(csv.DictReader((tmp_path / "results.csv").open(newline="")))) == 6


def test_the_pareto_front_keeps_its_checkpoints(tmp_path):
    queue = open_queue(tmp_path, "keep=1", "objectives=[different,cycle]")
    for different, cycle in (
        (9.0, 9.0),
        (4.0, 5.0),
        (5.0, 4.0),
        (6.0, 6.0),
        (3.0, 8.0),
        (5.0, 5.0),
    ):
        one = queue.next()
        make(tmp_path, one, (0, [{"step": 30, "probe_different": different, "probe_cycle": cycle}]))
        (one.folder(tmp_path) / "run" / "checkpoints").mkdir()
        queue.end(one, FINISHED)
    queue.close()
    assert with_checkpoints(queue) == {0, 1, 2, 4}


def test_a_reopened_queue_removes_leftovers(tmp_path):
    queue = open_queue(tmp_path, "keep=1")
    for score in (9.0, 4.0, 6.0):
        run_to_end(queue, queue.next(), score)
    assert with_checkpoints(queue) == {0, 1, 2}  # those of the last one are not removed yet
    again = open_queue(tmp_path, "keep=1")
    again.remove_leftovers()
    assert with_checkpoints(again) == {0, 1}


def test_a_superseded_queue_writes_nothing_more(tmp_path):
    queue = open_queue(tmp_path)
    one = queue.next()
    open_queue(tmp_path)
    table = (tmp_path / "results.csv").read_text()
    for act in (queue.next, lambda: queue.end(one, FINISHED)):
        with pytest.raises(RunFolderError, match="another start of this sweep has taken it over"):
            act()
    assert (tmp_path / "results.csv").read_text() == table and not (
        one.folder(tmp_path) / "end.json"
    ).exists()


def test_a_full_disk_for_table_and_page_does_not_end_a_sweep(tmp_path, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    queue = open_queue(tmp_path)
    monkeypatch.setattr(ResultsTable, "append", full)
    monkeypatch.setattr(queue, "_write_results", full)
    monkeypatch.setattr(queue, "_written", -1e9)
    run_to_end(queue, queue.next(), 5.0)
    assert (
        queue.ended[0].outcome == FINISHED
        and capsys.readouterr().err.count("No space left on device; the sweep continues") == 2
    )
