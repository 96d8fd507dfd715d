"""filter: measure records, decide which to keep, and say why for each that goes."""

from __future__ import annotations

import asyncio
import inspect
import math
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, groupby
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from distillgen.errors import ConfigError, DistillgenError, UserCodeError, did_you_mean
from distillgen.flow.filter import Entries, Entry
from distillgen.flow.measures import measures_of
from distillgen.flow.stage import (
    CHUNK,
    Answers,
    BoundStage,
    CheckContext,
    Chunk,
    Chunks,
    Estimate,
    Job,
    Question,
    Scope,
    Stage,
    ask_each,
    bounds,
    in_order,
    marked,
    marks,
    size_of,
    splice,
)
from distillgen.inference.ledger import Ledger
from distillgen.inference.outcome import Outcome
from distillgen.inference.request import Request
from distillgen.inference.spec import Spec
from distillgen.inference.teacher import Teacher
from distillgen.located_yaml import Places, validate
from distillgen.plugins import filter_factory, find
from distillgen.project import Project, code_sha256, imported, user_error
from distillgen.prompting.output_form import Unparsable
from distillgen.record import (
    FieldName,
    FileName,
    ModelName,
    PromptName,
    Record,
    ScriptName,
    Unrenderable,
    digest,
)

PIECE = 32  # records that a costly measure is handed at once: what a stop waits for
SAVE_EVERY_S = 0.5  # how much measuring a kill loses, besides a piece

Number: TypeAlias = float | Mapping[str, float]
"""What a measure gives for a record: a number, or a few named ones."""

Measured: TypeAlias = Sequence[Number] | Awaitable[Sequence[Number]]


@dataclass(frozen=True)
class Filter:
    """A filter: `measure` takes records and gives a number (or a few named ones) for each; `decide` takes a record's
    number and gives None to keep it, or the reason to drop it.

    `asks` gives the requests to put to models about a record, each with the name of one of the pipeline's models as its
    `model`; `measure` then takes, besides the records, a list for each of the completions of each of its requests, and
    raises Unparsable for an answer that it cannot use.
    `depends_on` names what a costly measure depends on besides the record, the models that it asks and the filter's file with
    the project files that this imports: then its numbers are kept in the ledger, and a changed threshold measures nothing
    again. Where it asks nobody, it runs in a thread, beside whoever is being asked and the filters before it.
    `whole_set` says that `measure` compares records with those before them: it sees them once, in order.
    `together` says that records which follow each other belong together where it gives the same for them, as `siblings`
    does: `measure` takes the records of one such group, whole, and no others.
    `over_run` says what the numbers of all records of a run show together, such as a judge's bias: figures under words
    that a person understands, for the report and usage.json.
    """

    measure: Callable[..., Measured]
    decide: Callable[[Any], str | None]
    asks: Callable[[Record], Sequence[Request]] | None = None
    depends_on: Mapping[str, Any] | None = None
    whole_set: bool = False
    together: Callable[[Record], Any] | None = None
    over_run: Callable[[Iterable[Any]], Mapping[str, float]] | None = None

    def __post_init__(self) -> None:
        if self.together and (self.asks or self.whole_set):
            raise ValueError(
                "a filter that measures records together neither asks about each of them nor sees the whole set"
            )


def siblings(by: Sequence[str] | None = None) -> Callable[[Record], Any]:
    """For `together`: the answers to one request, that is records of the same parent; or those with the same fields `by`."""
    if by is not None:
        return lambda record: [record.fields.get(name) for name in by]
    return lambda record: record.parents[0] if record.parents else record.id


class FilterStage(Stage):
    """Measure records, and drop those that a filter does not accept.

    The filters are applied in order, and the first one that drops a record gives the reason.
    """

    kind = "filter"
    scope = "row"
    reads = "the fields that each filter names"
    writes = (
        "a score for each filter that measures something; drops records, or with `mark` the fields "
        "`<mark>` and `<mark>_why`"
    )
    selects = True

    filters: Entries = Field(min_length=1, description="filters in order, each by its name, with its options")
    mark: str | None = Field(
        None,
        description="field that says whether a record passes, with the reason in `<mark>_why`; no record "
        "is dropped then",
    )

    def bind(self, context: CheckContext) -> BoundFilterStage:
        """Load and make the filters; raise ConfigError if an option, a field, a model or a file is missing."""
        filters = [LoadedFilter.load(entry, context.project) for entry in self.filters]
        models, files = list[str](), dict[str, Path]()
        for loaded in filters:
            assert loaded.filter  # a factory checks its options, too
            for option, name in loaded.names(FieldName):
                context.need(name, f"filter '{loaded.entry.label}' ({option})")
            for name in loaded.models:
                context.able(name)
            models += loaded.models
            files |= loaded.files()
        return BoundFilterStage(
            self, context, context.fields | marks(self.mark), models, files, filters=filters
        )

    def chooses(self) -> bool:
        """Return whether it drops records: a filter stage that marks drops none."""
        return self.mark is None


@dataclass(frozen=True)
class LoadedFilter:
    """A filter of a stage's list, with its factory and the checked options."""

    entry: Entry
    factory: Callable[..., Filter]
    options: Mapping[str, Any]
    file: Path
    project: Project

    @classmethod
    def load(cls, entry: Entry, project: Project) -> LoadedFilter:
        """Load the factory and check the options. Raise ConfigError."""
        factory, what = filter_factory(entry.filter, project), f"filter '{entry.filter}'"
        options = dict(validate(options_of(factory), entry.options, owner=what, places=Places()))
        return cls(entry, factory, options, find("filters", entry.filter, project).file, project)

    def make(self) -> Filter:
        """Return a new filter: one that keeps what it has seen begins anew. Raise ConfigError."""
        what, options = f"filter '{self.entry.filter}'", dict(self.options)
        if "project" in inspect.signature(self.factory).parameters:
            options["project"] = self.project
        try:
            made = self.factory(**options)
        except ValueError as error:  # a factory's own check of its options
            raise ConfigError(f"{what}: {error}") from error
        except DistillgenError:
            raise
        except Exception as error:
            raise user_error(error, what) from error
        if not isinstance(made, Filter):
            message = f"'{self.entry.filter}' gives {type(made).__name__}, not a Filter"
            raise ConfigError(f"{message}: return Filter(measure=…, decide=…)", path=self.file)
        if made.depends_on is not None:
            made = replace(made, depends_on={**made.depends_on, "code": code_sha256(self.file)})
        return made

    @cached_property
    def filter(self) -> Filter:
        """The filter for the check and the plan; a run makes its own."""
        return self.make()

    @cached_property
    def models(self) -> list[str]:
        """The pipeline's models that the filter asks."""
        return [name for _, name in self.names(ModelName)]

    @cached_property
    def _types(self) -> Mapping[str, Any]:
        return _hints(self.factory)

    def names(self, kind: Any) -> list[tuple[str, str]]:
        """Return the options whose type is a kind of name, or a list of them, each with a name that it gives."""
        defaults = inspect.signature(self.factory).parameters
        options = [name for name, hint in self._types.items() if name != "return" and _mentions(hint, kind)]
        values = [(option, self.entry.options.get(option, defaults[option].default)) for option in options]
        return [
            (option, name)
            for option, value in values
            for name in ([value] if isinstance(value, str) else value or ())
        ]

    def files(self) -> dict[str, Path]:
        """Return the filter's file, the project files that it imports, and the files that its options name."""
        files = {f"filters/{self.entry.filter}": self.file}
        for _, name in self.names(PromptName):
            files[f"prompts/{name}"] = self.project.find("prompts", name, ".md")
        files |= {name: self.project.file(name) for _, name in self.names(FileName)}
        scripts = (name.rpartition(":")[0] for _, name in self.names(ScriptName))
        files |= {script: self.project.file(script) for script in scripts if script.endswith(".py")}
        code = [path for path in files.values() if path.suffix == ".py"]
        return files | {f"module {name}": file for path in code for name, file in imported(path).items()}


@dataclass(frozen=True)
class BoundFilterStage(BoundStage):
    """The stage with its filters."""

    stage: FilterStage
    filters: Sequence[LoadedFilter] = field(kw_only=True)

    @property
    def scope(self) -> Scope:
        """`set` if a filter sees all records, `group` if one measures records together, else `row`."""
        filters = [loaded.filter for loaded in self.filters]
        if any(filter.whole_set for filter in filters):
            return "set"
        return "group" if any(filter.together for filter in filters) else "row"

    def score_labels(self) -> dict[str, tuple[str, str]]:
        """Return the labels of its filters."""
        return {entry.label: (entry.filter, self.name) for entry in self.stage.filters}

    def estimate(self, before: Estimate, samples: Sequence[Record]) -> Estimate:
        """Return bounds of what the filters ask if none of them drops a record."""
        models = self.context.models
        judges = [Judge(self.name, loaded.entry, loaded.filter, {}) for loaded in self.filters]

        def requests(record: Record) -> list[tuple[str, int, int | None]]:
            return [
                (r.model, size_of(r.messages), _sent(r, models[r.model]).sampling.get("max_tokens"))
                for judge in judges
                for r in judge.requests(record, models)
            ]

        return bounds(before, samples, self.context, requests)

    def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Apply the filters in order; each sees only the records that the filters before it kept.

        A filter that asks models or measures in a thread works while the others go on.
        """
        chunks = self._unjudged(chunks)
        for loaded in self.filters:
            entry, filter = loaded.entry, loaded.make()
            costs = job.services.costs.setdefault(self.name, {}).setdefault(
                entry.label, {"rows": 0, "measured": 0, "seconds": 0.0}
            )
            judge = Judge(self.name, entry, filter, costs)
            chunks = self._having(chunks, entry, [name for _, name in loaded.names(FieldName)])
            if (
                filter.depends_on is not None and not filter.asks
            ):  # what arrives meanwhile is measured together
                chunks = in_order(chunks, lambda chunk: [Outcome.of(chunk)], window=lambda: CHUNK)
            chunks = whole_groups(chunks, judge.together) if filter.together else chunks
            if filter.asks:
                chunks = self._asked(
                    chunks, judge, {name: job.services.teachers[name] for name in loaded.models}, job
                )
            else:
                chunks = self._judged(chunks, judge, job)
            chunks = self._noted(chunks, judge, job) if filter.over_run else chunks
        return marked(chunks, self.name, self.stage.mark) if self.stage.mark else chunks

    async def _having(self, chunks: Chunks, entry: Entry, names: Sequence[str]) -> Chunks:
        """The same records; those that lack a field which the filter reads are dropped: no measure sees them."""

        def missing(record: Record) -> str | None:
            return (
                None if record.dropped else next((name for name in names if name not in record.fields), None)
            )

        async for chunk in chunks:
            yield [
                record
                if (name := missing(record)) is None
                else record.drop(self.name, entry.label, f"there is no field '{name}' in the row")
                for record in chunk
            ]

    async def _unjudged(self, chunks: Chunks) -> Chunks:
        """The same records; live ones without scores that another run, or an earlier round, gave them under the labels of these
        filters, which measure anew.
        """
        labels = {entry.label for entry in self.stage.filters}
        async for chunk in chunks:
            yield [
                record
                if record.dropped or labels.isdisjoint(map(_label, record.scores))
                else replace(
                    record,
                    scores={name: n for name, n in record.scores.items() if _label(name) not in labels},
                )
                for record in chunk
            ]

    async def _noted(self, chunks: Chunks, judge: Judge, job: Job) -> Chunks:
        """Note what the filter's numbers show together, once all have passed."""
        async for chunk in chunks:
            yield chunk
        job.services.measures.update(measures_of(judge.figures()))

    async def _asked(self, chunks: Chunks, judge: Judge, asked: Mapping[str, Teacher], job: Job) -> Chunks:
        entry, each, costs = judge.entry, judge.filter, judge.costs
        teachers = [*asked.values()]
        models = [
            [t.identity, t.model, t.spec.sampling_options(), "json_schema" in t.spec.capabilities]
            for t in teachers
        ]
        new: dict[bytes, Number] = {}

        def settled(chunk: Chunk) -> list[Record | None]:
            """Judge those of which the ledger keeps the numbers."""
            live = [record for record in chunk if not record.dropped]
            costs["rows"] += len(live)
            keys = [] if each.depends_on is None else _keys(entry, each, live, models)
            known, kept = job.services.ledger.find_scores(keys), iter(keys)
            numbers = [None if record.dropped or not keys else known.get(next(kept)) for record in chunk]
            return [None if n is None else judge(record, n) for record, n in zip(chunk, numbers, strict=True)]

        def questions(record: Record) -> list[Question]:
            requests = judge.requests(record, asked)
            return [
                (asked[r.model], _sent(r, asked[r.model].spec, asked[r.model].model), 1, None)
                for r in requests
            ]

        def answered(record: Record, answers: Answers) -> Chunk:
            completions = [given for _, given in answers]
            try:
                for completion in chain.from_iterable(completions):
                    if completion.status != "ok":
                        raise Unparsable(completion.error or f"the answer was {completion.status}")
                (number,) = _numbers(each.measure([record], [completions]), 1, entry.label)
            except Unparsable as error:
                return [record.drop(self.name, "failed", f"not judged by {entry.label}: {error}")]
            except DistillgenError:
                raise
            except Exception as error:
                raise judge.broken(error, [record]) from error
            costs["measured"] += 1
            if each.depends_on is not None:
                new[_keys(entry, each, [record], models)[0]] = number
            return [judge(record, number)]

        judged = ask_each(
            chunks,
            teachers,
            job,
            self.name,
            asker=entry.label,
            questions=questions,
            answered=answered,
            settled=settled,
        )
        async with aclosing(judged):
            async for chunk in judged:
                yield chunk
                if len(new) >= CHUNK:
                    full, new = new, {}
                    await job.services.ledger.add_scores(full)
        if new:
            await job.services.ledger.add_scores(new)

    def _judged(self, chunks: Chunks, judge: Judge, job: Job) -> Chunks:
        each = judge.filter

        async def work(chunk: Chunk) -> Chunk:
            groups = (
                (list(group) for _, group in groupby(chunk, judge.together)) if each.together else [chunk]
            )
            live = [
                alive for group in groups if (alive := [record for record in group if not record.dropped])
            ]
            numbers = zip(chain(*live), await measured(judge, live, job.services.ledger), strict=True)
            return splice(chunk, ([judge(record, number)] for record, number in numbers))

        async def one_by_one() -> Chunks:
            async for chunk in chunks:
                yield await work(chunk)

        if inspect.iscoroutinefunction(each.measure) and not each.whole_set:
            return in_order(chunks, lambda chunk: [Outcome.start(work(chunk))], window=lambda: CHUNK)
        return one_by_one()


@dataclass(frozen=True)
class Judge:
    """A filter at work in a stage: what it has cost so far, and, where the run's are told together, how often it gave each
    number.
    """

    stage: str
    entry: Entry
    filter: Filter
    costs: dict[str, float]
    numbers: Counter[tuple[tuple[str, float], ...]] = field(default_factory=Counter)

    def __call__(self, record: Record, number: Number) -> Record:
        """The record with its scores, dropped where `decide` gives a reason."""
        label, named = self.entry.label, number if isinstance(number, Mapping) else {"": number}
        record = record.scored(
            {f"{label}.{name}" if name else label: float(value) for name, value in named.items()}
        )
        if self.filter.over_run:
            self.numbers[tuple(named.items())] += 1
        try:
            reason = self.filter.decide(number)
        except DistillgenError:
            raise
        except Exception as error:
            raise self.broken(error, [record]) from error
        if reason is not None and not (reason and isinstance(reason, str)):
            wrong = f"filter '{label}' decided {reason!r}"
            raise ConfigError(f"{wrong}; decide gives None to keep a record, or the reason to drop it")
        return record if reason is None else record.drop(self.stage, label, reason)

    def requests(self, record: Record, models: Collection[str]) -> Sequence[Request]:
        """What the filter asks about a record. Raises Unrenderable."""
        try:
            requests = self.filter.asks(record) if self.filter.asks else ()
        except (DistillgenError, Unrenderable):
            raise
        except Exception as error:
            raise self.broken(error, [record]) from error
        for request in requests:
            if request.model not in models:
                wrong = f"filter '{self.entry.label}' asks '{request.model}', which no option of type ModelName names"
                raise ConfigError(f"{wrong}{did_you_mean(request.model, models)}")
        return requests

    def together(self, record: Record) -> Any:
        """What is the same for records that are measured together."""
        try:
            return self.filter.together and self.filter.together(record)
        except Exception as error:
            raise self.broken(error, [record]) from error

    def figures(self) -> dict[str, float]:
        """What the numbers show together, whatever the order in which they came."""
        every = [number for number, count in sorted(self.numbers.items()) for _ in range(count)]
        if not every or not self.filter.over_run:
            return {}
        try:
            figures = self.filter.over_run(dict(number) if number[0][0] else number[0][1] for number in every)
        except DistillgenError:
            raise
        except Exception as error:
            raise self.broken(error) from error
        return {f"{self.entry.label}: {words}": value for words, value in figures.items()}

    def broken(self, error: Exception, records: Sequence[Record] = ()) -> UserCodeError:
        """What the user is told of an exception that the filter's functions raised."""
        return user_error(error, f"filter '{self.entry.label}' of stage '{self.stage}'", records)


def _sent(request: Request, spec: Spec, model: str = "") -> Request:
    """A filter's request as the model of that name gets it, whose own sampling wins over the prompt's."""
    schema = request.schema if "json_schema" in spec.capabilities else None
    return replace(
        request,
        model=model or spec.model,
        schema=schema,
        sampling={**request.sampling, **spec.sampling_options()},
    )


def _mentions(hint: Any, kind: Any) -> bool:
    """Whether a type is a kind of name, or a list of it, or either of these or nothing."""
    return hint == kind or any(_mentions(part, kind) for part in getattr(hint, "__args__", ()))


async def measured(judge: Judge, groups: Sequence[Sequence[Record]], ledger: Ledger) -> list[Number]:
    """The filter's numbers for the records of these groups, from the ledger where it keeps them."""
    entry, filter, costs = judge.entry, judge.filter, judge.costs

    async def fresh(some: Sequence[Record]) -> list[Number]:
        begun, costly = time.perf_counter(), filter.depends_on is not None
        try:
            given = await asyncio.to_thread(filter.measure, some) if costly else filter.measure(some)
            numbers = _numbers(await given if inspect.isawaitable(given) else given, len(some), entry.label)
        except DistillgenError:
            raise
        except Exception as error:
            raise judge.broken(error, some) from error
        costs["measured"] += len(some)
        costs["seconds"] += time.perf_counter() - begun
        return numbers

    costs["rows"] += sum(map(len, groups))
    if filter.depends_on is None or filter.whole_set:
        return [number for group in groups for number in await fresh(group)]
    keyed = [[*zip(_keys(entry, filter, group), group, strict=True)] for group in groups]
    known = ledger.find_scores([key for key, _ in chain(*keyed)])
    todo = [group for group in keyed if not known.keys() >= {key for key, _ in group}]
    if not filter.together:
        missing = [*{key: record for key, record in chain(*todo) if key not in known}.items()]
        todo = [missing[start : start + PIECE] for start in range(0, len(missing), PIECE)]
    new, saved_at = dict[bytes, Number](), time.monotonic()
    try:
        for some in todo:
            new |= zip((key for key, _ in some), await fresh([record for _, record in some]), strict=True)
            if time.monotonic() - saved_at > SAVE_EVERY_S:
                await ledger.add_scores(new)
                known, new, saved_at = known | new, {}, time.monotonic()
    finally:
        if new:
            await ledger.add_scores(new)
    known |= new
    return [known[key] for key, _ in chain(*keyed)]


def _keys(entry: Entry, filter: Filter, group: Sequence[Record], models: Sequence[Any] = ()) -> list[bytes]:
    """What the ledger knows the numbers of these records by. Of records that are measured together, each one's depend on all of
    them, and on what was measured of them before.
    """
    about: Sequence[Any] = [record.fields for record in group]
    if filter.together:
        whole = digest([(record.id, record.fields, record.scores) for record in group])
        about = [[place, whole] for place in range(len(group))]
    return [digest([entry.filter, filter.depends_on, each, *models], 32).encode() for each in about]


async def whole_groups(chunks: Chunks, key: Callable[[Record], Any]) -> Chunks:
    """The same records in chunks that part none of the groups of records which follow each other with the same key; memory
    holds a chunk and a group.
    """
    held, begin, last = Chunk(), 0, object()
    async for chunk in chunks:
        for record in chunk:
            if (own := key(record)) != last:
                begin, last = len(held), own
            held.append(record)
        if begin:
            yield held[:begin]
            held, begin = held[begin:], 0
    if held:
        yield held


def _label(score: str) -> str:
    """The label of the filter that gave a score: its whole name, or what stands before the name of one of several numbers."""
    return score.partition(".")[0]


def _numbers(given: Any, count: int, label: str) -> list[Number]:
    """What a measure gave, checked."""
    try:
        numbers = list(given)
    except TypeError as error:
        raise ConfigError(f"filter '{label}': measure gives a list of numbers, not {given!r}") from error
    if len(numbers) != count:
        raise ConfigError(
            f"filter '{label}' measured {len(numbers)} of {count} records; it owes a number for each"
        )
    return [
        {k: _finite(v, label) for k, v in n.items()} if isinstance(n, Mapping) else _finite(n, label)
        for n in numbers
    ]


def _finite(value: Any, label: str) -> float:
    with suppress(TypeError):
        if math.isfinite(value):
            return value if type(value) in (int, float) else float(value)  # a NumPy number cannot be stored
    raise ConfigError(f"filter '{label}' measured {value!r}; a measurement must be a finite number")


def described(factory: Callable[..., Filter]) -> tuple[str, dict[str, str]]:
    """A factory's docstring up to its options, and each option's description: the lines `name: text` below 'Options:'."""
    about, _, listed = (inspect.getdoc(factory) or "").partition("\nOptions:\n")
    options = re.finditer(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", listed, re.MULTILINE)
    return about.strip(), {option[1]: " ".join(option[2].split()) for option in options}


def options_of(factory: Callable[..., Filter]) -> type[BaseModel]:
    """A filter factory's keyword-only options, as a model that checks them; `project` is no option but what it is given."""
    hints, (about, descriptions) = _hints(factory), described(factory)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        if name == "project":
            continue
        if parameter.kind is not parameter.KEYWORD_ONLY:
            file = inspect.getsourcefile(factory)
            raise ConfigError(
                f"'{name}' must be keyword-only: def {factory.__name__}(*, {name}: …)", path=file
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (hints.get(name, Any), Field(default, description=descriptions.get(name)))
    if unknown := [name for name in descriptions if name not in fields]:
        message = (
            f"the docstring describes '{unknown[0]}', which is no option{did_you_mean(unknown[0], fields)}"
        )
        raise ConfigError(message, path=inspect.getsourcefile(factory))
    forbid = ConfigDict(extra="forbid", frozen=True)
    return create_model(factory.__name__, __config__=forbid, __doc__=about, **fields)


def _hints(factory: Callable[..., Filter]) -> dict[str, Any]:
    """The types of a factory's options. Raises ConfigError where one names what the file does not hold when it runs."""
    try:
        return get_type_hints(factory, include_extras=True)
    except NameError as error:
        remedy = "import it outside of 'if TYPE_CHECKING'"
        path, line = inspect.getsourcefile(factory), factory.__code__.co_firstlineno
        raise ConfigError(
            f"the types of its options cannot be read: {error}; {remedy}", path=path, line=line
        ) from error
