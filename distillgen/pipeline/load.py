"""Load a pipeline file: check every name, option, field, prompt and file before anything is paid for."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from distillgen.errors import ConfigError, UserCodeError, did_you_mean
from distillgen.extras import need
from distillgen.flow.condition import estimate_of
from distillgen.flow.stage import BoundStage, CheckContext, Estimate, Stage
from distillgen.flow.stage_list import bind_stages
from distillgen.inference.endpoint import endpoint_class
from distillgen.inference.places import SCHEMES, Place, place_beside
from distillgen.inference.presets import with_preset
from distillgen.inference.sampling import Sampling
from distillgen.inference.spec import Spec
from distillgen.located_yaml import NAME, VARIABLE, Places, read_yaml, validate
from distillgen.pipeline.card_options import Statement
from distillgen.pipeline.overrides import fitted, override, shown_set, typed
from distillgen.plugins import NOUNS, find, hiding
from distillgen.privacy import name_of, public
from distillgen.project import Project, file_sha256, from_here, project_around, project_of, read_text
from distillgen.record import digest
from distillgen.rows.from_python import ROWS, with_rows
from distillgen.stages.source import BoundSource

UNANSWERED = ("embed", "score")  # kinds of stages for which a model writes nothing


class System(BaseModel):
    """Where a recipe stands among the published systems.

    `elicitation` has the classes of Xu et al. 2024, A Survey on Knowledge Distillation of LLMs, and
    `distillation` those of Fang et al. 2025, Knowledge Distillation and Dataset Distillation of LLMs. Of the
    latter, latent regularisation is left out: it makes images.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: str = Field("", description="paper that the recipe implements")
    elicitation: Literal["", "labeling", "expansion", "curation", "feature", "feedback", "self-knowledge"] = (
        Field("", description="how the teacher is made to give what it knows")
    )
    distillation: Literal["", "selection", "gradient matching", "generative synthesis", "multi-teacher"] = (
        Field("", description="how the recipe makes a small data set do the work of a large one, if it does")
    )
    algorithm: str = Field("", description="how the student learns from it")
    skill: str = Field("", description="what the student learns to do")
    vertical: str = Field("", description="domain, such as law or medicine")
    access: Literal["", "text", "signals", "weights"] = Field(
        "", description="what the recipe needs of its teacher: texts, signals (log-probabilities) or weights"
    )


class Top(BaseModel):
    """A pipeline file as written. The entries of `models` and `stages` are checked by their own classes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = Field(description="version of the file format: 1")
    seed: int = Field(
        0,
        description="seed of every random draw that distillgen makes; a `seed` of a stage, of a filter or "
        "among sampling options is added to it",
    )
    system: System = Field(System(), description="place of the recipe among the published systems")
    card: Statement = Field(Statement(), description="statements for the card of the data set")
    ledger: str = Field(
        "",
        description="place of the answers: a SQLite file, or a PostgreSQL database as "
        "postgresql://USER@HOST/NAME; ${NAME} is replaced by an environment variable. Default: the project's "
        "runs/ledger.sqlite3",
    )
    models: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="models that stages ask, each under its name"
    )
    stages: list[dict[str, Any]] = Field(
        min_length=1, description="list of stages in their order, the first a source"
    )


class Done(NamedTuple):
    """The progress of a stage in an earlier run of the same pipeline.

    `share` is the share of the source rows that have left the stage; `kept`, the records that it kept once it
    is complete; `met`, the share of the records so far for which its condition held, if it has one.
    """

    share: float
    kept: int | None
    met: float | None = None

    def taken_off(self, estimate: Estimate) -> Estimate:
        """Return the bounds of the remaining work."""
        counts = {name: getattr(estimate, name) for name in ("requests", "input_tokens", "output_tokens")}
        remaining: dict[str, Any] = {
            n: None if c is None else math.ceil(c * (1 - self.share)) for n, c in counts.items()
        }
        if estimate.max_cost_usd is not None:
            remaining["max_cost_usd"] = estimate.max_cost_usd * (1 - self.share)
        if self.kept is not None:
            remaining["rows"] = self.kept
        return replace(estimate, **remaining)


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline. `shown_models` can be published: with ${ENV} as in the file, without keys."""

    name: str
    path: Path
    about: str
    seed: int
    system: System
    card: Statement
    models: Mapping[str, Spec]
    shown_models: Mapping[str, dict[str, Any]]
    bound_stages: tuple[BoundStage, ...]
    project: Project
    missing_env: tuple[str, ...]
    sets: tuple[str, ...] = ()
    """The overrides, without secrets."""
    ledger: str = ""
    """The place of the answers, with ${ENV} as in the file."""
    notes: tuple[str, ...] = ()
    """Notes for the user: options that `--set` left out, plug-ins that hide others."""

    @property
    def file(self) -> Path | None:
        """The file that a message names; None for a pipeline that was built in Python."""
        return self.path if self.path.suffix else None

    def ledger_place(self) -> Place | None:
        """Return the place of the answers that the pipeline names, or None."""
        text = VARIABLE.sub(lambda variable: os.environ.get(variable[1], variable[0]), self.ledger)
        return place_beside(self.project.root, text) if text else None

    def run_directory(self, name: str = "") -> Path:
        """Return the default directory of a run."""
        return from_here(self.project.root / "runs" / (name or self.name))

    @cached_property
    def _functions(self) -> str:
        """An identity of the filters that Python code hands over, which have no file: new in each call."""
        return uuid4().hex

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages with their options."""
        return tuple(bound.stage for bound in self.bound_stages)

    @cached_property
    def environment(self) -> dict[str, str]:
        """The values that models and the ledger take from the environment, each with its ${NAME}."""
        return _from_environment([self.shown_models, self.ledger])

    @property
    def source(self) -> BoundSource:
        """The first stage."""
        return cast(BoundSource, self.bound_stages[0])

    def made_models(self, directory: Path = Path()) -> dict[str, Spec]:
        """Return the models that stages leave in a run's directory, by the names under which later stages ask
        them.
        """
        return {name: spec for bound in self.bound_stages for name, spec in bound.makes(directory).items()}

    @cached_property
    def files(self) -> dict[str, str]:
        """SHA-256 of every prompt, filter and data file that the output depends on."""
        paths = {name: path for bound in self.bound_stages for name, path in self._files_of(bound).items()}
        return {name: file_sha256(path) for name, path in sorted(paths.items())}

    def _files_of(self, bound: BoundStage) -> dict[str, Path]:
        """Return the files that a stage's output depends on, with the code of its models' providers."""
        models = [self.models[name] for name in bound.models if name in self.models]
        code = [find("teachers", model.provider, self.project).files for model in models]
        return {name: path for files in (*code, bound.all_files) for name, path in files.items()}

    def lock(self) -> dict[str, Any]:
        """Return the content of `pipeline.lock.yaml`: the resolved pipeline, without secrets."""
        from distillgen import __version__

        resolved = {
            "distillgen": __version__,
            "pipeline": self.name,
            "path": str(self.path.resolve()) if self.path.exists() else str(self.path),
            "about": self.about,
            "seed": self.seed,
            "system": self.system.model_dump(),
            "card": self.card.model_dump(exclude_defaults=True),
            "models": dict(self.shown_models),
            "stages": [
                {stage.kind: stage.model_dump(exclude_none=True, by_alias=True)} for stage in self.stages
            ],
            "files": self.files,
        }
        resolved["models"] = {
            name: {**public_options, "model": name_of(public_options["model"])}
            for name, public_options in self.shown_models.items()
        }
        return dict(public(resolved, self.project.root))

    def fingerprints(self, limit: int | None) -> list[str]:
        """Return, for each stage, a digest of all that its output depends on besides the ledger."""
        prints, before = [], digest([self.seed, limit])
        for bound in self.bound_stages:
            files = {name: self.files[name] for name in self._files_of(bound)}
            models = [self.shown_models.get(name) for name in bound.models]
            options = bound.stage.model_dump()
            functions = [self._functions] if {*_words(options)} & self.project.filters.keys() else []
            before = digest([before, bound.stage.kind, options, files, models, *functions])
            prints.append(before)
        return prints

    def check_remote(self, first: int, last: int) -> None:
        """Check what the stages from `first` to `last` read from elsewhere, such as a student on the Hub.

        A run does so before anything is paid for. Raises ConfigError.
        """
        for bound in self.bound_stages[first : last + 1]:
            if bound.stage.fetches:
                try:
                    bound.stage.bind(replace(bound.context, fetch=True))
                except ConfigError as error:
                    raise ConfigError(f"stage '{bound.name}': {error.message}", path=self.file) from error

    def plan(self, limit: int | None = None, done: Sequence[Done] = ()) -> list[tuple[Stage, Estimate]]:
        """Return each stage with the bounds of what it asks and costs, less what its first stages have
        `done`.
        """
        samples = self.source.samples[:limit]
        plan: list[tuple[Stage, Estimate]] = []
        before = Estimate(None)
        for bound in self.bound_stages:
            with _answers_safe():
                before = estimate_of(bound, before, samples)
            if bound is self.source and limit is not None:
                before = replace(before, rows=limit if before.rows is None else min(before.rows, limit))
            if len(plan) < len(done):
                before = done[len(plan)].taken_off(before)
            plan.append((bound.stage, before))
        return plan


def load(
    pipeline: str | Path | Mapping[str, Any],
    sets: Sequence[str] = (),
    *,
    seed: int | None = None,
    need_env: bool = True,
    trusted: frozenset[str] = frozenset(),
    scripted: Collection[str] = (),
    rows: Path | None = None,
    filters: Mapping[str, Any] | None = None,
) -> Pipeline:
    """Read and check a pipeline: a path, a name, or the same structure built in Python.

    `sets` are dotted overrides, such as `teacher.temperature=0.3`; `seed` replaces the pipeline's. Raises
    ConfigError for the first mistake, with its file and line. Without `need_env`, environment variables that
    are not set are listed in the result instead. A file outside the project can be read if its name is
    `trusted` or in `sets`. Python functions answer for the `scripted` models, whose providers are then not
    checked. The file `rows`, which `write_rows` wrote, takes the place of the source; `filters` are Filters
    and functions by the names under which the pipeline uses them.
    """
    path, root = located(pipeline)
    text = "" if isinstance(pipeline, Mapping) else read_text(path)
    data, places = (dict(pipeline), Places()) if isinstance(pipeline, Mapping) else read_yaml(text, path)
    if not isinstance(data, dict):
        raise ConfigError(
            "a pipeline is a mapping with the keys version, models and stages", path=path, line=1
        )
    top = validate(Top, data, owner="the pipeline", places=places)
    if rows:
        top = top.model_copy(update={"stages": with_rows(top.stages)})
    data_files = {ROWS: rows} if rows else {}
    project, notes = Project(root, trusted, data_files, filters or {}), list[str]()
    if sets:
        raw = top.model_dump()
        places = replace(places, note=f" (with --set {' --set '.join(map(typed, sets))})")
        for assignment in sets:
            project = replace(project, trusted=project.trusted | override(raw, [assignment]))
            validate(Top, raw, owner="the pipeline", places=places)  # the next one finds its place in it
        with places.within("models"):
            notes = fitted(top.models, raw["models"], project)
        top = validate(Top, raw, owner="the pipeline", places=places)
    if seed is not None:
        top = top.model_copy(update={"seed": seed})
    with places.within("models"):
        top = top.model_copy(
            update={"models": {k: with_preset(raw, project) for k, raw in top.models.items()}}
        )
    missing = [name for name in VARIABLE.findall(str([top.models, top.ledger])) if name not in os.environ]
    if missing and need_env:
        message = (
            f"'${{{missing[0]}}}': the environment variable {missing[0]} is not set: export {missing[0]}=…"
        )
        raise places.quoting(message, "models")
    if top.ledger.startswith(SCHEMES):
        need("a ledger in PostgreSQL", "psycopg")
    models = {
        label: _model(label, raw, places, project, able=label not in scripted)
        for label, raw in top.models.items()
    }
    shown_models = {
        label: {**models[label].model_dump(exclude_none=True), **_public_options(raw)}
        for label, raw in top.models.items()
    }
    with _answers_safe():
        stages = bind_stages(top.stages, places, CheckContext(frozenset(), models, project, seed=top.seed))
    notes += [*_hiding(stages, models, project), *_half_prices(stages, models)]
    used = {word for bound in stages for word in _words(bound.stage.model_dump())}
    for name in sorted(project.filters.keys() - used):
        raise ConfigError(f"filters: no stage of the pipeline uses '{name}'")
    return Pipeline(
        path.stem,
        path,
        about_line(text),
        top.seed,
        top.system,
        top.card,
        models,
        shown_models,
        stages,
        project,
        tuple(dict.fromkeys(missing)),
        (
            *(shown_set(override_text, root) for override_text in sets),
            *([] if seed is None else [f"seed={seed}"]),
        ),
        top.ledger,
        tuple(notes),
    )


@contextmanager
def _answers_safe() -> Iterator[None]:
    """Say so for an exception of a user's code: the run that it stops may be one that goes on."""
    try:
        yield
    except UserCodeError as error:
        remedy = "Answers that were paid for are safe: mend it and give the same command again"
        raise error.with_text(f". {remedy}") from error.__cause__


def located(pipeline: str | Path | Mapping[str, Any]) -> tuple[Path, Path]:
    """Return the file of a pipeline and the folder of its project. Raise ConfigError if there is no file."""
    root = project_around(Path.cwd())
    if not isinstance(pipeline, str | Path | Mapping):
        raise ConfigError(f"a pipeline is a path, a name or a dict, not {type(pipeline).__name__}")
    if isinstance(pipeline, Mapping):
        return Path("pipeline"), root
    if Path(pipeline).suffix in (".yaml", ".yml"):
        path = _file(Path(pipeline))
        return path, project_of(path)
    if Path(pipeline).is_file() and str(pipeline) not in Project(root).names("pipelines", ".yaml"):
        raise ConfigError(f"'{pipeline}' is no pipeline: the name of one ends in .yaml or .yml")
    return Project(root).find("pipelines", str(pipeline), ".yaml"), root


def _hiding(stages: Sequence[BoundStage], models: Mapping[str, Spec], project: Project) -> list[str]:
    """Return a note for each plug-in that hides a shipped one of the same name."""
    files = {name for bound in stages for name in bound.all_files}
    plugins = [
        name.partition("/") for name in sorted(files | {f"teachers/{m.provider}" for m in models.values()})
    ]
    notes = [hiding(folder, name, project) for folder, _, name in plugins if folder in NOUNS]
    return [note for note in notes if note]


def _half_prices(stages: Sequence[BoundStage], models: Mapping[str, Spec]) -> Iterator[str]:
    """Yield a note for each price without a part of what an answer costs: a cap would not hold."""
    for label, spec in models.items():
        kinds = {bound.stage.kind for bound in stages if label in bound.models}
        if spec.price is None or not kinds.difference(UNANSWERED):
            continue
        for part in ("input", "output"):
            if part not in spec.price.model_fields_set:
                yield f"model '{label}': the price names no '{part}', so that {part} tokens count as free"


def _words(value: Any) -> Iterator[str]:
    """Yield all texts in the options of a stage, among which are the names of its filters."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in chain(value, value.values()) if isinstance(value, Mapping) else value:
            yield from _words(part)


def _file(path: Path) -> Path:
    """Return the path of a pipeline file. Raise ConfigError if there is no such file."""
    if not path.is_file():
        near = [other.name for other in path.parent.glob("*.y*ml")]
        raise ConfigError(f"there is no file '{path}'{did_you_mean(path.name, near)}")
    return path


def about_line(text: str) -> str:
    """Return the first comment line of a pipeline file, without the name of the file."""
    first_comment = re.match(r"#\s*(?:\S+\.ya?ml:\s*)?(.*)", text)
    return first_comment[1].strip() if first_comment else ""


def _model(label: str, raw: dict[str, Any], places: Places, project: Project, *, able: bool) -> Spec:
    """Return a checked entry of `models`, filled from the environment; with `able`, also check that it can
    work.

    No message shows a value that is not in the file.
    """
    owner = f"model '{label}'"
    if not NAME.fullmatch(label):
        raise places.wrong(f"{owner}: a name is made of letters, digits, '-' and '_'", "models", label)
    for (
        option
    ) in Sampling.model_fields:  # the ledger keeps sampling options, and must not keep a value of ${…}
        if VARIABLE.search(str(raw.get(option))):
            message = (
                f"{owner}: '{option}' cannot come from the environment; write its value, or use "
                f"--set {label}.{option}=…"
            )
            raise places.wrong(message, "models", label, option)
    with places.within("models", label, prefix=f"{owner}: "):
        spec_type = endpoint_class(str(raw.get("provider", "openai")), project).spec_type
        values = json.loads(VARIABLE.sub(_value, json.dumps(raw, ensure_ascii=False, default=str)))
        spec = validate(spec_type, values, owner=owner, places=places, place=("models", label), show=False)
        try:
            if able:
                spec.check(project.root)
                spec = spec.with_files(project.root)
        except ConfigError as error:
            message = error.message
            for option, public_value in _public_options(raw).items():
                message = message.replace(repr(values[option]), repr(public_value))
            raise ConfigError(message, path=error.path, line=error.line) from error
    return spec


def _value(variable: re.Match[str]) -> str:
    """Return the value of ${NAME} as it is written inside a JSON string."""
    return json.dumps(os.environ.get(variable[1], variable[0]))[1:-1]


def _public_options(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a model's options for publication: ${ENV} as in the file, keys and headers withheld."""
    public_options = {**raw}
    for option, value in raw.items():
        if option == "api_key":
            public_options[option] = value if VARIABLE.search(str(value)) else "(withheld)"
        if option == "headers":
            public_options[option] = {
                name: v if VARIABLE.search(v) else "(withheld)" for name, v in value.items()
            }
        if option == "base_url":
            public_options[option] = re.sub(r"//[^/@]*@", "//(withheld)@", value).split("?")[0]
        if option == "also":
            public_options[option] = [_public_options(address) for address in value]
    return public_options


def _from_environment(value: Any) -> dict[str, str]:
    """Return the values of ${NAME} anywhere in `value`, untrimmed and trimmed, each with its ${NAME}.

    Short values are left out: they are words, not secrets.
    """
    names = VARIABLE.findall(str(value))
    values = {name: os.environ.get(name, "") for name in names}
    spellings = {
        spelling: name
        for name, value in values.items()
        for spelling in (value, value.strip().strip("\ufeff"))
    }
    return {spelling: f"${{{name}}}" for spelling, name in spellings.items() if len(spelling) > 6}
