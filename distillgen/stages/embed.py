"""embed: ask for the embedding of a text, and keep it in the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from distillgen.flow.asking import Answers, Question, answer_of, ask_each
from distillgen.flow.bounds import Ask, bounds
from distillgen.flow.record_template import RecordTemplate
from distillgen.flow.stage import CheckContext, Chunk, Chunks, Estimate, Job, Stage
from distillgen.inference.request import Request
from distillgen.project import Project
from distillgen.record import Record


class Embed(Stage):
    """Ask for the embedding of a text.

    The vector stays in the ledger; `distillgen export --signals` writes it with the id of its record.
    """

    kind = "embed"
    scope = "row"
    asks_text = False
    reads = "the fields in `template`"
    writes = "the embedding, to the ledger"

    model: str = Field(description="name of one of the pipeline's models that can embed")
    template: str = Field(description="template of the text to embed")

    def models(self, project: Project) -> list[str]:
        """Return the name of the model."""
        return [self.model]

    def records_embeddings(self) -> bool:
        """Return true: the ledger keeps the vectors."""
        return True

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError if the model cannot do it, or a field is missing."""
        context.able(self.model, "embeddings")
        RecordTemplate(self.template).check(context, "'template'")
        return context.fields

    def estimate(self, before: Estimate, samples: Sequence[Record], context: CheckContext) -> Estimate:
        """Return bounds: one request a row, which writes nothing."""
        text = RecordTemplate(self.template)
        return bounds(
            before,
            samples,
            context,
            lambda record: [Ask(self.model, text.size(record), 0, text=self.asks_text)],
        )

    def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Ask about every live record."""
        teacher, text = job.services.teachers[self.model], RecordTemplate(self.template)

        def questions(record: Record) -> list[Question]:
            return [(teacher, Request(teacher.model, embed=text.say(record)), 1, None)]

        def answered(record: Record, answers: Answers) -> Chunk:
            completion = answers[0][1][0]
            if completion.status != "ok":
                return [record.drop(self.name, "failed", completion.error)]
            return [answer_of(record, self.name, completion)]

        return ask_each(chunks, [teacher], job, self.name, questions=questions, answered=answered)
