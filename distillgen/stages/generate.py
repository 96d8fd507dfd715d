"""generate: ask a teacher about each record and turn its answers into records."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from distillgen.errors import ConfigError, did_you_mean, place_of
from distillgen.forms import NAMED, Unparsable
from distillgen.project import Project
from distillgen.prompt import Draw, Prompt, Sampling, Unrenderable
from distillgen.record import META, Record
from distillgen.stages import CHUNK, Checking, Chunk, Chunks, Estimate, Job, Stage, in_order
from distillgen.teachers import Completion, Request, Spec, Teacher

_STATUS = {"length": "truncated", "refused": "refused", "failed": "failed"}
FAILURES = (*_STATUS.values(), "malformed")  # the names under which an answer that could not be used is dropped


class Generate(Stage, Sampling):
    """Ask a teacher. Sampling options given here win over the model's, and those over the prompt's."""

    kind = "generate"

    model: str = Field(description="one of the pipeline's models")
    prompt: str | None = Field(None, description="a file in prompts/, without its ending")
    template: str | None = Field(None, description="a prompt in place, instead of a file")
    output: str | None = Field(None, description="the field that receives the text; default: response")
    n: int = Field(1, ge=1, description="samples of each request")
    draws: int = Field(1, ge=1, description="requests a record, each with its examples and nuisance variables redrawn")
    params: dict[str, Any] = Field(default_factory=dict, alias="with", description="values for the prompt, for all records alike")
    reasoning: str | None = Field(None, description="a field that receives the teacher's reasoning text, if it gives any")
    tools: list[dict[str, Any]] | None = Field(None, description="tools it may call; its calls go to the field tool_calls")
    grammar: str | None = Field(None, description="a GBNF grammar that the answer must follow")
    max_items: int = Field(50, ge=1, description="most records from one answer of a list form")

    @model_validator(mode="after")
    def _one_prompt(self) -> Generate:
        if (self.prompt is None) == (self.template is None):
            raise ValueError("give either 'prompt' (a file) or 'template' (a prompt in place)")
        return self

    def load_prompt(self, project: Project) -> Prompt:
        """The prompt, checked."""
        if self.prompt is not None:
            return Prompt.load(self.prompt, project)
        assert self.template is not None
        return Prompt.parse("", self.template, "template", project)

    def files(self, project: Project) -> dict[str, Path]:
        """The prompt's file and its examples' file."""
        if self.prompt is None:
            return {}
        files = {f"prompts/{self.prompt}": project.find("prompts", self.prompt, ".md")}
        few = self.load_prompt(project).front.few_shot
        if few and isinstance(few.examples, str):
            files[few.examples] = project.file(few.examples)
        return files

    def check(self, given: Checking) -> frozenset[str]:
        """Prompt and model exist, the prompt's inputs are there, and the model can do what is asked."""
        if self.model not in given.models:
            raise ConfigError(f"there is no model '{self.model}'{did_you_mean(self.model, given.models)}")
        prompt = self.load_prompt(given.project)
        what = f"prompt '{self.prompt}'" if self.prompt else "'template'"
        for name in sorted(self.params):
            if name not in prompt.inputs:
                raise ConfigError(f"'with' gives '{name}', which {what} does not use{did_you_mean(name, prompt.inputs)}")
        for name in sorted(set(prompt.inputs) - set(self.params)):
            given.need(name, f"{what} ({place_of(prompt.path, prompt.inputs[name])})" if self.prompt else what)
        if self.output and prompt.form.kind in NAMED:
            raise ConfigError(f"'output' has no meaning here: the form '{prompt.form.kind}' of {what} names its own fields")
        able = given.capabilities[self.model]
        spec = given.models[self.model]
        wants = {"logprobs": self.sampling(spec, prompt).get("logprobs"), "tools": self.tools, "grammar": self.grammar}
        for capability, wanted in wants.items():
            if wanted is not None and capability not in able:
                others = sorted(name for name, can in given.capabilities.items() if capability in can)
                remedy = f"models that can: {', '.join(others)}" if others else "the provider embedded can"
                raise ConfigError(f"model '{self.model}' ({spec.provider}) cannot do {capability}; {remedy}")
        added = self.added(prompt)
        if META in added:
            raise ConfigError(f"the field '{META}' is distillgen's own; name the output otherwise")
        return given.fields | set(added)

    def added(self, prompt: Prompt) -> list[str]:
        """The fields that the stage writes."""
        further = [self.reasoning, "tool_calls" if self.tools else None]
        return [*prompt.form.fields(self.output), *(name for name in further if name)]

    def sampling(self, spec: Spec, prompt: Prompt) -> dict[str, Any]:
        """The stage's options over the model's over the prompt's."""
        return {**prompt.front.sampling.given(), **spec.given(), **self.given()}

    def estimate(self, before: Estimate, samples: Sequence[Record], given: Checking) -> Estimate:
        """Bounds by bytes, for a token has at least one; an earlier answer counts with its max_tokens."""
        prompt, spec = self.load_prompt(given.project), given.models[self.model]
        sampling = self.sampling(spec, prompt)
        most = sampling.get("max_tokens")
        requests = None if before.rows is None else before.rows * self.draws
        rows = None if requests is None else requests * self.n * (self.max_items if prompt.form.many else 1)
        sizes, unknown = [], 0
        for record in samples:
            missing = set(prompt.inputs) - set(record.fields) - set(self.params)
            unknown = max(unknown, len(missing))
            fields = {**record.fields, **dict.fromkeys(missing, ""), **self.params}
            draw = prompt.draw("plan", record.fields)
            try:
                messages = prompt.render(fields, draw)
            except Unrenderable:  # the run drops the row and says why; it asks nothing
                continue
            sizes.append(sum(len(str(m["content"]).encode()) + 16 for m in messages))
        longest = max(sizes, default=0) + unknown * 4 * (most or 0)
        average = sum(sizes) / len(sizes) / 4 if sizes else 0
        price = spec.price
        if requests is None:
            return Estimate(rows, None, None, None, None if price else 0.0)
        input_tokens = round(requests * average)
        output_tokens = None if most is None else requests * self.n * most
        cost = 0.0
        if price:
            if output_tokens is None:
                return Estimate(rows, requests, input_tokens, None, None)
            cost = price.cost_usd(requests * longest, 0, output_tokens)
        return Estimate(rows, requests, input_tokens, output_tokens, cost)

    def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Ask about every live record; answers leave in source order as soon as they are there."""
        teacher = job.teachers[self.model]
        asking = _Asking(self, self.load_prompt(job.project), teacher, job)
        return in_order(_small(chunks), asking.begin, window=4 * teacher.spec.max_concurrency)


async def _small(chunks: Chunks) -> Chunks:
    """No chunk longer than CHUNK, so that the window bounds what is in memory."""
    async for chunk in chunks:
        for start in range(0, len(chunk), CHUNK):
            yield chunk[start : start + CHUNK]


@dataclass(frozen=True)
class _Asking:
    stage: Generate
    prompt: Prompt
    teacher: Teacher
    job: Job

    @cached_property
    def sampling(self) -> dict[str, Any]:
        return self.stage.sampling(self.teacher.spec, self.prompt)

    def begin(self, chunk: Chunk) -> Iterable[Chunk | Awaitable[Chunk]]:
        """Render all, look all up at once, and give each record's successors or something to await."""
        stage, live = self.stage, [record for record in chunk if not record.dropped]
        asks: list[tuple[Request, int]] = []
        drawn: list[list[Draw] | Record] = []
        for record in live:
            seeds = (f"{self.job.seed}/{stage.name}/{record.id}/{i}" for i in range(stage.draws))
            draws = [self.prompt.draw(seed, record.fields) for seed in seeds]
            try:
                asks += [(self.request(record, draw), stage.n) for draw in draws]
                drawn.append(draws)
            except Unrenderable as error:
                drawn.append(record.drop(stage.name, "unrenderable", str(error)))
        again = self.again if self.job.retry_failed else None
        outcomes = iter(self.teacher.begin(asks, stage=stage.name, again=again, changed=self.job.retry_with))
        results: list[Chunk | Awaitable[Chunk]] = []
        for record, draw in zip(live, drawn, strict=True):
            if isinstance(draw, Record):
                results.append([draw])
                continue
            answers = [next(outcomes) for _ in draw]
            ready = [answer for answer in answers if isinstance(answer, list)]
            all_there = len(ready) == len(answers)
            results.append(self.children(record, draw, ready) if all_there else self.later(record, draw, answers))
        waiting = iter(results)
        return [[record] if record.dropped else next(waiting) for record in chunk]

    def request(self, record: Record, draw: Draw) -> Request:
        stage, prompt = self.stage, self.prompt
        messages = prompt.render({**record.fields, **stage.params}, draw)
        asked: dict[str, Any] = {"messages": messages}
        if getattr(self.teacher.spec, "api", "chat") == "completions":
            asked = {"prompt": "\n\n".join(m["content"] for m in messages)}
        return Request(
            model=self.teacher.spec.model, sampling=self.sampling, grammar=stage.grammar, tools=stage.tools,
            schema=prompt.form.schema if "json_schema" in self.teacher.capabilities else None, **asked,
        )  # fmt: skip

    def again(self, completion: Completion) -> bool:
        """Whether --retry-failed asks a stored answer once more: failed, cut off, refused or malformed."""
        if completion.status != "ok":
            return True
        if completion.tool_calls:
            return False
        try:
            self.prompt.form.parse(completion.text, self.stage.output)
        except Unparsable:
            return True
        return False

    async def later(
        self, record: Record, draws: Sequence[Draw], answers: Sequence[list[Completion] | Awaitable[list[Completion]]]
    ) -> Chunk:
        return self.children(record, draws, [a if isinstance(a, list) else await a for a in answers])

    def children(self, record: Record, draws: Sequence[Draw], answers: Sequence[Sequence[Completion]]) -> Chunk:
        """A record for every sample and item; one that could not be used is dropped and says why."""
        children: Chunk = []
        for draw, completions in zip(draws, answers, strict=True):
            for sample, completion in enumerate(completions):
                made = {
                    "stage": self.stage.name,
                    "model": completion.model or self.teacher.shown_model,
                    "prompt": f"{self.stage.prompt or 'template'}@{self.prompt.sha256[:12]}",
                    "key": completion.key.hex(),
                    "sample": sample,
                    "draw": draw.text(),
                }
                children += self._parsed(record, completion, made, len(children))
        return children

    def _parsed(self, record: Record, completion: Completion, made: dict[str, Any], ordinal: int) -> Chunk:
        stage = self.stage
        extra: dict[str, Any] = {}
        if stage.reasoning:
            extra[stage.reasoning] = completion.reasoning
        if stage.tools:
            extra["tool_calls"] = list(completion.tool_calls)
        field = stage.output or ("response" if self.prompt.form.kind in NAMED else self.prompt.form.fields(None)[0])
        raw = record.derive({field: completion.text, **extra}, made, ordinal)
        if completion.status != "ok":
            reason = {
                "length": f"cut off at max_tokens {self.sampling.get('max_tokens', '(the endpoint’s own)')}",
                "refused": f"the teacher refused: {completion.text[:200]}",
            }.get(completion.status, completion.error)
            return [raw.drop(stage.name, _STATUS[completion.status], reason)]
        try:
            if completion.tool_calls and not completion.text:
                rows: list[dict[str, Any]] = [dict.fromkeys(self.prompt.form.fields(stage.output), "")]
            else:
                rows = self.prompt.form.parse(completion.text, stage.output)
        except Unparsable as error:
            return [raw.drop(stage.name, "malformed", str(error))]
        scores = _likelihood(stage.name, completion)
        children = [record.derive({**row, **extra}, made, ordinal + i) for i, row in enumerate(rows)]
        if scores:
            children = [child.scored(scores) for child in children]
        most = stage.max_items
        over = [c.drop(stage.name, "max_items", f"one of {len(rows)} items, {most} are taken") for c in children[most:]]
        return children[:most] + over


def _likelihood(stage: str, completion: Completion) -> dict[str, float]:
    """The answer's log-probability under its teacher, in nats: sum over tokens and mean."""
    values = [token[1] for token in completion.logprobs if token[1] is not None]
    return {f"{stage}.logprob": sum(values), f"{stage}.mean_logprob": sum(values) / len(values)} if values else {}
