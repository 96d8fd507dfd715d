"""cross_encoder: a scorer that reads two texts together, from a teacher's scores (Hofstätter et al. 2020, Margin-MSE)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from distillgen.training.objective import Training
from distillgen.training.pairs import Pairs


class PairScorer(Pairs):
    """sentence-transformers' losses for scores, and for margins between two answers."""

    kinds = frozenset(
        {"encoder"}
    )  # of a causal model sentence-transformers reads the tokens yes and no, untrained
    texts: ClassVar = {"bce": (2,), "mse": (2,), "margin_mse": (3,)}

    loss: Literal["bce", "mse", "margin_mse"] = Field(
        "bce",
        description="bce: scores from 0 to 1; mse: any score; margin_mse: a teacher's margin between two answers",
    )

    def trainer(self, training: Training) -> Any:
        """CrossEncoderTrainer."""
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
        tokenizer = training.tokenizer()
        device = "cpu" if training.arguments["use_cpu"] else None
        model = CrossEncoder(
            training.student,
            num_labels=1,
            max_length=training.max_length,
            revision=training.revision,
            device=device,
        )
        parts = self.counted(training, tokenizer)
        return CrossEncoderTrainer(
            model,
            CrossEncoderTrainingArguments(**training.arguments),
            train_dataset=parts["train"],
            eval_dataset=parts.get("held_out"),
            loss=kinds[self.loss](model),
        )
