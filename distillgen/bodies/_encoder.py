"""Pretrained text encoders. It needs torch and transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer


class TextEncoder(nn.Module):  # type: ignore[misc]
    """An encoder with its tokenizer; the features of a text are the mean of its last hidden states."""

    def __init__(self, model: Any, tokenizer: Any, max_length: int) -> None:
        """Raise ValueError for a model that also writes, and a tokenizer that cannot fill up a batch."""
        super().__init__()
        if model.config.is_encoder_decoder:
            raise ValueError("it is an encoder with a decoder; take an encoder, such as BERT")
        self.model, self.tokenizer, self.width = model, tokenizer, int(model.config.hidden_size)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        if tokenizer.pad_token is None:
            raise ValueError("its tokenizer has no padding token")
        limits = (max_length, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 0))
        self.limit = min(limit for limit in limits if limit)

    @classmethod
    def pretrained(cls, name: str, revision: str | None, max_length: int) -> Self:
        """Load a folder, or a name on the Hub. Raise OSError or ValueError, also those of transformers."""
        model = AutoModel.from_pretrained(name, revision=revision, dtype="float32")
        return cls(model, AutoTokenizer.from_pretrained(name, revision=revision), max_length)

    @classmethod
    def saved(cls, folder: Path, max_length: int) -> Self:
        """Return an encoder with random weights, as `save_files` described it."""
        model = AutoModel.from_config(AutoConfig.from_pretrained(folder))
        return cls(model, AutoTokenizer.from_pretrained(folder), max_length)

    def save_files(self, folder: Path) -> None:
        """Write the configuration and the tokenizer."""
        self.model.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def forward(self, rows: Sequence[Sequence[str]]) -> Any:
        """Return the features [rows, width] of a list of texts for each row."""
        texts = ["\n".join(texts) for texts in rows]
        batch = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.limit, return_tensors="pt"
        ).to(self.model.device)
        states, mask = self.model(**batch).last_hidden_state, batch["attention_mask"][..., None]
        return (states * mask).sum(1) / mask.sum(1).clamp(min=1)
