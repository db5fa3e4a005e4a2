"""Rows that find no room are written later, whole and in order."""

import json
import subprocess

import pytest

from scemae.rows import Rows


def test_rows_outlive_a_full_disk(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("cannot mount a small disk: not root")
    try:
        (tmp_path / "other").write_bytes(bytes(60 << 10))
        rows = Rows(tmp_path / "rows.jsonl")
        for step in range(100):
            rows.write({"step": step, "text": "x" * 100})
        assert rows.is_behind
        (tmp_path / "other").unlink()
        rows.write({"step": 100})
        assert not rows.is_behind
        rows.close()
        assert [json.loads(line)["step"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == list(range(101))
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)
