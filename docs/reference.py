"""Write the generated reference: `python docs/reference.py OUTDIR` makes commands.md, settings.md.

Commands come from the table of commands and the parsers of their options; settings from the
dataclasses of scemae/config/schema, whose comments are the descriptions, and their defaults from
configs/*.yaml.
"""

import ast
import os
import re
import sys
import tokenize
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

import scemae
from scemae.commands.parse import parser_of
from scemae.commands.table import COMMANDS
from scemae.config.dotted import flatten, get_setting, setting_names
from scemae.config.load import compose_yaml, configs_dir
from scemae.config.schema import SCHEMAS, evaluation, jobs, training
from scemae.files.disk import write_text

STAGES = {"pretrain": 1, "correspond": 2}  # which methods a command can train
PIPE = r"\|"  # inside a cell of a table
MODULES = (training, evaluation, jobs)


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


def commands_page() -> str:
    """commands.md: every command with its help."""
    rows = "\n".join(
        f"| [`{name}`](#{name}) | {command.summary} |" for name, command in COMMANDS.items()
    )
    parts = [f"# Commands\n\n| Command | What it does |\n|---|---|\n{rows}\n"]
    for name, command in COMMANDS.items():
        parts.append(
            f"## {name}\n\n{command.summary[:1].upper()}{command.summary[1:]}.\n\n"
            f"```text\n{parser_of(name).format_help().strip()}\n```\n"
        )
    return "\n".join(parts)


def settings_page() -> str:
    """settings.md: every setting of every command."""
    introduction = (
        "# Settings\n\n"
        "Give them as `key=value` on the command line; `scemae COMMAND --cfg` prints them with "
        "their values. `???` must be given. Defaults come from `configs/COMMAND.yaml`; the last "
        "column names the other files of `configs/` that set the value. PROTOCOL is "
        "`docs/PROTOCOL.md`; [U] marks what the paper leaves open (PROTOCOL 1.6).\n"
    )
    return "\n".join([introduction, *(_Section(name).text() for name in SCHEMAS)])


class _Section:
    """The settings of one command as Markdown."""

    def __init__(self, command: str) -> None:
        self._command, self._described = command, descriptions()
        self._defaults = yaml.safe_load(compose_yaml(command, []))
        self._setters = _setters(command)

    def text(self) -> str:
        """A heading and one table for each section of the settings."""
        schema = SCHEMAS[self._command]
        title = f"## scemae {self._command}\n\n{self._described[schema.__name__].purpose}\n"
        return "\n".join([title, *self._tables(schema, "")])

    def _tables(self, schema: Any, prefix: str) -> list[str]:
        """The settings of one section as a table, then those of its sections."""
        lines = ["| Setting | Type | Default | Meaning | Also set by |", "|---|---|---|---|---|"]
        sections = []
        for part in fields(schema):
            key, text = prefix + part.name, meaning(self._described, schema, part.name)
            if not is_dataclass(part.type):
                lines.append(self._row(key, part.type, text))
                continue
            inner: Any = part.type
            purpose = self._described[inner.__name__].purpose + (f" Here: {text}." if text else "")
            sections.append(f"### {self._command}: {key}\n\n{purpose}\n")
            sections += self._tables(inner, f"{key}.")
        return [*lines, "", *sections]

    def _row(self, key: str, kind: Any, text: str) -> str:
        default = _as_yaml(get_setting(self._defaults, key))
        files = ", ".join(f"`{name}`" for name in self._setters.get(key, []))
        cells = (f"`{key}`", f"`{_type_name(kind)}`", f"`{default}`", text, files)
        return f"| {' | '.join(cell.replace('|', PIPE) for cell in cells)} |"


def _setters(command: str) -> dict[str, list[str]]:
    """Name of each setting to the files of configs/model, configs/experiment, ... that set it."""
    known = setting_names(SCHEMAS[command])
    found: dict[str, list[str]] = {}
    for path in sorted(configs_dir().glob("*/*.yaml")):
        group, text = path.parent.name, path.read_text()
        if not _belongs(group, path.stem, command):
            continue
        is_global = text.startswith("# @package _global_")
        keys = flatten(yaml.safe_load(text), "" if is_global else f"{group}.")
        # method.settings.dim belongs to the setting method.settings
        owners = (
            max((name for name in known if f"{key}.".startswith(f"{name}.")), key=len, default="")
            for key in keys
        )
        for name in sorted(set(owners)):
            found.setdefault(name, []).append(f"{group}/{path.stem}")
    return found


def _belongs(group: str, name: str, command: str) -> bool:
    """True where configs/GROUP/NAME.yaml is a choice of this command."""
    if group == "experiment":
        return name.endswith(f"_{command}")
    if group == "method":
        source = (Path(scemae.__file__).parent / "methods" / f"{name}.py").read_text()
        return bool(re.search(rf"^STAGE\b.*= {STAGES.get(command)}\b", source, re.M))
    return group in setting_names(SCHEMAS[command])


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def _type_name(kind: Any) -> str:
    if isinstance(kind, type) and not hasattr(kind, "__args__"):
        return kind.__name__
    return str(kind).replace("typing.", "").replace(" | ", " or ")


def main(out: Path) -> None:
    """Write both pages into a folder."""
    os.environ["COLUMNS"] = "100"
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "commands.md", commands_page())
    write_text(out / "settings.md", settings_page())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
