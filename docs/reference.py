"""Write the generated reference: `python docs/reference.py OUTDIR` makes commands.md, settings.md.

Commands come from the table of commands and the parsers of their options; settings from the
dataclasses of scemae/config/schema, whose comments are the descriptions, and their defaults from
configs/*.yaml.
"""

import os
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from scemae.commands.parse import parser_of
from scemae.commands.table import COMMANDS
from scemae.config.described import descriptions, meaning, setters, type_name
from scemae.config.dotted import get_setting
from scemae.config.load import compose_yaml
from scemae.config.schema import SCHEMAS
from scemae.files.disk import write_text

PIPE = r"\|"  # inside a cell of a table


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
        self._setters = setters(command)

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
        cells = (f"`{key}`", f"`{type_name(kind)}`", f"`{default}`", text, files)
        return f"| {' | '.join(cell.replace('|', PIPE) for cell in cells)} |"


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def main(out: Path) -> None:
    """Write both pages into a folder."""
    os.environ["COLUMNS"] = "100"
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "commands.md", commands_page())
    write_text(out / "settings.md", settings_page())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
