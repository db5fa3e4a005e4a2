"""Who owns a run folder, and what of all that was written in it counts."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from scemae.errors import LaunchError, RunFolderError
from scemae.runs import generations
from scemae.runs.generations import base_steps, claim, path_of, refuse_living, rows, upper_step


def start(run_dir, base=None, job=None, steps=()):
    """One start of a run that has ended."""
    generation = claim(run_dir, job, None)
    if base is not None:
        generation.record_base(base)
    (generation.folder / "rows.jsonl").write_text(
        "".join(json.dumps({"step": step}) + "\n" for step in steps)
    )
    (generation.folder / "ended").touch()
    return generation


def pretend(folder, **owner):
    """Make the owner of a generation somebody else."""
    (folder / "ended").unlink(missing_ok=True)
    path = folder / "owner.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **owner}))


def test_each_start_has_the_next_number(tmp_path):
    assert [start(tmp_path).number for _ in range(3)] == [1, 2, 3]


def test_steps_of_a_superseded_start_do_not_count_past_the_base_of_its_successor(tmp_path):
    start(tmp_path, 0, steps=[1, 2, 3, 4])
    start(tmp_path, 2, steps=[3, 4, 5])
    start(tmp_path, 4, steps=[5, 6])
    with open(
        path_of(tmp_path, 1) / "rows.jsonl", "a"
    ) as file:  # the first one lives on and writes
        file.write('{"step": 5}\n{"step": 6}\n{"st')
    assert [(row["generation"], row["step"]) for row in rows(tmp_path, "rows.jsonl")] == [
        (1, 1),
        (1, 2),
        (2, 3),
        (2, 4),
        (3, 5),
        (3, 6),
    ]


def test_a_roll_back_past_several_starts_takes_all_of_them_back(tmp_path):
    for base, steps in ((0, [1, 2]), (2, [3, 4]), (1, [2, 3])):
        start(tmp_path, base, steps=steps)
    bases = base_steps(tmp_path)
    assert [upper_step(bases, number) for number in (1, 2, 3)] == [1, 1, float("inf")]
    assert [row["step"] for row in rows(tmp_path, "rows.jsonl")] == [1, 2, 3]


def test_what_was_still_owed_of_the_base_counts_until_a_start_goes_back_behind_it(tmp_path):
    start(tmp_path, 0, steps=[1, 2])
    with open(start(tmp_path, 2, steps=[3]).folder / "rows.jsonl", "a") as file:
        file.write('{"step": 2, "late": true}\n{"step": 1, "late": true}\n')
    seen = [(1, 1), (1, 2), (2, 3), (2, 2)]
    assert [(row["generation"], row["step"]) for row in rows(tmp_path, "rows.jsonl")] == seen
    start(tmp_path, 2)
    assert [(row["generation"], row["step"]) for row in rows(tmp_path, "rows.jsonl")] == [
        (1, 1),
        (1, 2),
        (2, 2),
    ]
    start(tmp_path, 1)
    assert [(row["generation"], row["step"]) for row in rows(tmp_path, "rows.jsonl")] == [(1, 1)]


def test_a_start_that_never_trained_takes_nothing_back(tmp_path):
    start(tmp_path, 0, steps=[1, 2])
    start(tmp_path)
    assert len(rows(tmp_path, "rows.jsonl")) == 2


def test_a_living_process_of_this_machine_keeps_its_folder_and_a_dead_one_does_not(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    born = generations._start_ticks(other.pid)
    pretend(start(tmp_path).folder, pid=other.pid, born=born)
    with pytest.raises(RunFolderError, match=f"in use by process {other.pid}"):
        claim(tmp_path, None, None)
    other.kill()
    other.wait()
    assert claim(tmp_path, None, None).number == 2


def test_another_process_under_the_number_of_a_dead_one_does_not_hold_its_folder(tmp_path):
    pretend(start(tmp_path).folder, pid=os.getpid(), born="1")
    assert claim(tmp_path, None, None).number == 2


def test_a_process_of_another_machine_is_alive_while_its_beat_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(generations, "BEAT_SECONDS", 0.05)
    first = start(tmp_path)
    pretend(first.folder, host="elsewhere")
    over = threading.Event()

    def beat():
        while not over.wait(0.02):
            (first.folder / "beat").write_text(str(time.time()))

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(RunFolderError, match="on elsewhere"):
        refuse_living(tmp_path, first.folder, None)
    over.set()
    thread.join()
    assert claim(tmp_path, None, None).number == 2


def test_a_restarted_job_takes_over_from_itself_at_once(tmp_path):
    pretend(start(tmp_path, job="job-7").folder, host="elsewhere")
    began = time.monotonic()
    assert claim(tmp_path, "job-7", None).number == 2
    assert time.monotonic() - began < 1


def test_of_two_that_claim_at_the_same_time_one_is_refused(tmp_path):
    start(tmp_path)
    path_of(tmp_path, 2).mkdir()  # the other was faster, and has not written its name yet
    with pytest.raises(RunFolderError, match="has just claimed it|in use by"):
        claim_after(tmp_path, 1)


def claim_after(run_dir, last):
    """A claim that looked before the other one had made its folder."""
    seen = generations.numbers
    generations.numbers = lambda folder: list(range(1, last + 1))
    try:
        return claim(run_dir, None, None)
    finally:
        generations.numbers = seen


def test_a_job_that_gets_nowhere_five_times_is_not_started_again(tmp_path):
    for _ in range(5):
        start(tmp_path, 3, job="job-7")
    with pytest.raises(
        LaunchError, match="5 starts of job-7 in a row that got no further than step 3"
    ):
        claim(tmp_path, "job-7", None)
    assert claim(tmp_path, "job-8", None).number == 6


def test_a_generation_knows_when_it_is_superseded(tmp_path):
    first = start(tmp_path)
    assert not first.is_superseded
    start(tmp_path)
    assert first.is_superseded
    assert "another process has taken the run over" in first.claim_next()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot be written"):
        claim(tmp_path / "file" / "run", None, None)
