"""filter: measure records, decide which ones to keep, and give the reason for each dropped one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import Field

from distillgen.errors import ConfigError, DistillgenError
from distillgen.flow.asking import Answers, Question, ask_each
from distillgen.flow.bounds import Ask, bounds, size_of
from distillgen.flow.filter import Entries, Entry, Filter, Number, factory_of, option_types, options_of
from distillgen.flow.mark import marked, marks
from distillgen.flow.measures import measures_of
from distillgen.flow.measuring import Judge, checked_numbers, label_of, measured, score_keys, whole_groups
from distillgen.flow.ordered import in_order, splice
from distillgen.flow.stage import (
    CHUNK,
    BoundStage,
    CheckContext,
    Chunk,
    Chunks,
    Estimate,
    Job,
    Scope,
    Stage,
    Text,
)
from distillgen.flow.whole_set import in_blocks, number_of
from distillgen.inference.outcome import Outcome
from distillgen.inference.request import Request
from distillgen.inference.spec import Spec
from distillgen.inference.teacher import Teacher
from distillgen.located_yaml import Places, validate
from distillgen.plugins import Plugin, filter_factory, find
from distillgen.project import Project, code_sha256, imported, user_error
from distillgen.prompting.media import NO_MEDIA, Media
from distillgen.prompting.output_form import Unparsable
from distillgen.record import (
    FieldName,
    FileName,
    ModelName,
    NumberName,
    PromptName,
    Record,
    ScriptName,
    TemplateText,
)


class FilterStage(Stage):
    """Measure records, and drop those that a filter does not accept.

    The stage applies the filters in order. The first filter that drops a record gives the reason.
    A filter that compares records widens the stage's scope to a group or to the whole set.
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
        """Load and make the filters. Raise ConfigError if an option, field, model or file is missing."""
        filters = [LoadedFilter.load(entry, context.project, context.seed) for entry in self.filters]
        models, files = list[str](), dict[str, Path]()
        scores = context.scores
        for loaded in filters:
            assert loaded.filter  # a factory checks its options, too
            label = loaded.entry.label
            for option, name in loaded.names(FieldName):
                context.need(name, f"filter '{label}' ({option})")
            so_far = replace(context, scores=scores)
            for option, source in loaded.names(TemplateText):
                Text(source).check(so_far, f"filter '{label}' ({option})")
            for option, name in loaded.names(NumberName):
                so_far.need_number(name, f"filter '{label}' ({option})")
            scores |= {label, f"{label}."}
            media = loaded.filter.media
            for name in sorted(media.fields):
                context.need(name, f"filter '{label}'")
            for name in loaded.models:
                context.able(name, *media.capabilities)
            if loaded.filter.begin and not context.loops:
                label = loaded.entry.label
                raise ConfigError(f"filter '{label}' looks at earlier rounds, and works only inside 'rounds'")
            models += loaded.models
            files |= loaded.files()
        return BoundFilterStage(
            self,
            context,
            context.fields | marks(self.mark),
            models,
            files,
            filters=filters,
            tried=self._try(filters, context),
        )

    def _try(self, filters: Sequence[LoadedFilter], context: CheckContext) -> Record | None:
        """Judge the record that arrives first, where it is known before any model is asked, by the filters
        that do not ship with distillgen. Return it if it is kept.

        A filter that asks models, keeps its numbers, compares records or waits is not tried, and nor is what
        comes after it. Raise UserCodeError for an exception of a filter.
        """
        record = context.stages[-1].example() if context.stages and not context.loops else None
        for loaded in filters if not self.when else ():
            judge = Judge(self.name, loaded.entry, loaded.make(), {})
            if record is None or record.dropped or not loaded.foreign:
                return None
            filter = judge.filter
            if filter.asks or filter.together or filter.whole_set or filter.depends_on is not None:
                return None
            try:
                measure_result = filter.measure([record])
            except DistillgenError:
                raise
            except Exception as error:
                raise judge.broken(error, [record]) from error
            if inspect.isawaitable(measure_result):
                if inspect.iscoroutine(measure_result):
                    measure_result.close()
                return None
            record = judge(record, *checked_numbers(measure_result, 1, loaded.entry.label))
        return None if self.when or self.mark or record is None or record.dropped else record

    def scores(self) -> list[str]:
        """Return the labels of the filters, alone and before the name of a number."""
        return [name for entry in self.filters for name in (entry.label, f"{entry.label}.")]

    def chooses(self) -> bool:
        """Return whether it drops records: a filter stage that marks drops none."""
        return self.mark is None


@dataclass(frozen=True)
class LoadedFilter:
    """A filter of a stage's list, with its factory and the checked options."""

    entry: Entry
    factory: Callable[..., Filter]
    options: Mapping[str, Any]
    plugin: Plugin | None
    """Where its file is; None for a filter that Python code hands over."""
    project: Project

    @classmethod
    def load(cls, entry: Entry, project: Project, seed: int = 0) -> LoadedFilter:
        """Load the factory and check the options; add the pipeline's seed to an option `seed`.

        Raise ConfigError.
        """
        subject, plugin = f"filter '{entry.filter}'", None
        if entry.filter in project.filters:
            factory = factory_of(entry.filter, project.filters[entry.filter])
        else:
            factory, plugin = filter_factory(entry.filter, project), find("filters", entry.filter, project)
        validated = validate(options_of(factory), entry.options, owner=subject, places=Places())
        options = dict(iter(validated))  # dict(validated) would call an option of the name `keys`
        if seed and isinstance(options.get("seed"), int):
            options["seed"] += seed
        return cls(entry, factory, options, plugin, project)

    @property
    def foreign(self) -> bool:
        """Whether it does not ship with distillgen."""
        return self.plugin is None or bool(self.plugin.files)

    def make(self) -> Filter:
        """Return a new filter, which has seen no record. Raise ConfigError."""
        subject, options = f"filter '{self.entry.filter}'", dict(self.options)
        if "project" in inspect.signature(self.factory).parameters:
            options["project"] = self.project
        try:
            new_filter = self.factory(**options)
        except ValueError as error:  # a factory's own check of its options
            raise ConfigError(f"{subject}: {error}") from error
        except DistillgenError:
            raise
        except Exception as error:
            raise user_error(error, subject) from error
        if not isinstance(new_filter, Filter):
            message = f"'{self.entry.filter}' gives {type(new_filter).__name__}, not a Filter"
            file = self.plugin.file if self.plugin else None
            raise ConfigError(f"{message}: return Filter(measure=…, decide=…)", path=file)
        if new_filter.depends_on is not None:
            code = code_sha256(self.plugin.file) if self.plugin else uuid4().hex
            new_filter = replace(new_filter, depends_on={**new_filter.depends_on, "code": code})
        return new_filter

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
        return option_types(self.factory)

    def names(self, kind: Any) -> list[tuple[str, str]]:
        """Return the options whose type is a kind of name, or a list of such names, each with one name."""
        defaults = inspect.signature(self.factory).parameters
        options = [name for name, hint in self._types.items() if name != "return" and _mentions(hint, kind)]
        values = [(option, self.entry.options.get(option, defaults[option].default)) for option in options]
        return [
            (option, name)
            for option, value in values
            for name in ([value] if isinstance(value, str) else value or ())
        ]

    def files(self) -> dict[str, Path]:
        """Return the filter's file, the project files that it imports, and the files in its options."""
        files = {f"filters/{self.entry.filter}": self.plugin.file} if self.plugin else {}
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
    tried: Record | None = field(kw_only=True)
    """The first record, if it is known before any model is asked, and kept."""

    def example(self) -> Record | None:
        """Return the record that was tried."""
        return self.tried

    @property
    def scope(self) -> Scope:
        """`set` if a filter sees all records, `group` if one measures records together, else `row`."""
        filters = [loaded.filter for loaded in self.filters]
        if any(filter.whole_set for filter in filters):
            return "set"
        return "group" if any(filter.together for filter in filters) else "row"

    @property
    def conditional(self) -> bool:
        """Whether records can pass it by: filters of any scope leave the other records alone."""
        return True

    def uses_seed(self) -> bool:
        """Return whether a filter has an option `seed`, is not shipped, or asks a model that gets a seed."""
        return super().uses_seed() or any(
            "seed" in loaded.options or loaded.foreign for loaded in self.filters
        )

    def media(self) -> Media:
        """Return the fields whose pictures and sounds the filters' requests show."""
        return sum((loaded.filter.media for loaded in self.filters), NO_MEDIA)

    def score_labels(self) -> dict[str, tuple[str, str]]:
        """Return the labels of its filters."""
        return {entry.label: (entry.filter, self.name) for entry in self.stage.filters}

    def metric(self) -> str:
        """Return the score that the last filter is a metric by, as a record has it; "" if it has none."""
        loaded = self.filters[-1]
        return loaded.filter.metric and f"{loaded.entry.label}.{loaded.filter.metric}"

    def estimate(self, before: Estimate, samples: Sequence[Record]) -> Estimate:
        """Return bounds of the filters' requests, as if no filter dropped a record."""
        models = self.context.models
        judges = [Judge(self.name, loaded.entry, loaded.filter, {}) for loaded in self.filters]

        def requests(record: Record) -> list[Ask]:
            return [
                Ask(
                    r.model,
                    size_of(r.messages),
                    _with_model_options(r, models[r.model]).sampling.get("max_tokens"),
                    r.schema,
                    parts=r.parts,
                )
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
            if filter.begin:
                filter.begin(job.services.pool())
            costs = job.services.costs.setdefault(self.name, {}).setdefault(
                entry.label, {"rows": 0, "measured": 0, "seconds": 0.0}
            )
            judge = Judge(self.name, entry, filter, costs)
            chunks = self._having(chunks, loaded)
            if filter.depends_on is not None and not filter.asks:
                # records that arrive during a call wait for the next one, which measures them together
                chunks = in_order(chunks, lambda chunk: [Outcome.of(chunk)], window=lambda: CHUNK)
            chunks = whole_groups(chunks, judge.together) if filter.together else chunks
            if filter.waits:
                chunks = in_blocks(chunks, partial(judge.waits, folder=job.context.directory), job)
            if filter.asks:
                chunks = self._judge_with_models(
                    chunks, judge, {name: job.services.teachers[name] for name in loaded.models}, job
                )
            else:
                chunks = self._judged(chunks, judge, job)
            chunks = self._noted(chunks, judge, job) if filter.over_run else chunks
        return marked(chunks, self.name, self.stage.mark) if self.stage.mark else chunks

    async def _having(self, chunks: Chunks, loaded: LoadedFilter) -> Chunks:
        """Drop the records that lack a field or a number which the filter reads."""
        fields = [name for _, name in loaded.names(FieldName)]
        numbers = [name for _, name in loaded.names(NumberName)]

        def lack(record: Record) -> str:
            for name in fields:
                if name not in record.fields:
                    return f"there is no field '{name}' in the row"
            for name in numbers:
                if number_of(record, name) is None:
                    return f"there is no number '{name}' in the row"
            return ""

        def complete(record: Record) -> Record:
            if record.dropped or not (reason := lack(record)):
                return record
            return record.drop(self.name, loaded.entry.label, reason)

        async for chunk in chunks:
            yield list(map(complete, chunk))

    async def _unjudged(self, chunks: Chunks) -> Chunks:
        """Remove the scores that an earlier run or round stored under these filters' labels."""
        labels = {entry.label for entry in self.stage.filters}
        async for chunk in chunks:
            yield [
                record
                if record.dropped or labels.isdisjoint(map(label_of, record.scores))
                else replace(
                    record,
                    scores={name: n for name, n in record.scores.items() if label_of(name) not in labels},
                )
                for record in chunk
            ]

    async def _noted(self, chunks: Chunks, judge: Judge, job: Job) -> Chunks:
        """Pass the records on; at the end, store the figures over the numbers of all records."""
        async for chunk in chunks:
            yield chunk
        job.services.measures.update(measures_of(judge.figures()))

    async def _judge_with_models(
        self, chunks: Chunks, judge: Judge, asked_teachers: Mapping[str, Teacher], job: Job
    ) -> Chunks:
        entry, filter, costs = judge.entry, judge.filter, judge.costs
        teachers = [*asked_teachers.values()]
        models = [
            [t.identity, t.model, t.spec.sampling_options(), "json_schema" in t.spec.capabilities]
            for t in teachers
        ]
        new: dict[bytes, Number] = {}

        def settled(chunk: Chunk) -> list[Record | None]:
            """Judge the records whose numbers the ledger holds."""
            live = [record for record in chunk if not record.dropped]
            costs["rows"] += len(live)
            keys = [] if filter.depends_on is None else score_keys(entry, filter, live, models)
            stored_numbers, kept = job.services.ledger.find_scores(keys), iter(keys)
            numbers = [
                None if record.dropped or not keys else stored_numbers.get(next(kept)) for record in chunk
            ]
            return [None if n is None else judge(record, n) for record, n in zip(chunk, numbers, strict=True)]

        def questions(record: Record) -> list[Question]:
            requests = judge.requests(record, asked_teachers)
            return [
                (
                    asked_teachers[r.model],
                    _with_model_options(r, asked_teachers[r.model].spec, asked_teachers[r.model].model),
                    1,
                    None,
                )
                for r in requests
            ]

        def answered(record: Record, answers: Answers) -> Chunk:
            completions = [completions_of_request for _, completions_of_request in answers]
            try:
                for completion in chain.from_iterable(completions):
                    if completion.status != "ok":
                        raise Unparsable(completion.error or f"the answer was {completion.status}")
                (number,) = checked_numbers(filter.measure([record], [completions]), 1, entry.label)
            except Unparsable as error:
                return [record.drop(self.name, "failed", f"not judged by {entry.label}: {error}")]
            except DistillgenError:
                raise
            except Exception as error:
                raise judge.broken(error, [record]) from error
            costs["measured"] += 1
            if filter.depends_on is not None:
                new[score_keys(entry, filter, [record], models)[0]] = number
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
        filter = judge.filter

        async def work(chunk: Chunk) -> Chunk:
            groups = (
                (list(group) for _, group in groupby(chunk, judge.together)) if filter.together else [chunk]
            )
            live = [
                alive for group in groups if (alive := [record for record in group if not record.dropped])
            ]
            numbers = zip(chain(*live), await measured(judge, live, job.services.ledger), strict=True)
            return splice(chunk, ([judge(record, number)] for record, number in numbers))

        async def one_by_one() -> Chunks:
            async for chunk in chunks:
                yield await work(chunk)

        if inspect.iscoroutinefunction(filter.measure) and not filter.whole_set:
            return in_order(chunks, lambda chunk: [Outcome.start(work(chunk))], window=lambda: CHUNK)
        return one_by_one()


def _with_model_options(request: Request, spec: Spec, model: str = "") -> Request:
    """Return the request with the model's name and sampling options, which override the prompt's."""
    schema = request.schema if "json_schema" in spec.capabilities else None
    return replace(
        request,
        model=model or spec.model,
        schema=schema,
        sampling={**request.sampling, **spec.sampling_options()},
    )


def _mentions(hint: Any, kind: Any) -> bool:
    """Return whether a type is `kind`, a list of `kind`, or an optional one of them."""
    return hint == kind or any(_mentions(part, kind) for part in getattr(hint, "__args__", ()))
