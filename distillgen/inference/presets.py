"""Providers by name: presets.yaml holds the address, the variable of the key, and what the endpoint lacks.

`provider: groq` is short for `provider: openai` with the options of the preset; the entry's own options come
first.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from distillgen.inference.price_list import prices_of
from distillgen.plugins import names
from distillgen.project import Project, file_in, home

_OF_LIST = ("host", "prices")  # keys that are no options of a model


@cache
def presets() -> Mapping[str, Mapping[str, Any]]:
    """Return the presets by name."""
    return dict(yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")))


def preset_of(provider: str, project: Project) -> Mapping[str, Any] | None:
    """Return the preset of a name, unless a plug-in of the project or of a package has that name."""
    preset = presets().get(provider)
    if preset is None or provider not in names("teachers", project):
        return preset
    file, shipped = (
        file_in(project.root / "teachers", provider, ".py"),
        file_in(home("teachers"), provider, ".py"),
    )
    return preset if shipped and not (file and not file.samefile(shipped)) else None


def with_preset(options: Mapping[str, Any], project: Project) -> dict[str, Any]:
    """Return a model's options with those of its preset, and with numbers in place of `price: list`. Raise
    ConfigError if the list has no prices of the model.
    """
    provider = str(options.get("provider", "openai"))
    preset = preset_of(provider, project) or {}
    defaults = {name: value for name, value in preset.items() if name not in _OF_LIST}
    if "base_url" in options and not _is_of(str(options["base_url"]), preset):
        defaults.pop("api_key", None)
    model = {**defaults, **options, **({"provider": preset["provider"]} if preset else {})}
    if model.get("price") == "list":
        model["price"] = prices_of(str(model.get("model")), preset.get("prices"), model)
    return model


def _is_of(url: str, preset: Mapping[str, Any]) -> bool:
    """Return whether an address is at the preset's host, so that its key may go there."""
    parts, usual = urlsplit(url), urlsplit(str(preset.get("base_url", "")))
    if not usual.hostname or (parts.scheme, parts.netloc) != (usual.scheme, usual.netloc):
        ending = str(preset.get("host", ""))
        return bool(ending) and parts.scheme == "https" and (parts.hostname or "").endswith(ending)
    return True
