"""`--set name.option=value`: overrides of the raw pipeline, before it is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distillgen.errors import ConfigError, did_you_mean
from distillgen.marked import read_yaml


def override(data: dict[str, Any], sets: Sequence[str]) -> list[str]:
    """Apply `--set` to the raw pipeline; returns the texts that the user typed, which may name files anywhere."""
    trusted = []
    for given in sets:
        key, equals, text = given.partition("=")
        parts = key.split(".")
        if not equals or not all(parts):
            raise ConfigError(f"--set takes name.option=value, not '{given}'")
        try:
            value = read_yaml(text, "--set")[0] if text else ""
        except ConfigError as error:
            raise ConfigError(f"--set {typed(given)}: {error.message}") from error
        if isinstance(value, str):
            trusted.append(value)
        target = _target(data, parts, given)
        for part in parts[1:-1] if target is not data else parts[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {typed(given)}: '{part}' is not a mapping")
        target[parts[-1]] = value
        _refuse_shadowed(data, parts, given)
    return trusted


def typed(given: str) -> str:
    """A `--set` as it may be shown: without a key or a header's value."""
    name = given.partition("=")[0]
    return f"{name}=…" if {"api_key", "headers"} & set(name.split(".")) else given


def _target(data: dict[str, Any], parts: list[str], given: str) -> dict[str, Any]:
    """The mapping that the first part of a dotted name means: a model, a stage, or the pipeline itself."""
    given_models = data.get("models")
    models: dict[str, dict[str, Any]] = given_models if isinstance(given_models, dict) else {}
    stages: dict[str, dict[str, Any]] = {}
    for item in data.get("stages") or () if isinstance(data.get("stages"), list) else ():
        if isinstance(item, dict) and len(item) == 1:
            kind, options = next(iter(item.items()))
            if options is None:
                options = item[kind] = {}
            if isinstance(options, list):  # filter: [a: {x: 1}, b] as a mapping of labels, which shares the options
                for j, entry in enumerate(options):
                    if isinstance(entry, str):
                        options[j] = {entry: {}}
                    elif isinstance(entry, dict):
                        options[j] = {name: inner or {} for name, inner in entry.items()}
                stages[kind] = {name: inner for entry in options if isinstance(entry, dict) for name, inner in entry.items()}
            elif isinstance(options, dict):
                stages[str(options.get("name") or kind)] = options
    if parts[0] in ("seed", "version", "system", "models") or len(parts) == 1:
        return data
    if parts[0] in models:
        return models[parts[0]]
    if parts[0] in stages:
        return stages[parts[0]]
    hint = did_you_mean(parts[0], [*models, *stages])
    raise ConfigError(f"--set {typed(given)}: there is no model or stage '{parts[0]}'{hint}")


def _refuse_shadowed(data: Mapping[str, Any], parts: Sequence[str], given: str) -> None:
    """A model's option that every stage overrides would change nothing; say so instead."""
    if len(parts) != 2 or parts[0] not in (data.get("models") or {}):
        return
    users = [o for item in data.get("stages") or () for o in item.values() if isinstance(o, dict) and o.get("model") == parts[0]]
    if users and all(parts[1] in options for options in users):
        name = users[0].get("name") or "generate"
        remedy = f"use --set {name}.{given.split('.', 1)[1]}"
        raise ConfigError(f"--set {given} changes nothing: the stage sets '{parts[1]}' itself; {remedy}")
