"""score: measure the log-probability that a model gives a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, model_validator

from distillgen.flow.asking import Answers, Question, answer_of, ask_each, likelihood
from distillgen.flow.bounds import Ask, bounds
from distillgen.flow.record_template import RecordTemplate
from distillgen.flow.stage import CheckContext, Chunk, Chunks, Estimate, Job, Stage
from distillgen.inference.logprobs import MOST_ALTERNATIVES
from distillgen.inference.request import Request
from distillgen.project import Project
from distillgen.prompting.media import Media
from distillgen.record import Record


class Score(Stage):
    """Ask a model for the log-probability of a given text.

    The score `<name>.logprob` is the sum over the tokens of the text, in nats, and `<name>.mean_logprob`
    their mean. The log-probability of each token is in the ledger. With `context: ""` the text stands alone,
    and its first token counts too: it comes after the token that begins or ends a text of the model.
    """

    kind = "score"
    scope = "row"
    asks_text = False
    optional: ClassVar[frozenset[str]] = Stage.optional | {"images"}
    reads = "the fields in `context` and `target`, and those of `images`"
    writes = "the scores `<name>.logprob` and `<name>.mean_logprob`"

    model: str = Field(description="name of one of the pipeline's models that can score a given text")
    context: str = Field(
        description='template of the text before the target, such as a question; "" for none'
    )
    target: str = Field(description="template of the text to score")
    images: list[str] | None = Field(
        None,
        min_length=1,
        description="fields with pictures, each one or a list, which the model sees before the context",
    )
    logprobs: int = Field(
        0, ge=0, le=MOST_ALTERNATIVES, description="number of likeliest alternatives to record for each token"
    )

    @model_validator(mode="after")
    def _seen_in_a_turn(self) -> Score:
        if self.images and not self.context:
            raise ValueError("'images' are seen in the turn of the context: give 'context' a text")
        return self

    @property
    def media(self) -> Media:
        """The fields whose pictures the model sees."""
        return Media(images=tuple(self.images or ()))

    def scores(self) -> list[str]:
        """Return the names of both scores."""
        return [f"{self.name}.logprob", f"{self.name}.mean_logprob"]

    def models(self, project: Project) -> list[str]:
        """Return the name of the model."""
        return [self.model]

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError if the model cannot score texts, or a field is missing."""
        needs = ["score"] if self.context else ["score", "first_token"]
        needs += [*self.media.capabilities, "picture_score"] if self.images else []
        context.able(self.model, *needs, sampling={"logprobs": self.logprobs})
        for name in self.images or ():
            context.need(name, "'images'")
        for name in ("context", "target"):
            RecordTemplate(getattr(self, name)).check(context, f"'{name}'")
        return context.fields

    def records_logprobs(self) -> bool:
        """Return whether the ledger keeps alternatives to each token."""
        return bool(self.logprobs)

    def estimate(self, before: Estimate, samples: Sequence[Record], context: CheckContext) -> Estimate:
        """Return bounds: one request a row, which reads both texts and writes one token."""
        both, media = RecordTemplate(self.context + self.target), self.media

        def asks(record: Record) -> list[Ask]:
            parts = media.parts(record.fields)
            return [Ask(self.model, both.size(record), 1, text=self.asks_text, parts=parts)]

        return bounds(before, samples, context, asks)

    def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Ask about every live record."""
        teacher = job.services.teachers[self.model]
        context, target = RecordTemplate(self.context), RecordTemplate(self.target)
        media = self.media

        def questions(record: Record) -> list[Question]:
            message_fields: dict[str, Any] = {"prompt": ""}
            if self.context:
                content = media.before(context.say(record), record.fields)
                message_fields = teacher.message_fields([{"role": "user", "content": content}])
            sampling = {"logprobs": self.logprobs}
            request = Request(teacher.model, sampling=sampling, target=target.say(record), **message_fields)
            return [(teacher, request, 1, None)]

        def answered(record: Record, answers: Answers) -> Chunk:
            completion = answers[0][1][0]
            if completion.status != "ok":
                return [record.drop(self.name, "failed", completion.error)]
            return [answer_of(record, self.name, completion).scored(likelihood(self.name, completion))]

        return ask_each(chunks, [teacher], job, self.name, questions=questions, answered=answered)
