"""cross_encoder: a scorer of text pairs learns a teacher's scores (Hofstätter et al. 2020, Margin-MSE)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distillgen.training.inputs import Prepared, TrainingInputs
from distillgen.training.objective import Gives
from distillgen.training.pairs import Pairs


class PairScorer(Pairs):
    """sentence-transformers' losses for scores, and for margins between two answers."""

    # of a causal model sentence-transformers would read untrained yes and no tokens
    kinds = frozenset({"encoder"})
    texts: ClassVar = {"bce": (2,), "mse": (2,), "margin_mse": (3,)}

    loss: Literal["bce", "mse", "margin_mse"] = Field(
        "bce",
        description="bce: scores from 0 to 1; mse: any score; margin_mse: a teacher's margin between two "
        "answers",
    )

    def gives(self) -> Gives:
        """Return what its students answer: the score of two texts."""
        return "scores"

    def prepare(self, inputs: TrainingInputs) -> Prepared:
        """Prepare a CrossEncoderTrainer."""
        import torch
        from sentence_transformers.cross_encoder import (
            CrossEncoder,
            CrossEncoderTrainer,
            CrossEncoderTrainingArguments,
            losses,
        )

        kinds = {
            "bce": losses.BinaryCrossEntropyLoss,
            "mse": losses.MSELoss,
            "margin_mse": losses.MarginMSELoss,
        }
        tokenizer = inputs.tokenizer()
        max_length = inputs.row_length(tokenizer)
        device = "cpu" if inputs.arguments["use_cpu"] else None
        # what the student answers: bce learns logits, the other losses learn the scores themselves
        activation = torch.nn.Sigmoid() if self.loss == "bce" else torch.nn.Identity()
        model = CrossEncoder(
            inputs.student,
            num_labels=1,
            max_length=max_length,
            revision=inputs.revision,
            device=device,
            activation_fn=activation,
        )
        rows = self.counted(inputs.rows, tokenizer, max_length)
        trainer = CrossEncoderTrainer(
            model,
            CrossEncoderTrainingArguments(**inputs.arguments),
            train_dataset=rows.parts["train"],
            eval_dataset=rows.parts.get("held_out"),
            loss=kinds[self.loss](model),
        )
        return Prepared(trainer, rows.counts)
