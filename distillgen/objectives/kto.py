"""kto: answers become likelier or less likely, each by its own label (Ethayarajh et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from distillgen.flow.stage import CheckContext
from distillgen.inference.logprobs import Signal
from distillgen.option_types import FieldName
from distillgen.record import Record
from distillgen.training.dialogue import Dialogue, lengths
from distillgen.training.inputs import Prepared, TrainingInputs
from distillgen.training.rows import Row, Unusable, fit


class Kto(Dialogue):
    """Learns from answers with a label: true for a desirable one, false for an undesirable one.

    It needs no pairs: a filter with `mark: label` gives the labels of any number of answers. Set both weights
    so that the desirable and the undesirable answers weigh about the same.
    """

    packages = ("trl",)
    learning_rate = 1e-6
    smallest_batch = 2

    label: FieldName = Field("label", description="field that is true for a desirable answer, else false")
    beta: float = Field(0.1, gt=0, description="strength with which the student is held to the reference")
    desirable_weight: float = Field(1.0, gt=0, description="weight of the loss of a desirable answer")
    undesirable_weight: float = Field(1.0, gt=0, description="weight of the loss of an undesirable answer")

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if the answer or its label is missing."""
        super().check(context)
        context.need(self.label, "'label'")

    def answers(self) -> tuple[str, ...]:
        """Return the column of the label."""
        return ("label",)

    def row(self, record: Record, signals: Mapping[str, Signal]) -> Row:
        """Return the prompt, the answer and its label."""
        label = record.fields.get(self.label)
        if not isinstance(label, bool):
            raise Unusable(f"'{self.label}' is neither true nor false")
        return {**self.example(record), **self.offered(record), "label": label}

    def prepare(self, inputs: TrainingInputs) -> Prepared:
        """Prepare TRL's KTOTrainer."""
        from transformers import AutoModelForCausalLM
        from trl import KTOConfig, KTOTrainer

        tokenizer, model, max_length = inputs.load(AutoModelForCausalLM)
        rows = inputs.rows.select(
            lambda row: fit(
                *lengths(tokenizer, row["prompt"], row["completion"], tools=row.get("tools")), max_length
            )
        )
        config: Any = KTOConfig(
            **inputs.arguments,
            max_length=max_length,
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )
        trainer = KTOTrainer(
            model,
            args=config,
            train_dataset=rows.parts["train"],
            eval_dataset=rows.parts.get("held_out"),
            processing_class=tokenizer,
            peft_config=inputs.peft("CAUSAL_LM"),
        )
        return Prepared(trainer, rows.counts)
