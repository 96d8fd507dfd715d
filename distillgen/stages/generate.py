"""generate: ask a teacher about each record and turn its answers into records."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pydantic import Field, model_validator

from distillgen.errors import ConfigError, did_you_mean, place_of
from distillgen.flow.asking import Answers, Question, ask_each, certainty, likelihood
from distillgen.flow.bounds import bounds, size_of
from distillgen.flow.mark import marked, marks
from distillgen.flow.measures import Measure
from distillgen.flow.stage import BoundStage, CheckContext, Chunk, Chunks, Estimate, Job, Stage
from distillgen.inference.request import Completion, Request
from distillgen.inference.sampling import Sampling
from distillgen.inference.spec import Spec
from distillgen.inference.teacher import Teacher
from distillgen.privacy import name_of
from distillgen.prompting.output_form import FIELD_SOURCES, Unparsable
from distillgen.prompting.prompt import Draw, Prompt
from distillgen.record import IDENTICAL, META, Record

_STATUS = {"length": "truncated", "refused": "refused", "failed": "failed"}
FAILURES = (*_STATUS.values(), "malformed")  # the reasons for dropping an answer


class Generate(Stage, Sampling):
    """Ask a model for new fields, by a prompt.

    Each answer becomes a record, a child of the record that the prompt was about. An answer that failed,
    was refused, was cut off or does not fit the prompt's form is dropped, with the reason.
    """

    kind = "generate"
    scope = "row"
    reads = "the fields in the prompt"
    writes = (
        "the field `output`, or the fields that the prompt's form names; also the fields `reasoning`, "
        "`tool_calls` and `mark` where the options ask for them; one record for each answer"
    )

    model: str = Field(description="name of one of the pipeline's models")
    prompt: str | None = Field(None, description="name of a prompt in prompts/")
    template: str | None = Field(None, description="template of the prompt, instead of a prompt file")
    output: str | None = Field(None, description="field that receives the text; default: response")
    n: int = Field(1, ge=1, description="number of answers to each request")
    draws: int = Field(
        1,
        ge=1,
        description="number of requests for each record, each with new draws of examples and nuisance "
        "variables",
    )
    params: dict[str, Any] = Field(
        default_factory=dict, alias="with", description="values for the prompt, the same for all records"
    )
    reasoning: str | None = Field(
        None, description="field that receives the model's reasoning, where it gives any"
    )
    tools: list[dict[str, Any]] | None = Field(
        None, description="tools that the model may call; its calls go to the field tool_calls"
    )
    grammar: str | None = Field(None, description="GBNF grammar that the answer must follow")
    take_cut_off: bool = Field(False, description="keep answers that were cut off at max_tokens")
    mark: str | None = Field(
        None,
        description="field that says whether an answer could be used, with the reason in `<mark>_why`; no "
        "record is dropped then",
    )
    max_items: int = Field(50, ge=1, description="largest number of records from one answer of a list form")

    @model_validator(mode="after")
    def _one_prompt(self) -> Generate:
        if (self.prompt is None) == (self.template is None):
            raise ValueError("give either 'prompt' (a file) or 'template' (a prompt in place)")
        return self

    def bind(self, context: CheckContext) -> BoundGenerate:
        """Load the prompt. Raise ConfigError if a field is missing, or the model lacks a capability."""
        project, spec = context.project, context.able(self.model)
        if self.template is not None:
            prompt, subject = Prompt.parse("", self.template, "template", project), "'template'"
        else:
            prompt, subject = Prompt.load(str(self.prompt), project), f"prompt '{self.prompt}'"
        for name in sorted(self.params):
            if name not in prompt.inputs:
                raise ConfigError(
                    f"'with' gives '{name}', which {subject} does not use{did_you_mean(name, prompt.inputs)}"
                )
        for name in sorted(prompt.needed - self.params.keys()):
            context.need(
                name, f"{subject} ({place_of(prompt.path, prompt.inputs[name])})" if self.prompt else subject
            )
        few_shot = prompt.front.few_shot
        for name in few_shot.match:
            context.need(name, f"few_shot.match of {subject}")
        if self.output and prompt.form.kind in FIELD_SOURCES:
            raise ConfigError(
                f"'output' has no meaning with {subject}: its form '{prompt.form.kind}' names its own fields"
            )
        sampling = self.sampling(spec, prompt)
        capabilities = {"logprobs": sampling.get("logprobs"), "tools": self.tools, "grammar": self.grammar}
        context.able(self.model, *(name for name, value in capabilities.items() if value is not None))
        added = [
            *prompt.form.fields(self.output),
            *filter(None, [self.reasoning, "tool_calls" if self.tools else None]),
        ]
        if META in added:
            raise ConfigError(f"the field '{META}' is distillgen's own; give the output another name")
        files = {}
        if self.prompt:
            files[f"prompts/{self.prompt}"] = project.find("prompts", self.prompt, ".md")
            if few_shot and isinstance(few_shot.examples, str):
                files[few_shot.examples] = project.file(few_shot.examples)
        fields = context.fields | set(added) | marks(self.mark)
        return BoundGenerate(self, context, fields, [self.model], files, prompt=prompt, sampling=sampling)

    def sampling(self, spec: Spec, prompt: Prompt) -> dict[str, Any]:
        """Return the sampling options. The stage's override the model's, which override the prompt's."""
        return {
            **prompt.front.sampling.sampling_options(),
            **spec.sampling_options(),
            **self.sampling_options(),
        }


@dataclass(frozen=True)
class BoundGenerate(BoundStage):
    """The stage with its prompt."""

    stage: Generate
    prompt: Prompt = field(kw_only=True)
    sampling: Mapping[str, Any] = field(kw_only=True)

    def records_logprobs(self) -> bool:
        """Return whether the stage, its model or its prompt asks for log-probabilities."""
        return bool(self.sampling.get("logprobs"))

    def estimate(self, before: Estimate, samples: Sequence[Record]) -> Estimate:
        """Return bounds from bytes, because a token has at least one byte.

        A field that an earlier stage makes counts with its greatest length.
        """
        stage, prompt, most = self.stage, self.prompt, self.sampling.get("max_tokens")

        def requests(record: Record) -> list[tuple[str, int, int | None]]:
            messages = prompt.render(record.fields, prompt.typical(record.fields), stage.params)
            return [(stage.model, size_of(messages), most and stage.n * most)] * stage.draws

        estimate = bounds(before, samples, self.context, requests)
        answers = None if estimate.requests is None else estimate.requests * stage.n
        rows = None if answers is None else answers * (stage.max_items if prompt.form.many else 1)
        made_bytes = None if most is None or before.made_bytes is None else max(before.made_bytes, 4 * most)
        return replace(estimate, rows=rows, made_bytes=made_bytes)

    def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Ask about every live record. Answers leave in source order, as soon as they have arrived."""
        stage, teacher = self.stage, job.services.teachers[self.stage.model]
        asking = _Asking(stage, self.prompt, teacher, job.context.seed)
        answered = ask_each(
            chunks,
            [teacher],
            job,
            stage.name,
            questions=asking.questions,
            answered=asking.children,
            unusable=asking.unusable,
        )
        counted = self._counted(answered, asking, job)
        return marked(counted, stage.name, stage.mark, FAILURES) if stage.mark else counted

    async def _counted(self, chunks: Chunks, asking: _Asking, job: Job) -> Chunks:
        """Count the requests that got the answer of an identical request instead of a new sample."""
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
        if same := len(asking.drawn) - len(set(asking.drawn)):
            job.services.measures[Measure(IDENTICAL)] = same


@dataclass(frozen=True)
class _Asking:
    stage: Generate
    prompt: Prompt
    teacher: Teacher
    seed: int
    drawn: array[int] = field(default_factory=lambda: array("q"))
    """Hashes of the requests that are not greedy, 8 bytes each."""

    @cached_property
    def sampling(self) -> dict[str, Any]:
        return self.stage.sampling(self.teacher.spec, self.prompt)

    @cached_property
    def schema(self) -> Mapping[str, Any] | None:
        return self.prompt.form.schema if "json_schema" in self.teacher.spec.capabilities else None

    @cached_property
    def lineage(self) -> dict[str, Any]:
        return {
            "stage": self.stage.name,
            "prompt": f"{self.stage.prompt or 'template'}@{self.prompt.sha256[:12]}",
        }

    def questions(self, record: Record) -> list[Question]:
        seeds = (f"{self.seed}/{self.stage.name}/{record.id}/{i}" for i in range(self.stage.draws))
        draws = [self.prompt.draw(seed, record.fields) for seed in seeds]
        requests = [self.request(record, draw) for draw in draws]
        if self.sampling.get("temperature") != 0:
            self.drawn.extend(hash(request.json) for request in requests)
        return [
            (self.teacher, request, self.stage.n, draw) for request, draw in zip(requests, draws, strict=True)
        ]

    def request(self, record: Record, draw: Draw) -> Request:
        stage, prompt = self.stage, self.prompt
        messages = prompt.render(record.fields, draw, stage.params)
        return Request(
            model=self.teacher.model,
            sampling=self.sampling,
            grammar=stage.grammar,
            tools=stage.tools,
            schema=self.schema,
            **self.teacher.message_fields(messages),
        )

    def unusable(self, completion: Completion) -> bool:
        """Return whether --retry-failed asks again: for a failed, cut off, refused or malformed answer."""
        if not self.complete(completion):
            return True
        try:
            self.parse(completion)
        except Unparsable:
            return True
        return False

    def complete(self, completion: Completion) -> bool:
        """Return whether an answer is complete, or cut off and the stage takes such answers."""
        return completion.status == "ok" or self.stage.take_cut_off and completion.status == "length"

    def parse(self, completion: Completion) -> list[dict[str, Any] | Unparsable]:
        """Return the rows of an answer; for a malformed item, the error in place of its row.

        An answer that only calls the offered tools gives one row without text.
        """
        if completion.tool_calls and not completion.text and self.stage.tools:
            return [dict.fromkeys(self.prompt.form.fields(self.stage.output), "")]
        return self.prompt.form.rows(completion.text, self.stage.output)

    def why(self, completion: Completion) -> str:
        """Return the reason for dropping an answer that failed, or was cut off or refused."""
        status, finish = completion.status, completion.finish
        if status == "length":
            most = self.sampling.get("max_tokens", "(the endpoint’s own)")
            return f"cut off: the answer ended with '{finish}'" if finish else f"cut off at max_tokens {most}"
        word = f" ('{finish}')" if finish else ""
        refused = f"the teacher refused{word}: {completion.text[:200]}"
        return refused if status == "refused" else completion.error

    def children(self, record: Record, answers: Answers) -> Chunk:
        """Return a record for each sample and item. A record without usable fields is dropped."""
        children: Chunk = []
        for draw, completions in answers:
            for sample, completion in enumerate(completions):
                answer_lineage = {
                    "model": name_of(completion.model),
                    "key": completion.key.hex(),
                    "sample": sample,
                    "draw": draw.text(),
                }
                if completion.left_out:
                    answer_lineage["left_out"] = list(completion.left_out)
                children += self.rows(record, completion, self.lineage | answer_lineage, len(children))
        return children

    def rows(self, record: Record, completion: Completion, lineage: Mapping[str, Any], ordinal: int) -> Chunk:
        """Return the records of one answer."""
        stage, form = self.stage, self.prompt.form
        extra: dict[str, Any] = {stage.reasoning: completion.reasoning} if stage.reasoning else {}
        if stage.tools:
            extra["tool_calls"] = list(completion.tool_calls)
        field = stage.output or ("response" if form.kind in FIELD_SOURCES else form.fields(None)[0])
        raw = {field: completion.text, **extra}
        try:
            if not self.complete(completion):
                raise Unparsable(self.why(completion))
            rows = self.parse(completion)
        except Unparsable as error:
            status = _STATUS.get(completion.status, "malformed")
            return [record.derive(raw, lineage, ordinal).drop(stage.name, status, str(error))]
        children = [
            record.derive(raw, lineage, ordinal + i).drop(stage.name, "item", str(row))
            if isinstance(row, Unparsable)
            else record.derive({**row, **extra}, lineage, ordinal + i)
            for i, row in enumerate(rows)
        ]
        if completion.logprobs:
            scores = likelihood(stage.name, completion) | certainty(stage.name, completion)
            children = [child.scored(scores) for child in children]
        most = stage.max_items
        over = [
            c.drop(stage.name, "max_items", f"one of {len(rows)} items, {most} are taken")
            for c in children[most:]
        ]
        return children[:most] + over
