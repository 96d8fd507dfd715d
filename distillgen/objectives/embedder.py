"""embedder: a bi-encoder whose cosines follow a teacher's scores (Reimers and Gurevych 2019, Sentence-BERT)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from distillgen.training.objective import Training
from distillgen.training.pairs import Pairs


class Embedder(Pairs):
    """sentence-transformers' losses for pairs with a score, for margins between two answers, and for pairs alone."""

    texts: ClassVar = {"cosent": (2,), "cosine": (2,), "margin_mse": (3,), "ranking": (2, 3)}
    unscored: ClassVar = frozenset({"ranking"})

    loss: Literal["cosent", "cosine", "margin_mse", "ranking"] = Field(
        "cosent",
        description="cosent: the order of scores; cosine: scores from -1 to 1; margin_mse: a cross-encoder's margins; "
        "ranking: what else is in the batch does not fit",
    )

    def trainer(self, training: Training) -> Any:
        """SentenceTransformerTrainer."""
        from sentence_transformers import (
            SentenceTransformer,
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
        )
        from sentence_transformers.sentence_transformer import losses

        kinds = {
            "cosent": losses.CoSENTLoss,
            "cosine": losses.CosineSimilarityLoss,
            "margin_mse": losses.MarginMSELoss,
            "ranking": losses.MultipleNegativesRankingLoss,
        }
        device = "cpu" if training.arguments["use_cpu"] else None
        model = SentenceTransformer(training.student, revision=training.revision, device=device)
        training.max_length = min(training.max_length, model.max_seq_length or training.max_length)
        model.max_seq_length = training.max_length
        parts = self.counted(training, training.tokenizer())
        return SentenceTransformerTrainer(
            model,
            SentenceTransformerTrainingArguments(**training.arguments),
            train_dataset=parts["train"],
            eval_dataset=parts.get("held_out"),
            loss=kinds[self.loss](model),
        )
