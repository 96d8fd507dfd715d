"""Put the choices of a search into the options of its stages."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from distillgen.errors import ConfigError, did_you_mean


def with_choices(stages: Sequence[Mapping[str, Any]], choices: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a list of stages with other options. Raise ConfigError for a path that leads nowhere.

    A path is the name of a stage, or its kind, and the names of options, as of `--set`. In a list, a part of
    the path is a position, or the name of an entry.
    """
    changed = copy.deepcopy([dict(stage) for stage in stages])
    for path, value in choices.items():
        stage, *parts = path.split(".")
        if not parts:
            raise ConfigError(
                f"space: '{path}' is no option: write STAGE.OPTION, such as train.learning_rate"
            )
        target = _stage(changed, stage, path)
        for part in parts[:-1]:
            target = _inside(target, part, path)
        _put(target, parts[-1], value, path)
    return changed


def _stage(stages: Sequence[dict[str, Any]], name: str, path: str) -> Any:
    by_name = {}
    for stage in stages:
        for kind, options in stage.items():
            own_name = options.get("name", kind) if isinstance(options, dict) else kind
            if own_name in by_name:
                continue
            if options is None:
                stage[kind] = options = {}
            by_name[own_name] = options
    if name not in by_name:
        raise ConfigError(f"space: '{path}' names no stage of the search{did_you_mean(name, by_name)}")
    return by_name[name]


def _inside(target: Any, part: str, path: str) -> Any:
    if isinstance(target, list):
        place = _place(target, part, path)
        entry = target[place]
        if part.isdecimal():
            return entry
        if isinstance(entry, str):
            target[place] = entry = {entry: {}}
        (kind,) = entry
        if entry[kind] is None:
            entry[kind] = {}
        return entry[kind]
    if isinstance(target, dict):
        if target.get(part) is None:
            target[part] = {}
        return target[part]
    raise ConfigError(f"space: '{path}': '{part}' stands in what is no mapping and no list")


def _put(target: Any, part: str, value: Any, path: str) -> None:
    value = copy.deepcopy(value)
    if isinstance(target, dict):
        target[part] = value
    elif isinstance(target, list) and part.isdecimal():
        target[_place(target, part, path)] = value
    else:
        raise ConfigError(f"space: '{path}': '{part}' stands in what is no mapping")


def _place(entries: list[Any], part: str, path: str) -> int:
    """Return the position in a list: a number, or that of the entry of a name."""
    if part.isdecimal() and int(part) < len(entries):
        return int(part)
    names = []
    for entry in entries:
        kind, options = next(iter(entry.items())) if isinstance(entry, dict) and entry else (entry, None)
        names.append(str(options.get("name", kind) if isinstance(options, dict) else kind))
    if part not in names:
        raise ConfigError(f"space: '{path}': the list has no entry '{part}'{did_you_mean(part, names)}")
    return names.index(part)
