"""A pipeline file becomes a checked plan: every name, option, field, prompt and file resolved before anything is paid for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from distillgen.errors import ConfigError, did_you_mean
from distillgen.marked import Lines, Place, line_of, read_yaml, validate
from distillgen.project import Project, file_sha256, home, project_of, read_text
from distillgen.prompt import Sampling
from distillgen.record import Record, digest
from distillgen.stages import Checking, Estimate, Stage, stage_class
from distillgen.stages.source import Source
from distillgen.teachers import Spec, teacher_class

_ENV = re.compile(r"\$\{(\w+)\}")
_NAME = re.compile(r"[A-Za-z][\w-]*")


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
            "files": self.files(),
        }

    def fingerprints(self, limit: int | None) -> list[str]:
        """For each stage, a digest of all that its output depends on besides the ledger."""
        files, prints, before = self.files(), [], digest([self.seed, limit])
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
        path, data, lines, about, name = Path("pipeline"), dict(pipeline), Lines(), "", "pipeline"
        root = Path.cwd()
    else:
        path = find(str(pipeline))
        text = read_text(path)
        data, lines = read_yaml(text, path)
        about, name = about_line(text), path.stem
        shipped = path.resolve().is_relative_to(home("pipelines").resolve())
        root = Path.cwd() if shipped else project_of(path)
    if not isinstance(data, dict):
        raise ConfigError("a pipeline is a mapping with the keys version, models and stages", path=path, line=1)
    trusted = _override(data, sets, path)
    try:
        return _checked(data, lines, path, name, about, Project(root, frozenset(trusted)), need_env)
    except ConfigError as error:
        if sets and error.path == path:
            typed = " --set ".join(map(_typed, sets))
            raise ConfigError(f"{error.message} (with --set {typed})", path=path, line=error.line) from error
        raise


def about_line(text: str) -> str:
    """What a pipeline makes: its first comment line, without its own name."""
    first = text.split("\n", 1)[0]
    if not first.startswith("#"):
        return ""
    return re.sub(r"^#\s*(\S+\.ya?ml:\s*)?", "", first).strip()


def _checked(
    data: dict[str, Any], lines: Lines, path: Path, name: str, about: str, project: Project, need_env: bool
) -> Pipeline:
    top = validate(_Top, data, what="the pipeline", path=path, lines=lines)
    missing: list[str] = []
    models = {
        label: _model(label, raw, lines, path, project, None if need_env else missing) for label, raw in top.models.items()
    }
    stages = tuple(_stages(top.stages, lines, path))
    if not isinstance(stages[0], Source):
        raise ConfigError(f"the first stage must be a source, not '{stages[0].kind}'", path=path, line=lines.get(("stages", 0)))
    given = Checking(frozenset(), models, project, _capabilities(models))
    reached = []
    for i, stage in enumerate(stages):
        here: Place = ("stages", i, stage.kind)
        try:
            given = replace(given, fields=stage.check(given))
        except ConfigError as error:
            if error.path and str(error.path) != "template":
                raise
            line = lines.get((*here, "template")) if error.path else _line_of_quoted(error.message, top.stages[i], here, lines)
            raise ConfigError(f"stage '{stage.name}': {error.message}", path=path, line=line) from error
        reached.append(given.fields)
    _labels_are_unique(stages, path, lines)
    shown = {label: _shown(raw, models[label]) for label, raw in top.models.items()}
    return Pipeline(
        name, path, about, top.seed, top.system, models, shown, stages, project, tuple(dict.fromkeys(missing)), tuple(reached)
    )


def _model(label: str, raw: Mapping[str, Any], lines: Lines, path: Path, project: Project, missing: list[str] | None) -> Spec:
    place: Place = ("models", label)
    what = f"model '{label}'"
    if not _NAME.fullmatch(label):
        raise ConfigError(f"{what}: a name is made of letters, digits, '-' and '_'", path=path, line=line_of(lines, place))
    if "provider" not in raw:
        raise ConfigError(f"{what} needs 'provider': openai, embedded or scripted", path=path, line=line_of(lines, place))
    try:
        cls = teacher_class(str(raw["provider"]))
    except ConfigError as error:
        raise ConfigError(f"{what}: {error.message}", path=path, line=line_of(lines, (*place, "provider"))) from error

    hidden = {str(s): "(withheld)" for s in _texts([raw.get("api_key"), raw.get("headers"), _password(raw.get("base_url"))])}

    for option in Sampling.model_fields:
        if _ENV.search(str(raw.get(option, ""))):  # sampling is kept with every answer, and ${…} never is
            message = f"{what}: '{option}' cannot come from the environment; write its value, or use --set {label}.{option}=…"
            raise ConfigError(message, path=path, line=line_of(lines, (*place, option)))

    def filled(value: Any, where: Place) -> Any:
        if isinstance(value, dict):
            return {k: filled(v, (*where, k)) for k, v in value.items()}
        if isinstance(value, list):
            return [filled(v, (*where, i)) for i, v in enumerate(value)]
        if not isinstance(value, str):
            return value
        for variable in _ENV.findall(value):
            if variable not in os.environ:
                if missing is None:
                    message = f"{what}: the environment variable {variable} is not set: export {variable}=…"
                    raise ConfigError(message, path=path, line=line_of(lines, where))
                missing.append(variable)
            elif os.environ[variable]:
                hidden[os.environ[variable]] = f"${{{variable}}}"
        return _ENV.sub(lambda m: os.environ.get(m.group(1), m.group(0)), value)

    options = filled(dict(raw), place)
    try:
        spec = validate(cls.spec_type, options, what=what, path=path, lines=lines, place=place)
        spec.check(project.root)
    except ConfigError as error:
        message, line = error.message, error.line
        if not error.path:
            message, line = f"{what}: {message}", _line_of_quoted(message, raw, place, lines)
        for value, shown in sorted(hidden.items(), key=lambda item: -len(item[0])):
            message = message.replace(value, shown) if len(value) > 6 else message
        raise ConfigError(message, path=error.path or path, line=line) from error
    return spec


def from_environment(value: Any) -> dict[str, str]:
    """The values that ${NAME} stands for anywhere in `value`, each with its ${NAME}; short ones are words, not secrets."""
    names = {name for text in _texts(value) for name in _ENV.findall(text)}
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


def _stages(raw: Sequence[Mapping[str, Any]], lines: Lines, path: Path) -> Iterator[Stage]:
    names: set[str] = set()
    for i, item in enumerate(raw):
        line = lines.get(("stages", i))
        if len(item) != 1:
            raise ConfigError(f"a stage has one key, its kind, not {sorted(item) or 'none'}", path=path, line=line)
        kind, options = next(iter(item.items()))
        place: Place = ("stages", i, kind)
        try:
            cls = stage_class(kind)
        except ConfigError as error:
            raise ConfigError(error.message, path=path, line=line) from error
        if kind == "filter" and isinstance(options, list):
            options = {"filters": options}
            lines.update({(*place, "filters", *p[3:]): n for p, n in list(lines.items()) if p[:3] == place and len(p) > 3})
        if not isinstance(options, dict) and options is not None:
            raise ConfigError(f"stage '{kind}' takes a mapping of options, not {options!r}", path=path, line=line)
        name = str((options or {}).get("name") or kind)
        try:
            stage = validate(cls, {**(options or {}), "name": name}, what=f"stage '{kind}'", path=path, lines=lines, place=place)
        except ConfigError as error:
            if error.line != line_of(lines, place):
                raise
            raise ConfigError(error.message, path=path, line=_line_of_quoted(error.message, item, place, lines)) from error
        if not _NAME.fullmatch(name):
            where = line_of(lines, (*place, "name"))
            raise ConfigError(f"stage name '{name}': a name is made of letters, digits, '-' and '_'", path=path, line=where)
        if name in names:
            raise ConfigError(f"stage '{name}' stands twice; name one of them: {kind}: {{name: …}}", path=path, line=line)
        names.add(name)
        yield stage


def _labels_are_unique(stages: Sequence[Stage], path: Path, lines: Lines) -> None:
    """Scores are kept by filter label, so that no two filters of a pipeline may share one."""
    seen: dict[str, str] = {}
    for i, stage in enumerate(stages):
        for entry in getattr(stage, "filters", ()):
            if entry.label in seen:
                raise ConfigError(
                    f"filter '{entry.label}' stands in '{seen[entry.label]}' and in '{stage.name}'; "
                    f"give one a name of its own: {entry.filter}: {{name: …}}",
                    path=path, line=lines.get(("stages", i)),
                )  # fmt: skip
            seen[entry.label] = stage.name


def _line_of_quoted(message: str, raw: Any, place: Place, lines: Lines) -> int | None:
    """The line of the first thing that a message quotes, among the keys and values at `place`; else of `place` itself."""
    found: dict[str, int] = {}

    def walk(value: Any, at: Place) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                found.setdefault(str(key), lines.get((*at, key), 0))
                walk(inner, (*at, key))
        elif isinstance(value, list):
            for i, inner in enumerate(value):
                walk(inner, (*at, i))
        else:
            found.setdefault(str(value), lines.get(at, 0))

    body = raw[place[-1]] if place[0] == "stages" else raw
    walk(body, place)
    for quoted in re.findall(r"'([^']+)'", message):
        inside = [line for text, line in found.items() if quoted in text and line and len(quoted) > 2]
        if found.get(quoted) or inside:
            return found.get(quoted) or inside[0]
    return line_of(lines, place)


def _capabilities(models: Mapping[str, Spec]) -> dict[str, frozenset[str]]:
    return {label: teacher_class(spec.provider).capabilities for label, spec in models.items()}


def _shown(raw: Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    """A model as it may be written: defaults filled in, ${ENV} as in the file, keys and headers withheld."""
    shown = {**spec.model_dump(exclude_none=True), **raw}
    if "api_key" in shown and not _ENV.fullmatch(str(shown["api_key"])):
        shown["api_key"] = "(withheld)"
    if shown.get("headers"):
        shown["headers"] = {k: v if _ENV.search(str(v)) else "(withheld)" for k, v in shown["headers"].items()}
    if "base_url" in shown:
        shown["base_url"] = re.sub(r"//[^/@]*@", "//(withheld)@", str(shown["base_url"])).split("?")[0]
    return shown


def _override(data: dict[str, Any], sets: Sequence[str], path: Path) -> list[str]:
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
            raise ConfigError(f"--set {_typed(given)}: {error.message}") from error
        if isinstance(value, str):
            trusted.append(value)
        target = _target(data, parts, given)
        for part in parts[1:-1] if target is not data else parts[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {_typed(given)}: '{part}' is not a mapping")
        target[parts[-1]] = value
        _refuse_shadowed(data, parts, given)
    return trusted


def _typed(given: str) -> str:
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
    raise ConfigError(f"--set {_typed(given)}: there is no model or stage '{parts[0]}'{hint}")


def _refuse_shadowed(data: Mapping[str, Any], parts: Sequence[str], given: str) -> None:
    """A model's option that every stage overrides would change nothing; say so instead."""
    if len(parts) != 2 or parts[0] not in (data.get("models") or {}):
        return
    users = [o for item in data.get("stages") or () for o in item.values() if isinstance(o, dict) and o.get("model") == parts[0]]
    if users and all(parts[1] in options for options in users):
        name = users[0].get("name") or "generate"
        remedy = f"use --set {name}.{given.split('.', 1)[1]}"
        raise ConfigError(f"--set {given} changes nothing: the stage sets '{parts[1]}' itself; {remedy}")
