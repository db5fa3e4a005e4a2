"""No line of the code runs data as a program, or writes files other than through files/disk.py."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import REPO

OURS = [
    path
    for folder in ("scemae", "shards", "cluster")
    for path in sorted((REPO / folder).rglob("*.py"))
]
ALL = OURS + sorted((REPO / "bench").rglob("*.py"))
# Modules that run data as a program.
MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "code",
    "codeop",
    "pty",
    "imp",
}
RUNNING = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "os.startfile",
    "os.spawnl",
    "os.spawnv",
    "os.execl",
    "os.execv",
    "os.execvp",
    "os.execve",
    "os.execlp",
    "runpy.run_path",
    "runpy.run_module",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell",
    "pandas.read_pickle",
    "np.lib.format.read_array",
    "torch.package",
    "torch.jit.load",
    "torch.hub.load",
    "hydra.utils.instantiate",
    "hydra.utils.get_class",
    "ctypes.pythonapi",
}
STARTING = {
    "subprocess.run",
    "subprocess.Popen",
    "subprocess.call",
    "subprocess.check_call",
    "subprocess.check_output",
}
WRITING = {
    "os.replace",
    "os.rename",
    "os.renames",
    "os.remove",
    "os.unlink",
    "os.rmdir",
    "os.removedirs",
    "os.truncate",
    "os.symlink",
    "os.mkfifo",
    "shutil.rmtree",
    "shutil.move",
    "shutil.copy",
    "shutil.copy2",
    "shutil.copyfile",
    "shutil.copytree",
    ".write_text",
    ".write_bytes",
    ".touch",
    ".rename",
    ".unlink",
    ".rmdir",
    ".symlink_to",
    ".hardlink_to",
    ".save_file",
    "save_file",
}
# File: call: why it is safe there.
ALLOWED = {
    "scemae/files/disk.py": "all of them: this file is their one place",
    "scemae/runs/checkpoints/checkpoint.py": {
        "os.replace": "commits or discards whole folders below checkpoints/, checked for links; "
        "test_checkpoint tests the order of fsync and rename"
    },
    "scemae/sweep/processes/fork_server.py": {
        "runpy.run_module": "this program itself, in a forked process"
    },
    "scemae/sweep/coordinator.py": {
        ".unlink": "the name of a file in the folder of this start, or of the token of this sweep"
    },
    "scemae/distributed/watchdog.py": {".unlink": "a name in the folder of this start"},
    "scemae/data/storage/url_program.py": {
        "a shell": "pipe:, only for what the user typed on this command line (locations.Typed)"
    },
    "scemae/data/storage/fetch.py": {".unlink": "a name in the cache, linked again at once"},
    "cluster/chain.py": {"shutil.copytree": "this program's own code, into a folder made for it"},
    "shards/claim.py": {".unlink": "half-written files of this build's own names"},
    "shards/write.py": {".unlink": "the manifest of this build"},
}


def name_of(node: ast.expr) -> str:
    """The dotted name of a call, such as os.replace; .write_text for a method of an expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = name_of(node.value)
        return f"{inner}.{node.attr}" if inner and not inner.startswith(".") else f".{node.attr}"
    return ""


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((word.value for word in call.keywords if word.arg == name), None)


def is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def running(tree: ast.AST, file: str) -> Iterator[tuple[int, str]]:
    """Line and name of each call or import that could run data as a program."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            for alias in node.names:
                if (module or alias.name).split(".")[
                    0
                ] in MODULES and alias.name != "UnpicklingError":
                    yield node.lineno, f"import {module or alias.name}"
        if isinstance(node, ast.List) and [
            getattr(part, "value", None) for part in node.elts[:2]
        ] in (["sh", "-c"], ["bash", "-c"]):
            yield node.lineno, "a shell"
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        if name in RUNNING:
            yield node.lineno, name
        if keyword(node, "shell") is not None and not (
            isinstance(keyword(node, "shell"), ast.Constant) and not keyword(node, "shell").value
        ):
            yield node.lineno, "shell"
        if name in STARTING and (
            not node.args or isinstance(node.args[0], (ast.Constant, ast.JoinedStr))
        ):
            yield node.lineno, f"{name} of a text"
        if name == "torch.load" and not is_true(keyword(node, "weights_only")):
            yield node.lineno, "torch.load without weights_only=True"
        if keyword(node, "allow_pickle") is not None:
            yield node.lineno, "allow_pickle"
        if name.startswith("yaml.") and "load" in name and file != "scemae/files/documents.py":
            yield node.lineno, f"{name} (files/documents.py reads YAML)"


def opens_to_write(call: ast.Call, name: str) -> bool:
    """True for open(path, "w") and path.open("a"), not for opening an image or a tar."""
    if name != "open" and (
        not name.endswith(".open") or name in ("Image.open", "tarfile.open", "os.open")
    ):
        return False
    modes = [keyword(call, "mode"), *call.args[1 if name == "open" else 0 :][:1]]
    return any(
        isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+") for mode in modes
    )


def writing(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each call that writes, replaces or removes a file without files/disk.py."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        method = "." + name.rpartition(".")[2] if "." in name else ""
        if name in WRITING or (method in WRITING and not name.startswith("disk.")):
            yield node.lineno, name if name in WRITING else method
        if opens_to_write(node, name):
            yield node.lineno, "open to write"
        words = {
            part.attr
            for word in node.args
            for part in ast.walk(word)
            if isinstance(part, ast.Attribute)
        }
        if (
            name == "os.open"
            and {"O_CREAT", "O_WRONLY", "O_TRUNC", "O_APPEND"} & words
            and not {"O_EXCL", "devnull"} & words
        ):
            yield node.lineno, "os.open to write"
        if method in (".savez", ".savez_compressed", ".savefig") and not (
            node.args and isinstance(node.args[0], ast.Name)
        ):
            yield node.lineno, f"{method} to a path (give it an open file)"


def violations(paths: list[Path], find) -> list[str]:
    """Every place that ALLOWED does not list."""
    places = []
    for path in paths:
        file = str(path.relative_to(REPO))
        allowed = ALLOWED.get(file, {})
        places += [
            f"{file}:{line}: {what}"
            for line, what in find(ast.parse(path.read_text(encoding="utf8")), file)
            if not isinstance(allowed, str) and what not in allowed
        ]
    return places


def test_no_data_is_run_as_a_program():
    assert not violations(ALL, running)


def test_only_files_disk_writes_replaces_and_removes_files():
    assert not violations(OURS, lambda tree, file: writing(tree))


def test_every_exception_is_still_needed():
    for file, calls in ALLOWED.items():
        tree = ast.parse((REPO / file).read_text(encoding="utf8"))
        there = {what for _, what in [*running(tree, file), *writing(tree)]}
        assert isinstance(calls, str) or set(calls) <= there, (
            f"{file}: take {set(calls) - there} out of ALLOWED"
        )


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.hashing",
        "eval('1')",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.safe_load(text)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "os.system(word)",
        "subprocess.run(word, shell=True)",
        "subprocess.run(f'ls {word}')",
        "subprocess.run(words, shell=flag)",
    ],
)
def test_a_line_that_runs_data_is_found(line):
    assert list(running(ast.parse(line), "x.py"))


@pytest.mark.parametrize(
    "line",
    [
        "open(path, 'w')",
        "open(path, mode='ab')",
        "open(path, 'r+b')",
        "path.open('w')",
        "path.write_text(text)",
        "os.replace(a, b)",
        "(folder / 'a').touch()",
        "shutil.rmtree(path)",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
        "np.savez(folder / 'a', b=1)",
        "path.unlink(missing_ok=True)",
        "figure.savefig(f'{a}.png')",
    ],
)
def test_a_line_that_writes_without_files_disk_is_found(line):
    assert list(writing(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "open(path, 'rb')",
        "Image.open(path)",
        "disk.write_text(path, text)",
        "module.eval()",
        "re.compile(text)",
        "subprocess.run([program, word])",
        "os.open(path, os.O_RDONLY)",
        "np.savez(file, a=1)",
        "torch.load(path, weights_only=True)",
    ],
)
def test_a_harmless_line_is_not_reported(line):
    assert not [*running(ast.parse(line), "x.py"), *writing(ast.parse(line))]
