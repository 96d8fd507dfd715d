"""Ask models about the items of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distillgen.answers.final_answer import option_of, options_of
from distillgen.flow.asking import AboutRecord, likelihood
from distillgen.flow.stage import CHUNK, Job
from distillgen.inference.request import Completion, Request
from distillgen.inference.teacher import Teacher
from distillgen.prompting.prompt import Prompt
from distillgen.record import Record, Unrenderable, text_of
from distillgen.stages._answered import GOLD, Choice
from distillgen.stages._evaluate_options import EvaluateOptions


class ItemQuestions:
    """The questions about items, and the models' answers to them."""

    def __init__(self, stage: EvaluateOptions, prompt: Prompt, job: Job) -> None:
        self._stage, self._prompt, self._job = stage, prompt, job

    async def completions(
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
        right = [(item, text_of(first_of(item.fields[GOLD]))) for item in items]
        answers = await self.completions(model, right)
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
            for (completion,) in await self.completions(model, flat)
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
                right = option_of(gold := first_of(item.fields[GOLD]), options)
                gold_text = options[right] if right else text_of(gold)
                choices.append(Choice(share, chosen == right, options[chosen], gold_text))
        return choices


def answer_in(item: Record, name: str) -> Completion:
    """Return the answer in a field of an item; one that is missing counts as a failed answer."""
    value = item.fields.get(name)
    return Completion(status="failed") if value is None else Completion(text=text_of(value))


def has_answer(completion: Completion) -> bool:
    """Return whether the completion has an answer, complete or cut off."""
    return completion.status in ("ok", "length")


def first_of(gold: Any) -> Any:
    """Return the right answer, or the first one of a list."""
    return gold[0] if isinstance(gold, list) and gold else gold
