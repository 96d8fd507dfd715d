"""A language model as a network: one position for each token that is learnt. It needs torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from distillgen.networks.network import Layers, Out

IGNORED = -100


class Language(nn.Module):  # type: ignore[misc]
    """A causal or encoder-decoder model. A batch has `input_ids`, `attention_mask` and `labels`.

    The learnt tokens are those whose label is not IGNORED.
    """

    width = token_width = 0

    def __init__(
        self, model: Any, tokenizer: Any, *, layers: bool = False, ids: Sequence[int] | None = None
    ) -> None:
        """`layers` keeps hidden states and attention. `ids` are the model's own ids of the tokens in the
        batches: it is a teacher with more tokens than its student.
        """
        super().__init__()
        self.model, self.tokenizer, self.layers = model, tokenizer, layers
        self.register_buffer("ids", None if ids is None else torch.tensor(ids), persistent=False)
        if layers:
            model.set_attn_implementation("eager")  # others keep no attention
        self.both = model.config.is_encoder_decoder
        self.top = getattr(model.config, "num_experts_per_tok", 0)  # experts that a token is sent to
        self.classes = range(len(ids) if ids is not None else model.get_output_embeddings().weight.shape[0])

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Compute what the backward pass needs anew instead of keeping it."""
        self.model.gradient_checkpointing_enable(**options)

    def _labels(self, batch: Mapping[str, Any]) -> Any:
        labels = batch["labels"]
        return labels if self.both else labels[:, 1:]

    def label(self, batch: Mapping[str, Any]) -> Any:
        """Return the ids of the learnt tokens [positions]."""
        labels = self._labels(batch)
        return labels[labels != IGNORED]

    def forward(self, batch: Mapping[str, Any]) -> Out:
        """Return the logits [positions, vocabulary] at the learnt tokens."""
        labels = self._labels(batch)
        read = {name: batch[name] for name in ("input_ids", "attention_mask")}
        learnt = labels != IGNORED
        place = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)[learnt]
        if self.both:
            logits = self.model(**read, labels=labels).logits
            return Out({"class": logits[learnt].float()}, place)
        if self.ids is not None:
            read["input_ids"] = self.ids[read["input_ids"]]
        if self.layers:
            read |= {"output_hidden_states": True, "output_attentions": True}
        if self.top:
            read["output_router_logits"] = True
        output = self.model(**read, use_cache=False)
        logits = output.logits[:, :-1][learnt].float()
        balance = output.aux_loss / self.top if self.top else None
        layers = None
        if self.layers:
            layers = Layers(output.hidden_states, output.attentions, batch["attention_mask"])
        classes = {"class": logits if self.ids is None else logits[:, self.ids]}
        return Out(classes, place, balance=balance, layers=layers)

    def save(self, folder: Path) -> None:
        """Write the model, or its adapter, and the tokenizer to a folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


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
