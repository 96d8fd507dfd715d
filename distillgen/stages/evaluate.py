"""evaluate: put the same held-out items to several models, and say how good their answers are and how sure that is.

A metric is a filter: the share of answers that it keeps, and the mean of each number that it measures. So whatever can
judge a record of a corpus can judge a student, by the same code and from the same kept scores.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations, islice
from statistics import fmean
from typing import Any

from pydantic import Field, model_validator

from distillgen.answers.final_answer import Kind, option_of, options_of
from distillgen.errors import ConfigError
from distillgen.flow.filter import Entries, Entry
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
    bounds,
    likelihood,
    size_of,
    stage_class,
)
from distillgen.inference.request import Completion, Request
from distillgen.inference.sampling import Sampling
from distillgen.inference.teacher import Teacher
from distillgen.project import Project
from distillgen.prompting.prompt import Prompt
from distillgen.record import META, SPLIT, Record, Unrenderable, digest, dumps, text_of
from distillgen.rows.jsonl import read_rows
from distillgen.stages._answered import GOLD, Answered, compared

log = logging.getLogger("distillgen")


class Evaluate(Stage, Sampling):
    """Ask models about held-out items, and measure their answers.

    Items are the rows of `data`; without it the records that are held out; and all records where no stage
    trains. A metric is a filter. It sees the fields of the item, a model's answer as `answer`, the right
    answer as `gold`, and the first answer of each model under the name of the model. Records pass
    unchanged. The figures are in `evaluation.json` and in the report, and each answer in
    `evaluation.jsonl`.
    """

    kind = "evaluate"
    scope = "set"
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
    data: str | None = Field(
        None, description="JSONL file of items; default: the records that the source holds out"
    )
    prompt: str | None = Field(None, description="name of a prompt in prompts/ that asks the question")
    template: str | None = Field(None, description="template of the question, instead of a prompt")
    params: dict[str, Any] = Field(
        default_factory=dict, alias="with", description="values for the question, the same for all items"
    )
    by: str | None = Field(
        None,
        description="field of an item, such as a domain; figures are also reported for each of its values",
    )
    gold: str | None = Field(
        None, description="field of an item with the right answer, or a list of right answers"
    )
    output: str = Field("answer", description="field in which a metric finds a model's answer")
    n: int = Field(
        1, ge=1, description="number of answers to each item; with 2 or more, pass@k is reported too"
    )
    vote: Kind | None = Field(None, description="report majority@k too, by votes over answers of this kind")
    metrics: Entries = Field([], description="filters that judge the answers, each with its options")
    options: str | None = Field(
        None,
        description="field of an item with the options of a question; the likeliest option counts as the "
        "model's choice",
    )
    perplexity: bool = Field(False, description="measure the perplexity of each model on the right answers")

    @model_validator(mode="after")
    def _whole(self) -> Evaluate:
        if (self.prompt is None) == (self.template is None):
            raise ValueError("give either 'prompt' (a file) or 'template' (a question in place)")
        if not (self.metrics or self.options or self.perplexity):
            raise ValueError("nothing to measure: give 'metrics', 'options' or 'perplexity'")
        if (self.options or self.perplexity) and not self.gold:
            raise ValueError("'options' and 'perplexity' need 'gold', the field with the right answer")
        if self.vote and self.n < 2:
            raise ValueError("a vote needs several samples: give n")
        return self

    @property
    def file(self) -> str:
        """The name of what is written, without its ending."""
        return "evaluation" if self.name == self.kind else f"evaluation-{self.name}"

    def load_prompt(self, project: Project) -> Prompt:
        """Return the question. Raise ConfigError if it is wrong."""
        if self.template is not None:
            return Prompt.parse("", self.template, "template", project)
        return Prompt.load(str(self.prompt), project)

    def evaluation_set(self, project: Project) -> EvaluationSet:
        """Return the file of items and the fields in the question."""
        return EvaluationSet(self.data, sorted(self.load_prompt(project).inputs))

    def bind(self, context: CheckContext) -> BoundEvaluate:
        """Load the question and the metrics; raise ConfigError if they do not fit the models and the items."""
        project, fields = context.project, context.fields
        for name in self.asked:
            context.able(name, *(["score"] if self.options or self.perplexity else []))
        if self.data:
            rows = list(islice(self.read(project), CHUNK))
            if not rows:
                raise ConfigError(f"'{self.data}' has no rows")
            fields = frozenset(chain.from_iterable(row.fields for row in rows))
        elif SPLIT not in fields and context.trained:
            remedy = "give the source held_out: 0.1, or 'data', a file of other items"
            raise ConfigError(f"the student would be asked about what it was trained on; {remedy}")
        of_items, prompt = replace(context, fields=fields), self.load_prompt(project)
        for name in prompt.needed - self.params.keys():
            of_items.need(name, f"prompt '{self.prompt}'" if self.prompt else "'template'")
        for option in ("gold", "options", "by"):
            if name := getattr(self, option):
                of_items.need(name, f"'{option}'")
        answered = fields | {self.output, *self.asked, *([GOLD] if self.gold else [])}
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
        return BoundEvaluate(self, context, context.fields, models, files, prompt=prompt, metrics=metrics)

    def _metric(self, entry: Entry, project: Project) -> Stage:
        """Return a stage `filter` of this metric alone, so that each metric sees every answer."""
        options = {entry.filter: {**entry.options, "name": entry.label}}
        return stage_class("filter", project).model_validate({"name": self.name, "filters": [options]})

    def sampling(self, model: Mapping[str, Any], prompt: Prompt) -> dict[str, Any]:
        """The stage's options over the model's over the prompt's."""
        return {**prompt.front.sampling.sampling_options(), **model, **self.sampling_options()}

    def read(self, project: Project) -> Iterator[Record]:
        """The items of `data`. Raises ConfigError for a bad row."""
        path = project.file(str(self.data))
        for line, row in read_rows(path):
            if isinstance(row, str):
                raise ConfigError(f"evaluate: {row}", path=path, line=line)
            yield Record.read(
                {name: value for name, value in row.items() if name != META}, f"{self.data}:{line}"
            )


@dataclass(frozen=True)
class BoundEvaluate(BoundStage):
    """The stage with its question and its metrics."""

    stage: Evaluate
    prompt: Prompt = field(kw_only=True)
    metrics: Mapping[str, BoundStage] = field(kw_only=True)
    """For each metric its filter as a stage, by the filter's label."""

    def estimate(self, before: Estimate, samples: Sequence[Record]) -> Estimate:
        """Bounds of what the models are asked, for items of the source as if all were held out; what judges are is not in it."""
        prompt, rows = self.prompt, before.rows
        if self.stage.data:
            items = list(self.stage.read(self.context.project))
            samples, rows = items[:200], len(items)

        def asks(record: Record) -> list[tuple[str, int, int | None]]:
            fields = {**record.fields, **self.stage.params}
            size = size_of(prompt.render(record.fields, prompt.typical(fields), self.stage.params))
            most = [
                self.stage.sampling(self.context.models[name].sampling_options(), prompt).get("max_tokens")
                for name in self.stage.asked
            ]
            asked = zip(self.stage.asked if self.stage.metrics else (), most, strict=False)
            return [(name, size, tokens and tokens * self.stage.n) for name, tokens in asked]

        found = bounds(replace(before, rows=rows), samples, self.context, asks)
        return replace(found, rows=before.rows, made_bytes=before.made_bytes)

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Let all records through, then ask: what trains a student is an earlier stage."""
        items = list(self.stage.read(job.context.project)) if self.stage.data else []
        async for chunk in chunks:
            if not self.stage.data:
                items += [r for r in chunk if not r.dropped and (r.held_out or SPLIT not in r.fields)]
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

    async def _evaluate(self, items: Sequence[Record], job: Job) -> None:
        """Ask, measure, compare, write down. Items that cannot fill the question are left out, and counted."""
        asking = _Asking(self.stage, self.prompt, job)
        reasons = [asking.why_not(item) for item in items]
        left_out = Counter(filter(None, reasons))
        for item, why in zip(items, reasons, strict=True):
            if why:
                log.warning("%s: the item %s is left out: %s", self.name, item.source, why)
        items = [item for item, why in zip(items, reasons, strict=True) if not why]
        if not items:
            raise ConfigError(
                f"stage '{self.name}': no item can be asked about: {left_out.most_common(1)[0][0]}"
            )
        said: dict[str, list[Completion]] = {}
        for name in self.stage.asked:  # one after the other: two models rarely fit into one memory
            answers = (
                await asking.all(name, [(item, None) for item in items], samples=self.stage.n)
                if self.stage.metrics
                else []
            )
            said[name] = [*chain.from_iterable(answers)]
        found = []
        for name, completions in said.items():
            records = list[Record]()
            for i, completion in enumerate(completions):
                item, first = items[i // self.stage.n], i - i % self.stage.n
                others = {other: texts[first].text for other, texts in said.items()}
                fields = {**item.fields, **others, self.stage.output: completion.text}
                records.append(
                    Record(digest([item.id, name, i % self.stage.n]), fields, (item.id,), item.source)
                )
            groups = [text_of(item.fields.get(self.stage.by)) for item in items] if self.stage.by else []
            written = job.services.ledger.output_tokens([completion.key for completion in completions])
            tokens = fmean(written[completion.key] for completion in completions) if completions else 0.0
            found.append(answered := Answered(name, self.stage.n, completions, records, groups, tokens))
            for entry in self.stage.metrics:
                if name not in entry.options.values():  # nobody is compared with himself
                    await self._measure(answered, entry, job)
            if self.stage.perplexity:
                answered.log_likelihoods = await asking.log_likelihoods(name, items)
            if self.stage.options:
                answered.choices = await asking.choices(name, items, self.stage.options)
        told = {
            "items": len(items),
            "left_out": dict(left_out),
            "of": self.stage.data or "the source",
            "samples": self.stage.n,
            "models": {each.name: each.told(self.stage.vote) for each in found},
            "by": self.stage.by,
            "groups": {each.name: each.told_by_group() for each in found} if self.stage.by else {},
            "comparisons": [
                difference for one, other in combinations(found, 2) for difference in compared(one, other)
            ],
        }
        for each in found:
            job.services.measures.update(each.measures())
        if left_out:
            job.services.measures[Measure("items left out")] = left_out.total()
        lines = [dumps(row, sort_keys=False) + b"\n" for answered in found for row in answered.rows()]
        (job.context.directory / f"{self.stage.file}.jsonl").write_bytes(b"".join(lines))
        (job.context.directory / f"{self.stage.file}.json").write_bytes(dumps(told, sort_keys=False) + b"\n")

    async def _measure(self, answered: Answered, entry: Entry, job: Job) -> None:
        """One metric over all answers of a model; an answer that did not come passes nowhere."""
        passed: list[float | None] = []
        measures: Measures = {}
        stream = self._judged(
            answered, entry, replace(job, services=replace(job.services, measures=measures))
        )
        judged = [record async for chunk in stream for record in chunk]
        answered.judges |= by_title(measures)
        for completion, record in zip(answered.completions, judged, strict=True):
            answered.scores.setdefault(record.id, {}).update(record.scores)
            for name, number in record.scores.items():
                answered.numbers.setdefault(name, []).append(number)
            if record.dropped:
                answered.reasons.setdefault(record.id, {})[entry.label] = record.dropped.reason
            unread = record.dropped is not None and record.dropped.filter == "failed"
            passed.append(None if unread else float(_came(completion) and record.dropped is None))
        answered.passed[entry.label] = passed

    def _judged(self, answered: Answered, entry: Entry, job: Job) -> Chunks:
        """Through the metric's filter; what is no answer costs no judge."""
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
    """Puts questions about items to models."""

    def __init__(self, stage: Evaluate, prompt: Prompt, job: Job) -> None:
        self._stage, self._prompt, self._job = stage, prompt, job

    async def all(
        self, model: str, asked: Sequence[tuple[Record, str | None]], *, samples: int = 1
    ) -> list[Sequence[Completion]]:
        """For each item the completions, or how likely the text that is given with it is; some hundred are under way at once."""
        teacher, job = self._job.services.teachers[model], self._job
        again = (lambda completion: completion.status == "failed") if job.context.retry_failed else None
        found: list[Sequence[Completion]] = []
        for start in range(0, len(asked), CHUNK):
            some = [
                (self._request(teacher, item, target), samples)
                for item, target in asked[start : start + CHUNK]
            ]
            begun = teacher.begin(some, stage=self._stage.name, again=again)
            found += [await outcome for outcome in begun]
        return found

    def why_not(self, item: Record) -> str:
        """Why the item cannot be asked about; nothing where it can."""
        stage, prompt = self._stage, self._prompt
        if stage.gold and item.fields.get(GOLD) is None:
            return (
                f"'{stage.gold}' is null"
                if stage.gold in item.fields
                else f"there is no field '{stage.gold}' in the row"
            )
        try:
            prompt.render(item.fields, prompt.draw(f"{stage.name}/{item.id}", item.fields), stage.params)
        except Unrenderable as error:
            return str(error)
        return ""

    def _request(self, teacher: Teacher, item: Record, target: str | None) -> Request:
        prompt, stage = self._prompt, self._stage
        messages = prompt.render(
            item.fields, prompt.draw(f"{stage.name}/{item.id}", item.fields), stage.params
        )
        sampling = stage.sampling(teacher.spec.sampling_options(), prompt) if target is None else {}
        return Request(teacher.model, sampling=sampling, target=target, **teacher.message_fields(messages))

    async def log_likelihoods(self, model: str, items: Sequence[Record]) -> list[tuple[float, int] | None]:
        """The log-probability of each right answer, in nats, and its tokens; None where the model did not tell."""
        answers = await self.all(model, [(item, text_of(_one(item.fields[GOLD]))) for item in items])
        tokens = [[token[1] for token in each.logprobs if token[1] is not None] for (each,) in answers]
        return [(sum(values), len(values)) if values else None for values in tokens]

    async def choices(
        self, model: str, items: Sequence[Record], field: str
    ) -> list[tuple[float, bool] | None]:
        """For each question with options the probability of the likeliest among them, and whether it is the right one."""
        given = [options_of(item.fields.get(field)) for item in items]
        flat = [(item, text) for item, options in zip(items, given, strict=True) for text in options.values()]
        sums = (
            likelihood("it", each).get("it.logprob", -math.inf) for (each,) in await self.all(model, flat)
        )
        found = list[tuple[float, bool] | None]()
        for item, options in zip(items, given, strict=True):
            values = {letter: next(sums) for letter in options}
            most = max(values.values(), default=-math.inf)
            if not math.isfinite(most):
                found.append(None)
            else:
                chosen = max(values, key=lambda letter: values[letter])
                share = 1 / sum(math.exp(value - most) for value in values.values())
                found.append((share, chosen == option_of(_one(item.fields[GOLD]), options)))
        return found


def _came(completion: Completion) -> bool:
    """Whether there is an answer, be it cut off."""
    return completion.status in ("ok", "length")


def _one(gold: Any) -> Any:
    """The first of several right answers."""
    return gold[0] if isinstance(gold, list) and gold else gold
