"""The generated reference names every command and setting, each setting with a description."""

from dataclasses import fields, is_dataclass

import pytest

from docs import reference
from scemae.commands.table import COMMANDS
from scemae.config import described
from scemae.config.dotted import setting_names
from scemae.config.schema import SCHEMAS


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_setting_has_a_description(name):
    known = described.descriptions()

    def undescribed(schema, prefix):
        for part in fields(schema):
            if is_dataclass(part.type):
                assert known[part.type.__name__].purpose
                yield from undescribed(part.type, f"{prefix}{part.name}.")
            elif not described.meaning(known, schema, part.name):
                yield prefix + part.name

    assert list(undescribed(SCHEMAS[name], "")) == []


def test_a_comment_above_a_field_and_one_behind_it_are_descriptions(tmp_path):
    source = "class A:\n    # over\n    # two lines\n    b: int\n    c: int  # behind\n    d: int\n"
    (tmp_path / "a.py").write_text(source)
    found = described.describe(tmp_path / "a.py")["A"].fields
    assert found == {"b": "over two lines", "c": "behind", "d": ""}


def test_the_pages_name_every_command_and_setting(tmp_path):
    reference.main(tmp_path)
    commands = (tmp_path / "commands.md").read_text()
    assert all(f"\n## {name}\n" in commands for name in COMMANDS)
    settings = (tmp_path / "settings.md").read_text()
    for name, schema in SCHEMAS.items():
        text = settings.split(f"\n## scemae {name}\n")[1].split("\n## scemae ")[0]
        assert all(f"| `{key}` |" in text or f": {key}\n" in text for key in setting_names(schema))
    assert "| `optim.lr` | `float` | `0.0003` | " in settings


def test_files_of_configs_are_listed_at_the_settings_that_they_set():
    found = described.setters("pretrain")
    assert (
        "model/deit_tiny" in found["model.width"]
        and "experiment/demo_pretrain" in found["norm_pix"]
    )
    assert "experiment/demo_dve_pretrain" in found["method.settings"]
