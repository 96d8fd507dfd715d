"""What there is to choose from: pipelines, prompts and filters by name, and the JSON Schema of a pipeline file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from types import GenericAlias
from typing import Any, Literal, Union

from pydantic import ConfigDict, Field, create_model

from distillgen.errors import ConfigError
from distillgen.marked import read_yaml, validate
from distillgen.objectives import objective_class, objectives
from distillgen.pipeline import System, Top, about_line
from distillgen.project import Project, read_text
from distillgen.prompt import Prompt
from distillgen.stages import stage_class, stage_kinds
from distillgen.stages.filter import options_of
from distillgen.teachers import teacher_class, teacher_names


def pipelines(project: Project) -> list[dict[str, Any]]:
    """Name, what it makes, and its place among the published systems."""

    def described(name: str) -> dict[str, Any]:
        path = project.find("pipelines", name, ".yaml")
        text = read_text(path)
        data, places = read_yaml(text, path)
        given = data.get("system") if isinstance(data, dict) else None
        system = validate(System, given, what="'system'", places=places, place=("system",))
        return {"about": about_line(text), **system.model_dump()}

    return [{**System().model_dump(), **entry} for entry in _listed(project.names("pipelines", ".yaml"), described)]


def prompts(project: Project) -> list[dict[str, Any]]:
    """Name, what it asks for, its inputs and form."""

    def described(name: str) -> dict[str, Any]:
        prompt = Prompt.load(name, project)
        return {"about": prompt.front.about, "inputs": sorted(prompt.inputs), "output": prompt.form.kind}

    return _listed(project.names("prompts", ".md"), described)


def filters(project: Project) -> list[dict[str, Any]]:
    """Name, what it drops, what it costs, the paper it is from, and its options with their defaults.

    All but the options are read where a person writes them: the factory's first sentence, the one that begins with "Costs",
    and what the file's docstring names, with a year, in brackets.
    """

    def described(name: str) -> dict[str, Any]:
        factory = project.filter(name)
        sentences = re.split(r"(?<=\.)\s+(?=[A-Z`])", inspect.getdoc(factory) or "")
        cost = next((s for s in sentences if s.startswith("Costs ")), "")
        source = re.search(r"\(([^()]*\b(?:19|20)\d\d\b[^()]*)\)", factory.__globals__.get("__doc__") or "")
        options = {n: None if f.is_required() else f.default for n, f in options_of(factory).model_fields.items()}
        told = {"about": sentences[0], "cost": cost[6:].rstrip("."), "source": source[1] if source else ""}
        return {**{key: " ".join(text.split()) for key, text in told.items()}, "options": options}

    return _listed(project.names("filters", ".py"), described)


def filter_table(project: Project) -> str:
    """The filters as a Markdown table, for the README."""
    rows = [(f"`{entry['name']}`", *(entry.get(key, "") for key in ("about", "cost", "source"))) for entry in filters(project)]
    head = [("filter", "what it does", "cost", "source"), ("---",) * 4]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in [*head, *rows])


def _listed(names: Iterable[str], described: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
    """An entry for each name; a broken file is listed with its mistake."""
    entries = []
    for name in names:
        try:
            entries.append({"name": name, **described(name)})
        except ConfigError as error:
            entries.append({"name": name, "about": f"cannot be read: {error}"})
    return entries


def _training(objective: str) -> Any:
    """The options of the stage train, with those of an objective."""
    make: Any = create_model
    own = {name: (option.annotation, option) for name, option in objective_class(objective).model_fields.items()}
    of = (Literal[objective], "sft") if objective == "sft" else (Literal[objective], ...)
    return make(f"train: {objective}", __base__=stage_class("train"), __cls_kwargs__={"extra": "forbid"}, objective=of, **own)


def json_schema(project: Project) -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of pipeline files, by which editors complete and check them."""
    make: Any = create_model  # from types that are known only now
    one_of: Any = Union
    forbid = ConfigDict(extra="forbid")
    label = (str | None, Field(None, description="what scores and drops are called; default: the filter's name"))
    filters: list[Any] = []
    for name in project.names("filters", ".py"):
        options = make(name, __base__=options_of(project.filter(name)), name=label)
        filters += [Literal[name], make(f"{name}: …", __config__=forbid, options=(options | None, Field(alias=name)))]
    forms: dict[str, Any] = {kind: stage_class(kind) for kind in stage_kinds()}
    forms["filter"] = one_of[GenericAlias(list, one_of[tuple(filters)]), dict[str, Any]]
    forms["train"] = one_of[tuple(_training(name) for name in objectives())]
    stages = [make(f"{kind}: …", __config__=forbid, **{kind: (form, ...)}) for kind, form in forms.items()]
    specs = {name: teacher_class(name).spec_type for name in teacher_names()}
    models = [make(spec.__name__, __base__=spec, provider=(Literal[name], ...)) for name, spec in specs.items()]
    models_type, stages_type = GenericAlias(dict, (str, one_of[tuple(models)])), GenericAlias(list, one_of[tuple(stages)])
    top = make("a distillgen pipeline", __base__=Top, models=(models_type, {}), stages=(stages_type, Field(min_length=1)))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **top.model_json_schema()}
