"""classifier: a text classifier or scorer from a teacher's labels, probabilities or grades (Hinton et al. 2015)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from distillgen.flow.stage import CheckContext
from distillgen.flow.whole_set import number_of
from distillgen.inference.logprobs import Logprobs
from distillgen.record import FieldName, Record, text_of
from distillgen.training.inputs import Prepared, TrainingInputs
from distillgen.training.objective import Objective
from distillgen.training.rows import Assessment, Row, Unusable, cut


class TextClassifier(Objective):
    """An encoder with a head: of classes, learnt from labels or from the teacher's probabilities of all; or of one number."""

    writes = False
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

    def check(self, context: CheckContext) -> None:
        """Texts and labels are there; a score is known only when records have it."""
        for name in self.fields:
            context.need(name, "'fields'")
        if self.task == "class":
            context.need(self.label, "'label'")

    def answers(self) -> tuple[str, ...]:
        """The number, or the classes."""
        return ("label",) if self.task == "score" else ("classes", "shares")

    def row(self, record: Record, signals: Mapping[str, Logprobs]) -> Row:
        """The texts, and a number or the probability of each class."""
        texts = [record.fields.get(name) for name in self.fields]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise Unusable(f"there is no text in {', '.join(self.fields)}")
        if self.task == "score":
            number = number_of(record, self.label)
            if number is None or not math.isfinite(number):
                raise Unusable(f"'{self.label}' holds no number")
            return {"texts": texts, "label": number}
        label = record.fields.get(self.label)
        given = label if isinstance(label, dict) else {label: 1.0}
        if label is None or isinstance(label, list) or not all(_is_share(value) for value in given.values()):
            raise Unusable(f"'{self.label}' holds no class, and no probabilities")
        total = sum(given.values())
        if not 0.5 < total < 1.01:
            raise Unusable(f"the probabilities in '{self.label}' sum to {total:.2f}")
        classes = [text_of(name) for name in given]
        return {"texts": texts, "classes": classes, "shares": [value / total for value in given.values()]}

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
        heads: dict[str, Any] = {"num_labels": 1}
        if self.task == "class":
            heads = {
                "id2label": dict(enumerate(names)),
                "label2id": {name: i for i, name in enumerate(names)},
            }
        tokenizer, model, max_length = inputs.load(AutoModelForSequenceClassification, **heads)
        model.config.pad_token_id = tokenizer.pad_token_id
        if self.head_only:
            for name, weights in model.base_model.named_parameters():
                weights.requires_grad_(
                    name.startswith("pooler.")
                )  # a pooler is of the head: few encoders bring one that fits

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
            each = (
                mse_loss(outputs.logits[:, 0], labels)
                if self.task == "score"
                else cross_entropy(outputs.logits, labels)
            )
            return each / inputs.arguments["gradient_accumulation_steps"] if model.training else each

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
        return Prepared(trainer, rows.counts)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _accuracy(told: Any) -> dict[str, float]:
    """How often the likeliest class is the teacher's likeliest."""
    return {"accuracy": float((told.predictions.argmax(-1) == told.label_ids.argmax(-1)).mean())}


def _correlation(told: Any) -> dict[str, float]:
    """Pearson's, of the student's numbers with the teacher's."""
    import numpy

    return {"correlation": float(numpy.corrcoef(told.predictions[:, 0], told.label_ids)[0, 1])}
