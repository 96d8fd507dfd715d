"""evaluate: ask several models about the same held-out items, and measure their answers with confidence
intervals.

A metric is a filter: it reports the share of answers that the filter keeps, or a number of each answer such
as an NDCG, and the mean of each number that it measures. So every filter can judge a student with the code,
and with the stored scores, that judge a corpus.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations, islice
from statistics import fmean
from typing import Any

from distillgen.errors import ConfigError
from distillgen.flow.bounds import Ask, bounds, size_of
from distillgen.flow.condition import Condition
from distillgen.flow.filter import Entry
from distillgen.flow.in_thread import in_thread
from distillgen.flow.measures import Measure, Measures, by_title
from distillgen.flow.stage import CHUNK, BoundStage, CheckContext, Chunks, Estimate, Job, Stage, stage_class
from distillgen.inference.parts import parts_in
from distillgen.inference.request import Completion
from distillgen.project import Project
from distillgen.prompting.media import NO_MEDIA, Media
from distillgen.prompting.prompt import Prompt
from distillgen.record import (
    META,
    SCORES,
    SPLIT,
    TEST,
    VALIDATION,
    Record,
    Unrenderable,
    digest,
    dumps,
    text_of,
)
from distillgen.rows.jsonl import read_rows
from distillgen.rows.media import UNUSABLE
from distillgen.rows.readers import with_references
from distillgen.rows.reading import Reading
from distillgen.stages._answered import GOLD, Answered, compared
from distillgen.stages._evaluate_options import EvaluateOptions
from distillgen.stages._item_questions import ItemQuestions, answer_in, has_answer
from distillgen.state_files import replace_bytes

log = logging.getLogger("distillgen")


class Evaluate(EvaluateOptions):
    """Ask models about held-out items, and measure their answers.

    Items are the rows of `data`; without it the records that are held out; and all records where no stage
    trains, or where they are `about: trained`. A metric is a filter. It sees the fields of the item, a
    model's answer as `answer`, the right answer as `gold`, and the first answer of each model under the name
    of the model. Records pass unchanged. The figures are in `evaluation.json` and in the report, and each
    answer in `evaluation.jsonl`.
    """

    kind = "evaluate"
    scope = "set"
    optional = frozenset({"when", "split"})
    reads = (
        "the rows of `data`, or the records; in them the fields in the question, `gold`, `options` and `by`"
    )
    writes = (
        "`evaluation.json` and `evaluation.jsonl`, or `evaluation-<name>.json` and `.jsonl` for a stage "
        "of another name"
    )

    def bind(self, context: CheckContext) -> BoundEvaluate:
        """Load the question and the metrics; raise ConfigError if they do not fit the models or items."""
        project = context.project
        for name in self.asked:
            context.able(name, *self._scoring)
        items, prompt = replace(context, fields=self._item_fields(context)), self.load_prompt(project)
        self._check_models(context, prompt)
        self._check_fields(items, prompt)
        names = [self.output, *self.asked, *self.answer_fields, *([GOLD] if self.gold else [])]
        answered = replace(items, fields=items.fields.union(names))
        metrics = {entry.label: self._metric(entry, project).bind(answered) for entry in self.metrics}
        files = {self.data: project.file(self.data)} if self.data else {}
        if self.prompt:
            files[f"prompts/{self.prompt}"] = project.find("prompts", self.prompt, ".md")
        for metric in metrics.values():
            files |= metric.files
        judges = [name for metric in metrics.values() for name in metric.models]
        models = list(dict.fromkeys([*self.asked, *judges]))
        media = sum((metric.media() for metric in metrics.values()), prompt.media)
        self._check_media(project, media)
        return BoundEvaluate(
            self, context, context.fields, models, files, prompt=prompt, metrics=metrics, item_media=media
        )

    @property
    def _scoring(self) -> list[str]:
        """The capability that a model needs for the log-probabilities of given texts, if these are asked."""
        return ["score"] if self.options or self.perplexity else []

    def _item_fields(self, context: CheckContext) -> frozenset[str]:
        """Return the fields of an item. Raise ConfigError if there are none, or if a student learns them."""
        if self.data:
            rows = list(islice(self.read(context.project), CHUNK))
            if not rows:
                raise ConfigError(f"'{self.data}' has no rows")
            return frozenset(chain.from_iterable(row.fields for row in rows))
        if self.about and SPLIT in context.fields:
            raise ConfigError(
                "'about: trained' needs 'data', a file of items, where the source holds records out: no "
                "student is trained on these"
            )
        if self.split == VALIDATION and SPLIT not in context.fields:
            raise ConfigError("'split: validation' needs a source with validation rows: validation: 0.1")
        if not self.about and SPLIT not in context.fields and context.trained:
            remedy = "give the source held_out: 0.1, or 'data', a file of other items"
            raise ConfigError(f"the items would be the student's training records; {remedy}")
        return context.fields

    def _check_models(self, context: CheckContext, prompt: Prompt) -> None:
        """Raise ConfigError if a model cannot answer the question, or lacks what a figure needs."""
        for name in self.asked:
            sampling = self.sampling(context.models[name].sampling_options(), prompt)
            needs = ["logprobs"] if sampling.get("logprobs") is not None else []
            needs += prompt.media.capabilities
            needs += ["picture_score"] if self._scoring and prompt.media.fields else []
            if "ece" in self.figures and not ("logprobs" in needs or self.options):
                raise ConfigError(
                    f"figures: ece needs the probabilities of the answers of '{name}'; give logprobs: 5, or "
                    "'options', the field with the options of a question"
                )
            context.able(name, *needs, sampling=sampling)
            context.answers(name, prompt.sources)

    def _check_fields(self, items: CheckContext, prompt: Prompt) -> None:
        """Raise ConfigError if an item lacks a field or a score that an option names."""
        subject = f"prompt '{self.prompt}'" if self.prompt else "'template'"
        for name in prompt.needed - self.params.keys() - {SCORES}:
            items.need(name, subject)
        if SCORES in prompt.inputs.keys() - self.params.keys():  # the rows of a file have no scores
            of_records = frozenset[str]() if self.data else items.scores
            replace(items, scores=of_records).need_scores(prompt.scores, subject)
        for option in ("gold", "options", "by"):
            if name := getattr(self, option):
                items.need(name, f"'{option}'")
        if self.where is not None:
            Condition(self.where).check(items, "'where'")
        for name in self.answer_fields.values():
            items.need(name, "'answers'")

    def _check_media(self, project: Project, media: Media) -> None:
        """Raise ConfigError if no picture or sound of the first items can be used."""
        first = list(islice(self.read(project, media), CHUNK)) if self.data and media.fields else []
        reasons = [f"{item.source}: {item.dropped.reason}" for item in first if item.dropped]
        if first and len(reasons) == len(first):
            raise ConfigError(reasons[0])

    def _metric(self, entry: Entry, project: Project) -> Stage:
        """Return a stage `filter` of this metric alone, so that each metric sees every answer."""
        options = {entry.filter: {**entry.options, "name": entry.label}}
        return stage_class("filter", project).model_validate({"name": self.name, "filters": [options]})

    def read(self, project: Project, media: Media = NO_MEDIA) -> Iterator[Record]:
        """Yield the items of `data`, with references to the files that the fields of `media` name. An item
        whose picture or sound cannot be used is dropped. Raise ConfigError for a bad row.
        """
        path = project.file(str(self.data))
        reading = Reading(root=project.root, media=media.kinds)
        for line, row in read_rows(path):
            if isinstance(row, str):
                raise ConfigError(f"evaluate: {row}", path=path, line=line)
            row, place = {name: value for name, value in row.items() if name != META}, f"{self.data}:{line}"
            ((_, item, _),) = with_references(iter([(place, row, "")]), path.parent, reading)
            if isinstance(item, str):
                yield Record.read(row, place).drop(self.name, UNUSABLE, item)
            else:
                yield Record.read(item, place)


@dataclass(frozen=True)
class BoundEvaluate(BoundStage):
    """The stage with its question and its metrics."""

    stage: Evaluate
    prompt: Prompt = field(kw_only=True)
    metrics: Mapping[str, BoundStage] = field(kw_only=True)
    """For each metric its filter as a stage, by the filter's label."""
    item_media: Media = field(kw_only=True)
    """The fields whose pictures and sounds the question and the metrics show."""

    def uses_seed(self) -> bool:
        """Return whether it sends a seed, or a metric depends on the pipeline's."""
        sends = self.prompt.front.sampling.seed is not None
        return super().uses_seed() or sends or any(metric.uses_seed() for metric in self.metrics.values())

    def estimate(self, before: Estimate, samples: Sequence[Record]) -> Estimate:
        """Return bounds of the requests to the models, as if all records were held out; without the requests
        of metrics.
        """
        prompt, rows = self.prompt, before.rows
        if self.stage.data:
            items = [item for item in self._items() if not item.dropped]
            samples, rows = items[:200], len(items)

        def asks(record: Record) -> list[Ask]:
            fields = {**record.fields, **self.stage.params}
            variables = record.variables(prompt.inputs)
            messages = prompt.render(variables, prompt.typical(fields), self.stage.params)
            size, parts = size_of(messages), [*parts_in(messages)]
            most = [
                self.stage.sampling(self.context.models[name].sampling_options(), prompt).get("max_tokens")
                for name in self.stage.asked
            ]
            models = zip(self.stage.asked if self.stage.generates else (), most, strict=False)
            return [Ask(name, size, tokens and tokens * self.stage.n, parts=parts) for name, tokens in models]

        estimate = bounds(replace(before, rows=rows), samples, self.context, asks)
        return replace(estimate, rows=before.rows, made_bytes=before.made_bytes)

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Yield all records, so that an earlier stage can train the student; then ask the models."""
        items = self._chosen(self._items()) if self.stage.data else []
        async for chunk in chunks:
            if not self.stage.data:
                items += self._chosen(
                    r
                    for r in chunk
                    if not r.dropped and (r.part == (self.stage.split or TEST) or SPLIT not in r.fields)
                )
            yield chunk
        if not items:
            raise ConfigError(
                f"stage '{self.name}': no record is left to ask about: give 'data', or a larger held_out"
            )
        if self.stage.gold:
            items = [
                replace(item, fields={**item.fields, GOLD: item.fields.get(self.stage.gold)})
                for item in items
            ]
        await self._evaluate(items, job)

    def _items(self) -> Iterator[Record]:
        """Yield the items of `data`."""
        return self.stage.read(self.context.project, self.item_media)

    def _chosen(self, items: Iterable[Record]) -> list[Record]:
        """Return the items for which `where` holds."""
        if self.stage.where is None:
            return list(items)
        condition, chosen = Condition(self.stage.where), list[Record]()
        for item in items:
            try:
                chosen += [item] if condition.holds(item) else []
            except Unrenderable as error:
                log.warning("%s: the item %s is left out: 'where': %s", self.name, item.source, error)
        return chosen

    async def _evaluate(self, items: Sequence[Record], job: Job) -> None:
        """Ask, measure, compare, and write the files. Items that do not fit the question are left out and
        counted.
        """
        stage, questions = self.stage, ItemQuestions(self.stage, self.prompt, job)
        items, left_out = self._that_fit(items, questions)
        completions = await self._completions(items, questions)
        results = [await self._result(name, completions, items, questions, job) for name in completions]
        figures = await in_thread(self._figures, results)
        evaluation = {"items": len(items), "left_out": dict(left_out), **figures}
        for result in results:
            job.services.measures.update(result.measures())
        if left_out:
            job.services.measures[Measure("items left out")] = left_out.total()
        lines = [dumps(row, sort_keys=False) + b"\n" for result in results for row in result.rows()]
        directory = job.context.directory
        replace_bytes(directory / f"{stage.file}.jsonl", b"".join(lines))
        replace_bytes(directory / f"{stage.file}.json", dumps(evaluation, sort_keys=False) + b"\n")

    def _figures(self, results: Sequence[Answered]) -> dict[str, Any]:
        """Return the figures of the models and of each pair of them, with their intervals."""
        return {
            "of": self.stage.data or "the source",
            "samples": self.stage.n,
            "models": {result.name: result.report(self.stage.vote) for result in results},
            "by": self.stage.by,
            "groups": {result.name: result.report_by_group() for result in results} if self.stage.by else {},
            "comparisons": [
                difference for one, other in combinations(results, 2) for difference in compared(one, other)
            ],
        }

    def _that_fit(
        self, items: Sequence[Record], questions: ItemQuestions
    ) -> tuple[list[Record], Counter[str]]:
        """Return the items that models can be asked about, and counts of the others by the reason."""
        reasons = [item.dropped.reason if item.dropped else questions.why_not(item) for item in items]
        left_out = Counter(filter(None, reasons))
        for item, why in zip(items, reasons, strict=True):
            if why:
                log.warning("%s: the item %s is left out: %s", self.name, item.source, why)
        fitting = [item for item, why in zip(items, reasons, strict=True) if not why]
        if not fitting:
            raise ConfigError(
                f"stage '{self.name}': no item can be asked about: {left_out.most_common(1)[0][0]}"
            )
        return fitting, left_out

    async def _completions(
        self, items: Sequence[Record], questions: ItemQuestions
    ) -> dict[str, list[Completion]]:
        """Return `n` answers to each item, item by item, by the model or the name in `answers`."""
        completions: dict[str, list[Completion]] = {}
        for name in self.stage.asked:  # in turn, because two local models may not fit into memory
            answers = (
                await questions.completions(name, [(item, None) for item in items], samples=self.stage.n)
                if self.stage.generates
                else []
            )
            completions[name] = [*chain.from_iterable(answers)]
        for name, field_name in self.stage.answer_fields.items():
            completions[name] = [answer_in(item, field_name) for item in items]
        return completions

    async def _result(
        self,
        name: str,
        completions_by_model: Mapping[str, Sequence[Completion]],
        items: Sequence[Record],
        questions: ItemQuestions,
        job: Job,
    ) -> Answered:
        """Return the answers of a model with what the metrics and the other figures measure of them."""
        stage, completions = self.stage, completions_by_model[name]
        records = list[Record]()
        for i, completion in enumerate(completions):
            item, first = items[i // stage.n], i - i % stage.n
            others = {other: texts[first].text for other, texts in completions_by_model.items()}
            fields = {**item.fields, **others, stage.output: completion.text}
            records.append(Record(digest([item.id, name, i % stage.n]), fields, (item.id,), item.source))
        groups = [text_of(item.fields.get(stage.by)) for item in items] if stage.by else []
        is_model = name not in stage.answer_fields
        keys = [completion.key for completion in completions] if is_model else []
        output_tokens = job.services.ledger.output_tokens(keys)
        tokens = fmean(output_tokens[key] for key in keys) if keys else 0.0
        answered = Answered(name, stage.n, completions, records, groups, tokens)
        answered.figures = stage.figures
        for entry in stage.metrics:
            if name not in entry.options.values():  # a metric that compares with a model does not judge it
                await self._measure(answered, entry, job)
        if is_model and stage.perplexity:
            answered.log_likelihoods = await questions.log_likelihoods(name, items)
        if is_model and stage.options:
            answered.choices = await questions.choices(name, items, stage.options)
        return answered

    async def _measure(self, answered: Answered, entry: Entry, job: Job) -> None:
        """Measure one metric of all answers of a model. A missing answer passes no metric."""
        passed: list[float | None] = []
        measures: Measures = {}
        stream = self._judged(
            answered, entry, replace(job, services=replace(job.services, measures=measures))
        )
        judged = [record async for chunk in stream for record in chunk]
        score = self.metrics[entry.label].metric()
        answered.judges |= by_title(measures)
        for completion, record in zip(answered.completions, judged, strict=True):
            answered.scores.setdefault(record.id, {}).update(record.scores)
            for name, number in record.scores.items():
                answered.numbers.setdefault(name, []).append(number)
            if record.dropped:
                answered.reasons.setdefault(record.id, {})[entry.label] = record.dropped.reason
            unread = record.dropped is not None and record.dropped.filter == "failed"
            share = record.scores.get(score) if score else float(record.dropped is None)
            passed.append(None if unread else share if has_answer(completion) else 0.0)
        answered.passed[entry.label] = passed

    def _judged(self, answered: Answered, entry: Entry, job: Job) -> Chunks:
        """Yield the answers as the metric's filter leaves them. A model judges no missing or empty answer."""
        metric, records = self.metrics[entry.label], answered.records
        if metric.models:
            answers = zip(answered.completions, records, strict=True)
            no_answer = (self.name, "no_answer", "there is no answer to judge")
            records = [r if has_answer(c) and c.text.strip() else r.drop(*no_answer) for c, r in answers]

        async def chunks() -> Chunks:
            for start in range(0, len(records), CHUNK):
                yield records[start : start + CHUNK]

        return metric.run(chunks(), job)
