"""A pipeline file becomes a checked plan: every name, option, field, prompt and file resolved before anything is paid for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from distillgen.errors import ConfigError, did_you_mean
from distillgen.marked import NAME, VARIABLE, Place, Places, read_yaml, validate
from distillgen.overrides import override, typed
from distillgen.project import Project, file_sha256, home, project_of, read_text
from distillgen.prompt import Sampling
from distillgen.record import Record, digest
from distillgen.stages import Checking, Estimate, Stage, stage_class
from distillgen.stages.source import Source
from distillgen.teachers import Spec, teacher_class


class System(BaseModel):
    """Where a recipe stands among the published systems (Xu et al. 2024, A Survey on Knowledge Distillation of LLMs)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: str = ""
    elicitation: Literal["", "labeling", "expansion", "curation", "feature", "feedback", "self-knowledge"] = ""
    algorithm: str = ""
    skill: str = ""
    vertical: str = ""
    access: Literal["", "text", "signals", "weights"] = Field("", description="what the recipe needs of its teacher")


class _Top(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = Field(description="the version of this format: 1")
    seed: int = Field(0, description="of every draw that distillgen makes")
    system: System = System()
    models: dict[str, dict[str, Any]] = Field(default_factory=dict)
    stages: list[dict[str, Any]] = Field(min_length=1, description="a list of stages, the first a source")


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline. `shown_models` is what may be written: ${ENV} as in the file, literal keys withheld."""

    name: str
    path: Path
    about: str
    seed: int
    system: System
    models: Mapping[str, Spec]
    shown_models: Mapping[str, Mapping[str, Any]]
    stages: tuple[Stage, ...]
    project: Project
    missing_env: tuple[str, ...]
    fields: tuple[frozenset[str], ...]

    @property
    def source(self) -> Source:
        """The first stage."""
        first = self.stages[0]
        assert isinstance(first, Source)
        return first

    @cached_property
    def files(self) -> dict[str, str]:
        """SHA-256 of every prompt, filter and data file that the output depends on."""
        found = {name: path for stage in self.stages for name, path in stage.files(self.project).items()}
        return {name: file_sha256(path) for name, path in sorted(found.items())}

    def lock(self) -> dict[str, Any]:
        """The resolved pipeline: what `pipeline.lock.yaml` holds."""
        from distillgen import __version__

        stages = [{s.kind: s.model_dump(exclude_none=True, exclude_unset=False, by_alias=True)} for s in self.stages]
        return {
            "distillgen": __version__,
            "pipeline": self.name,
            "path": str(self.path),
            "about": self.about,
            "seed": self.seed,
            "system": self.system.model_dump(),
            "models": {name: dict(shown) for name, shown in self.shown_models.items()},
            "stages": stages,
            "files": self.files,
        }

    def fingerprints(self, limit: int | None) -> list[str]:
        """For each stage, a digest of all that its output depends on besides the ledger."""
        files, prints, before = self.files, [], digest([self.seed, limit])
        for stage in self.stages:
            own = {name: files[name] for name in stage.files(self.project)}
            model = self.shown_models.get(getattr(stage, "model", ""), {})
            before = digest([before, stage.kind, stage.model_dump(), own, model])
            prints.append(before)
        return prints

    def plan(self, limit: int | None = None) -> list[tuple[Stage, Estimate]]:
        """Each stage with the bounds of what it asks and costs. Asks nothing."""
        given = Checking(frozenset(), self.models, self.project, _capabilities(self.models))
        samples: list[Record] = self.source.samples(self.project, min(200, limit or 200))
        plan, before = [], Estimate(None)
        for stage, fields in zip(self.stages, self.fields, strict=True):
            before = stage.estimate(before, samples, replace(given, fields=fields))
            if stage is self.source and limit is not None:
                before = replace(before, rows=limit if before.rows is None else min(before.rows, limit))
            plan.append((stage, before))
        return plan


def find(pipeline: str) -> Path:
    """The file of a path or of a name, the user's before the shipped."""
    path = Path(pipeline)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        near = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(f"there is no file '{pipeline}'{did_you_mean(path.name, near) if near else ''}")
    return Project(Path.cwd()).find("pipelines", pipeline, ".yaml")


def load(pipeline: str | Path | Mapping[str, Any], sets: Sequence[str] = (), *, need_env: bool = True) -> Pipeline:
    """Read and check a pipeline from a path, a name, or the same structure built in Python.

    `sets` are dotted overrides, such as `teacher.temperature=0.3`. Raises ConfigError for the first mistake, with its
    file and line. Without `need_env`, variables that are not set are listed instead of refused.
    """
    if isinstance(pipeline, Mapping):
        path, data, about, name = Path("pipeline"), dict(pipeline), "", "pipeline"
        places = Places(path)
        root = Path.cwd()
    else:
        path = find(str(pipeline))
        text = read_text(path)
        data, places = read_yaml(text, path)
        about, name = about_line(text), path.stem
        shipped = path.resolve().is_relative_to(home("pipelines").resolve())
        root = Path.cwd() if shipped else project_of(path)
    if not isinstance(data, dict):
        raise ConfigError("a pipeline is a mapping with the keys version, models and stages", path=path, line=1)
    trusted = override(data, sets)
    try:
        return _checked(data, places, path, name, about, Project(root, frozenset(trusted)), need_env)
    except ConfigError as error:
        if sets and error.path == path:
            shown = " --set ".join(map(typed, sets))
            raise ConfigError(f"{error.message} (with --set {shown})", path=path, line=error.line) from error
        raise


def about_line(text: str) -> str:
    """What a pipeline makes: its first comment line, without its own name."""
    first = text.split("\n", 1)[0]
    if not first.startswith("#"):
        return ""
    return re.sub(r"^#\s*(\S+\.ya?ml:\s*)?", "", first).strip()


def _checked(
    data: dict[str, Any], places: Places, path: Path, name: str, about: str, project: Project, need_env: bool
) -> Pipeline:
    top = validate(_Top, data, what="the pipeline", places=places)
    missing: list[str] = []
    models = {label: _model(label, raw, places, project, None if need_env else missing) for label, raw in top.models.items()}
    stages = tuple(_stages(top.stages, places))
    if not isinstance(stages[0], Source):
        raise places.wrong(f"the first stage must be a source, not '{stages[0].kind}'", "stages", 0)
    given = Checking(frozenset(), models, project, _capabilities(models))
    reached = []
    for i, stage in enumerate(stages):
        here: Place = ("stages", i, stage.kind)
        try:
            given = replace(given, fields=stage.check(given))
        except ConfigError as error:
            if error.path and str(error.path) != "template":
                raise
            where = (*here, "template") if error.path else _quoted(error.message, top.stages[i], here, places)
            raise places.wrong(f"stage '{stage.name}': {error.message}", *where) from error
        reached.append(given.fields)
    _labels_are_unique(stages, places)
    shown = {label: _shown(raw, models[label]) for label, raw in top.models.items()}
    return Pipeline(
        name, path, about, top.seed, top.system, models, shown, stages, project, tuple(dict.fromkeys(missing)), tuple(reached)
    )


def _model(label: str, raw: Mapping[str, Any], places: Places, project: Project, missing: list[str] | None) -> Spec:
    place: Place = ("models", label)
    what = f"model '{label}'"
    if not NAME.fullmatch(label):
        raise places.wrong(f"{what}: a name is made of letters, digits, '-' and '_'", *place)
    if "provider" not in raw:
        raise places.wrong(f"{what} needs 'provider': openai, embedded, vllm or scripted", *place)
    try:
        cls = teacher_class(str(raw["provider"]))
    except ConfigError as error:
        raise places.wrong(f"{what}: {error.message}", *place, "provider") from error

    hidden = {str(s): "(withheld)" for s in _texts([raw.get("api_key"), raw.get("headers"), _password(raw.get("base_url"))])}
    hidden |= from_environment(raw)

    for option in Sampling.model_fields:
        if VARIABLE.search(str(raw.get(option, ""))):  # sampling is kept with every answer, and ${…} never is
            message = f"{what}: '{option}' cannot come from the environment; write its value, or use --set {label}.{option}=…"
            raise places.wrong(message, *place, option)

    def filled(value: Any, where: Place) -> Any:
        if isinstance(value, dict):
            return {k: filled(v, (*where, k)) for k, v in value.items()}
        if isinstance(value, list):
            return [filled(v, (*where, i)) for i, v in enumerate(value)]
        if not isinstance(value, str):
            return value
        for variable in VARIABLE.findall(value):
            if variable not in os.environ:
                if missing is None:
                    message = f"{what}: the environment variable {variable} is not set: export {variable}=…"
                    raise places.wrong(message, *where)
                missing.append(variable)
        return VARIABLE.sub(lambda m: os.environ.get(m.group(1), m.group(0)), value)

    options = filled(dict(raw), place)
    try:
        spec = validate(cls.spec_type, options, what=what, places=places, place=place)
        spec.check(project.root)
    except ConfigError as error:
        message, line = error.message, error.line
        if not error.path:
            message, line = f"{what}: {message}", places.line(*_quoted(message, raw, place, places))
        for value, shown in sorted(hidden.items(), key=lambda item: -len(item[0])):
            message = message.replace(value, shown) if len(value) > 6 else message
        raise ConfigError(message, path=error.path or places.path, line=line) from error
    return spec


def from_environment(value: Any) -> dict[str, str]:
    """The values that ${NAME} stands for anywhere in `value`, each with its ${NAME}; short ones are words, not secrets."""
    names = {name for text in _texts(value) for name in VARIABLE.findall(text)}
    return {os.environ[name]: f"${{{name}}}" for name in names if len(os.environ.get(name, "")) > 6}


def _texts(value: Any) -> Iterator[Any]:
    """Every word of every text in a value."""
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(inner)
    if isinstance(value, (str, int)):
        yield from (str(value), *str(value).split())


def _password(url: Any) -> str | None:
    found = re.search(r"//[^/@]*:([^/@]*)@", str(url))
    return found[1] if found else None


def _stages(raw: Sequence[Mapping[str, Any]], places: Places) -> Iterator[Stage]:
    names: set[str] = set()
    for i, item in enumerate(raw):
        if len(item) != 1:
            raise places.wrong(f"a stage has one key, its kind, not {sorted(item) or 'none'}", "stages", i)
        kind, options = next(iter(item.items()))
        place: Place = ("stages", i, kind)
        try:
            cls = stage_class(kind)
        except ConfigError as error:
            raise places.wrong(error.message, "stages", i) from error
        if kind == "filter" and isinstance(options, list):
            options = {"filters": options}
            inner = {p: n for p, n in places.lines.items() if p[:3] == place and len(p) > 3}
            places.lines.update({(*place, "filters", *p[3:]): n for p, n in inner.items()})
        if not isinstance(options, dict) and options is not None:
            raise places.wrong(f"stage '{kind}' takes a mapping of options, not {options!r}", "stages", i)
        name = str((options or {}).get("name") or kind)
        try:
            stage = validate(cls, {**(options or {}), "name": name}, what=f"stage '{kind}'", places=places, place=place)
        except ConfigError as error:
            if error.line != places.line(*place):
                raise
            raise places.wrong(error.message, *_quoted(error.message, item, place, places)) from error
        if not NAME.fullmatch(name):
            raise places.wrong(f"stage name '{name}': a name is made of letters, digits, '-' and '_'", *place, "name")
        if name in names:
            raise places.wrong(f"stage '{name}' stands twice; name one of them: {kind}: {{name: …}}", "stages", i)
        names.add(name)
        yield stage


def _labels_are_unique(stages: Sequence[Stage], places: Places) -> None:
    """Scores are kept by filter label, so that no two filters of a pipeline may share one."""
    seen: dict[str, str] = {}
    for i, stage in enumerate(stages):
        for entry in getattr(stage, "filters", ()):
            if entry.label in seen:
                message = f"filter '{entry.label}' stands in '{seen[entry.label]}' and in '{stage.name}'"
                raise places.wrong(f"{message}; give one a name of its own: {entry.filter}: {{name: …}}", "stages", i)
            seen[entry.label] = stage.name


def _quoted(message: str, raw: Any, place: Place, places: Places) -> Place:
    """The place of the first thing that a message quotes, among the keys and values at `place`; else `place` itself."""
    found: dict[str, Place] = {}

    def walk(value: Any, at: Place) -> None:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
            if isinstance(value, dict) and (*at, key) in places.lines:
                found.setdefault(str(key), (*at, key))
            walk(inner, (*at, key))
        if not isinstance(value, (dict, list)) and at in places.lines:
            found.setdefault(str(value), at)

    walk(raw[place[-1]] if place[0] == "stages" else raw, place)
    for quoted in re.findall(r"'([^']+)'", message):
        inside = [at for text, at in found.items() if quoted in text and len(quoted) > 2]
        if quoted in found or inside:
            return found.get(quoted) or inside[0]
    return place


def _capabilities(models: Mapping[str, Spec]) -> dict[str, frozenset[str]]:
    return {label: teacher_class(spec.provider).capabilities for label, spec in models.items()}


def _shown(raw: Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    """A model as it may be written: defaults filled in, ${ENV} as in the file, keys and headers withheld."""
    shown = {**spec.model_dump(exclude_none=True), **raw}
    if "api_key" in shown and not VARIABLE.fullmatch(str(shown["api_key"])):
        shown["api_key"] = "(withheld)"
    if shown.get("headers"):
        shown["headers"] = {k: v if VARIABLE.search(str(v)) else "(withheld)" for k, v in shown["headers"].items()}
    if "base_url" in shown:
        shown["base_url"] = re.sub(r"//[^/@]*@", "//(withheld)@", str(shown["base_url"])).split("?")[0]
    return shown
