"""What the source says of each setting: its description, its type, its default, who sets it.

A description is the comment at or above a field of scemae/config/schema; defaults are those of
configs/*.yaml. `scemae COMMAND --explain` and the reference pages (docs/reference.py) show both.
"""

import ast
import re
import tokenize
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

import scemae
from scemae.config.dotted import flatten, setting_names
from scemae.config.load import configs_dir
from scemae.config.schema import SCHEMAS, evaluation, jobs, training
from scemae.errors import ConfigError
from scemae.files import documents

MODULES = (training, evaluation, jobs)
STAGES = {"pretrain": 1, "correspond": 2}  # which methods a command can train


@dataclass
class Described:
    """A dataclass of the schema as its source describes it."""

    purpose: str  # its docstring
    fields: dict[str, str]  # description of each field, and "" where there is none


def descriptions() -> dict[str, Described]:
    """Name of each dataclass of the schema to its docstring and the comments of its fields."""
    found: dict[str, Described] = {}
    for module in MODULES:
        found |= describe(Path(str(module.__file__)))
    return found


def describe(path: Path) -> dict[str, Described]:
    """The same for the classes of one source file."""
    comments = _comments(path)
    found: dict[str, Described] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            lines = {
                part.target.id: _description(comments, part)
                for part in node.body
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
            }
            found[node.name] = Described(ast.get_docstring(node) or "", lines)
    return found


def meaning(described: dict[str, Described], schema: type, name: str) -> str:
    """The description of a field, which may be inherited; "" where there is none."""
    classes = [described[one.__name__] for one in schema.__mro__ if one.__name__ in described]
    return next((one.fields[name] for one in classes if name in one.fields), "")


def _comments(path: Path) -> dict[int, tuple[str, bool]]:
    """Line number to the comment on it, and whether the line has nothing else."""
    with path.open("rb") as file:
        return {
            token.start[0]: (token.string.removeprefix("#").strip(), token.line.lstrip()[0] == "#")
            for token in tokenize.tokenize(file.readline)
            if token.type == tokenize.COMMENT
        }


def _description(comments: dict[int, tuple[str, bool]], field: ast.AnnAssign) -> str:
    """The comment lines directly above a field, or the comment behind it."""
    if field.lineno in comments:
        return comments[field.lineno][0]
    above: list[str] = []
    line = field.lineno - 1
    while line in comments and comments[line][1]:
        above.insert(0, comments[line][0])
        line -= 1
    return " ".join(above)


def setters(command: str) -> dict[str, list[str]]:
    """Name of each setting to the files of configs/model, configs/experiment, ... that set it."""
    known = setting_names(SCHEMAS[command])
    found: dict[str, list[str]] = {}
    for path in sorted(configs_dir().glob("*/*.yaml")):
        group, text = path.parent.name, path.read_text()
        if not belongs(group, path.stem, command):
            continue
        is_global = text.startswith("# @package _global_")
        keys = flatten(_tree(path), "" if is_global else f"{group}.")
        # method.settings.dim belongs to the setting method.settings
        owners = (
            max((name for name in known if f"{key}.".startswith(f"{name}.")), key=len, default="")
            for key in keys
        )
        for name in sorted(set(owners)):
            found.setdefault(name, []).append(f"{group}/{path.stem}")
    return found


def belongs(group: str, name: str, command: str) -> bool:
    """Whether GROUP=NAME, the file configs/GROUP/NAME.yaml, can be chosen with this command."""
    if group == "experiment":
        return name.endswith(f"_{command}")
    if group == "method":
        source = (Path(scemae.__file__).parent / "methods" / f"{name}.py").read_text()
        return bool(re.search(rf"^STAGE\b.*= {STAGES.get(command)}\b", source, re.M))
    return group in setting_names(SCHEMAS[command])


def type_name(kind: Any) -> str:
    """A type as a reader of the reference writes it: int, str or None, list[str]."""
    if isinstance(kind, type) and not hasattr(kind, "__args__"):
        return kind.__name__
    return str(kind).replace("typing.", "").replace(" | ", " or ")


def default_of(command: str, key: str) -> tuple[Any, str]:
    """The default of a setting, and the file that it stands in; MISSING where there is none."""
    main = f"{command}.yaml"
    tree = _tree(configs_dir() / main)
    layers = [(main, {name: value for name, value in tree.items() if name != "defaults"})]
    for group, name in _chosen(tree):
        file = f"{group}/{name}.yaml"
        layers.append((file, {group: _tree(configs_dir() / file)}))
    for file, layer in layers:
        found: Any = layer
        for part in key.split("."):
            found = found.get(part, MISSING) if isinstance(found, dict) else MISSING
        if found is not MISSING:
            return found, f"configs/{file}"
    return MISSING, ""


def _chosen(tree: dict[str, Any]) -> list[tuple[str, str]]:
    """Group and file of each entry of a defaults list."""
    entries = [entry for entry in tree["defaults"] if isinstance(entry, dict)]
    return [(group, name) for entry in entries for group, name in entry.items() if name]


def _tree(path: Path) -> dict[str, Any]:
    return documents.read_yaml(path, dict[str, Any], error=ConfigError)
