"""A trainer with a loss for each row, so that rows can have weights. It needs torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer

IGNORED = -100


class RowLossTrainer(Trainer):  # type: ignore[misc]
    """Train on the mean loss of the rows.

    `losses` takes the logits [tokens, vocabulary] of all learnt tokens, their ids and the batch, and returns
    a loss for each token. The loss of a row is the mean over its tokens, times its `weight` if the batch has
    weights.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self, *args: Any, losses: Callable[[Any, Any, Mapping[str, Any]], Any], **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._losses = losses

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean loss of the rows in the batch."""
        labels, read = inputs["labels"], {name: inputs[name] for name in ("input_ids", "attention_mask")}
        if model_config(model).is_encoder_decoder:
            outputs = model(**read, labels=labels)
            logits = outputs.logits
        else:
            outputs = model(**read, use_cache=False)
            logits, labels = outputs.logits[:, :-1], labels[:, 1:]
        learnt = labels != IGNORED
        losses = torch.zeros(labels.shape, dtype=torch.float32, device=logits.device)
        losses[learnt] = self._losses(logits[learnt].float(), labels[learnt], inputs)
        rows = losses.sum(1) / learnt.sum(1).clamp(min=1)
        loss = (rows * inputs["weight"]).mean() if "weight" in inputs else rows.mean()
        return (loss, {"logits": logits}) if return_outputs else loss


def model_config(model: Any) -> Any:
    """Return the configuration of a model, which may be wrapped for several processes."""
    return getattr(model, "module", model).config


def hard(logits: Any, ids: Any, batch: Mapping[str, Any]) -> Any:
    """Return the cross-entropy of each token."""
    return cross_entropy(logits, ids, reduction="none")


def collator(pad_id: int) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Return a function that makes a batch of rows.

    Columns with an entry for each token are padded, numbers are stacked, and columns with an entry for each
    learnt token are concatenated.
    """
    fills = {"input_ids": pad_id, "attention_mask": 0, "labels": IGNORED}

    def collated(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = {}
        for name in rows[0]:
            values = [torch.tensor(row[name]) for row in rows]
            if name in fills:
                batch[name] = pad_sequence(values, batch_first=True, padding_value=fills[name])
            else:
                batch[name] = torch.cat(values) if values[0].dim() else torch.stack(values)
        return batch

    return collated
