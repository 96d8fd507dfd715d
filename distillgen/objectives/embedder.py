"""embedder: a bi-encoder learns a teacher's scores as cosines (Reimers and Gurevych 2019, Sentence-BERT), or
their margins as those of dot products (Hofstätter et al. 2020, Margin-MSE).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distillgen.training.inputs import Prepared, TrainingInputs
from distillgen.training.objective import Gives
from distillgen.training.pairs import Pairs


class Embedder(Pairs):
    """Losses of sentence-transformers for pairs with a score, margins of two answers, and pairs alone."""

    texts: ClassVar = {"cosent": (2,), "cosine": (2,), "margin_mse": (3,), "ranking": (2, 3)}
    unscored: ClassVar = frozenset({"ranking"})

    loss: Literal["cosent", "cosine", "margin_mse", "ranking"] = Field(
        "cosent",
        description="cosent: the order of scores; cosine: scores from -1 to 1; margin_mse: a "
        "cross-encoder's margins, as those of dot products; ranking: other texts of the batch are negatives",
    )

    def gives(self) -> Gives:
        """Return what its students answer: the vector of a text, or the similarity of two."""
        return "vectors"

    def prepare(self, inputs: TrainingInputs) -> Prepared:
        """Prepare a SentenceTransformerTrainer."""
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
        device = "cpu" if inputs.arguments["use_cpu"] else None
        model = SentenceTransformer(inputs.student, revision=inputs.revision, device=device)
        if self.loss == "margin_mse":
            model.similarity_fn_name = "dot"  # what the loss compares; the folder says so to who asks
        model.max_seq_length = min(inputs.max_length, model.max_seq_length or inputs.max_length)
        tokenizer = inputs.tokenizer()
        rows = self.counted(inputs.rows, tokenizer, inputs.row_length(tokenizer, model.max_seq_length))
        trainer = SentenceTransformerTrainer(
            model,
            SentenceTransformerTrainingArguments(**inputs.arguments),
            train_dataset=rows.parts["train"],
            eval_dataset=rows.parts.get("held_out"),
            loss=kinds[self.loss](model),
        )
        return Prepared(trainer, rows.counts)
