"""What there is to choose from: pipelines, prompts and filters by name, and the JSON Schema of a pipeline file."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from distillgen.errors import ConfigError
from distillgen.marked import read_yaml
from distillgen.pipeline import System, about_line
from distillgen.project import Project
from distillgen.prompt import Prompt
from distillgen.stages import Stage, stage_class, stage_kinds
from distillgen.stages.filter import options_of
from distillgen.teachers import Spec, teacher_class, teacher_names


def pipelines(project: Project) -> list[dict[str, Any]]:
    """Name, what it makes, and its place among the published systems. A broken file is listed with its mistake."""
    entries = []
    for name in project.names("pipelines", ".yaml"):
        path = project.find("pipelines", name, ".yaml")
        entry: dict[str, Any] = {"name": name, "about": "", **System().model_dump()}
        try:
            text = path.read_text(encoding="utf-8")
            data, _ = read_yaml(text, path)
            entry |= {"about": about_line(text), **System.model_validate(data.get("system") or {}).model_dump()}
        except (ConfigError, ValueError, AttributeError) as error:
            entry["about"] = f"cannot be read: {error}"
        entries.append(entry)
    return entries


def prompts(project: Project) -> list[dict[str, Any]]:
    """Name, what it asks for, its inputs and form."""
    entries = []
    for name in project.names("prompts", ".md"):
        try:
            prompt = Prompt.load(name, project)
            entry = {"about": prompt.front.about, "inputs": sorted(prompt.inputs), "output": prompt.form.kind}
        except ConfigError as error:
            entry = {"about": f"cannot be read: {error}", "inputs": [], "output": ""}
        entries.append({"name": name, **entry})
    return entries


def filters(project: Project) -> list[dict[str, Any]]:
    """Name, what it drops, and its options with their defaults."""
    entries = []
    for name in project.names("filters", ".py"):
        try:
            factory = project.filter(name)
            options = {n: None if f.is_required() else f.default for n, f in options_of(factory).model_fields.items()}
            entries.append({"name": name, "about": (inspect.getdoc(factory) or "").split("\n")[0], "options": options})
        except ConfigError as error:
            entries.append({"name": name, "about": f"cannot be read: {error}", "options": {}})
    return entries


def json_schema(project: Project) -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of pipeline files, by which editors complete and check them."""
    specs: list[type[Spec]] = [teacher_class(name).spec_type for name in teacher_names()]
    kinds: list[type[Stage]] = [stage_class(kind) for kind in stage_kinds()]
    factories = {name: project.filter(name) for name in project.names("filters", ".py")}
    options = {name: options_of(factory) for name, factory in factories.items()}
    models: list[type[BaseModel]] = [System, *specs, *kinds, *options.values()]
    refs, shared = models_json_schema([(model, "validation") for model in models], ref_template="#/$defs/{model}")

    def ref(model: Any) -> dict[str, Any]:
        return {"$ref": str(refs[model, "validation"]["$ref"])}

    entry: list[Any] = [{"enum": sorted(factories)}]
    for name, model in options.items():
        entry.append(_only(name, {"anyOf": [ref(model), {"type": "null"}]}))
        label = {"type": "string", "description": "what scores and drops are called; default: the filter's name"}
        shared["$defs"][model.__name__]["properties"]["name"] = label
    stages = []
    for kind in kinds:
        body: dict[str, Any] = ref(kind)
        if kind.kind == "filter":
            body = {"anyOf": [{"type": "array", "items": {"anyOf": entry}}, {"type": "object"}]}
        stages.append(_only(kind.kind, body))
    providers = [_provider(ref(spec), name) for name, spec in zip(teacher_names(), specs, strict=True)]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "a distillgen pipeline",
        "type": "object",
        "properties": {
            "version": {"const": 1},
            "seed": {"type": "integer", "default": 0},
            "system": ref(System),
            "models": {"type": "object", "additionalProperties": {"anyOf": providers}},
            "stages": {"type": "array", "minItems": 1, "items": {"anyOf": stages}},
        },
        "required": ["version", "stages"],
        "additionalProperties": False,
        "$defs": shared["$defs"],
    }


def _only(key: str, value: dict[str, Any]) -> dict[str, Any]:
    """The schema of a mapping with one key."""
    return {"type": "object", "properties": {key: value}, "required": [key], "additionalProperties": False}


def _provider(schema: dict[str, Any], name: str) -> dict[str, Any]:
    return {"allOf": [schema, {"properties": {"provider": {"const": name}}}]}
