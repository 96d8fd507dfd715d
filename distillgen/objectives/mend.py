"""mend: demonstrations are distilled into vectors for a frozen language model (Li et al. 2024, MEND)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field, field_validator

from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.stage import CheckContext
from distillgen.inference.logprobs import Signal
from distillgen.option_types import FieldName
from distillgen.record import Record
from distillgen.training import students
from distillgen.training.inputs import Api, Prepared, TrainingInputs
from distillgen.training.objective import Gives, Objective
from distillgen.training.options import TINY, Tiny
from distillgen.training.rows import Row, Unusable

SLOTS = 4
FIELDS = ("demos", "prompt", "completion")


class Mend(Objective):
    """A distiller learns to write demonstrations into vectors that stand before a query's embeddings.

    The language model that `student` names stays as it is. The loss is the cross-entropy of the completion,
    and `kl` times the divergence of the model behind the vectors from the model behind the demonstrations,
    over the tokens of the query and the completion. With `text`, only the divergence is learnt: the first
    part of each text is the demonstrations, and the rest the query. A completion is learnt as it is,
    without an end token.

    The trained student reads a JSON list of two texts, demonstrations and query:
    `template: "{{ [demos, prompt] | json }}"`.
    """

    learning_rate = 1e-3
    adapters = False
    templated = False

    distiller: str | dict[str, Any] | None = Field(
        None,
        description="network that reads the demonstrations: {tiny: {layers: 2, width: 64, heads: 4}}, or a "
        "decoder with the student's tokens: an earlier student, a folder, or owner/name on the Hugging Face "
        "Hub. Default: that of a student that this objective has trained, else a tiny one",
    )
    slots: int | None = Field(
        None,
        ge=1,
        description=f"vectors that stand for the demonstrations; default: those of the student, else {SLOTS}",
    )
    text: FieldName | None = Field(
        None, description="field with a plain text, to learn from instead of demonstrations"
    )
    share: float = Field(0.8, gt=0, lt=1, description="share of a text's tokens that are its demonstrations")
    demos: FieldName = Field("demos", description="field with the text of the demonstrations")
    prompt: FieldName = Field(
        "prompt", description="field with the query, as a text that goes on behind them"
    )
    completion: FieldName = Field("completion", description="field with the answer, as a text")
    kl: float = Field(1.0, ge=0, description="weight of the divergence; 0: learn from completions alone")

    @field_validator("distiller")
    @classmethod
    def _network(cls, value: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        if isinstance(value, dict):
            if [*value] != [TINY]:
                raise ValueError("give {tiny: {layers: 2}}, an earlier student, or a model's folder or name")
            size = Tiny.model_validate(value[TINY] or {})
            if size.tokens or size.kind != "decoder":
                raise ValueError("tiny: a decoder with the student's tokens: leave out 'kind' and 'tokens'")
        return value

    def bound(self, context: CheckContext, earlier: Mapping[str, Sequence[str] | None]) -> Self:
        """Return the objective. Raise ConfigError if there is no model that the distiller begins with."""
        name = self.distiller
        if not isinstance(name, str) or name in earlier or students.is_weights(name, context.project.root):
            return self
        remedy = "give an earlier student, a model's folder, or owner/name on the Hugging Face Hub"
        raise ConfigError(
            f"distiller: there is no model '{name}'{did_you_mean(name, earlier, otherwise=remedy)}"
        )

    def gives(self) -> Gives:
        """Return what the student answers: texts, behind demonstrations."""
        return "demonstrated"

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if a field is missing, or nothing would be learnt."""
        if self.text:
            context.need(self.text, "text")
            if not self.kl:
                raise ConfigError("text: a text teaches by the divergence alone, and kl: 0 leaves it out")
        else:
            for name in FIELDS:
                context.need(getattr(self, name), name)

    def check_student(self, student: students.Outline, context: CheckContext) -> None:
        """Raise ConfigError if the student is no trained decoder, or the distiller is not one for it."""
        super().check_student(student, context)
        if student.template == students.CHAT and student.vocabulary is None and student.read:
            raise ConfigError(
                "the student stays as it is, and a new tiny one has learnt nothing: train it first"
            )
        if student.distiller:
            for option in ("distiller", "slots"):
                if getattr(self, option) is not None:
                    raise ConfigError(
                        f"{option}: the student has a distiller, which goes on learning: leave it out"
                    )

    def models(self) -> Sequence[str]:
        """Return the model that the distiller begins with."""
        return [self.distiller] if isinstance(self.distiller, str) else []

    def answers(self) -> tuple[str, ...]:
        """Return the column of the demonstrations, so that a control learns from those of another record."""
        if self.text:
            raise ConfigError("on: shuffled: a plain text has no demonstrations to exchange")
        return ("demos",)

    def row(self, record: Record, signals: Mapping[str, Signal]) -> Row:
        """Return the texts. Raises Unusable."""
        row = {}
        for name in ("text",) if self.text else FIELDS:
            field = getattr(self, name)
            row[name] = record.fields.get(field)
            if not isinstance(row[name], str) or not row[name]:
                raise Unusable(f"'{field}' holds no text")
        return row

    def api(self, row: Row) -> Api:
        """Return that a student is asked with texts."""
        return "completions"

    def prepare(self, inputs: TrainingInputs) -> Prepared:
        """Prepare the loop of the distiller."""
        from distillgen.training.demonstrations import demonstration_loop

        return demonstration_loop(inputs, self.distiller, self.slots or SLOTS, self.share, self.kl)
