"""The catalog: all pipelines, prompts and plug-ins with their options; and the JSON Schema of a pipeline
file.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from types import GenericAlias, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from distillgen.errors import ConfigError
from distillgen.flow.filter import described as docstring_of
from distillgen.flow.filter import options_of
from distillgen.flow.stage import Stage, stage_class
from distillgen.inference.endpoint import endpoint_class
from distillgen.inference.presets import preset_of, presets, with_preset
from distillgen.inference.sampling import Sampling
from distillgen.inference.spec import Spec
from distillgen.located_yaml import read_yaml, validate
from distillgen.networks.body import body_class
from distillgen.pipeline.load import System, Top, about_line
from distillgen.plugins import filter_factory, names, plugin_class
from distillgen.project import Project, read_text
from distillgen.prompting.prompt import Prompt
from distillgen.training.objective import objective_class
from distillgen.training.part import Chance, Loss, Part, Weight
from distillgen.training.score import Score


def pipelines(project: Project) -> list[dict[str, Any]]:
    """Return each pipeline's name, its description, and its place among the published systems."""

    def described(name: str) -> dict[str, Any]:
        path = project.find("pipelines", name, ".yaml")
        text = read_text(path)
        data, places = read_yaml(text, path)
        entry = data.get("system") if isinstance(data, dict) else None
        system = validate(System, entry, owner="'system'", places=places, place=("system",))
        return {"about": about_line(text), **system.model_dump()}

    return [
        {**System().model_dump(), **entry}
        for entry in _entries(project.names("pipelines", ".yaml"), described)
    ]


def prompts(project: Project) -> list[dict[str, Any]]:
    """Return each prompt's name, its description, its inputs and the form of its answer."""

    def described(name: str) -> dict[str, Any]:
        prompt = Prompt.load(name, project, continues=True)
        return {"about": prompt.front.about, "inputs": sorted(prompt.inputs), "output": prompt.form.kind}

    return _entries(project.names("prompts", ".md"), described)


def filters(project: Project) -> list[dict[str, Any]]:
    """Return each filter's name, its description, its cost, its paper, and its options with their defaults.

    The description is the first sentence of the factory's docstring, and the cost the sentence that begins
    with "Costs". The paper stands in brackets, with a year, in the docstring of the file.
    """

    def described(name: str) -> dict[str, Any]:
        factory = filter_factory(name, project)
        text, _ = docstring_of(factory)
        sentences = re.split(r"(?<=\.) (?=[A-Z`])", " ".join(text.split()))
        cost = next((s for s in sentences if s.startswith("Costs ")), "")
        source = re.search(r"\(([^()]*\b(?:19|20)\d\d\b[^()]*)\)", factory.__globals__.get("__doc__") or "")
        parts = {"about": sentences[0], "cost": cost[6:].rstrip("."), "source": source[1] if source else ""}
        entry = {key: " ".join(text.split()) for key, text in parts.items()}
        return {**entry, "text": text, "options": options(options_of(factory))}

    return _entries(names("filters", project), described)


def stages(project: Project) -> list[dict[str, Any]]:
    """Return each stage's name, its description, and its options, the sampling options among them."""

    def described(kind: str) -> dict[str, Any]:
        stage = stage_class(kind, project)
        return {**_declared(stage), "reads": stage.reads, "writes": stage.writes}

    return _entries(names("stages", project), described)


def providers(project: Project) -> list[dict[str, Any]]:
    """Return each provider's name, its description, and the options of its entries in `models`."""
    return _entries(
        names("teachers", project), lambda name: _declared(endpoint_class(name, project).spec_type)
    )


def objectives(project: Project) -> list[dict[str, Any]]:
    """Return each objective's name, its description, and its options besides those of the stage train."""
    return _entries(names("objectives", project), lambda name: _declared(objective_class(name, project)))


PARTS: Mapping[str, type[Part]] = {"loss": Loss, "weight": Weight, "chance": Chance}


def losses(project: Project) -> list[dict[str, Any]]:
    """Return the name, description and options of each loss, weight and chance."""

    def described(name: str) -> dict[str, Any]:
        part = plugin_class("losses", name, Part, project)
        kind = next(kind for kind, contract in PARTS.items() if issubclass(part, contract))
        return {**_declared(part), "gives": kind, "source": _source_of(part)}

    return _entries(names("losses", project), described)


def bodies(project: Project) -> list[dict[str, Any]]:
    """Return the name, description and options of each body of a network."""

    def described(name: str) -> dict[str, Any]:
        body = body_class(name, project)
        return {**_declared(body), "reads": body.reads}

    return _entries(names("bodies", project), described)


def scores(project: Project) -> list[dict[str, Any]]:
    """Return the name, description and options of each score of untrained students."""

    def described(name: str) -> dict[str, Any]:
        score = plugin_class("scores", name, Score, project)
        return {**_declared(score), "source": _source_of(score)}

    return _entries(names("scores", project), described)


def _source_of(declaration: type[BaseModel]) -> str:
    """Return the paper that the docstring of a class's file names in brackets, with its year."""
    text = " ".join((inspect.getdoc(inspect.getmodule(declaration)) or "").split())
    source = re.search(r"\(([^()]*\b(?:19|20)\d\d\b[^()]*)\)", text)
    return source[1] if source else ""


def manual(project: Project) -> list[dict[str, Any]]:
    """Return all plug-ins and prompts, each with its kind."""
    kinds = {
        "stage": stages,
        "provider": providers,
        "preset": preset_list,
        "objective": objectives,
        "loss": losses,
        "body": bodies,
        "score": scores,
        "filter": filters,
        "prompt": prompts,
    }
    return [{"kind": kind, **entry} for kind, entries in kinds.items() for entry in entries(project)]


def preset_list(project: Project) -> list[dict[str, Any]]:
    """Return the name of each preset, and the options that it is short for."""

    def described(name: str) -> dict[str, Any]:
        filled_in = with_preset({"provider": name}, project)
        options_text = ", ".join(
            f"{option}: [{', '.join(value)}]" if isinstance(value, list) else f"{option}: {value}"
            for option, value in filled_in.items()
        )
        return {"about": f"provider: {name} fills in {{{options_text}}}."}

    return _entries([name for name in presets() if preset_of(name, project)], described)


def _declared(declaration: type[BaseModel]) -> dict[str, Any]:
    text = inspect.getdoc(declaration) or ""
    about = re.split(r"(?<=\.)\s", text, maxsplit=1)[0]
    return {"about": " ".join(about.split()), "text": text, "options": options(declaration)}


def options(declaration: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """Return each option's type in words, default, whether it is required, and description.

    Required options come first; those that a contract declares for many classes come last.
    """
    declared = {}
    contracts = [
        contract for contract in (Stage, Sampling, Spec, Part, Loss) if issubclass(declaration, contract)
    ]
    shared = {name for contract in contracts for name in contract.model_fields}

    def place(field: tuple[str, FieldInfo]) -> tuple[bool, bool]:
        return field[0] in shared, not field[1].is_required()

    for name, option in sorted(declaration.model_fields.items(), key=place):
        if name == "when" and issubclass(declaration, Stage) and not declaration.takes_condition():
            continue
        default = option.get_default(call_default_factory=True)
        declared[option.alias or name] = {
            "type": _type(option.annotation, option.metadata),
            "default": None if default is PydanticUndefined else _plain(default),
            "required": option.is_required(),
            "description": option.description or "",
        }
        if not _marked(option.metadata) and (inner := _mapping_of(option.annotation)):
            declared[option.alias or name]["options"] = options(inner)
    return declared


def _mapping_of(annotation: Any) -> type[BaseModel] | None:
    """Return the class that declares the keys of an option's mapping, or of the mappings in its list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is Annotated and _marked(get_args(annotation)[1:]):
        return None
    return next((inner for part in get_args(annotation) if (inner := _mapping_of(part))), None)


def _plain(value: Any) -> Any:
    """A default as YAML has it."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_defaults=True)
    return [*value] if isinstance(value, tuple | set | frozenset) else value


_NAMES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    dict: "mapping",
    Any: "anything",
}
NAME_KINDS = {
    "field": "field name",
    "model": "model name",
    "prompt": "prompt name",
    "file": "file in the project",
    "script": "name, folder or file.py:function",
    "number": "name of a score or of a field with a number",
    "template": "template",
    "filters": "list of filters",
    "losses": "loss, weight or chance with its options",
}
_PLURAL = ("text", "number", "whole number", "field name", "model name", "prompt name", "mapping")
_BOUNDS = {
    "ge": "at least",
    "gt": "more than",
    "le": "at most",
    "lt": "less than",
    "min_length": "entries: at least",
}


def _type(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Return a type in words, with its bounds."""
    if get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
    kind_of_name = _marked(metadata)
    bounds = [
        f"{words} {value}"
        for mark in metadata
        for bound, words in _BOUNDS.items()
        if (value := getattr(mark, bound, None)) is not None
    ]
    return ", ".join([kind_of_name or _words(annotation), *bounds])


def _marked(metadata: Iterable[Any]) -> str:
    """Return the words for a type that is marked as the name of something; empty text for any other."""
    return next((NAME_KINDS[mark] for mark in metadata if isinstance(mark, str) and mark in NAME_KINDS), "")


def _words(annotation: Any) -> str:
    """Return a type without its bounds in words; the keys of a mapping are options of their own."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(_type(part) for part in inside if part is not type(None))
    if origin is Literal:
        return " or ".join(str(value) for value in inside if value != "")
    if origin is list or origin is tuple:
        inner = _type(inside[0]) if inside else "anything"
        if inner == "anything":
            return "list"
        return f"list of {inner}s" if inner in _PLURAL else f"list of {inner}"
    if origin is dict:
        key, value = map(_type, inside)
        return "mapping" if value == "anything" else f"mapping of {key} to {value}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def filter_table(project: Project) -> str:
    """Return the filters as a Markdown table."""
    rows = [
        (f"`{entry['name']}`", *(entry.get(key, "") for key in ("about", "cost", "source")))
        for entry in filters(project)
    ]
    head = [("filter", "what it does", "cost", "source"), ("---",) * 4]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in [*head, *rows]
    )


def _entries(names: Iterable[str], describe: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return an entry for each name. The entry of a broken file has its error."""
    entries = []
    for name in names:
        try:
            entries.append({"name": name, **describe(name)})
        except ConfigError as error:
            entries.append({"name": name, "about": f"cannot be read: {error}"})
    return entries


def _training(objective: str, project: Project) -> Any:
    """Return the model of the stage train with the options of an objective."""
    make: Any = create_model
    declared = objective_class(objective, project).model_fields
    fields = {name: (option.annotation, option) for name, option in declared.items()}
    of = (Literal[objective], "sft") if objective == "sft" else (Literal[objective], ...)
    return make(
        f"train: {objective}",
        __base__=stage_class("train", project),
        __cls_kwargs__={"extra": "forbid"},
        objective=of,
        **fields,
    )


def json_schema(project: Project) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of pipeline files; editors complete and check with it."""
    make: Any = create_model  # the types are known only at run time
    one_of: Any = Union
    forbid = ConfigDict(extra="forbid")
    label = (
        str | None,
        Field(None, description="what scores and drops are called; default: the filter's name"),
    )
    filters: list[Any] = []
    for name in names("filters", project):
        options = make(name, __base__=options_of(filter_factory(name, project)), name=label)
        filters += [
            Literal[name],
            make(f"{name}: …", __config__=forbid, options=(options | None, Field(alias=name))),
        ]
    forms: dict[str, Any] = {kind: stage_class(kind, project) for kind in names("stages", project)}
    forms["filter"] = one_of[GenericAlias(list, one_of[tuple(filters)]), dict[str, Any]]
    forms["train"] = one_of[tuple(_training(name, project) for name in names("objectives", project))]
    stages = [make(f"{kind}: …", __config__=forbid, **{kind: (form, ...)}) for kind, form in forms.items()]
    specs = {name: endpoint_class(name, project).spec_type for name in names("teachers", project)}
    models = [
        make(spec.__name__, __base__=spec, provider=(Literal[name], ...)) for name, spec in specs.items()
    ]
    models_type, stages_type = (
        GenericAlias(dict, (str, one_of[tuple(models)])),
        GenericAlias(list, one_of[tuple(stages)]),
    )
    top = make(
        "a distillgen pipeline",
        __base__=Top,
        models=(models_type, {}),
        stages=(stages_type, Field(min_length=1)),
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **top.model_json_schema()}
