"""classifier: a text classifier or scorer from a teacher's labels or grades (Hinton et al. 2015)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext
from distillgen.flow.whole_set import number_of
from distillgen.inference.logprobs import Signal
from distillgen.option_types import FieldName
from distillgen.record import Record, text_of
from distillgen.training.inputs import Prepared, TrainingInputs
from distillgen.training.objective import Gives, Objective
from distillgen.training.rows import Assessment, Row, Unusable, cut


class TextClassifier(Objective):
    """An encoder with a head for classes, from labels or the teacher's probabilities, or for one number."""

    kinds = frozenset({"causal", "encoder"})
    fields: list[FieldName] = Field(
        ["text"],
        min_length=1,
        max_length=2,
        description="field with the text, or two fields that are read as a pair",
    )
    label: FieldName = Field(
        "label", description="field with a class or {class: probability, …}; with task: score, a number"
    )
    task: Literal["class", "score"] = Field(
        "class", description="what the student learns: one of several classes, or a number"
    )
    head_only: bool = Field(
        False, description="train the head only, on the embeddings of the encoder as it is"
    )

    def gives(self) -> Gives:
        """Return what its students answer: a class, or a number."""
        return "classes" if self.task == "class" else "scores"

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if a field is missing; a score is only known when the records come."""
        for name in self.fields:
            context.need(name, "'fields'")
        if self.task == "class":
            context.need(self.label, "'label'")

    def check_adapter(self) -> None:
        """Raise ConfigError if the encoder, which an adapter would change, is frozen."""
        if self.head_only:
            raise ConfigError("head_only freezes the encoder, which lora would change: leave one of them out")

    def answers(self) -> tuple[str, ...]:
        """Return the column of the number, or those of the classes."""
        return ("label",) if self.task == "score" else ("classes", "shares")

    def row(self, record: Record, signals: Mapping[str, Signal]) -> Row:
        """Return the texts, and a number or the probability of each class."""
        texts = [record.fields.get(name) for name in self.fields]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise Unusable(f"there is no text in {', '.join(self.fields)}")
        if self.task == "score":
            number = number_of(record, self.label)
            if number is None or not math.isfinite(number):
                raise Unusable(f"'{self.label}' holds no number")
            return {"texts": texts, "label": number}
        label = record.fields.get(self.label)
        shares = label if isinstance(label, dict) else {label: 1.0}
        if label is None or isinstance(label, list) or not all(_is_share(value) for value in shares.values()):
            raise Unusable(f"'{self.label}' holds no class, and no probabilities")
        total = sum(shares.values())
        if not 0.5 < total < 1.01:
            raise Unusable(f"the probabilities in '{self.label}' sum to {total:.2f}")
        classes = [text_of(name) for name in shares]
        return {"texts": texts, "classes": classes, "shares": [value / total for value in shares.values()]}

    def prepare(self, inputs: TrainingInputs) -> Prepared:
        """Prepare transformers' Trainer with a model for sequence classification."""
        from torch.nn.functional import cross_entropy, mse_loss
        from transformers import (
            AutoModelForSequenceClassification,
            DataCollatorWithPadding,
            Trainer,
            TrainingArguments,
        )

        names = sorted(
            {name for rows in inputs.rows.parts.values() for row in rows for name in row.get("classes", ())}
        )
        numbers = dict(enumerate(names))
        classes = {"id2label": numbers, "label2id": {name: i for i, name in numbers.items()}}
        head: dict[str, Any] = classes if self.task == "class" else {"num_labels": 1}
        tokenizer, model, max_length = inputs.load(AutoModelForSequenceClassification, **head)
        model.config.pad_token_id = tokenizer.pad_token_id
        if self.head_only:
            _freeze_encoder(model)

        def tokenised(row: Row) -> Row:
            read = tokenizer(*row["texts"], truncation=True, max_length=max_length)
            if self.task == "score":
                return {**read, "label": row["label"]}
            shares = dict(zip(row["classes"], row["shares"], strict=True))
            return {**read, "label": [shares.get(name, 0.0) for name in names]}

        def assess(row: Row) -> Assessment:
            return cut(len(tokenizer(*row["texts"])["input_ids"]), max_length)

        def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
            labels = labels.to(outputs.logits.dtype)
            mean = (
                mse_loss(outputs.logits[:, 0], labels)
                if self.task == "score"
                else cross_entropy(outputs.logits, labels)
            )
            return mean / inputs.arguments["gradient_accumulation_steps"] if model.training else mean

        rows = inputs.rows.select(assess).map(tokenised)
        trainer = Trainer(
            inputs.adapted(model, "SEQ_CLS"),
            TrainingArguments(**inputs.arguments),
            train_dataset=rows.parts["train"],
            eval_dataset=rows.parts.get("held_out"),
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_loss_func=loss,
            compute_metrics=_correlation if self.task == "score" else _accuracy,
        )
        return Prepared(trainer, rows.counts, names or ["score"])


def _freeze_encoder(model: Any) -> None:
    """Train the head only, and the pooler with it: few encoders have one that is trained for the task."""
    for name, weights in model.base_model.named_parameters():
        weights.requires_grad_(name.startswith("pooler."))


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _accuracy(evaluation: Any) -> dict[str, float]:
    """Return the share of rows whose likeliest class is the teacher's likeliest class."""
    return {"accuracy": float((evaluation.predictions.argmax(-1) == evaluation.label_ids.argmax(-1)).mean())}


def _correlation(evaluation: Any) -> dict[str, float]:
    """Return Pearson's correlation of the student's numbers with the teacher's."""
    import numpy

    return {"correlation": float(numpy.corrcoef(evaluation.predictions[:, 0], evaluation.label_ids)[0, 1])}
