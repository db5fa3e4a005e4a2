"""The notebooks and the Python guide: their code runs, cell by cell."""

import json
import re
import sys

import matplotlib.pyplot as plt
import pytest

from scemae import methods
from scemae.cli import run_command
from tests.interop.test_export import tiny_runs
from tests.support import REPO, picture, scemae

NOTEBOOKS = {path.stem: path for path in (REPO / "docs" / "notebooks").glob("*.ipynb")}


@pytest.fixture
def run_notebook(tmp_path, monkeypatch):
    """Runs the cells of a notebook in an empty folder, and returns its names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("PYTHONPATH", str(REPO))

    def run(name):
        scope = {}
        for cell in json.loads(NOTEBOOKS[name].read_text())["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), scope)
        return scope

    yield run
    plt.close("all")


def test_every_notebook_is_run_here_is_on_the_page_and_holds_no_output():
    page = (REPO / "docs" / "guides" / "notebooks.md").read_text()
    assert {*NOTEBOOKS} == {"features", "own-category", "own-method", "sweep"}
    for path in NOTEBOOKS.values():
        cells = json.loads(path.read_text())["cells"]
        assert all(cell.get("outputs", []) == [] for cell in cells)  # no picture is published by it
        assert f"(../notebooks/{path.name})" in page
        links = re.findall(r"\]\(([^)#]+)", "".join("".join(cell["source"]) for cell in cells))
        assert [link for link in links if not (path.parent / link).is_file()] == []


def test_the_notebook_of_features_runs_after_the_demo(run_notebook, tmp_path, capsys):
    faces = ["--count", "24", "--identities", "12", "--workers", "1"]
    run_command(["faces", "runs/demo/faces", *faces])
    tiny_runs(tmp_path / "runs/demo", names=("pretrain", "correspond"))  # random weights
    run_notebook("features")
    told = capsys.readouterr().out
    assert "torch.Size([4, 16, 24, 24])" in told and "a graph in eval mode: False" in told


@pytest.mark.slow
def test_the_notebook_of_an_own_category_makes_a_detector_that_beats_the_mean_shape(
    run_notebook, monkeypatch, capsys
):
    # the commands in forks of a warm process: test_training.py has them as they are
    monkeypatch.setattr("scemae.api.training._run", lambda *words: scemae(*words))
    scope = run_notebook("own-category")
    assert scope["gain"].mean() + scope["half"] < 0 and scope["answer"].points.shape == (10, 2)
    assert "the same points after loading: True" in capsys.readouterr().out


@pytest.mark.slow
def test_the_notebook_of_an_own_method_trains_it_and_its_features_load(
    run_notebook, monkeypatch, capsys
):
    monkeypatch.setattr(methods, "__path__", [*methods.__path__])
    try:
        scope = run_notebook("own-method")
    finally:
        sys.modules.pop("scemae.methods.denoiser", None)
    told = capsys.readouterr().out
    assert "weights without a gradient: []" in told
    assert "Denoiser" in scope["model"].title and scope["features"].shape == (4, 48, 24, 24)
    assert len(scope["losses"]) == 20 and scope["losses"][-1] < 0.8 * scope["losses"][0]


def test_the_notebook_of_a_sweep_reads_what_a_sweep_leaves(run_notebook, capsys):
    scope = run_notebook("sweep")  # its made-up trials are written and read by the sweep's own code
    assert scope["finished"][0]["carb.eta"] == "0.2" and scope["settings"][1] == "carb.clusters"
    told = capsys.readouterr().out
    assert "made-up trials in runs/sweep" in told and "trial 9 failed: made up" in told
    assert "trial   0" in told and "curves of 24 of 24 trials" in told


def test_the_code_of_the_python_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_runs(tmp_path / "runs")
    for i, name in enumerate(("face.jpg", "a.jpg", "b.jpg", "new.jpg")):
        picture(i, (720, 560)).save(name)
    text = (REPO / "docs" / "guides" / "python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    scope = {}
    quick = "stride=8, views=1)"
    for block in blocks[:-1]:  # the last trains for hours: test_training.py has a small one
        exec(block.replace("points)", f"points, {quick}"), scope)
    assert scope["features"].shape == (1, 16, 48, 48) and scope["found"].shape == (3, 2)
    assert (tmp_path / "match.png").stat().st_size > 10_000 and (tmp_path / "out").is_dir()
