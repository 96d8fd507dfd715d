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
from distillgen.rows.from_python import ORIGINS

TEMPLATE = ("{{", "{%")  # what a template begins with, and no YAML that means anything


def override(data: dict[str, Any], sets: Sequence[str]) -> frozenset[str]:
    """Apply `--set` to the raw pipeline; returns the texts that the user typed, which may name files
    anywhere.

    `name` is a stage, or the kind of several stages. `name=null` leaves out a stage, or a filter of a stage;
    `name={…}` replaces all options of a model or stage; `model.option=null` removes an option of a model. The
    origin of a source, such as its path, takes the place of the one in the pipeline.
    """
    values = []
    for assignment in sets:
        name, equals, text = assignment.partition("=")
        *owner, option = name.split(".")
        if not equals or not all([*owner, option]):
            raise ConfigError(f"--set takes name.option=value, not '{assignment}'")
        with Places().within(prefix=f"--set {typed(assignment)}: "):
            values.append(read_yaml(text, "")[0] if text and not text.startswith(TEMPLATE) else text)
            stages = _options_by_name(data["stages"])
            top_level = {key: [value] for key, value in {**data, **data["models"]}.items()}
            targets = {**top_level, **stages}
            if not owner and option in {**data["models"], **stages}.keys() - data.keys():
                _replace(data, option, values[-1])
                continue
            if owner and owner[0] not in targets:
                raise ConfigError(f"there is no model or stage '{owner[0]}'{did_you_mean(owner[0], targets)}")
            for target in targets[owner[0]] if owner else [data]:
                for part in owner[1:]:
                    target = target.setdefault(part, {}) if isinstance(target, dict) else target
                if not isinstance(target, dict):
                    raise ConfigError(f"'{owner[-1]}' is not a mapping")
                if option in ORIGINS and values[-1] is not None:
                    if any(target is source for source in stages.get("source", [])):
                        _drop_origins(target, option)
                target[option] = values[-1]
                if values[-1] is None and owner and owner[0] in data["models"]:
                    del target[option]
            users = {
                stage: options
                for stage, options in stages.items()
                if len(options) == len(owner) == 1 and owner[0] in _models_of(options[0])
            }
            if option in Sampling.model_fields and users and all(option in of[0] for of in users.values()):
                raise ConfigError(
                    "it changes nothing: the stage sets it itself; use --set "
                    f"{next(iter(users))}.{option}={text}"
                )
    return frozenset(value for value in values if isinstance(value, str))


def _drop_origins(source: dict[str, Any], but: str) -> None:
    """Remove the origins of a source's rows but one, and the options of a script that is removed."""
    for option in ORIGINS - {but} | ({"with"} if but != "script" else set()):
        source.pop(option, None)


def _models_of(options: Mapping[str, Any]) -> list[Any]:
    """Return the names in the option `model` of a stage: one, a list of them, or none."""
    model = options.get("model")
    return model if isinstance(model, list) else [model]


def _replace(data: dict[str, Any], name: str, value: Any) -> None:
    """Replace a model, or all options of a stage or filter; null removes it."""
    if not isinstance(value, dict | None):
        raise ConfigError(
            f"it takes options, as {name}.option=…, or all of them, as '{name}={{option: …}}', or null"
        )
    if name in data["models"]:
        del data["models"][name]
        data["models"] |= {} if value is None else {name: value}
        return
    entries = _options_by_name(data["stages"])[name]
    if value is None:
        _leave_out(data["stages"], entries)
    for options in entries if value else ():
        stage_name = {"name": options["name"]} if "name" in options else {}
        options.clear()
        options.update(stage_name, **(value or {}))


def fitted(before: Mapping[str, Any], after: dict[str, Any], project: Project) -> list[str]:
    """Remove the options that a model's new provider does not have; return a note for each."""
    notes = []
    for label, model in after.items():
        providers = [str(entry.get("provider", "openai")) for entry in (before.get(label, model), model)]
        was, now = (set(endpoint_class(provider, project).spec_type.model_fields) for provider in providers)
        for option in [
            option for option in model if option in was - now and model[option] == before[label].get(option)
        ]:
            del model[option]
            notes.append(f"{label}.{option} is left out: provider '{providers[1]}' has no such option")
    return notes


_PRIVATE = re.compile(r"api_key|headers|://[^/\s]*@|://\S*\?")
"""A key, a header, or an address with a password or a query."""


def typed(assignment: str) -> str:
    """Return a `--set` for messages: without a key or the value of a header."""
    name = assignment.partition("=")[0]
    private = {"api_key", "headers"} & set(name.split(".")) or _PRIVATE.search(assignment)
    return f"{name}=…" if private else assignment


def shown_set(assignment: str, root: Path) -> str:
    """Return a `--set` for the card: without secrets and private data of this machine."""
    name, _, value = assignment.partition("=")
    if (name.endswith("base_url") and public_address(value) != value) or "base_url" in value:
        return f"{name}=…"
    return f"{name}={public(value, root)}" if typed(assignment) == assignment else typed(assignment)


def _options_by_name(entries: list[Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the options of stages and of the filters in them: by name one, by kind all of that kind.

    An entry without options gets an empty mapping.
    """
    by_name: dict[str, list[dict[str, Any]]] = {}
    kinds: dict[str, list[dict[str, Any]]] = {}
    for i, entry in enumerate(entries):
        entries[i] = entry = {entry: None} if isinstance(entry, str) else entry
        for kind, options in entry.items():
            if kind == "filter" and isinstance(options, list):
                options = {"filters": options}  # so that the stage itself has a name, and options
            entry[kind] = options = {} if options is None else options
            if isinstance(options, dict):
                by_name[str(options.get("name", kind))] = [options]
                kinds.setdefault(kind, []).append(options)
            for inner in _lists(options):
                by_name = {**_options_by_name(inner), **by_name}  # a filter wins over a metric of its name
    return {**kinds, **by_name}


def _leave_out(entries: list[Any], unwanted: Sequence[dict[str, Any]]) -> None:
    """Remove these stages or filters from the list, and stages without a remaining filter."""
    for entry in [*entries]:
        for options in entry.values():
            for inner in _lists(options):
                _leave_out(inner, unwanted)
            if [] in _lists(options) or any(options is other for other in unwanted):
                entries.remove(entry)


def _lists(options: Any) -> list[list[Any]]:
    """Return the lists of filters, metrics and stages in the options of a stage."""
    inside = (
        [options.get(part) for part in ("filters", "metrics", "stages")]
        if isinstance(options, dict)
        else [options]
    )
    return [entries for entries in inside if isinstance(entries, list)]
