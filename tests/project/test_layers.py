"""Imports go down the layers only, never in a circle, and each heavy dependency has one owner."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

# The packages of scemae, lowest first. A file imports only from its own package and those before.
LAYERS = [
    "errors",
    "files",
    "process",
    "config",
    "distributed",
    "data",
    "faces",
    "shards",
    "models",
    "runs",
    "methods",
    "interop",
    "evaluation",
    "training",
    "api",
    "sweep",
    "cluster",
    "commands",
    "cli",
]
# Inside these packages, lowest first; a folder of theirs stands for its files.
PARTS = {
    "data": ["storage", ""],
    "evaluation": ["landmarks", "", "tables", "photographs", "report", "explore"],
    "training": ["", "doctor"],
}
OWNERS = {
    "deepspeed": {
        "distributed/deepspeed_internals",
        "distributed/engine",
        "distributed/process_group",
        "sweep/processes/fork_server",
    },
    "hydra": {"config", "sweep/processes/fork_server"},
    "omegaconf": {"config"},
    "timm": {"models", "interop/timm_names"},
    "ray": {"sweep/tune_driver", "sweep/processes/tune_worker"},
    "optuna": {"sweep/search", "sweep/page"},
    "submitit": {"cluster/submit"},
    "webdataset": {"shards"},
    "wandb": {"runs/trackers"},
    "mlflow": {"runs/trackers"},
    "trackio": {"runs/trackers"},
    "cv2": {"faces"},
    "msgspec": {"files/documents"},
    "tqdm": {"process/progress"},
    "starlette": {"evaluation/explore/serve"},
    "uvicorn": {"evaluation/explore/serve"},
    "huggingface_hub": {"files/hub", "data/storage/url_program"},
    "jinja2": {"evaluation/page"},
    "matplotlib": {"evaluation", "sweep/page", "api"},
    "simplejpeg": {"data/picture", "faces", "shards"},
    "scipy": {"shards", "faces/layouts", "sweep/ranking"},
    "sklearn": {"evaluation/landmarks/embedding", "evaluation/landmarks/tsne"},
    "lightly": {"methods/moco", "methods/byol"},
    "onnxruntime": {"interop/export", "interop/onnx_networks"},
    "safetensors": {"files", "runs", "interop", "training", "evaluation/landmarks/regressor_file"},
}
FOLDERS = {"scemae": "", "shards": "shards/", "cluster": "cluster/"}


def modules(root: Path) -> dict[str, Path]:
    """Every module of the project by its path below scemae, such as data/order."""
    found = {}
    for folder, prefix in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            name = prefix + str(path.relative_to(root / folder).with_suffix(""))
            if name not in ("__init__", "__main__"):
                found[name.removesuffix("/__init__")] = path
    return found


def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, wherever in it."""
    return imports_of(path.read_text())


@cache
def imports_of(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path, known: dict[str, Path]) -> set[str]:
    """The project's modules that a file imports."""
    dotted = (name.removeprefix("scemae.") for name in imports(path) if name.startswith("scemae."))
    return {name.replace(".", "/") for name in dotted} & set(known)


def place(module: str) -> tuple[int, int]:
    """The position of a module: of its package in LAYERS, and of its part in PARTS."""
    package, *rest = module.split("/")
    if package not in LAYERS:
        raise AssertionError(f"{module} has no layer: give its package a place in LAYERS")
    parts = PARTS.get(package, [])
    part = rest[0] if rest and rest[0] in parts else ""
    return LAYERS.index(package), parts.index(part) if parts else 0


def upward(known: dict[str, Path]) -> list[str]:
    """Every import that does not go down, as a sentence."""
    return [
        f"{module} imports {other}"
        for module, path in known.items()
        for other in sorted(ours(path, known))
        if place(other) > place(module)
    ]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of imports; empty where there is none."""
    done, path = set(), []

    def visit(module: str) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        path.append(module)
        for other in sorted(graph[module]):
            if found := visit(other):
                return found
        path.pop()
        done.add(module)
        return []

    for module in graph:
        if found := visit(module):
            return found
    return []


def foreign_importers(package: str, known: dict[str, Path]) -> list[str]:
    """Modules that import a heavy package that other modules own."""

    def owns(module: str) -> bool:
        return any(module == owner or module.startswith(owner + "/") for owner in OWNERS[package])

    users = (
        m for m, path in known.items() if any(n.split(".")[0] == package for n in imports(path))
    )
    return [module for module in users if not owns(module)]


def test_imports_go_down():
    assert upward(modules(REPO)) == []


def test_no_circle_of_imports():
    known = modules(REPO)
    graph = {module: ours(path, known) - {module} for module, path in known.items()}
    assert " -> ".join(circle(graph)) == ""


def test_no_circle_of_imports_in_bench():
    known = {
        str(path.relative_to(REPO).with_suffix("")): path for path in (REPO / "bench").rglob("*.py")
    }
    graph = {
        module: {name.replace(".", "/") for name in imports(path)} & set(known) - {module}
        for module, path in known.items()
    }
    assert " -> ".join(circle(graph)) == ""


@pytest.mark.parametrize("package", sorted(OWNERS))
def test_a_heavy_dependency_is_imported_by_its_owner_alone(package):
    assert foreign_importers(package, modules(REPO)) == []


def test_scemae_does_not_mention_the_scheduler():
    for path in (REPO / "scemae").rglob("*.py"):
        assert "slurm" not in path.read_text().lower(), path


@pytest.mark.parametrize(
    ("where", "line", "complaint"),
    [
        (
            "scemae/data/order.py",
            "from scemae.runs import ledger",
            "data/order imports runs/ledger",
        ),
        ("scemae/runs/ledger.py", "import torch, ray", "ray"),
        ("scemae/runs/ledger.py", "from scemae.runs import verify", "step_digests -> runs/ledger"),
        ("scemae/data/storage/manifest.py", "from scemae.data import order", "imports data/order"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, where, line, complaint):
    for folder in FOLDERS:
        for path in (REPO / folder).rglob("*.py"):
            copy = tmp_path / path.relative_to(REPO)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text())
    broken = tmp_path / where
    broken.write_text(f"{line}\n{broken.read_text()}")
    known = modules(tmp_path)
    graph = {module: ours(path, known) - {module} for module, path in known.items()}
    found = [*upward(known), " -> ".join(circle(graph))]
    found += [f"{p}: {m}" for p in OWNERS for m in foreign_importers(p, known)]
    assert any(complaint in one for one in found)


def named_packages(page: str) -> list[str]:
    """The packages in the first column of the page's first table, from top to bottom."""
    table = page.split("|---|---|\n", 1)[1].split("\n\n", 1)[0]
    first = [row.split("|")[1] for row in table.splitlines()]
    return [name for cell in first for name in re.findall(r"`(\w+)(?:/|\.py)`", cell)]


def test_the_architecture_page_names_every_package_once_and_in_the_order_of_imports():
    page = (REPO / "docs" / "explanation" / "architecture.md").read_text()
    inside = [path for path in (REPO / "scemae").iterdir() if not path.is_symlink()]
    packages = [
        path.stem for path in inside if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    assert sorted([*named_packages(page), "__init__", "__main__"]) == sorted(packages)
    places = [LAYERS.index(name) for name in named_packages(page)]
    assert places == sorted(places, reverse=True)
    assert "data" not in named_packages(page.replace("`data/`", "`date/`"))
