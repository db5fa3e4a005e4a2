"""The notebooks and the Python guide: their code runs, cell by cell."""

import json
import re

import pytest

from scemae.cli import run_command
from tests.interop.test_export import tiny_runs
from tests.support import REPO, picture


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A demo's folder: real drawn faces, and two runs with random weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    faces = ["--count", "24", "--identities", "12", "--workers", "1"]
    run_command(["faces", "runs/demo/faces", *faces])
    tiny_runs(tmp_path / "runs/demo", names=("pretrain", "correspond"))


@pytest.mark.parametrize("path", sorted((REPO / "docs" / "notebooks").glob("*.ipynb")), ids=str)
def test_the_cells_of_a_notebook_run_and_hold_no_output(path, demo, capsys):
    scope = {}
    cells = json.loads(path.read_text())["cells"]
    assert all(cell.get("outputs", []) == [] for cell in cells)  # no picture is published by it
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), scope)
    told = capsys.readouterr().out
    assert "torch.Size([4, 16, 24, 24])" in told and "a graph in eval mode: False" in told


def test_the_code_of_the_python_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_runs(tmp_path / "runs")
    for i, name in enumerate(("face.jpg", "a.jpg", "b.jpg", "new.jpg")):
        picture(i, (720, 560)).save(name)
    text = (REPO / "docs" / "guides" / "python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    scope = {}
    quick = "stride=8, epochs=1, views=1, images_per_epoch=2)"
    for block in blocks[:-1]:  # the last trains for hours: test_training.py has a small one
        exec(block.replace("points)", f"points, {quick}"), scope)
    assert scope["features"].shape == (1, 16, 48, 48) and scope["found"].shape == (3, 2)
    assert (tmp_path / "match.png").stat().st_size > 10_000 and (tmp_path / "out").is_dir()
