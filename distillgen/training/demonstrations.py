"""A training of a distiller: a frozen language model reads demonstrations, or vectors. It needs torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from distillgen.errors import ConfigError
from distillgen.inference.opening import text_start
from distillgen.networks.distiller import Distiller, load_distiller, positions
from distillgen.networks.spec import has_distiller
from distillgen.training import students
from distillgen.training.assembly import HELD_OUT, TRAIN
from distillgen.training.inputs import Prepared, TrainingInputs
from distillgen.training.language import IGNORED
from distillgen.training.learner import Learner, Loop, Teachers
from distillgen.training.options import TINY, Tiny
from distillgen.training.rows import Assessment, Row, uncut
from distillgen.training.step import STUDENT
from distillgen.training.tiny import decoder


class Demonstrated(nn.Module):  # type: ignore[misc]
    """A frozen language model with its distiller.

    A batch has `demos` and `demos_mask`, padded at the left, `query`, `query_mask` and `labels`, padded at
    the right. The query's first token is predicted behind what stands before it.
    """

    width = token_width = 0

    def __init__(self, model: Any, tokenizer: Any, distiller: Distiller) -> None:
        super().__init__()
        self.model, self.tokenizer, self.distiller = model.requires_grad_(False), tokenizer, distiller
        self.classes = range(model.get_output_embeddings().weight.shape[0])

    def train(self, mode: bool = True) -> Demonstrated:
        """Let the distiller learn; the language model stays as it is asked, without dropout."""
        super().train(mode)
        self.model.eval()
        return self

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Compute what the backward pass needs anew instead of keeping it."""
        self.model.gradient_checkpointing_enable(**options)
        self.distiller.network.gradient_checkpointing_enable(**options)

    def forward(self, batch: Mapping[str, Any]) -> Any:
        """Return the logits [rows, tokens, vocabulary] of the query's tokens behind the vectors."""
        vectors = self.distiller(batch["demos"], batch["demos_mask"])
        query = self.model.get_input_embeddings()(batch["query"])
        before = batch["query_mask"].new_ones(vectors.shape[:2])
        return self._logits(batch, before, inputs_embeds=torch.cat([vectors.to(query.dtype), query], 1))

    def with_texts(self, batch: Mapping[str, Any]) -> Any:
        """Return the same logits behind the demonstrations themselves."""
        with torch.no_grad():
            ids = torch.cat([batch["demos"], batch["query"]], 1)
            return self._logits(batch, batch["demos_mask"], input_ids=ids)

    def _logits(self, batch: Mapping[str, Any], before: Any, **tokens: Any) -> Any:
        mask = torch.cat([before, batch["query_mask"]], 1)
        logits = self.model(
            attention_mask=mask, position_ids=positions(mask), use_cache=False, **tokens
        ).logits
        return logits[:, before.shape[1] - 1 : -1].float()

    def save(self, folder: Path) -> None:
        """Write the language model, its tokenizer and the distiller to a folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.distiller.save(folder)


class Mend(Learner):
    """CE(answer) + kl · KL(model(demonstrations, query) ‖ model(vectors, query)), in nats.

    Both are means over a row's tokens, of the answer and of the query with the answer, and then over the
    rows; the temperature is 1 (Li et al. 2024).
    """

    def __init__(self, student: Demonstrated, kl: float, *, seed: int) -> None:
        super().__init__({STUDENT: student}, (), {}, Teachers(), seed=seed)
        self.kl = kl

    def forward(self, batch: Mapping[str, Any]) -> Any:
        """Return the loss of a batch."""
        student, labels = self.networks[STUDENT], batch["labels"]
        logits = student(batch)
        tokens = cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        loss = _mean(tokens, labels != IGNORED)
        if self.kl:
            q, p = logits.log_softmax(-1), student.with_texts(batch).log_softmax(-1)
            loss = loss + self.kl * _mean((p.exp() * (p - q)).sum(-1), batch["query_mask"] == 1)
        return loss


def _mean(values: Any, present: Any) -> Any:
    """Return the mean over the rows of the mean of values [rows, tokens]; 0 for a row without any."""
    return ((values * present).sum(1) / present.sum(1).clamp(min=1)).mean()


def demonstration_loop(
    inputs: TrainingInputs, source: str | Mapping[str, Any] | None, slots: int, share: float, kl: float
) -> Prepared:
    """Return the loop of a distiller, which begins as `source` says, or goes on where the student has one."""
    tokenizer, model, max_length = inputs.load(AutoModelForCausalLM)
    model.config.pad_token_id = tokenizer.pad_token_id
    width = model.get_input_embeddings().weight.shape[1]
    if has_distiller(folder := Path(inputs.student)):
        distiller = load_distiller(folder)
    else:
        distiller = Distiller(_network(source, inputs, tokenizer), slots, width)
    start = text_start(tokenizer)

    def divided(row: Row) -> Row:
        if "text" in row:
            ids = tokenizer.encode(row["text"], add_special_tokens=False)
            cut = int(share * len(ids))
            return columns([*start, *ids[:cut]], ids[cut:], len(ids) - cut)
        demos, before, query = (
            tokenizer.encode(text, add_special_tokens=False)
            for text in (row["demos"], row["prompt"], row["prompt"] + row["completion"])
        )
        return columns([*start, *demos], query, len(os.path.commonprefix([before, query])))

    def assess(row: Row) -> Assessment:
        if not row["query"] or not row["demos"][len(start) :]:
            return Assessment("nothing to learn: no token of demonstrations, or none of a query")
        return uncut(max(len(row["demos"]), len(distiller.slots)) + len(row["query"]), max_length)

    rows = inputs.rows.map(divided).select(assess)
    student = Demonstrated(model, tokenizer, distiller)
    loop = Loop(
        Mend(student, kl, seed=inputs.arguments["seed"]),
        TrainingArguments(**inputs.arguments, remove_unused_columns=False),
        train_dataset=rows.parts[TRAIN],
        eval_dataset=rows.parts.get(HELD_OUT),
        data_collator=lambda rows: collated(rows, tokenizer.pad_token_id),
    )
    return Prepared(loop, rows.counts, student=model)


def columns(demos: list[int], query: list[int], prompt: int) -> Row:
    """Return the columns of demonstrations and a query, whose first `prompt` tokens are no answer."""
    return {"demos": demos, "query": query, "labels": [IGNORED] * prompt + query[prompt:]}


def collated(rows: list[Row], pad_id: int) -> dict[str, Any]:
    """Return a batch of rows."""
    batch = {}
    for name, fill, side in (
        ("demos", pad_id, "left"),
        ("query", pad_id, "right"),
        ("labels", IGNORED, "right"),
    ):
        values = [torch.tensor(row[name]) for row in rows]
        batch[name] = pad_sequence(values, batch_first=True, padding_value=fill, padding_side=side)
        if name != "labels":
            ones = [torch.ones_like(value) for value in values]
            batch[f"{name}_mask"] = pad_sequence(ones, batch_first=True, padding_side=side)
    return batch


def _network(source: str | Mapping[str, Any] | None, inputs: TrainingInputs, tokenizer: Any) -> Any:
    """Return the network of a new distiller. Raise ConfigError if its tokens are not the model's."""
    if not isinstance(source, str):
        size = Tiny.model_validate((source or {}).get(TINY) or {})
        return decoder(size, tokenizer).get_decoder()
    folder = str(inputs.models.get(source) or students.local(source, inputs.project.root) or source)
    try:
        network, other = (
            AutoModel.from_pretrained(folder, dtype="float32"),
            AutoTokenizer.from_pretrained(folder),
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"the distiller '{source}' cannot be loaded: {error}") from error
    if other.get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"the distiller '{source}' has other tokens than the student; take one of its family"
        )
    return network
