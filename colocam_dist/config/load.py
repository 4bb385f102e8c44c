"""YAML file + ``section.key=value`` overrides -> a checked :class:`Config`, with all errors at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from colocam_dist.config.schema import Config
from colocam_dist.errors import ConfigError

__all__ = ["dump", "load", "load_model", "setting_names"]

_Settings = TypeVar("_Settings", bound=BaseModel)


def _decimal(tag: str, pattern: re.Pattern[str]) -> re.Pattern[str]:
    """The pattern of numbers without those in base 60, and without those in base 8, which begin with a 0."""
    if not tag.endswith((":int", ":float")):
        return pattern
    return re.compile(rf"(?![^:]*:)(?![-+]?0[0-9_]+$)(?:{pattern.pattern})", re.VERBOSE)


class _Loader(yaml.SafeLoader):
    """YAML whose 1:30:00 stays a time, and whose 060 stays what was written: neither is a number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, _decimal(tag, pattern)) for tag, pattern in resolvers]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(path: Path | str | None, overrides: Sequence[str] = ()) -> Config:
    """Read, merge and check a configuration.

    Args:
        path: YAML file with the sections of :class:`Config`, or None to start from the defaults.
        overrides: ``section.key=value`` strings, applied in order; the value is read as YAML. A whole section can be
            given as ``section={...}``; paths are taken as written (relative to the working directory).

    Raises:
        ConfigError: one error that lists every unknown key (with the nearest valid names), every wrong type and
            every contradiction between settings.
    """
    return load_model(Config, path, overrides)


def load_model(
    model: type[_Settings], path: Path | str | None, overrides: Sequence[str] = (), source: str = "command line"
) -> _Settings:
    """:func:`load` for any other model of settings.

    Args:
        model: what is made of them.
        path: as for :func:`load`.
        overrides: likewise.
        source: where the overrides stand, for errors.
    """
    merged = {} if path is None else _read_yaml(Path(path))
    origin = dict.fromkeys(_leaves(merged), f"{path}")
    problems: list[str] = []
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            problems.append(f"{override}: not an override; wanted section.key=value, for example data.n_frames=4")
            continue
        try:
            value = yaml.load(text, _Loader) if text.strip() else ""
        except yaml.YAMLError as error:
            problems.append(f"{name} [{source}]: value is not YAML ({str(error).splitlines()[0]}), got {text!r}")
            continue
        clash = _assign(merged, name.strip().split("."), value)
        if clash:
            problems.append(f"{name} [{source}]: {clash}")
        origin[name.strip()] = source
    try:
        checked = model.model_validate(merged)
    except ValidationError as error:
        names = list(setting_names(model))
        problems += [_describe(detail, origin, str(path or "defaults"), names) for detail in error.errors()]
        raise _failure(problems, path) from None
    if problems:
        raise _failure(problems, path)
    return checked


def dump(config: BaseModel) -> str:
    """The configuration as YAML that :func:`load` turns back into an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def setting_names(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every valid dotted name, sections before their keys."""
    for name, field in model.model_fields.items():
        yield prefix + name
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from setting_names(annotation, f"{prefix}{name}.")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(
            "configuration file cannot be read", where=path, got=error.strerror, fix="give an existing file to --config"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("configuration file is not YAML", where=path, got=str(error)) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            "configuration file is not a mapping", where=path, got=type(content).__name__, wanted="sections of settings"
        )
    unshared: dict[str, Any] = _apart(content)
    return unshared


def _apart(value: Any) -> Any:
    """The same with mappings and lists of its own wherever YAML's aliases have one in several places."""
    if isinstance(value, dict):
        return {key: _apart(one) for key, one in value.items()}
    return [_apart(one) for one in value] if isinstance(value, list) else value


def _assign(tree: dict[str, Any], keys: Sequence[str], value: object) -> str | None:
    """Set a nested key; returns what is wrong if a parent of it is not a section."""
    for depth, key in enumerate(keys[:-1]):
        child = tree.setdefault(key, {})
        if not isinstance(child, dict):
            return f"{'.'.join(keys[: depth + 1])} is a value, not a section"
        tree = child
    known = tree.get(keys[-1])
    if isinstance(known, dict) and isinstance(value, dict):
        known.update(value)
    else:
        tree[keys[-1]] = value
    return None


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        yield name
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")


def _describe(detail: Any, origin: Mapping[str, str], path: str, names: Sequence[str]) -> str:
    location = [str(part) for part in detail["loc"]]
    name = ".".join(location)
    parents = [".".join(location[:depth]) for depth in range(len(location), 0, -1)]
    children = [key for key in origin if key.startswith(f"{name}.") or not name]
    place = next((origin[key] for key in [name, *reversed(children), *parents] if key in origin), path)
    if detail["type"] == "extra_forbidden":
        return f"{name} [{place}]: unknown setting{_nearest(name, names)}"
    if detail["type"] == "missing":
        return f"{name} [{place}]: required setting is missing"
    message = detail["msg"].removeprefix("Value error, ")
    got = detail.get("input")
    suffix = "" if isinstance(got, BaseModel | dict) else f", got {got!r}"
    return f"{name} [{place}]: {message}{suffix}" if name else f"{message} [{place}]"


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.75)
    leaf = name.rsplit(".", 1)[-1]
    close += [n for n in names if n.rsplit(".", 1)[-1] == leaf and n not in close]
    return f"; did you mean {' or '.join(close[:3])}?" if close else ""


def _failure(problems: Sequence[str], path: object) -> ConfigError:
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the settings"
    return ConfigError(
        count + "".join(f"\n  - {problem}" for problem in problems),
        fix="--print-config shows every setting with its value; docs/training.md says where they are explained",
    )
