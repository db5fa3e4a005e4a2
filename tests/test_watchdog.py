"""Who is to blame for a hang, and that nobody waits for a rank that has failed for good."""

import json
import os
import subprocess
import sys
import time

from scemae.watchdog import blame


def bark(folder, rank, step, phase):
    (folder / f"hang-{rank:04d}.json").write_text(
        json.dumps({"rank": rank, "host": f"n{rank}", "step": step, "phase": phase}))


def test_the_rank_that_got_least_far_is_named(tmp_path):
    bark(tmp_path, 0, 8, "heartbeat")
    bark(tmp_path, 1, 8, "data")
    bark(tmp_path, 2, 8, "forward")
    assert "rank 1 on n1 got no further than step 8, data" in blame(tmp_path, 3, 20)
    bark(tmp_path, 2, 7, "heartbeat")
    assert "rank 2 on n2 got no further than step 7, heartbeat" in blame(tmp_path, 3, 20)


def test_a_rank_that_leaves_no_note_is_the_one(tmp_path):
    bark(tmp_path, 0, 8, "forward")
    assert "of rank 1 there is no sign" in blame(tmp_path, 2, 20)


def test_a_rank_follows_one_that_failed_for_good(tmp_path):
    failed = tmp_path / "failed-0001.txt"
    failed.write_text("out of memory")
    os.utime(failed, (time.time() - 60, time.time() - 60))
    code = ("import sys, time; from pathlib import Path; from scemae import watchdog\n"
            "watchdog.LOOK_SECONDS = 0.1\n"
            "watchdog.Watchdog(Path(sys.argv[1]), 0, 2, 600)\n"
            "time.sleep(60)  # in a collective that will never end\n")
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, tmp_path], timeout=50)
    assert done.returncode == 1 and time.monotonic() - began < 40
    assert "failed-0001: out of memory" in (tmp_path / "rank-0000.log").read_text()
