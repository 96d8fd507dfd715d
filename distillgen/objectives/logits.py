"""logits: the student's distribution approaches the one that a teacher's recorded log-probabilities show.

The k alternatives that an endpoint returns are not all of the distribution. What is missing is one more outcome, the tail,
for teacher and student alike; taking the k for all of it (renormalising them) teaches that nothing else is ever possible,
and trains students that are far worse than hard labels do: so such signals are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.stage import CheckContext
from distillgen.inference.logprobs import Logprobs
from distillgen.record import Record
from distillgen.training.dialogue import Dialogue, tokens
from distillgen.training.inputs import Prepared, TrainingInputs
from distillgen.training.rows import Assessment, Row, Unusable, fit

LEAST_TAIL = 1e-7  # what float32 can tell from none
RENORMALISED = 2e-3  # no tail of any unsure token is larger, where the alternatives were made to sum to 1
UNSURE = 0.9  # a token whose likeliest alternative has less; of a sure one the tail may really be so small
FEW = 50  # unsure tokens, from which on that is no accident

Divergence = Literal["forward", "reverse", "jensen_shannon"]


class Logits(Dialogue):
    """Divergence over the recorded alternatives and a tail, and cross-entropy on the token that the teacher wrote.

    The tokens are those of the teacher, whose tokenizer the student must share; each is found by its text.
    """

    signals = True

    stage: str | None = Field(
        None,
        description="stage whose answers the student learns; default: the last one that recorded "
        "log-probabilities",
    )
    divergence: Divergence = Field(
        "forward",
        description="forward: KL from teacher to student; reverse: KL from student to teacher; or "
        "Jensen-Shannon",
    )
    cross_entropy: float = Field(
        0.5, ge=0, le=1, description="share of the cross-entropy in the loss; the rest is the divergence"
    )

    def check(self, context: CheckContext) -> None:
        """An earlier stage records what is needed, and there is a prompt."""
        super().check(context)
        recording = [stage.name for stage in context.stages if stage.records_logprobs(context)]
        named = [stage for stage in context.stages if stage.name == self.stage]
        if self.stage and not named:
            raise ConfigError(
                f"there is no earlier stage '{self.stage}'{did_you_mean(self.stage, recording)}"
            )
        if not recording or (named and not named[0].records_logprobs(context)):
            remedy = "set logprobs: 5 on a generate stage, its model or its prompt, or on a stage score"
            raise ConfigError(
                f"it learns from recorded log-probabilities, and no earlier stage records any; {remedy}"
            )

    def answers(self) -> tuple[str, ...]:
        """The tokens with all that was recorded of them."""
        return "tokens", "logprobs", "top_tokens", "top_logprobs"

    def row(self, record: Record, signals: Mapping[str, Logprobs]) -> Row:
        """The prompt, and the answer's tokens with their alternatives."""
        example = self.example(record)
        found = (
            signals.get(self.stage)
            if self.stage
            else next(reversed([s for s in signals.values() if _has_top(s)]), None)
        )
        if not found or not _has_top(found):
            raise Unusable("no log-probabilities with alternatives were recorded of its answer")
        found = [token for token in found if token[0]]  # an end that has no text
        text = (
            example["completion"]
            if isinstance(example["completion"], str)
            else example["completion"][-1]["content"]
        )
        if "".join(token for token, _, _ in found).strip() != text.strip():
            raise Unusable("its text is not what the recorded tokens say")
        return {
            "prompt": example["prompt"],
            "tokens": [token for token, _, _ in found],
            "logprobs": [value for _, value, _ in found],
            "top_tokens": [[t for t, _ in top] for _, _, top in found],
            "top_logprobs": [[value for _, value in top] for _, _, top in found],
        }

    def prepare(self, inputs: TrainingInputs) -> Prepared:
        """Prepare rows of ids, with the ids and log-probabilities of the alternatives of each token that is learnt."""
        from transformers import AutoModelForCausalLM, TrainingArguments

        from distillgen.training.row_losses import RowLossTrainer, collator

        _refuse_renormalised(inputs.rows.parts["train"])
        tokenizer, model, max_length = inputs.load(AutoModelForCausalLM)
        ids = ids_by_text(tokenizer)

        def in_vocabulary(row: Row) -> Assessment:
            missing = any(token not in ids for token in row["tokens"])
            return Assessment("a token of the teacher is none of the student's vocabulary" if missing else "")

        chosen = inputs.rows.select(in_vocabulary)
        most = 1 + max(
            len(top) for rows in chosen.parts.values() for row in rows for top in row["top_tokens"]
        )

        def tokenised(row: Row) -> Row:
            before, after = (
                tokens(tokenizer, row["prompt"], opened=True),
                [ids[token] for token in row["tokens"]],
            )
            each = [
                alternatives(*token, ids, most)
                for token in zip(
                    row["tokens"], row["logprobs"], row["top_tokens"], row["top_logprobs"], strict=True
                )
            ]
            if (
                after[-1] != tokenizer.eos_token_id
            ):  # endpoints leave out the end; it is learnt as a hard label
                after, each = [*after, tokenizer.eos_token_id], [*each, ([0] * most, [0.0] * most)]
            learnt = min(len(after), max(0, max_length - len(before)))
            whole = (before + after)[:max_length]
            return {
                "input_ids": whole,
                "attention_mask": [1] * len(whole),
                "labels": ([-100] * len(before) + after)[: len(whole)],
                "top_ids": [some for some, _ in each][:learnt],
                "top_probabilities": [some for _, some in each][:learnt],
                "prompt_tokens": len(before),
                "whole_tokens": len(before) + len(after),
            }

        chosen = chosen.map(tokenised).select(
            lambda row: fit(row["prompt_tokens"], row["whole_tokens"], max_length)
        )
        lengths = ["prompt_tokens", "whole_tokens"]
        parts = {name: rows.remove_columns(lengths) for name, rows in chosen.parts.items()}

        def losses(logits: Any, labels: Any, batch: Mapping[str, Any]) -> Any:
            from torch.nn.functional import cross_entropy

            hard = cross_entropy(logits, labels, reduction="none")
            soft = divergence(logits, batch["top_ids"], batch["top_probabilities"], self.divergence)
            recorded = batch["top_probabilities"].sum(-1) > 0
            return hard * self.cross_entropy + soft.where(recorded, hard) * (1 - self.cross_entropy)

        trainer = RowLossTrainer(
            inputs.adapted(model, "CAUSAL_LM"),
            TrainingArguments(**inputs.arguments, remove_unused_columns=False),
            losses=losses,
            train_dataset=parts["train"],
            eval_dataset=parts.get("held_out"),
            processing_class=tokenizer,
            data_collator=collator(tokenizer.pad_token_id),
        )
        return Prepared(trainer, chosen.counts)


def divergence(logits: Any, ids: Any, probabilities: Any, kind: Divergence) -> Any:
    """Of the student's distribution and the teacher's over k alternatives and the tail, in nats, a number a token.

    `logits` [tokens, vocabulary]; `ids` and the teacher's `probabilities` [tokens, k], 0 where there are fewer than k. It is
    exact: a tail that the teacher has none of adds nothing, and k alternatives that are the whole vocabulary have no tail.
    Only the reverse divergence, which is infinite where the teacher has no tail and the student does, takes LEAST_TAIL.
    """
    import torch

    filled = probabilities > 0
    outside = logits.scatter(-1, ids.where(filled, ids[:, :1]), -torch.inf)
    whole = outside.isneginf().all(-1, keepdim=True)  # there is no other token
    rest = outside.masked_fill(whole, 0.0).logsumexp(-1, keepdim=True)
    q = torch.cat([logits.gather(-1, ids), rest], -1) - logits.logsumexp(-1, keepdim=True)
    total = probabilities.sum(-1, keepdim=True)
    top = probabilities / total.where(
        whole, total.clamp(min=1.0)
    )  # rounded numbers sum to a little more than 1
    p = torch.cat([top, (1 - top.sum(-1, keepdim=True)).clamp(min=0.0).masked_fill(whole, 0.0)], -1)
    outcomes = torch.cat([filled, ~whole], -1)
    q = q.where(outcomes, torch.zeros_like(q))
    if kind == "forward":
        return (torch.xlogy(p, p) - p * q).sum(-1)
    if kind == "reverse":
        parts = q.exp() * (q - p.clamp(min=LEAST_TAIL).log())
    else:
        middle = torch.logaddexp(p.log(), q) - math.log(2)
        parts = (torch.xlogy(p, p) - p * middle + q.exp() * (q - middle)) / 2
    return parts.where(outcomes, torch.zeros_like(parts)).sum(-1)


def alternatives(
    token: str,
    logprob: float | None,
    top: Sequence[str],
    logprobs: Sequence[float],
    ids: Mapping[str, int],
    most: int,
) -> tuple[list[int], list[float]]:
    """Ids and probabilities of what could have stood at a place, the token that does among it, filled up to `most`.

    What the student's vocabulary does not have is left to the tail.
    """
    found = {ids[text]: math.exp(value) for text, value in zip(top, logprobs, strict=True) if text in ids}
    if logprob is not None and token not in top:
        found[ids[token]] = math.exp(logprob)
    fill = most - len(found)
    return [*found, *[ids[token]] * fill], [*found.values(), *[0.0] * fill]


def ids_by_text(tokenizer: Any) -> dict[str, int]:
    """Every token's id by the text that it stands for; of two alike the first."""
    texts: dict[str, int] = {}
    for piece, number in sorted(tokenizer.get_vocab().items(), key=lambda item: -item[1]):
        text = tokenizer.convert_tokens_to_string([piece])
        if piece.startswith("▁") and not text.startswith(
            " "
        ):  # SentencePiece decodes a first word without its space
            text = " " + text
        texts[text] = number
    return texts


def _has_top(signals: Logprobs) -> bool:
    return any(top for _, _, top in signals)


def _refuse_renormalised(rows: Any) -> None:
    """Raise ConfigError where no unsure token has any probability left beside its alternatives."""
    largest, seen = 0.0, 0
    for row in rows:
        for top in row["top_logprobs"]:
            shares = [math.exp(value) for value in top]
            if shares and max(shares) < UNSURE:
                largest, seen = max(largest, 1 - sum(shares)), seen + 1
        if largest > RENORMALISED:
            return
    if seen >= FEW:
        raise ConfigError(
            f"the alternatives of every one of {seen:,} unsure tokens sum to 1: they were renormalised, which trains "
            "students that are far worse than hard labels do. Record them as the teacher gives them, or take objective 'sft'"
        )
