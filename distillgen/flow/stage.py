"""The stage contract: chunks of records in, chunks of records out, in order, with bounded memory.

A dropped record stays in the stream, and later stages do not change it, so that the records leave in source
order. A chunk holds one record or more: many where answers are replayed, few where they arrive.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.measures import Measures
from distillgen.inference.capabilities import PROVIDERS, TOKEN_BOUNDS
from distillgen.inference.ledger import Ledger
from distillgen.inference.spec import Spec
from distillgen.inference.teacher import Teacher
from distillgen.plugins import find, plugin_class
from distillgen.project import Project
from distillgen.prompting.filler import Parts
from distillgen.prompting.media import NO_MEDIA, Media
from distillgen.record import SCORES, TEST, Record
from distillgen.rows.overlap import OverlapIndex

Chunk: TypeAlias = list[Record]
Chunks: TypeAlias = AsyncGenerator[Chunk, None]
Scope: TypeAlias = Literal["row", "group", "set"]

CHUNK = 256


@dataclass(frozen=True)
class CheckContext:
    """The project, the fields, the models and the earlier stages, for the check of a stage."""

    fields: frozenset[str]
    models: Mapping[str, Spec]
    project: Project
    stages: tuple[BoundStage, ...] = ()
    """The stages before it."""
    loops: tuple[CheckContext, ...] = ()
    """The contexts of the loops around the stage, the innermost last."""
    trained: frozenset[str] = frozenset()
    """The names of the models that earlier stages make, or any stage of the loop around the stage."""
    start: str = ""
    """The model that the students of the loop around the stage are in its first round; "" without one."""
    scores: frozenset[str] = frozenset()
    """The names of the scores that earlier stages give; `name.` stands for all names that begin so."""
    fetch: bool = False
    """Whether a check may read remote files. It may when a run begins, before anything is paid for."""
    seed: int = 0
    """The pipeline's seed."""

    @cached_property
    def output_names(self) -> frozenset[str]:
        """The fields that earlier stages write, with those that the source has."""
        return frozenset().union(*(bound.output_names() for bound in self.stages))

    def after(self, bound: BoundStage) -> CheckContext:
        """Return the context of the next stage. Raise ConfigError if a model of `bound` has a taken name."""
        made_models = bound.makes(Path())
        of_loop = self.trained - self.loops[0].trained if self.loops else frozenset()
        for name, spec in made_models.items():
            if self.models.get(name, spec) != spec and name not in of_loop:
                raise ConfigError(f"it makes a model '{name}', but another model has that name; rename it")
        return replace(
            self,
            fields=bound.fields,
            models={**self.models, **made_models},
            stages=(*self.stages, bound),
            trained=self.trained | made_models.keys(),
            scores=self.scores | set(bound.scores()),
        )

    def loops_behind(self, place: int) -> int:
        """Return how many of the loops around the stage begin after the earlier stage at this place."""
        return sum(place < len(loop.stages) for loop in self.loops)

    def turns(self, name: str) -> Sequence[list[dict[str, Any]]]:
        """Return example chat turns of a field, one for each order of roles; () if it has no chat turns."""
        for bound in reversed(self.stages):
            if name in (turns := bound.turns()):
                return turns[name]
        return ()

    def values(self, name: str) -> Sequence[str] | None:
        """Return the texts of the values of a field, if they are known before any model is asked, or None."""
        for bound in reversed(self.stages):
            if name in bound.output_names() or bound.stage.remakes or bound.foreign:
                return bound.values(name)
        return None

    def need(self, name: str, subject: str) -> None:
        """Raise ConfigError if no earlier stage makes the field."""
        if name not in self.fields:
            message = f"{subject} needs the field '{name}', which no earlier stage gives"
            raise ConfigError(f"{message}{did_you_mean(name, self.fields)}")

    def need_scores(self, names: Collection[str], subject: str) -> None:
        """Raise ConfigError if no earlier stage gives one of the scores, or if a field hides them."""
        for name in sorted(names if SCORES not in self.fields else ()):
            if name not in self.scores and f"{name.partition('.')[0]}." not in self.scores:
                labels = {label.rstrip(".") for label in self.scores}
                message = f"{subject} needs the score '{name}', which no earlier stage gives"
                raise ConfigError(f"{message}{did_you_mean(name, labels)}")

    def need_number(self, name: str, subject: str) -> None:
        """Raise ConfigError if no earlier stage gives a score or a field of the name."""
        if not {name, f"{name.partition('.')[0]}."} & (self.scores | self.fields):
            similar = did_you_mean(name, {other.rstrip(".") for other in self.scores | self.fields})
            raise ConfigError(f"{subject} names '{name}', which is no field and no score{similar}")

    def able(self, model: str, *capabilities: str, sampling: Mapping[str, Any] | None = None) -> Spec:
        """Return the model of a name. Raise ConfigError if it does not exist, lacks a capability, or does not
        take an option of `sampling`.
        """
        if model not in self.models:
            raise ConfigError(f"there is no model '{model}'{did_you_mean(model, self.models)}")
        spec = self.models[model]
        for capability in capabilities:
            if capability not in spec.capabilities:
                others = sorted(
                    name for name, other in self.models.items() if capability in other.capabilities
                )
                remedy = (
                    f"models that can: {', '.join(others)}"
                    if others
                    else f"providers that can: {PROVIDERS[capability]}"
                )
                raise ConfigError(f"model '{model}' ({spec.provider}) cannot do {capability}; {remedy}")
            bound = TOKEN_BOUNDS.get(capability)
            if bound and spec.price and getattr(spec, bound) is None:
                raise ConfigError(
                    f"model '{model}' has a price, and nothing bounds what {capability} cost; give it "
                    f"{bound}, the most input tokens of one, which its provider's pages name"
                )
        if refusal := spec.sampling_refusal(sampling or {}):
            raise ConfigError(f"model '{model}' ({spec.provider}) {refusal}")
        return spec

    def answers(self, model: str, templates: Sequence[str]) -> None:
        """Raise ConfigError if a model cannot answer prompts whose turns have these templates."""
        spec = self.able(model)
        if refusal := spec.refusal(templates):
            raise ConfigError(f"model '{model}' ({spec.provider}) {refusal}")


@dataclass(frozen=True)
class Estimate:
    """The bounds of a stage in `plan`; None means that there is no bound."""

    rows: int | None
    requests: int | None = 0
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    max_cost_usd: float | None = 0.0
    made_bytes: int | None = 0
    """The most bytes of a field that the stages so far make."""
    spared: int = 0
    """The number of records that later stages do not ask about because of this stage."""
    made_parts: Mapping[str, Parts] | None = None
    """The most pictures and sounds of each field that the stages so far make; None where the stage makes none
    that were not there before.
    """

    @property
    def parts(self) -> Mapping[str, Parts]:
        """The most pictures and sounds of each field that the stages so far make."""
        return self.made_parts or {}


def no_teacher(name: str) -> Teacher:
    """Raise ConfigError, where no teacher can be built."""
    raise ConfigError(f"no model '{name}' can be asked here")


@dataclass(frozen=True)
class RunContext:
    """The values that a running stage works with. They can be pickled and sent to a worker."""

    project: Project
    directory: Path = Path()
    """The directory of the run, or of the round. A stage writes its other files there."""
    seed: int = 0
    limit: int | None = None
    retry_failed: bool = False
    retry_with: Mapping[str, Any] = field(default_factory=dict)
    stages: Sequence[BoundStage] = ()
    """The earlier stages; in a round, the earlier stages of the round."""
    earlier: Sequence[Path] = ()
    """In a round, the directories of the rounds before it."""
    history: Sequence[Measures] = ()
    """In a round, what each round before it measured."""


@dataclass(frozen=True)
class WorkerServices:
    """The objects that a worker builds for the stages that it runs."""

    teachers: Mapping[str, Teacher]
    ledger: Ledger
    teacher: Callable[[str, Spec], Teacher] = field(default=lambda name, spec: no_teacher(name))
    """Returns a new Teacher for a model that a stage has made. The caller closes it."""
    measures: Measures = field(default_factory=dict)
    """The stage adds the numbers that it measures over all records."""
    measures_before: Sequence[Measures] = ()
    """The measures of each stage before it; a stage fills its dict as it ends."""
    costs: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """The costs by stage and filter: rows judged, rows measured, seconds of measuring."""
    whole: set[int] = field(default_factory=set)
    """The positions, in the pipeline, of the stages that read all records before the first one leaves."""
    pool: Callable[[], Iterable[Record]] = tuple
    """Returns, in a round, the records of the loop's pool and those that earlier rounds kept."""
    notes: dict[str, str] = field(default_factory=dict)
    """Progress notes of long work, by stage name."""


@dataclass(frozen=True)
class Job:
    """The work of a running stage."""

    context: RunContext
    services: WorkerServices


class EvaluationSet(NamedTuple):
    """The items that a stage asks models about. No training may repeat them, unless they are about it."""

    file: str | None
    """A file of items; None where the items are held-out records."""
    question: list[str]
    """The fields of an item that the question consists of."""
    about_training: bool = False
    """Whether the items ask about the training records, which may therefore repeat them."""
    media: Media = NO_MEDIA
    """The fields of an item that name pictures and sounds."""
    part: str = TEST
    """The part of the data whose records are the items, where there is no file."""


class Stage(BaseModel):
    """A named step of a pipeline. It holds only its options, so that it can be pickled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ClassVar[str] = ""
    scope: ClassVar[Scope] = "set"
    """The records that the result for one record depends on: `row`, that record alone; `group`, the adjacent
    records of its group; `set`, all records. A stage of scope `row` can run on any part of the records.
    """
    conditional: ClassVar[bool] = True
    """Whether a stage of scope `row` takes the option `when`."""
    asks_text: ClassVar[bool] = True
    """Whether its requests ask for texts, which a batch API can answer, and not for embeddings or scores."""
    reads: ClassVar[str] = ""
    """The fields, files and scores that it reads, for the reference."""
    writes: ClassVar[str] = ""
    """The fields, files and scores that it writes, for the reference, and whether it drops records."""
    fetches: ClassVar[bool] = False
    """Whether the check reads remote files when a run begins."""
    remakes: ClassVar[bool] = False
    """Whether its records can have other values than those before it in fields that these have already."""
    optional: ClassVar[frozenset[str]] = frozenset({"when"})
    """Options that are no part of a stage's fingerprint where they are not set, as if there were none."""
    selects: ClassVar[bool] = False
    """Whether the stage selects records. A control arm shows what that selection teaches."""
    name: str = Field(
        "", description="name of the stage in messages, reports and file names; default: its kind"
    )
    when: Annotated[str | None, "template"] = Field(
        None,
        description="template: a record for which its text is empty, false, no, 0 or null passes the stage "
        "by; for stages that work row by row, and for filters",
    )

    @classmethod
    def takes_condition(cls) -> bool:
        """Return whether the stage can take the option `when`."""
        return cls.conditional and cls.scope == "row"

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, write: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the JSON Schema of the options, without `when` where the stage cannot take it."""
        schema = write(core)
        if not cls.takes_condition():
            write.resolve_ref_schema(schema).get("properties", {}).pop("when", None)
        return schema

    @model_serializer(mode="wrap")
    def _without_unset(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `optional` options that are not set: they would change every stage's fingerprint."""
        options: dict[str, Any] = write(self)
        return {n: value for n, value in options.items() if n not in self.optional or value is not None}

    def chooses(self) -> bool:
        """Return whether the stage `selects` with these options."""
        return self.selects

    def uses_seed(self) -> bool:
        """Return whether what the stage does can depend on the pipeline's seed, which is added to an option
        `seed` of the stage. A stage that draws by the seed of its context says so here.
        """
        return getattr(self, "seed", None) is not None

    def models(self, project: Project) -> Sequence[str]:
        """Return the names of the pipeline's models that the stage asks."""
        return ()

    def files(self, project: Project) -> Mapping[str, Path]:
        """Return the content files that the stage's output depends on, by name, for the lock file."""
        return {}

    def scores(self) -> Collection[str]:
        """Return the names of the scores that the stage gives; `name.` stands for all that begin so."""
        return ()

    def records_logprobs(self) -> bool:
        """Return whether the ledger keeps the log-probabilities of its answers."""
        return False

    def records_embeddings(self) -> bool:
        """Return whether the ledger keeps a vector for each record."""
        return False

    def makes(self, directory: Path, project: Project) -> Mapping[str, Spec]:
        """Return the models that the stage leaves in the run's `directory`; later stages ask them by name."""
        return {}

    def evaluation_set(self, project: Project) -> EvaluationSet | None:
        """Return the items that the stage asks models about, if any. No training may repeat them."""
        return None

    def evaluation_items(self, project: Project) -> OverlapIndex | None:
        """Return an index of the evaluation sets that the stage keeps out of training, if any."""
        return None

    def products(self, directory: Path) -> list[Path]:
        """Return the files in the run directory without which the stage runs again."""
        return []

    def bind(self, context: CheckContext) -> BoundStage:
        """Check the stage once, and return it with everything that it built. Raise ConfigError.

        A stage that builds nothing overrides `check` and `run` instead.
        """
        fields = self.check(context)
        return BoundStage(self, context, fields, self.models(context.project), self.files(context.project))

    def check(self, context: CheckContext) -> frozenset[str]:
        """Return the fields of a record after this stage. Raise ConfigError if a run would fail."""
        raise NotImplementedError

    def estimate(self, before: Estimate, samples: Sequence[Record], context: CheckContext) -> Estimate:
        """Return bounds for `plan`; `samples` are source rows."""
        return Estimate(before.rows, made_bytes=before.made_bytes)

    def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Run the stage on a stream of chunks."""
        raise NotImplementedError


@dataclass(frozen=True)
class BoundStage:
    """A checked stage with the objects that it built. Plan, lock file and run use the same bound stage.

    Pickling stores the stage and its context; unpickling binds them again.
    """

    stage: Stage
    context: CheckContext
    fields: frozenset[str]
    """The fields of a record after the stage."""
    models: Sequence[str] = ()
    """The names of the pipeline's models that it asks."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """The content files that its output depends on, by name."""
    added: bool = False
    """Whether distillgen added the stage to the pipeline."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self.stage).bind, (self.stage, self.context)

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    @property
    def scope(self) -> Scope:
        """The stage's scope with its options."""
        return self.stage.scope

    @cached_property
    def all_files(self) -> Mapping[str, Path]:
        """`files`, and the stage's own code if it does not ship with distillgen."""
        return {**find("stages", self.stage.kind, self.context.project).files, **self.files}

    @property
    def foreign(self) -> bool:
        """Whether the stage does not ship with distillgen."""
        return not find("stages", self.stage.kind, self.context.project).shipped

    def example(self) -> Record | None:
        """Return a record as it leaves the stage, if one is known before any model is asked, or None."""
        return None

    def values(self, name: str) -> Sequence[str] | None:
        """Return the texts of the values that a field of its training records has, in order, if they are
        known before any model is asked, or None.
        """
        return None

    def uses_seed(self) -> bool:
        """Return whether what the stage does can depend on the pipeline's seed: its own draws, or a seed
        that is sent to one of its models. Code that does not ship with distillgen may.
        """
        models = (self.context.models.get(name) for name in self.models)
        return bool(
            self.foreign or self.stage.uses_seed() or any(spec and spec.seed is not None for spec in models)
        )

    def names(self) -> list[str]:
        """Return the names of the stage and of its inner stages, which dropped records carry."""
        return [self.name]

    def output_names(self) -> frozenset[str]:
        """Return the fields that the stage writes, with those that the records have already."""
        return self.fields - self.context.fields

    def inner(self) -> Sequence[BoundStage]:
        """Return the stages inside this one."""
        return ()

    @property
    def conditional(self) -> bool:
        """Whether records can pass the stage by: not if it must see all of them."""
        return self.stage.conditional and self.scope == "row"

    def scores(self) -> Collection[str]:
        """Return the names of the scores that the stage gives; `name.` stands for all that begin so."""
        return self.stage.scores()

    def metric(self) -> str:
        """Return the score, from 0 to 1, that `evaluate` reports; "" for the share that it keeps."""
        return ""

    def media(self) -> Media:
        """Return the fields whose pictures and sounds its requests show."""
        return NO_MEDIA

    def score_labels(self) -> Mapping[str, tuple[str, str]]:
        """Return the labels of the filters' scores, each with its filter and the name of the stage."""
        return {}

    def turns(self) -> Mapping[str, Sequence[list[dict[str, Any]]]]:
        """Return example chat turns by the field that the stage makes, one for each order of roles."""
        return {}

    def former(self) -> Callable[[Record], Record] | None:
        """Return a function that makes the stage's fields of one record without asking a model, or None.

        A control arm applies it to dropped records. It raises Unrenderable.
        """
        return None

    def records_logprobs(self) -> bool:
        """Return whether the ledger keeps the log-probabilities of its answers."""
        return self.stage.records_logprobs()

    def makes(self, directory: Path) -> Mapping[str, Spec]:
        """Return the models that the stage leaves in the run's `directory`."""
        return self.stage.makes(directory, self.context.project)

    def evaluation_items(self) -> OverlapIndex | None:
        """Return an index of the evaluation sets that the stage keeps out of training, if any."""
        return self.stage.evaluation_items(self.context.project)

    def estimate(self, before: Estimate, samples: Sequence[Record]) -> Estimate:
        """Return bounds for `plan`; `samples` are source rows."""
        return self.stage.estimate(before, samples, self.context)

    def independent_of(self, earlier: BoundStage) -> bool:
        """Return whether the stage asks the same about a record before and after the `earlier` stage."""
        return False

    def ahead(self, job: Job) -> Callable[[Chunk], None]:
        """Return a function that sends the stage's requests before the records reach the stage."""
        raise NotImplementedError

    def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Run the stage on a stream of chunks."""
        return self.stage.run(chunks, job)


def flat(stages: Iterable[BoundStage]) -> Iterator[BoundStage]:
    """Yield stages, and behind each the stages inside it."""
    for bound in stages:
        yield bound
        yield from flat(bound.inner())


def stage_class(kind: str, project: Project) -> type[Stage]:
    """Return the class of a stage kind. Raise ConfigError if it does not exist or its file is broken."""
    stage = plugin_class("stages", kind, Stage, project)
    if stage.kind != kind:
        raise find("stages", kind, project).mistake(
            f"a stage's kind is the name of its file: kind = '{kind}'"
        )
    return stage
