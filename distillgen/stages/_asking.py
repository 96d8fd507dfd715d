"""The requests of `generate` about a record, and the records that their answers become."""

from __future__ import annotations

import random
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from distillgen.algorithms.clauses import clauses_of
from distillgen.flow.asking import Answers, Question, certainty, likelihood
from distillgen.flow.record_template import RecordTemplate
from distillgen.flow.stage import Chunk
from distillgen.inference.request import Completion, Request
from distillgen.inference.teacher import Teacher
from distillgen.privacy import name_of
from distillgen.prompting.history import History, Turns
from distillgen.prompting.output_form import FIELD_SOURCES, Unparsable
from distillgen.prompting.prompt import Draw, Prompt
from distillgen.prompting.tools import offered
from distillgen.record import Record, Unrenderable
from distillgen.stages._constraints import REJECTION, SEARCH, Constraints
from distillgen.stages._generate_options import GenerateOptions

_STATUS = {"length": "truncated", "refused": "refused", "failed": "failed"}
FAILURES = (*_STATUS.values(), "malformed")  # the reasons for dropping an answer
UNMET = "constraints"  # the reason for dropping one of n answers that does not meet the constraints


class Trial(NamedTuple):
    """The name of the model that a request goes to, the draw of its prompt, and the turns of its dialogue."""

    model: str
    draw: Draw
    turns: Turns


@dataclass(frozen=True)
class Asking:
    """Asks the models of a stage `generate`, and makes records of the answers."""

    stage: GenerateOptions
    prompt: Prompt
    teachers: Mapping[str, Teacher]
    """The models that can answer, by name, in the order of their answers."""
    seed: int
    pick: RecordTemplate | None = None
    """The template that gives the name of the model that answers."""
    constraints: Constraints | None = None
    drawn: array[int] = field(default_factory=lambda: array("q"))
    """Hashes of the requests that are not greedy, 8 bytes each."""

    @cached_property
    def sampling(self) -> Mapping[str, dict[str, Any]]:
        """The sampling options of each model."""
        return {
            name: self.stage.sampling(teacher.spec, self.prompt) for name, teacher in self.teachers.items()
        }

    @cached_property
    def schemas(self) -> Mapping[str, Mapping[str, Any] | None]:
        """The JSON schema of the prompt's form, for each model that follows one."""
        return {
            name: self.prompt.form.schema if "json_schema" in teacher.spec.capabilities else None
            for name, teacher in self.teachers.items()
        }

    @cached_property
    def constrained_by(self) -> Mapping[str, str]:
        """How the answers of each model are constrained."""
        if not self.stage.constraints or not self.constraints:
            return {}
        return {
            name: SEARCH if self.constraints.capability in teacher.spec.capabilities else REJECTION
            for name, teacher in self.teachers.items()
        }

    @cached_property
    def dialogue(self) -> History | None:
        return self.stage.dialogue

    @cached_property
    def lineage(self) -> dict[str, Any]:
        return {
            "stage": self.stage.name,
            "prompt": f"{self.stage.prompt or 'template'}@{self.prompt.sha256[:12]}",
        }

    def questions(self, record: Record) -> list[Question]:
        """Return the requests about a record: all draws to its first model, then to its second.

        Raise Unrenderable.
        """
        stage, names = self.stage, self.models_of(record)
        seeds = (f"{self.seed}/{stage.name}/{record.id}/{i}" for i in range(stage.draws))
        draws = [self.prompt.draw(seed, record.fields) for seed in seeds]
        messages = [self.messages(record, draw) for draw in draws]
        questions: list[Question] = []
        for name in names:
            teacher = self.teachers[name]
            requests = [self.request(record, name, turns) for turns in messages]
            if self.sampling[name].get("temperature") != 0:
                self.drawn.extend(hash((teacher.identity, request.json)) for request in requests)
            questions += [
                (teacher, request, stage.n, Trial(name, draw, turns))
                for request, draw, turns in zip(requests, draws, messages, strict=True)
            ]
        return questions

    def models_of(self, record: Record) -> Sequence[str]:
        """Return the names of the models that answer about a record. Raise Unrenderable."""
        names, pick = list(self.teachers), self.stage.pick
        if self.pick is not None:
            name = self.pick.render(record).strip()
            if name not in self.teachers:
                raise Unrenderable(f"pick: '{name[:100]}' is none of the models {', '.join(names)}")
            return [name]
        if isinstance(pick, int) and pick < len(names):
            lot = f"{self.seed}/{self.stage.name}/{record.id}/"
            by_lot = sorted(names, key=lambda name: random.Random(lot + name).random())
            return [name for name in names if name in by_lot[:pick]]
        return names

    def messages(self, record: Record, draw: Draw) -> Turns:
        """Return the turns of the prompt, after those of the dialogue if it continues one. Raise
        Unrenderable.
        """
        messages = self.prompt.render(record.variables(self.prompt.inputs), draw, self.stage.params)
        return self.dialogue.with_prompt(record.fields, messages) if self.dialogue else messages

    def request(self, record: Record, model: str, messages: Turns) -> Request:
        """Return the request to a model. Raise Unrenderable."""
        stage, teacher = self.stage, self.teachers[model]
        if stage.write == "user" and teacher.endpoint.api == "completions":
            raise Unrenderable(f"model '{model}' takes texts, not chat turns: it has no user's turn to write")
        searches = self.constraints and self.constraints.capability in teacher.spec.capabilities
        return Request(
            model=teacher.model,
            constraints=self.constraints.of(record) if self.constraints and searches else None,
            sampling=self.sampling[model],
            grammar=stage.grammar,
            tools=offered(record.fields, stage.tools),
            schema=self.schemas[model],
            write="user" if stage.write == "user" else None,
            **teacher.message_fields(messages),
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
            return [dict.fromkeys(self.prompt.form.fields(self.stage.answer_field), "")]
        return self.prompt.form.rows(completion.text, self.stage.answer_field)

    def why(self, completion: Completion, model: str) -> str:
        """Return the reason for dropping an answer that failed, or was cut off or refused."""
        status, finish = completion.status, completion.finish
        if status == "length":
            most = self.sampling[model].get("max_tokens", "(the endpoint’s own)")
            return f"cut off: the answer ended with '{finish}'" if finish else f"cut off at max_tokens {most}"
        word = f" ('{finish}')" if finish else ""
        text = completion.text[:200].strip() or "it, or a content filter, gave no text"
        return f"the teacher refused{word}: {text}" if status == "refused" else completion.error

    def children(self, record: Record, answers: Answers) -> Chunk:
        """Return a record for each sample and item. A record without usable fields is dropped."""
        children: Chunk = []
        for trial, completions in answers:
            for sample, completion in enumerate(completions):
                answer_lineage = {
                    "model": name_of(completion.model),
                    "key": completion.key.hex(),
                    "sample": sample,
                    "draw": trial.draw.text(),
                }
                if completion.left_out:
                    answer_lineage["left_out"] = list(completion.left_out)
                if not isinstance(self.stage.model, str):
                    answer_lineage["teacher"] = trial.model
                if how := self.constrained_by.get(trial.model):
                    answer_lineage["constrained_by"] = how
                children += self.rows(record, completion, trial, self.lineage | answer_lineage, len(children))
        return children

    def rows(
        self, record: Record, completion: Completion, trial: Trial, lineage: Mapping[str, Any], ordinal: int
    ) -> Chunk:
        """Return the records of one answer."""
        stage, form = self.stage, self.prompt.form
        extra: dict[str, Any] = {stage.reasoning: completion.reasoning} if stage.reasoning else {}
        if stage.author:
            extra[stage.author] = trial.model
        if stage.tools:
            extra["tool_calls"] = list(completion.tool_calls)
        field = stage.answer_field or ("response" if form.kind in FIELD_SOURCES else form.fields(None)[0])
        raw = {field: completion.text, **extra}
        if self.dialogue and stage.history:
            raw[stage.history] = self.dialogue.turns(record.fields)
            extra[stage.history] = self.dialogue.grown(trial.turns, completion)
        try:
            if not self.complete(completion):
                raise Unparsable(self.why(completion, trial.model))
            rows = self.parse(completion)
        except Unparsable as error:
            status = _STATUS.get(completion.status, "malformed")
            return [record.derive(raw, lineage, ordinal).drop(stage.name, status, str(error))]
        if self.constraints and (unmet := clauses_of(self.constraints.of(record)).mistake(completion.text)):
            return [
                record.derive(raw, lineage, ordinal).drop(
                    stage.name, UNMET, f"the answer does not meet {unmet}"
                )
            ]
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
