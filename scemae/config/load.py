"""Compose the settings of a command from configs/*.yaml and key=value overrides, and check them.

A misspelt key, a wrong type or settings that contradict each other fail here, in one sentence.
"""

import difflib
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import scemae
from scemae.config import locations, values
from scemae.config.checks import check
from scemae.config.dotted import flatten, set_setting, setting_names
from scemae.config.schema import SCHEMAS
from scemae.errors import ConfigError
from scemae.files import documents

PROGRAMS = (
    "cluster.container",
    "cluster.setup",
    "cluster.options",
)  # run by a job: never from a file that is given by its path


def configs_dir() -> Path:
    """The folder of YAML files, scemae/configs: in a checkout a link to the folder at the top."""
    return Path(scemae.__file__).parent / "configs"


def load_config(name: str, overrides: list[str], *, typed: bool = False) -> Any:
    """Compose configs/<name>.yaml with Hydra, set each `key=value` of `overrides`, check it; return the dataclass.

    typed: the user typed `overrides` on this command line, so that they may name a command (locations.py). Raises
    ConfigError in one sentence for a misspelt key, a wrong type or settings that contradict each other.
    """
    from omegaconf import OmegaConf

    settings = _settings(name, overrides, typed)
    merged = _merge(name, settings)
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise ConfigError(
            f"found no value for {', '.join(missing)}; give {missing[0]}=... on the command line"
        )
    config = OmegaConf.to_object(merged)
    for key, value in settings:
        if (
            isinstance(value, locations.Typed)
            or isinstance(value, list)
            and any(isinstance(one, locations.Typed) for one in value)
        ):
            set_setting(config, key, value)
    check(config)
    return config


def compose_yaml(name: str, overrides: list[str]) -> str:
    """The resolved config of a command as YAML, without secrets; what must still be given reads ???."""
    from omegaconf import OmegaConf

    found = OmegaConf.to_container(_merge(name, _settings(name, overrides, True)))
    return OmegaConf.to_yaml(OmegaConf.create(locations.masked_all(found)))


def _settings(name: str, overrides: list[str], typed: bool) -> list[tuple[str, Any]]:
    """Key and value of every setting: of the files that experiment= and space= name, then the others, so that they win."""
    first, rest = [], []
    for override in overrides:
        key, text = values.split(override)
        if key in ("experiment", "space") and text.endswith((".yaml", ".yml")):
            first += _in_file(name, key, text)
            continue
        _check_key(name, key)
        value = (
            text
            if _is_group(name, key)
            else values.value_of(key, values.kind_of(SCHEMAS[name], key), text)
        )
        if not typed:
            locations.refuse_from_file(value, key, f"scemae {name}")
        rest.append((key, _as_typed(value) if typed else value))
    return first + rest


def _as_typed(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_typed(part) for part in value]
    return (
        locations.Typed(value) if isinstance(value, str) and locations.scheme_of(value) else value
    )


def _in_file(name: str, group: str, path: str) -> list[tuple[str, Any]]:
    """The settings in experiment=FILE.yaml, or space=FILE.yaml. Raises ConfigError."""
    tree = _tree(Path(path))
    if "defaults" in tree:
        raise ConfigError(
            f"{path}: found a defaults list; a file given by its path holds key: value settings alone"
        )
    found = [("space", "own")] if group == "space" else []
    for key, value in flatten(tree, "space." if group == "space" else "").items():
        _check_key(name, key, path)
        if key in PROGRAMS:
            raise ConfigError(
                f"{path}: found {key}, which jobs run; type it on the command line, or keep it in configs/cluster"
            )
        found.append((key, value))
    return found


def _tree(path: Path) -> dict[str, Any]:
    """A YAML file of settings, in which nothing is filled in or run later. Raises ConfigError."""
    try:
        tree = documents.read_yaml(
            path, error=ConfigError, remedy="give a YAML file of key: value settings"
        )
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give a YAML file of key: value settings"
        ) from error
    for key, value in flatten(tree).items():
        locations.refuse_from_file([key, value], key, path)
        if value == "":
            raise ConfigError(
                f"{path}: {key}: found an empty text, a value was needed (null stands for none)"
            )
    return tree


def _merge(name: str, settings: list[tuple[str, Any]]) -> Any:
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    GlobalHydra.instance().clear()
    chosen = [f"{key}={_choice(key, value)}" for key, value in settings if _is_group(name, key)]
    try:
        with hydra.initialize_config_dir(str(configs_dir()), version_base="1.3"):
            composed = hydra.compose(name, overrides=chosen)
        merged = OmegaConf.merge(OmegaConf.structured(SCHEMAS[name]), composed)
        for key, value in settings:
            if not _is_group(name, key):
                OmegaConf.update(merged, key, value, merge=True, force_add=True)
        return merged
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explain(name, error)) from error


def _is_group(name: str, key: str) -> bool:
    """True for a setting that names a file of configs/KEY."""
    return (
        key == "experiment"
        or is_dataclass(values.kind_of(SCHEMAS[name], key))
        and (configs_dir() / key).is_dir()
    )


def _choice(key: str, value: Any) -> str:
    known = sorted(path.stem for path in (configs_dir() / key).glob("*.yaml"))
    if value not in (*known, *(("null", None) if key == "experiment" else ())):
        own = ", or FILE.yaml of your own," if key in ("experiment", "space") else ""
        raise ConfigError(f"{key}: found {value!r}, one of {'; '.join(known)}{own} was needed")
    return "null" if value is None else value


def _check_key(name: str, key: str, where: str = "") -> None:
    if key == "experiment" or values.kind_of(SCHEMAS[name], key) is not None:
        return
    close = difflib.get_close_matches(key, [*setting_names(SCHEMAS[name]), "experiment"], 1)
    raise ConfigError(
        f"{where}: " * bool(where)
        + f"found no setting {key!r}"
        + (f", did you mean {close[0]!r}" if close else "")
        + f"; `scemae {name} --cfg` prints every one with its value"
    )


def reload_config(name: str, path: Path) -> Any:
    """A config that `to_yaml` wrote. Raises ConfigError where it cannot be read."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(SCHEMAS[name]), OmegaConf.create(_tree(path)))
        )
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({' '.join(str(error).split())[:300]}); restore it"
        ) from error


def to_yaml(config: Any) -> str:
    """The resolved config as YAML, without what may be secret in a location."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(locations.masked_all(asdict(config))))


def _explain(name: str, error: Exception) -> str:
    cause = error.__cause__ or error
    lines = [" ".join(line.split()) for line in str(cause).splitlines() if line.strip()]
    noise = ("object_type", "full_key", "reference_type", "Config ", "provider=")
    text = "; ".join(line for line in lines if not line.startswith(noise))
    where = f"{cause.full_key}: " if getattr(cause, "full_key", None) else ""
    return f"{where}{text.rstrip('.')}; `scemae {name} --cfg` prints every setting with its value"
