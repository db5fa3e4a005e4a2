"""The documentation: its shell commands are valid, the tutorial runs, the files it names exist."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from PIL import Image

from bench.__main__ import COMMANDS as MEASUREMENTS
from scemae.commands.parse import parse
from scemae.config.load import load_config
from scemae.errors import ConfigError
from tests.support import REPO, TINY, scemae

PAGES = [
    REPO / "README.md",
    REPO / "CONTRIBUTING.md",
    *sorted(path for path in (REPO / "docs").rglob("*.md") if path.parent.name != "results"),
]
# Lines that need no check of their own: they start programs of others.
AS_THEY_ARE = [
    ". .venv/bin/activate",
    "pre-commit install",
    "ruff check",
    "ruff format",
    "mypy",
    "export PYTHONPATH=/tmp/site",
    "pip install --no-index --no-deps --target /tmp/site *.whl",
]
FOLDERS = "(?:scemae|shards|cluster|configs|tests|docs|bench)"
OF_OTHERS = ["configs/default.yaml"]  # a file of MAESTER

STAGE_OF_SCRIPT = {
    "pretrain.sh": ["pretrain"],
    "correspond.sh": ["correspond"],
    "evaluate.sh": ["evaluate"],
    "tables.sh": ["tables"],
    "sweep.sh": ["sweep"],
    "ranks.sh": [],  # its arguments begin with the command
}

# What `submit` and `sweep` themselves give a stage.
OF_A_STAGE = {
    "pretrain": ["run_dir=x"],
    "correspond": ["run_dir=x", "backbone=x"],
    "evaluate": ["run_dir=x", "backbone=x"],
}

SMALL = ["optim.global_batch_size=8", "optim.epochs=1", "loop.log_every=1", "loop.save_every=2"]
# What makes a command of the tutorial small enough for a test; the last value of an option counts.
SMALLER = {
    "faces": ["--count", "160", "--identities", "40", "--workers", "1"],
    "shards": ["--workers", "1"],
    "pretrain": [
        *TINY,
        *SMALL,
        "optim.warmup_epochs=0",
        "loop.probe_every=4",
        "loop.probe_pairs=2",
    ],
    "correspond": [*SMALL, "carb.dim=16", "loop.probe_every=4", "loop.probe_pairs=2"],
    "evaluate": [
        "stride=8",
        "matching.couples=4",
        "detection.epochs=1",
        "detection.stride=8",
        "detection.limit=8",
    ],
}
# Run after the tutorial, on what it has made. The others start jobs, rivals or sweeps, or need
# files of others: their own tests run them, and here they are checked without being started.
RUN_TOO = ("verify-resume", "goodput", "match", "detect", "export", "submit")


class Line(NamedTuple):
    """One command of a page."""

    page: Path
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPO)}: {self.text[:70]}"


def lines_of(page: Path) -> Iterator[Line]:
    """The commands in blocks marked `sh` of a page; a line that ends in a backslash continues."""
    for block in re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip():
                yield Line(page, " ".join(line.split()))


LINES = [line for page in PAGES for line in lines_of(page)]
TUTORIAL = [line for line in LINES if line.page.name == "tutorial.md"]


def program_words(text: str) -> list[str]:
    """The words of a command without assignments of variables and without a launcher."""
    words = shlex.split(text)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words[0] == "sbatch":
        script = next(i for i, word in enumerate(words) if word.startswith("cluster/"))
        assert (REPO / words[script]).is_file()
        stage = STAGE_OF_SCRIPT[Path(words[script]).name]
        return ["scemae", *stage, *words[script + 1 :]]
    if words[0] in ("torchrun", "deepspeed"):
        return words[words.index("scemae") :]
    return words


def check_scemae(words: list[str]) -> None:
    """Parse a command and, where it takes settings, compose and check them; starts nothing."""
    if words[0] == "--help":
        return
    options = parse(words[0], words[1:])
    stages: dict[str, list[str]] = {stage: [] for stage in OF_A_STAGE}
    own = []
    for word in getattr(options, "settings", []):
        stage, dot, setting = word.partition(".")
        (stages[stage] if dot and stage in stages else own).append(
            setting if stage in stages else word
        )
    if own:
        load_config(options.schema, own, typed=True)
    for stage in filter(stages.get, stages):
        load_config(stage, [*OF_A_STAGE[stage], *stages[stage]], typed=True)


def check(words: list[str]) -> None:
    """Fail unless the command is one that can be run."""
    program, *rest = words
    if program == "scemae":
        check_scemae(rest)
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets)
    elif words[:3] == ["python", "-m", "bench"]:
        assert words[3] in MEASUREMENTS
    elif words[:3] == ["python", "-m", "pytest"]:
        assert all((REPO / word).exists() for word in rest if word.startswith("tests/"))
    elif words[:2] == ["pip", "install"]:
        project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
        extras = re.fullmatch(r"(?:\.|scemae)\[(.+)\]", words[2])
        assert extras and set(extras[1].split(",")) <= set(project["optional-dependencies"])
    else:
        assert program.endswith(".sh") and (REPO / program).stat().st_mode & 0o100


@pytest.mark.parametrize("line", LINES, ids=str)
def test_a_command_of_the_documentation_is_valid(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in ("carb", "carb64", "carb128", "cl64", "lead64", "dve", "sweep"):
        (tmp_path / "runs" / run).mkdir(parents=True)
    (tmp_path / "runs" / "sweep" / "best.yaml").write_text(
        "# @package _global_\ncarb: {eta: 0.2}\n"
    )
    if line.text not in AS_THEY_ARE:
        check(program_words(line.text))


def test_a_wrong_command_is_found():
    with pytest.raises(ConfigError):
        check(program_words("scemae pretrain run_dir=runs/mae optim.epoch=3"))
    with pytest.raises(ConfigError):
        check(program_words("scemae detect a.jpg --backbone runs/mae --out found --regresor FILE"))
    with pytest.raises(AssertionError):
        check(program_words("make everything"))


@pytest.mark.slow
def test_the_tutorial_runs_and_other_pages_work_on_what_it_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (program_words(line.text) for line in TUTORIAL):
        if words[0] == "scemae" and words[1] != "--help":
            small = [] if "--cfg" in words or "info" in words else SMALLER.get(words[1], [])
            scemae(*words[1:], *small)
    results = json.loads(Path("runs/eval/results.json").read_text())
    matching = results["matching"]["methods"]
    assert {"no motion", "raw pixels", "random encoder", "MAE", "MAE + CARB"} <= set(matching)
    assert all(0 <= method["different"]["mean"] < 70 for method in matching.values())
    assert {"mean face", "MAE", "MAE + CARB"} <= set(results["detection"]["methods"])
    page = Path("runs/eval/report.html").read_text()
    assert len(page) > 10_000 and ' src="http' not in page and "<script src" not in page

    for name, source in (("a.jpg", "000001.jpg"), ("b.jpg", "000002.jpg")):
        face = Image.open(Path("faces/img_align_celeba") / source)
        face.resize((3 * face.width, 3 * face.height)).save(name)
    for words in (program_words(line.text) for line in LINES if line not in TUTORIAL):
        if words[0] == "scemae" and words[1] in RUN_TOO and "--status" not in words:
            scemae(*(word for word in words[1:] if word != "--onnx"))  # test_export.py has it
    assert Path("exported/model.safetensors").is_file() and Path("match/match.png").is_file()
    assert Path("found/a.landmarks.json").is_file()


def test_a_file_that_the_documentation_names_exists():
    missing = []
    for page in [*PAGES, *sorted((REPO / "docs" / "results").glob("*.md")), REPO / "SECURITY.md"]:
        for name in re.findall(f"`({FOLDERS}/[\\w./-]*)", page.read_text()):
            if "NAME" not in name and name not in OF_OTHERS and not (REPO / name).exists():
                missing.append(f"{page.name}: {name}")
    assert missing == []


def test_the_drawing_names_files_that_exist():
    drawing = (REPO / "docs" / "images" / "sample.svg").read_text()
    files = [
        name for text in re.findall(r">([\w/., ]*\.py)<", drawing) for name in text.split(", ")
    ]
    assert len(files) > 8
    assert [name for name in files if not list((REPO / "scemae").glob(f"**/{name}"))] == []


def test_the_calls_that_the_architecture_lists_exist():
    page = (REPO / "docs" / "explanation" / "architecture.md").read_text()
    steps = re.findall(r"^\d+\. `(scemae/[\w/]+\.py)`: (.+)$", page, re.MULTILINE)
    assert len(steps) > 15
    for file, names in steps:
        source = (REPO / file).read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert f"def {name}(" in source, f"{file} has no function {name}"


def test_every_page_of_the_site_is_in_its_menu():
    menu = (REPO / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    pages = {str(path.relative_to(REPO / "docs")) for path in (REPO / "docs").rglob("*.md")}
    assert [page for page in pages if f": {page}\n" not in menu] == []


def test_the_first_page_links_to_the_explorer_or_says_that_there_is_none():
    pytest.importorskip("mkdocs")
    from docs import site_hooks

    text = (REPO / "docs" / "index.md").read_text()
    without, linked = "built without it", f"]({site_hooks.EXPLORER})"
    assert without in text and linked not in text
    found = site_hooks.with_explorer(text)
    assert without not in found and linked in found and "## Where to begin" in found


def test_a_run_without_an_explorer_stops_the_site_in_a_sentence(tmp_path):
    pytest.importorskip("mkdocs")
    from docs import site_hooks

    with pytest.raises(site_hooks.PluginError, match="RUN=.*none: `scemae explore` made no page"):
        site_hooks.explorer_of(str(tmp_path / "none"), tmp_path / "explorer.html")


def test_citation_and_package_agree_on_the_version():
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"] == "Apache-2.0"
    assert citation["preferred-citation"]["year"] == 2024
