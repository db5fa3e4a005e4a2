"""Compose the settings of a command from configs/*.yaml and key=value overrides, and check them.

A misspelt key, a wrong type or settings that contradict each other fail here, in one sentence.
"""

from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import scemae
from scemae.config import locations, values
from scemae.config.checks import check
from scemae.config.closest import hint
from scemae.config.dotted import flatten, set_setting, setting_names
from scemae.config.schema import SCHEMAS
from scemae.errors import ConfigError
from scemae.files import documents

# A job runs these as commands, so a file given by its path may not set them.
# Groups whose value may be a FILE.yaml of the user instead of a file in configs/KEY.
FROM_FILE = ("experiment", "space", "cluster")
PROGRAMS = ("cluster.container", "cluster.setup", "cluster.options")


def configs_dir() -> Path:
    """The folder of YAML files, scemae/configs: in a checkout a link to configs/."""
    return Path(scemae.__file__).parent / "configs"


def load_config(name: str, overrides: list[str], *, typed: bool = False) -> Any:
    """The checked settings of a command, as the dataclass SCHEMAS[name].

    configs/<name>.yaml, then the files that `experiment=`, `space=` and `cluster=`
    name, then the other
    overrides. typed: the user typed `overrides` on this command line, so they may name a program
    (locations.py). Raises ConfigError.
    """
    from omegaconf import OmegaConf

    settings = _settings(name, overrides, typed)
    merged = _merge(name, settings)
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise ConfigError(
            f"found no value for {', '.join(missing)}; give {missing[0]}=... on the command line"
        )
    config = OmegaConf.to_object(merged)
    for key, value in settings:  # OmegaConf turns Typed into str
        if any(isinstance(one, locations.Typed) for one in _as_list(value)):
            set_setting(config, key, value)
    check(config)
    return config


def compose_yaml(name: str, overrides: list[str]) -> str:
    """The settings of a command as YAML, without secrets; what must still be given is ???."""
    from omegaconf import OmegaConf

    found = OmegaConf.to_container(_merge(name, _settings(name, overrides, True)))
    return OmegaConf.to_yaml(OmegaConf.create(locations.masked_all(found)))


def reload_config(name: str, path: Path) -> Any:
    """The settings that `to_yaml` wrote. Raises ConfigError where they cannot be read."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(SCHEMAS[name]), OmegaConf.create(_tree(path)))
        )
    except (OmegaConfBaseException, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path}: cannot be read ({reason}); restore it") from error


def to_yaml(config: Any) -> str:
    """Settings as YAML, without the parts of locations that may be secret."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(locations.masked_all(asdict(config))))


def _settings(name: str, overrides: list[str], typed: bool) -> list[tuple[str, Any]]:
    """Key and value of each setting, in the order in which they are applied."""
    from_files: list[tuple[str, Any]] = []
    from_overrides: list[tuple[str, Any]] = []
    for override in overrides:
        key, text = values.split(override)
        if key in FROM_FILE and _is_group(name, key) and text.endswith((".yaml", ".yml")):
            from_files += _in_file(name, key, text)
            continue
        _check_key(name, key)
        value: Any = text
        if not _is_group(name, key):
            value = values.value_of(key, values.kind_of(SCHEMAS[name], key), text)
        if typed:
            value = _as_typed(value)
        else:
            locations.refuse_from_file(value, key, f"scemae {name}")
        from_overrides.append((key, value))
    return from_files + from_overrides


def _as_typed(value: Any) -> Any:
    """URLs and commands, alone or in lists, marked as typed by the user."""
    if isinstance(value, list):
        return [_as_typed(part) for part in value]
    is_url = isinstance(value, str) and locations.scheme_of(value)
    return locations.Typed(value) if is_url else value


def _as_plain(value: Any) -> Any:
    """The entries of a list without the mark: OmegaConf refuses them there."""
    if isinstance(value, list):
        return [_as_plain(part) for part in value]
    return str(value) if isinstance(value, locations.Typed) else value


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _in_file(name: str, group: str, path: str) -> list[tuple[str, Any]]:
    """The settings in the FILE of KEY=FILE.yaml, for a KEY of FROM_FILE. Raises ConfigError."""
    tree = _tree(Path(path))
    if "defaults" in tree:
        raise ConfigError(
            f"{path}: found a defaults list; a file given by its path holds key: value only"
        )
    found: list[tuple[str, Any]] = [("space", "own")] if group == "space" else []
    for key, value in flatten(tree, "" if group == "experiment" else f"{group}.").items():
        _check_key(name, key, path)
        if key in PROGRAMS:
            raise ConfigError(
                f"{path}: found {key}, which jobs run; type it on the command line, or keep it in "
                "configs/cluster"
            )
        found.append((key, value))
    return found


def _tree(path: Path) -> dict[str, Any]:
    """A YAML file of settings, in which nothing is interpolated or run. Raises ConfigError."""
    remedy = "give a YAML file of key: value settings"
    try:
        tree = documents.read_yaml(path, dict[str, Any], error=ConfigError, remedy=remedy)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    for key, value in flatten(tree).items():
        locations.refuse_from_file([key, value], key, path)
        if value == "":
            raise ConfigError(
                f"{path}: {key}: found an empty text, a value was needed (null stands for none)"
            )
    return tree


def _merge(name: str, settings: list[tuple[str, Any]]) -> Any:
    """The schema with configs/<name>.yaml, the chosen files of groups, then the settings."""
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    chosen = [f"{key}={_choice(key, value)}" for key, value in settings if _is_group(name, key)]
    try:
        composed = _compose(configs_dir(), name, tuple(chosen))
        merged = OmegaConf.merge(OmegaConf.structured(SCHEMAS[name]), composed)
        for key, value in settings:
            if not _is_group(name, key):
                OmegaConf.update(merged, key, _as_plain(value), merge=True, force_add=True)
        return merged
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explain(name, error)) from error


@cache
def _compose(folder: Path, name: str, chosen: tuple[str, ...]) -> Any:
    """What Hydra makes of the files in `folder`, read once: it takes ten times as long as the rest.

    Callers merge it into a copy of the schema and do not change it.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(folder), version_base="1.3"):
        return hydra.compose(name, overrides=list(chosen))


def _is_group(name: str, key: str) -> bool:
    """True for a setting whose value is the name of a file in configs/KEY."""
    is_section = is_dataclass(values.kind_of(SCHEMAS[name], key))
    return key == "experiment" or is_section and (configs_dir() / key).is_dir()


def _choice(key: str, value: Any) -> str:
    """The name of a file in configs/KEY. Raises ConfigError where there is none of that name."""
    known = sorted(path.stem for path in (configs_dir() / key).glob("*.yaml"))
    if key == "experiment" and value in ("null", None):
        return "null"
    if value not in known:
        own = ", or FILE.yaml of your own," if key in FROM_FILE else ""
        needed = f"one of {'; '.join(known)}{own} was needed{hint(value, known)}"
        raise ConfigError(f"{key}: found {value!r}, {needed}")
    return value


def _check_key(name: str, key: str, where: str = "") -> None:
    """Raise ConfigError, with the closest name, where a command has no such setting."""
    if key == "experiment" or values.kind_of(SCHEMAS[name], key) is not None:
        return
    known = [*setting_names(SCHEMAS[name]), "experiment"]
    raise ConfigError(
        (f"{where}: " if where else "") + f"found no setting {key!r}{hint(key, known)}; "
        f"`scemae {name} --cfg` prints every one with its value"
    )


def _explain(name: str, error: Exception) -> str:
    """An error of Hydra or OmegaConf as one sentence."""
    cause = error.__cause__ or error
    lines = [" ".join(line.split()) for line in str(cause).splitlines() if line.strip()]
    noise = ("object_type", "full_key", "reference_type", "Config ", "provider=")
    text = "; ".join(line for line in lines if not line.startswith(noise))
    key = getattr(cause, "full_key", None)
    where = f"{key}: " if key else ""
    return f"{where}{text.rstrip('.')}; `scemae {name} --cfg` prints every setting with its value"
