"""evaluate: ask several models about the same held-out items, and measure their answers with confidence
intervals.

A metric is a filter: it reports the share of answers that the filter keeps, or a number of each answer such
as an NDCG, and the mean of each number that it measures. So every filter can judge a student with the code,
and with the stored scores, that judge a corpus.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations, islice
from statistics import fmean
from typing import Any, Literal

from pydantic import Field, model_validator

from distillgen.answers.final_answer import Kind, option_of, options_of
from distillgen.errors import ConfigError
from distillgen.flow.asking import AboutRecord, likelihood
from distillgen.flow.bounds import Ask, bounds, size_of
from distillgen.flow.condition import Condition
from distillgen.flow.filter import Entries, Entry
from distillgen.flow.in_thread import in_thread
from distillgen.flow.measures import Measure, Measures, by_title
from distillgen.flow.stage import (
    CHUNK,
    BoundStage,
    CheckContext,
    Chunks,
    Estimate,
    EvaluationSet,
    Job,
    Stage,
    stage_class,
)
from distillgen.inference.parts import parts_in
from distillgen.inference.request import Completion, Request
from distillgen.inference.sampling import Sampling
from distillgen.inference.teacher import Teacher
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
from distillgen.stages._answered import GOLD, Answered, Choice, compared

log = logging.getLogger("distillgen")


FigureName = Literal["balanced_accuracy", "macro_f1", "ece"]


class Evaluate(Stage, Sampling):
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

    asked: list[str] = Field(
        min_length=1,
        alias="models",
        description="models to ask: names of the pipeline's models, student, or base (the model that the "
        "student was made from)",
    )
    answer_fields: dict[str, str] = Field(
        default_factory=dict,
        alias="answers",
        description="answers that earlier stages wrote, judged beside those of the models: "
        "{name: field of an item}",
    )
    data: str | None = Field(
        None, description="JSONL file of items; default: the records that the source holds out"
    )
    about: Literal["trained"] | None = Field(
        None,
        description="with trained, the items ask about facts in the training records: records that repeat an "
        "item of `data` are counted, not dropped; without `data`, the items are the records of the source",
    )
    split: Literal["test", "validation"] | None = Field(
        None,
        description="held-out records that are the items: test, the default, or validation, by which a "
        "`search` chooses",
    )
    where: str | None = Field(
        None, description="template; items for which the result is empty, false, no, 0 or null are not asked"
    )
    prompt: str | None = Field(None, description="name of a prompt in prompts/ that asks the question")
    template: str | None = Field(None, description="template of the question, instead of a prompt")
    params: dict[str, Any] = Field(
        default_factory=dict, alias="with", description="values for the question, the same for all items"
    )
    images: list[str] = Field(
        [],
        description="fields with pictures, each one or a list, which the question shows besides those that "
        "the prompt names; rows of `data` may name them by their paths, as seen from the file or the project",
    )
    audio: list[str] = Field([], description="fields with sounds, in the same way")
    by: str | None = Field(
        None,
        description="field of an item, such as a domain; figures are also reported for each of its values",
    )
    gold: str | None = Field(
        None, description="field of an item with the right answer, or a list of right answers"
    )
    output: str = Field("answer", description="field that holds a model's answer when a metric judges it")
    n: int = Field(
        1, ge=1, description="number of answers to each item; with 2 or more, pass@k is reported too"
    )
    vote: Kind | None = Field(None, description="report majority@k too, by votes over answers of this kind")
    metrics: Entries = Field([], description="filters that judge the answers, each with its options")
    figures: list[FigureName] = Field(
        [],
        description="figures of all answers together, compared with `gold`: balanced_accuracy and macro_f1, "
        "over the classes that `gold` has; ece, the expected calibration error of the answers' "
        "probabilities, which needs `logprobs` or `options`",
    )
    options: str | None = Field(
        None,
        description="field of an item with the options of a question; the likeliest option counts as the "
        "model's choice",
    )
    perplexity: bool = Field(False, description="measure the perplexity of each model on the right answers")

    @model_validator(mode="after")
    def _complete(self) -> Evaluate:
        if (self.prompt is None) == (self.template is None):
            raise ValueError("give either 'prompt' (a file) or 'template' (a question in place)")
        if not (self.metrics or self.figures or self.options or self.perplexity):
            raise ValueError("nothing to measure: give 'metrics', 'figures', 'options' or 'perplexity'")
        if (self.options or self.perplexity or self.figures) and not self.gold:
            raise ValueError(
                "'options', 'perplexity' and 'figures' need 'gold', the field with the right answer"
            )
        if self.split and (self.data or self.about):
            raise ValueError("'split' chooses among the held-out records: leave out 'data' and 'about'")
        if self.figures and self.n > 1:
            raise ValueError("'figures' are of one answer to each item: leave out n")
        if self.vote and self.n < 2:
            raise ValueError("a vote needs several samples: give n")
        if self.answer_fields and not self.generates:
            raise ValueError("'answers' are judged by 'metrics' or 'figures': give one")
        if self.answer_fields and self.n > 1:
            raise ValueError("'answers' holds one answer to each item: leave out n")
        for name in self.answer_fields:
            if name in self.asked:
                raise ValueError(f"'answers': '{name}' is one of the models; give another name")
        return self

    @property
    def file(self) -> str:
        """The name of the files that the stage writes, without the suffix."""
        return "evaluation" if self.name == self.kind else f"evaluation-{self.name}"

    def load_prompt(self, project: Project) -> Prompt:
        """Return the question. Raise ConfigError if it is wrong."""
        media = Media(tuple(self.images), tuple(self.audio))
        if self.template is not None:
            return Prompt.parse("", self.template, "template", project, media=media)
        return Prompt.load(str(self.prompt), project, media=media)

    @property
    def generates(self) -> bool:
        """Whether models write answers; with `options` alone they only say how likely these are."""
        return bool(self.metrics) or bool(self.figures) and not self.options

    def evaluation_set(self, project: Project) -> EvaluationSet:
        """Return the file of items and the fields in the question."""
        prompt = self.load_prompt(project)
        question = sorted(prompt.inputs.keys() - {SCORES})
        return EvaluationSet(self.data, question, self.about is not None, prompt.media, self.split or TEST)

    def bind(self, context: CheckContext) -> BoundEvaluate:
        """Load the question and the metrics; raise ConfigError if they do not fit the models or items."""
        project, fields = context.project, context.fields
        scores = ["score"] if self.options or self.perplexity else []
        for name in self.asked:
            context.able(name, *scores)
        if self.data:
            rows = list(islice(self.read(project), CHUNK))
            if not rows:
                raise ConfigError(f"'{self.data}' has no rows")
            fields = frozenset(chain.from_iterable(row.fields for row in rows))
        elif self.about and SPLIT in fields:
            raise ConfigError(
                "'about: trained' needs 'data', a file of items, where the source holds records out: no "
                "student is trained on these"
            )
        elif self.split == VALIDATION and SPLIT not in fields:
            raise ConfigError("'split: validation' needs a source with validation rows: validation: 0.1")
        elif not self.about and SPLIT not in fields and context.trained:
            remedy = "give the source held_out: 0.1, or 'data', a file of other items"
            raise ConfigError(f"the items would be the student's training records; {remedy}")
        of_items, prompt = replace(context, fields=fields), self.load_prompt(project)
        subject = f"prompt '{self.prompt}'" if self.prompt else "'template'"
        for name in self.asked:
            sampling = self.sampling(context.models[name].sampling_options(), prompt)
            needs = ["logprobs"] if sampling.get("logprobs") is not None else []
            needs += prompt.media.capabilities
            needs += ["picture_score"] if scores and prompt.media.fields else []
            if "ece" in self.figures and not ("logprobs" in needs or self.options):
                raise ConfigError(
                    f"figures: ece needs the probabilities of the answers of '{name}'; give logprobs: 5, or "
                    "'options', the field with the options of a question"
                )
            context.able(name, *needs, sampling=sampling)
            context.answers(name, prompt.sources)
        for name in prompt.needed - self.params.keys() - {SCORES}:
            of_items.need(name, subject)
        if SCORES in prompt.inputs.keys() - self.params.keys():  # the rows of a file have no scores
            of_records = frozenset[str]() if self.data else context.scores
            replace(of_items, scores=of_records).need_scores(prompt.scores, subject)
        for option in ("gold", "options", "by"):
            if name := getattr(self, option):
                of_items.need(name, f"'{option}'")
        if self.where is not None:
            Condition(self.where).check(of_items, "'where'")
        for name in self.answer_fields.values():
            of_items.need(name, "'answers'")
        answered = fields | {self.output, *self.asked, *self.answer_fields, *([GOLD] if self.gold else [])}
        metrics = {
            entry.label: self._metric(entry, project).bind(replace(context, fields=answered))
            for entry in self.metrics
        }
        files = {self.data: project.file(self.data)} if self.data else {}
        if self.prompt:
            files[f"prompts/{self.prompt}"] = project.find("prompts", self.prompt, ".md")
        for metric in metrics.values():
            files |= metric.files
        judges = [name for metric in metrics.values() for name in metric.models]
        models = list(dict.fromkeys([*self.asked, *judges]))
        media = sum((metric.media() for metric in metrics.values()), prompt.media)
        first = list(islice(self.read(project, media), CHUNK)) if self.data and media.fields else []
        reasons = [f"{item.source}: {item.dropped.reason}" for item in first if item.dropped]
        if first and len(reasons) == len(first):
            raise ConfigError(reasons[0])
        return BoundEvaluate(
            self, context, context.fields, models, files, prompt=prompt, metrics=metrics, item_media=media
        )

    def _metric(self, entry: Entry, project: Project) -> Stage:
        """Return a stage `filter` of this metric alone, so that each metric sees every answer."""
        options = {entry.filter: {**entry.options, "name": entry.label}}
        return stage_class("filter", project).model_validate({"name": self.name, "filters": [options]})

    def sampling(self, model: Mapping[str, Any], prompt: Prompt) -> dict[str, Any]:
        """Return the sampling options. The stage's override the model's, which override the prompt's."""
        return {**prompt.front.sampling.sampling_options(), **model, **self.sampling_options()}

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
        asking = _Asking(self.stage, self.prompt, job)
        reasons = [item.dropped.reason if item.dropped else asking.why_not(item) for item in items]
        left_out = Counter(filter(None, reasons))
        for item, why in zip(items, reasons, strict=True):
            if why:
                log.warning("%s: the item %s is left out: %s", self.name, item.source, why)
        items = [item for item, why in zip(items, reasons, strict=True) if not why]
        if not items:
            raise ConfigError(
                f"stage '{self.name}': no item can be asked about: {left_out.most_common(1)[0][0]}"
            )
        completions_by_model: dict[str, list[Completion]] = {}
        for name in self.stage.asked:  # in turn, because two local models may not fit into memory
            answers = (
                await asking.all(name, [(item, None) for item in items], samples=self.stage.n)
                if self.stage.generates
                else []
            )
            completions_by_model[name] = [*chain.from_iterable(answers)]
        for name, field_name in self.stage.answer_fields.items():
            completions_by_model[name] = [_answer_in(item, field_name) for item in items]
        results = []
        for name, completions in completions_by_model.items():
            records = list[Record]()
            for i, completion in enumerate(completions):
                item, first = items[i // self.stage.n], i - i % self.stage.n
                others = {other: texts[first].text for other, texts in completions_by_model.items()}
                fields = {**item.fields, **others, self.stage.output: completion.text}
                records.append(
                    Record(digest([item.id, name, i % self.stage.n]), fields, (item.id,), item.source)
                )
            groups = [text_of(item.fields.get(self.stage.by)) for item in items] if self.stage.by else []
            asked = [] if name in self.stage.answer_fields else completions
            output_tokens = job.services.ledger.output_tokens([completion.key for completion in asked])
            tokens = fmean(output_tokens[completion.key] for completion in asked) if asked else 0.0
            results.append(answered := Answered(name, self.stage.n, completions, records, groups, tokens))
            answered.figures = self.stage.figures
            for entry in self.stage.metrics:
                if (
                    name not in entry.options.values()
                ):  # a metric that compares with a model is not applied to that model
                    await self._measure(answered, entry, job)
            if name in self.stage.answer_fields:
                continue
            if self.stage.perplexity:
                answered.log_likelihoods = await asking.log_likelihoods(name, items)
            if self.stage.options:
                answered.choices = await asking.choices(name, items, self.stage.options)
        figures = await in_thread(self._figures, results)
        evaluation = {"items": len(items), "left_out": dict(left_out), **figures}
        for result in results:
            job.services.measures.update(result.measures())
        if left_out:
            job.services.measures[Measure("items left out")] = left_out.total()
        lines = [dumps(row, sort_keys=False) + b"\n" for answered in results for row in answered.rows()]
        (job.context.directory / f"{self.stage.file}.jsonl").write_bytes(b"".join(lines))
        (job.context.directory / f"{self.stage.file}.json").write_bytes(
            dumps(evaluation, sort_keys=False) + b"\n"
        )

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
            passed.append(None if unread else share if _came(completion) else 0.0)
        answered.passed[entry.label] = passed

    def _judged(self, answered: Answered, entry: Entry, job: Job) -> Chunks:
        """Yield the answers as the metric's filter leaves them. A model judges no missing or empty answer."""
        metric, records = self.metrics[entry.label], answered.records
        if metric.models:
            answers = zip(answered.completions, records, strict=True)
            no_answer = (self.name, "no_answer", "there is no answer to judge")
            records = [r if _came(c) and c.text.strip() else r.drop(*no_answer) for c, r in answers]

        async def chunks() -> Chunks:
            for start in range(0, len(records), CHUNK):
                yield records[start : start + CHUNK]

        return metric.run(chunks(), job)


class _Asking:
    """Asks models about items."""

    def __init__(self, stage: Evaluate, prompt: Prompt, job: Job) -> None:
        self._stage, self._prompt, self._job = stage, prompt, job

    async def all(
        self, model: str, questions: Sequence[tuple[Record, str | None]], *, samples: int = 1
    ) -> list[Sequence[Completion]]:
        """Return the completions for each item; for an item with a text, the log-probabilities of the text
        instead.

        CHUNK requests are sent at once.
        """
        teacher, job = self._job.services.teachers[model], self._job
        again = (lambda completion: completion.status == "failed") if job.context.retry_failed else None
        completions: list[Sequence[Completion]] = []
        for start in range(0, len(questions), CHUNK):
            part = questions[start : start + CHUNK]
            requests = [(self._request(teacher, item, target), samples) for item, target in part]
            outcomes = teacher.begin(requests, stage=self._stage.name, again=again)
            completions += [
                await AboutRecord(item, outcome.result, outcome.tasks)
                for (item, _), outcome in zip(part, outcomes, strict=True)
            ]
        return completions

    def why_not(self, item: Record) -> str:
        """Return why models cannot be asked about the item; "" if they can."""
        stage = self._stage
        if stage.gold and item.fields.get(GOLD) is None:
            return (
                f"'{stage.gold}' is null"
                if stage.gold in item.fields
                else f"there is no field '{stage.gold}' in the row"
            )
        try:
            self._messages(item)
        except Unrenderable as error:
            return str(error)
        return ""

    def _messages(self, item: Record) -> list[dict[str, Any]]:
        """Return the question about an item. Raise Unrenderable."""
        prompt, stage = self._prompt, self._stage
        draw = prompt.draw(f"{stage.name}/{item.id}", item.fields)
        return prompt.render(item.variables(prompt.inputs), draw, stage.params)

    def _request(self, teacher: Teacher, item: Record, target: str | None) -> Request:
        prompt, stage, messages = self._prompt, self._stage, self._messages(item)
        sampling = stage.sampling(teacher.spec.sampling_options(), prompt) if target is None else {}
        return Request(teacher.model, sampling=sampling, target=target, **teacher.message_fields(messages))

    async def log_likelihoods(self, model: str, items: Sequence[Record]) -> list[tuple[float, int] | None]:
        """Return the log-probability of each right answer, in nats, and its number of tokens; None if they
        are unknown.
        """
        answers = await self.all(model, [(item, text_of(_one(item.fields[GOLD]))) for item in items])
        tokens = [
            [token[1] for token in completion.logprobs if token[1] is not None] for (completion,) in answers
        ]
        return [(sum(values), len(values)) if values else None for values in tokens]

    async def choices(self, model: str, items: Sequence[Record], field: str) -> list[Choice | None]:
        """Return for each item the likeliest of the options in `field`; None if unknown."""
        options_by_item = [options_of(item.fields.get(field)) for item in items]
        flat = [
            (item, text)
            for item, options in zip(items, options_by_item, strict=True)
            for text in options.values()
        ]
        sums = (
            likelihood("it", completion).get("it.logprob", -math.inf)
            for (completion,) in await self.all(model, flat)
        )
        choices = list[Choice | None]()
        for item, options in zip(items, options_by_item, strict=True):
            values = {letter: next(sums) for letter in options}
            most = max(values.values(), default=-math.inf)
            if not math.isfinite(most):
                choices.append(None)
            else:
                chosen = max(values, key=lambda letter: values[letter])
                share = 1 / sum(math.exp(value - most) for value in values.values())
                right = option_of(gold := _one(item.fields[GOLD]), options)
                gold_text = options[right] if right else text_of(gold)
                choices.append(Choice(share, chosen == right, options[chosen], gold_text))
        return choices


def _answer_in(item: Record, name: str) -> Completion:
    """Return the answer in a field of an item; one that is missing counts as a failed answer."""
    value = item.fields.get(name)
    return Completion(status="failed") if value is None else Completion(text=text_of(value))


def _came(completion: Completion) -> bool:
    """Return whether the completion has an answer, complete or cut off."""
    return completion.status in ("ok", "length")


def _one(gold: Any) -> Any:
    """Return the right answer, or the first one of a list."""
    return gold[0] if isinstance(gold, list) and gold else gold
