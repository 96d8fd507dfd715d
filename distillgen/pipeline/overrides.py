"""`--set`: options of a pipeline that are overridden before it is checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError, did_you_mean
from distillgen.inference.endpoint import endpoint_class
from distillgen.inference.sampling import Sampling
from distillgen.located_yaml import Places, read_yaml
from distillgen.privacy import public, public_address
from distillgen.project import Project


def override(data: dict[str, Any], sets: Sequence[str]) -> frozenset[str]:
    """Apply `--set` to the raw pipeline; returns the texts that the user typed, which may name files anywhere.

    A stage is addressed by its name, or all of a kind by that; `name=null` leaves a stage, or a filter of one, out, and
    `name={…}` gives all options of a model or stage; null takes an option of a model away.
    """
    values = []
    for given in sets:
        name, equals, text = given.partition("=")
        *owner, option = name.split(".")
        if not equals or not all([*owner, option]):
            raise ConfigError(f"--set takes name.option=value, not '{given}'")
        with Places().within(prefix=f"--set {typed(given)}: "):
            values.append(read_yaml(text, "")[0] if text else "")
            stages = _named(data["stages"])
            named = {**{own: [value] for own, value in {**data, **data["models"]}.items()}, **stages}
            if not owner and option in {**data["models"], **stages}.keys() - data.keys():
                _replace(data, option, values[-1])
                continue
            if owner and owner[0] not in named:
                raise ConfigError(f"there is no model or stage '{owner[0]}'{did_you_mean(owner[0], named)}")
            for target in named[owner[0]] if owner else [data]:
                for part in owner[1:]:
                    target = target.setdefault(part, {}) if isinstance(target, dict) else target
                if not isinstance(target, dict):
                    raise ConfigError(f"'{owner[-1]}' is not a mapping")
                target[option] = values[-1]
                if values[-1] is None and owner[0] in data["models"]:
                    del target[option]
            users = {
                name: own for name, own in stages.items() if [each.get("model") for each in own] == owner
            }
            if option in Sampling.model_fields and users and all(option in own[0] for own in users.values()):
                raise ConfigError(
                    f"it changes nothing: the stage sets it itself; use --set {next(iter(users))}.{option}={text}"
                )
    return frozenset(value for value in values if isinstance(value, str))


def _replace(data: dict[str, Any], name: str, value: Any) -> None:
    """Another model, or other options of a stage or filter, in the place of what has this name; null leaves it out."""
    if not isinstance(value, dict | None):
        raise ConfigError(
            f"it takes options, as {name}.option=…, or all of them, as '{name}={{option: …}}', or null"
        )
    if name in data["models"]:
        del data["models"][name]
        data["models"] |= {} if value is None else {name: value}
        return
    entries = _named(data["stages"])[name]
    if value is None:
        _leave_out(data["stages"], entries)
    for options in entries if value else ():
        own = {"name": options["name"]} if "name" in options else {}
        options.clear()
        options.update(own, **(value or {}))


def fitted(before: Mapping[str, Any], after: dict[str, Any], project: Project) -> list[str]:
    """Take from each model that another provider was set for what only the former one has; returns a note for each option."""
    notes = []
    for label, model in after.items():
        providers = [str(each.get("provider", "openai")) for each in (before.get(label, model), model)]
        was, now = (set(endpoint_class(provider, project).spec_type.model_fields) for provider in providers)
        for option in [
            option for option in model if option in was - now and model[option] == before[label].get(option)
        ]:
            del model[option]
            notes.append(f"{label}.{option} is left out: provider '{providers[1]}' has no such option")
    return notes


_PRIVATE = re.compile(r"api_key|headers|://[^/\s]*@|://\S*\?")
"""A key, a header, or an address with a password or a query, anywhere in what was typed."""


def typed(given: str) -> str:
    """A `--set` as it may be shown: without a key or a header's value."""
    name = given.partition("=")[0]
    private = {"api_key", "headers"} & set(name.split(".")) or _PRIVATE.search(given)
    return f"{name}=…" if private else given


def shown_set(given: str, root: Path) -> str:
    """A `--set` as a card tells it: what is secret, or of this machine alone, is withheld."""
    name, _, value = given.partition("=")
    if (name.endswith("base_url") and public_address(value) != value) or "base_url" in value:
        return f"{name}=…"
    return f"{name}={public(value, root)}" if typed(given) == given else typed(given)


def _named(entries: list[Any]) -> dict[str, list[dict[str, Any]]]:
    """The options of stages, and of the filters in them, by name, and by kind those of all that have names of their own; options
    that are left out are made.
    """
    named: dict[str, list[dict[str, Any]]] = {}
    kinds: dict[str, list[dict[str, Any]]] = {}
    for i, entry in enumerate(entries):
        entries[i] = entry = {entry: None} if isinstance(entry, str) else entry
        for kind, options in entry.items():
            entry[kind] = options = {} if options is None else options
            if isinstance(options, dict):
                named[str(options.get("name", kind))] = [options]
                kinds.setdefault(kind, []).append(options)
            for inner in _lists(options):
                named = {**_named(inner), **named}  # of a filter and a metric of one name, the filter
    return {**kinds, **named}


def _leave_out(entries: list[Any], unwanted: Sequence[dict[str, Any]]) -> None:
    """Take these stages, or filters of stages, out of the list, and a stage that loses all its filters."""
    for entry in [*entries]:
        for options in entry.values():
            for inner in _lists(options):
                _leave_out(inner, unwanted)
            if [] in _lists(options) or any(options is each for each in unwanted):
                entries.remove(entry)


def _lists(options: Any) -> list[list[Any]]:
    """The lists of filters, metrics and stages in a stage's options."""
    inside = (
        [options.get(part) for part in ("filters", "metrics", "stages")]
        if isinstance(options, dict)
        else [options]
    )
    return [each for each in inside if isinstance(each, list)]
