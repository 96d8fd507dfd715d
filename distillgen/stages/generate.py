"""generate: ask a teacher about each record and turn its answers into records."""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Iterator, Mapping, Sequence
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

Answers = list[Completion] | Awaitable[list[Completion]]


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
        if self.template is not None:
            return Prompt.parse("", self.template, "template", project)
        return Prompt.load(str(self.prompt), project)

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
        prompt, spec = self.load_prompt(given.project), given.models[self.model]
        what = f"prompt '{self.prompt}'" if self.prompt else "'template'"
        for name in sorted(self.params):
            if name not in prompt.inputs:
                raise ConfigError(f"'with' gives '{name}', which {what} does not use{did_you_mean(name, prompt.inputs)}")
        for name in sorted(set(prompt.inputs) - set(self.params)):
            given.need(name, f"{what} ({place_of(prompt.path, prompt.inputs[name])})" if self.prompt else what)
        if self.output and prompt.form.kind in NAMED:
            raise ConfigError(f"'output' has no meaning here: the form '{prompt.form.kind}' of {what} names its own fields")
        wants = {"logprobs": self.sampling(spec, prompt).get("logprobs"), "tools": self.tools, "grammar": self.grammar}
        for capability, wanted in wants.items():
            if wanted is not None and capability not in given.capabilities[self.model]:
                others = sorted(name for name, can in given.capabilities.items() if capability in can)
                remedy = f"models that can: {', '.join(others)}" if others else "the providers embedded and vllm can"
                raise ConfigError(f"model '{self.model}' ({spec.provider}) cannot do {capability}; {remedy}")
        added = [*prompt.form.fields(self.output), *filter(None, [self.reasoning, "tool_calls" if self.tools else None])]
        if META in added:
            raise ConfigError(f"the field '{META}' is distillgen's own; name the output otherwise")
        return given.fields | set(added)

    def sampling(self, spec: Spec, prompt: Prompt) -> dict[str, Any]:
        """The stage's options over the model's over the prompt's."""
        return {**prompt.front.sampling.given(), **spec.given(), **self.given()}

    def estimate(self, before: Estimate, samples: Sequence[Record], given: Checking) -> Estimate:
        """Bounds by bytes, for a token has at least one; what an earlier answer will give counts with its max_tokens."""
        prompt, spec = self.load_prompt(given.project), given.models[self.model]
        most = self.sampling(spec, prompt).get("max_tokens")
        if before.rows is None:
            return Estimate(None, None, None, None, None if spec.price else 0.0)
        requests = before.rows * self.draws
        rows = requests * self.n * (self.max_items if prompt.form.many else 1)
        sizes = [0]
        for record in samples:
            unknown = set(prompt.inputs) - set(record.fields) - set(self.params)
            fields = {**record.fields, **dict.fromkeys(unknown, ""), **self.params}
            try:
                messages = prompt.render(fields, prompt.draw("plan", record.fields))
            except Unrenderable:  # the run drops the row and says why; it asks nothing
                continue
            size = sum(len(str(message["content"]).encode()) + 16 for message in messages)
            sizes.append(size + len(unknown) * 4 * (most or 0))
        input_tokens = round(requests * sum(sizes) / max(1, len(sizes) - 1) / 4)
        if most is None:
            return Estimate(rows, requests, input_tokens, None, None if spec.price else 0.0)
        output_tokens = requests * self.n * most
        cost = spec.price.cost_usd(requests * max(sizes), 0, output_tokens) if spec.price else 0.0
        return Estimate(rows, requests, input_tokens, output_tokens, cost)

    def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Ask about every live record; answers leave in source order as soon as they are there."""
        teacher = job.teachers[self.model]
        asking = _Asking(self, self.load_prompt(job.project), teacher, job)
        return in_order(_small(chunks), asking.begin, window=lambda: int(4 * teacher.slots.limit))


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

    @cached_property
    def made(self) -> dict[str, Any]:
        return {"stage": self.stage.name, "prompt": f"{self.stage.prompt or 'template'}@{self.prompt.sha256[:12]}"}

    def begin(self, chunk: Chunk) -> Iterator[Chunk | Awaitable[Chunk]]:
        """Render all, look all up at once, and give each record's successors or something to await."""
        asks: list[tuple[Request, int]] = []
        drawn: list[Sequence[Draw] | Chunk] = []
        for record in chunk:
            try:
                draws = () if record.dropped else self.draws(record)
                asks += [(self.request(record, draw), self.stage.n) for draw in draws]
                drawn.append(draws or [record])
            except Unrenderable as error:
                drawn.append([record.drop(self.stage.name, "unrenderable", str(error))])
        again = self.again if self.job.retry_failed else None
        outcomes = iter(self.teacher.begin(asks, stage=self.stage.name, again=again, changed=self.job.retry_with))
        for record, drew in zip(chunk, drawn, strict=True):
            if isinstance(drew, list):
                yield drew
                continue
            answers = [next(outcomes) for _ in drew]
            ready = [answer for answer in answers if isinstance(answer, list)]
            there = len(ready) == len(answers)
            yield self.children(record, drew, ready) if there else _Later(self, record, drew, answers)

    def draws(self, record: Record) -> tuple[Draw, ...]:
        seeds = (f"{self.job.seed}/{self.stage.name}/{record.id}/{i}" for i in range(self.stage.draws))
        return tuple(self.prompt.draw(seed, record.fields) for seed in seeds)

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
        try:
            self.parse(completion)
        except Unparsable:
            return True
        return False

    def parse(self, completion: Completion) -> list[dict[str, Any]]:
        """The rows of an answer; where it only calls tools, one without text."""
        if completion.tool_calls and not completion.text:
            return [dict.fromkeys(self.prompt.form.fields(self.stage.output), "")]
        return self.prompt.form.parse(completion.text, self.stage.output)

    def why(self, completion: Completion) -> str:
        """Why an answer cannot be used, of one that was cut off, refused or failed."""
        if completion.status == "length":
            return f"cut off at max_tokens {self.sampling.get('max_tokens', '(the endpoint’s own)')}"
        return f"the teacher refused: {completion.text[:200]}" if completion.status == "refused" else completion.error

    def children(self, record: Record, draws: Sequence[Draw], answers: Sequence[Sequence[Completion]]) -> Chunk:
        """A record for every sample and item; one that could not be used is dropped and says why."""
        children: Chunk = []
        for draw, completions in zip(draws, answers, strict=True):
            for sample, completion in enumerate(completions):
                how = {"model": completion.model, "key": completion.key.hex(), "sample": sample, "draw": draw.text()}
                children += self.rows(record, completion, self.made | how, len(children))
        return children

    def rows(self, record: Record, completion: Completion, made: Mapping[str, Any], ordinal: int) -> Chunk:
        """The records of one answer."""
        stage, form = self.stage, self.prompt.form
        extra: dict[str, Any] = {stage.reasoning: completion.reasoning} if stage.reasoning else {}
        if stage.tools:
            extra["tool_calls"] = list(completion.tool_calls)
        try:
            if completion.status != "ok":
                raise Unparsable(self.why(completion))
            rows = self.parse(completion)
        except Unparsable as error:
            field = stage.output or ("response" if form.kind in NAMED else form.fields(None)[0])
            raw = record.derive({field: completion.text, **extra}, made, ordinal)
            return [raw.drop(stage.name, _STATUS.get(completion.status, "malformed"), str(error))]
        children = [record.derive({**row, **extra}, made, ordinal + i) for i, row in enumerate(rows)]
        if scores := _likelihood(stage.name, completion):
            children = [child.scored(scores) for child in children]
        most = stage.max_items
        over = [c.drop(stage.name, "max_items", f"one of {len(rows)} items, {most} are taken") for c in children[most:]]
        return children[:most] + over


@dataclass(frozen=True, slots=True)
class _Later:
    """The successors of a record whose answers are on their way."""

    asking: _Asking
    record: Record
    draws: Sequence[Draw]
    answers: Sequence[Answers]

    def __await__(self) -> Generator[Any, None, Chunk]:
        answers = []
        for answer in self.answers:
            answers.append(answer if isinstance(answer, list) else (yield from answer.__await__()))
        return self.asking.children(self.record, self.draws, answers)


def _likelihood(stage: str, completion: Completion) -> dict[str, float]:
    """The answer's log-probability under its teacher, in nats: sum over tokens and mean."""
    values = [token[1] for token in completion.logprobs if token[1] is not None]
    return {f"{stage}.logprob": sum(values), f"{stage}.mean_logprob": sum(values) / len(values)} if values else {}
