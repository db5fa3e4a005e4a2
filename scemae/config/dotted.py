"""Settings by their dotted names, such as optim.lr: list, flatten, get and set them."""

from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any


def setting_names(schema: Any, prefix: str = "") -> list[str]:
    """The dotted name of every setting of a schema; sections such as optim are listed too."""
    found = []
    for part in fields(schema):
        found.append(prefix + part.name)
        if is_dataclass(part.type):
            found += setting_names(part.type, f"{prefix}{part.name}.")
    return found


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts or a dataclass as one dict of dotted names; an empty dict stays as a value."""
    found: dict[str, Any] = {}
    tree = settings if isinstance(settings, dict) else asdict(settings)
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def recorded(section: Any) -> dict[str, Any]:
    """A section of the schema as a checkpoint records it.

    A setting with a default in the schema was added later, and its default is the behaviour before:
    at that value it is left out, so that older runs resume.
    """
    before = {
        part.name: part.default if part.default_factory is MISSING else part.default_factory()
        for part in fields(section)
    }
    return {
        name: value
        for name, value in asdict(section).items()
        if before[name] is MISSING or value != before[name]
    }


def get_setting(config: Any, name: str) -> Any:
    """The value of one setting of a dataclass or of nested dicts."""
    for part in name.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config


def set_setting(config: Any, name: str, value: Any) -> None:
    """Set one setting of a dataclass or of nested dicts."""
    section, _, last = name.rpartition(".")
    owner = get_setting(config, section) if section else config
    if isinstance(owner, dict):
        owner[last] = value
    else:
        setattr(owner, last, value)
