"""From a jinja2 template to one self-contained HTML page: the frame and style of report, tables and
sweep.

A page's template begins with `{% extends "base.html" %}` and fills the blocks of base.html; numbers
are printed by the macros of numbers.html.
"""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

FRAME = Path(__file__).parent


def render(template: Path, **values: Any) -> str:
    """The page of a template file; a value that it names and that is not given is an error."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, FRAME]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _mark_code
    return environment.get_template(template.name).render(**values)


def _mark_code(text: str) -> Markup:
    """Text in which `words` between backticks are set as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))
