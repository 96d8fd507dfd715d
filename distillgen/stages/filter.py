"""filter: measure records, decide which ones to keep, and give the reason for each dropped one."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path

from pydantic import Field

from distillgen.errors import ConfigError, DistillgenError
from distillgen.flow.bounds import Ask, bounds, size_of
from distillgen.flow.filter import Entries
from distillgen.flow.mark import marked, marks
from distillgen.flow.measures import measures_of
from distillgen.flow.measuring import Judge, checked_numbers, label_of, measured, whole_groups
from distillgen.flow.ordered import in_order, splice
from distillgen.flow.record_template import RecordTemplate
from distillgen.flow.stage import CHUNK, BoundStage, CheckContext, Chunk, Chunks, Estimate, Job, Scope, Stage
from distillgen.flow.whole_set import in_blocks, number_of
from distillgen.inference.outcome import Outcome
from distillgen.option_types import FieldName, NumberName, TemplateText
from distillgen.prompting.media import NO_MEDIA, Media
from distillgen.record import Record
from distillgen.stages._loaded_filter import LoadedFilter
from distillgen.stages._model_judge import ModelJudge, with_model_options


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
                RecordTemplate(source).check(so_far, f"filter '{label}' ({option})")
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
                    with_model_options(r, models[r.model]).sampling.get("max_tokens"),
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
                teachers = {name: job.services.teachers[name] for name in loaded.models}
                chunks = ModelJudge(judge, teachers, job).run(chunks)
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
