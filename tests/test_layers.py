"""Imports go down the layers only, and each heavy dependency has one owner."""

import ast
from pathlib import Path

import pytest

from tests.support import REPO

# Room to layer, 0 lowest; a folder stands for its files. A file imports only from lower layers or its own folder.
LAYERS = {
    "scemae/errors": 0, "scemae/bars": 0, "scemae/files": 0.1, "scemae/documents": 0.2, "scemae/torchvision_cpu": 0, "scemae/schema": 0, "scemae/faults": 0, "scemae/memory": 0, "scemae/tf32": 0,
    "scemae/launch": 0.1, "scemae/stop": 0.1, "scemae/home": 0, "scemae/streams": 0.2,
    "scemae/locations": 0.1, "scemae/words": 0.2, "scemae/checks": 0.1,
    "scemae/config": 1, "scemae/distributed": 1, "scemae/schedule": 1, "scemae/data": 1, "scemae/faces": 1,
    "scemae/public_weights": 1, "scemae/tensor_file": 1, "scemae/rows": 1, "scemae/start_files": 1, "scemae/arrays": 1, "scemae/fragments": 1, "scemae/master_weights": 1,
    "scemae/findings": 2, "scemae/generations": 2, "scemae/ledger": 2, "scemae/models": 2, "scemae/engine": 2, "scemae/flops": 2, "scemae/watchdog": 2, "scemae/nvjpeg": 2, "scemae/resident": 3, "shards": 2,
    "scemae/run_folder": 3, "scemae/checkpoint": 3, "scemae/metrics": 3, "scemae/landmarks": 3,
    "scemae/saver": 4, "scemae/loader": 4, "scemae/health": 4, "scemae/capsule": 4, "scemae/restore": 4, "scemae/records": 4, "scemae/token_store": 5,
    "scemae/methods": 4, "scemae/rivals": 5, "scemae/subjects": 6, "scemae/tables": 8, "scemae/photographs": 8, "scemae/export": 7, "scemae/adopt": 7,
    "scemae/verify": 4, "scemae/roll_call": 4, "scemae/goodput": 4, "scemae/lineage": 4, "cluster": 9, "scemae/loop": 5, "scemae/stage": 6,
    "scemae/pretrain": 7, "scemae/correspond": 7, "scemae/evaluate": 7, "scemae/pictures": 7,
    "scemae/sweep": 8, "scemae/replay": 8, "scemae/rehearsal": 7, "scemae/doctor": 8, "scemae/showcase": 8, "scemae/report": 9, "scemae/demo": 9, "scemae/cli": 10,
    "scemae/ownership": 0.2, "scemae/module_path": 0,
}
OWNERS = {
    "deepspeed": {"scemae/engine.py", "scemae/distributed.py", "scemae/sweep/nursery.py"}, "timm": {"scemae/models/vit.py", "scemae/models/hypercolumn.py", "scemae/models/timm_vit.py", "scemae/models/timm_names.py"},
    "hydra": {"scemae/config.py", "scemae/words.py", "scemae/sweep/nursery.py"}, "omegaconf": {"scemae/config.py"}, "safetensors": {"scemae/checkpoint.py", "scemae/loader.py", "scemae/capsule.py", "scemae/replay.py", "scemae/export.py", "scemae/public_weights.py", "scemae/landmarks/regressor_file.py"},
    "tqdm": {"scemae/bars.py"}, "msgspec": {"scemae/documents.py"}, "webdataset": set(), "cv2": {"scemae/faces"}, "jinja2": {"scemae/report.py", "scemae/tables/tabulate.py", "scemae/sweep/page.py"},
    "matplotlib": {"scemae/pictures.py", "scemae/tables/figures.py", "scemae/photographs/marked.py", "scemae/sweep/figures.py", "scemae/sweep/canvas.py", "scemae/sweep/axes.py"}, "simplejpeg": {"scemae/data/picture.py", "scemae/faces", "shards"},
    "scipy": {"shards", "scemae/faces/layouts.py", "scemae/sweep/ranking.py"}, "sklearn": {"scemae/landmarks/embedding.py"},
    "lightly": {"scemae/methods/moco.py", "scemae/methods/byol.py"}, "onnxruntime": {"scemae/export.py"}, "ray": {"scemae/sweep/driver.py", "scemae/sweep/worker.py"}, "optuna": {"scemae/sweep/search.py", "scemae/sweep/importance.py"}, "submitit": {"cluster/submit.py"},
}
FILES = sorted(path for folder in ("scemae", "shards", "cluster") for path in (REPO / folder).rglob("*.py"))


def room(path: str) -> str | None:
    """The room of a file or dotted import, given with slashes: the longest that LAYERS knows."""
    path = path.removeprefix("scemae/") if path.startswith(("scemae/shards", "scemae/cluster")) else path
    return max((known for known in LAYERS if (path + "/").startswith(known + "/")), key=len, default=None)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPO)))
def test_imports_go_down(path):
    name = str(path.relative_to(REPO).with_suffix(""))
    if name in ("scemae/__init__", "scemae/__main__"):
        return
    mine = room(name)
    assert mine is not None, f"{name} has no layer; give it one in LAYERS and a line in the README's tree"
    for module in imports(path):
        if module.split(".")[0] != "scemae" or module == "scemae":
            continue
        other = room(module.replace(".", "/"))
        if other is None or other == mine or LAYERS[mine] == LAYERS["scemae/cli"]:
            continue
        assert LAYERS[other] < LAYERS[mine], f"{name} (layer {LAYERS[mine]}) imports {module} (layer {LAYERS[other]})"


@pytest.mark.parametrize("package", sorted(OWNERS))
def test_a_heavy_dependency_is_imported_by_its_owner_alone(package):
    users = {str(path.relative_to(REPO)) for path in FILES if any(m.split(".")[0] == package for m in imports(path))}
    strangers = {user for user in users if not any(user.startswith(owner) for owner in OWNERS[package])}
    assert not strangers, f"{package} is imported by {strangers}"


def test_scemae_does_not_know_the_cluster():
    for path in (REPO / "scemae").rglob("*.py"):
        assert "slurm" not in path.read_text().lower(), path
