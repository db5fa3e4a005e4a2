"""Rows that find no room are written later, whole and in order."""

import json

from scemae.files.json_lines import Rows
from tests.support import small_disk


def test_rows_outlive_a_full_disk(tmp_path):
    with small_disk(tmp_path / "disk", "64k") as disk:
        (disk / "other").write_bytes(bytes(60 << 10))
        rows = Rows(disk / "rows.jsonl")
        for step in range(100):
            rows.write({"step": step, "text": "x" * 100})
        assert rows.is_behind
        (disk / "other").unlink()
        rows.write({"step": 100})
        assert not rows.is_behind
        rows.close()
        assert [
            json.loads(line)["step"] for line in (disk / "rows.jsonl").read_text().splitlines()
        ] == list(range(101))
