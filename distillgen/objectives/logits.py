"""logits: the student learns the distribution of a teacher's recorded log-probabilities.

The k alternatives that an endpoint returns are only part of the distribution. The rest is one more outcome,
the tail, for teacher and student alike. Alternatives that were renormalised to sum to 1 teach that nothing
else is possible, and train far worse students than hard labels do: the objective refuses them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.stage import CheckContext
from distillgen.inference.logprobs import Logprobs, Signal
from distillgen.record import Record
from distillgen.training.dialogue import Dialogue, tokens
from distillgen.training.inputs import Prepared, TrainingInputs
from distillgen.training.rows import Assessment, Row, Unusable, fit

LEAST_TAIL = 1e-7  # the least that float32 tells from 0
RENORMALISED = 2e-3  # the largest tail of an unsure token if the alternatives were renormalised
UNSURE = (
    0.9  # a token is unsure if its likeliest alternative has less; the tail of a sure token may be that small
)
FEW = 50  # unsure tokens that are needed to exclude chance

Divergence = Literal["forward", "reverse", "jensen_shannon"]


class Logits(Dialogue):
    """Divergence over recorded alternatives and a tail, and cross-entropy on the teacher's tokens.

    The student must have the teacher's tokens: each is looked up by its text.
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
        """Raise ConfigError if no earlier stage records log-probabilities, or the records lack a prompt."""
        super().check(context)
        recording = [stage.name for stage in context.stages if stage.records_logprobs()]
        stage = next((stage for stage in context.stages if stage.name == self.stage), None)
        if self.stage and not stage:
            raise ConfigError(
                f"there is no earlier stage '{self.stage}'{did_you_mean(self.stage, recording)}"
            )
        if not recording or (stage and not stage.records_logprobs()):
            remedy = "set logprobs: 5 on a generate stage, its model or its prompt, or on a stage score"
            raise ConfigError(
                f"it learns from recorded log-probabilities, and no earlier stage records any; {remedy}"
            )

    def answers(self) -> tuple[str, ...]:
        """Return the columns of the tokens and of their recorded alternatives."""
        return "tokens", "logprobs", "top_tokens", "top_logprobs"

    def row(self, record: Record, signals: Mapping[str, Signal]) -> Row:
        """Return the prompt, and the answer's tokens with their alternatives."""
        example = self.example(record)
        usable = {stage: answer.logprobs for stage, answer in signals.items() if _has_top(answer.logprobs)}
        answer = usable.get(self.stage) if self.stage else next(reversed(usable.values()), None)
        if not answer:
            raise Unusable("no log-probabilities with alternatives were recorded of its answer")
        answer = [token for token in answer if token[0]]  # the end of an answer has no text
        text = (
            example["completion"]
            if isinstance(example["completion"], str)
            else example["completion"][-1]["content"]
        )
        if "".join(token for token, _, _ in answer).strip() != text.strip():
            raise Unusable("its text differs from the recorded tokens")
        return {
            "prompt": example["prompt"],
            "tokens": [token for token, _, _ in answer],
            "logprobs": [value for _, value, _ in answer],
            "top_tokens": [[t for t, _ in top] for _, _, top in answer],
            "top_logprobs": [[value for _, value in top] for _, _, top in answer],
        }

    def prepare(self, inputs: TrainingInputs) -> Prepared:
        """Prepare rows of ids, with the ids and probabilities of the alternatives of each learnt token."""
        from transformers import AutoModelForCausalLM, TrainingArguments

        from distillgen.training.row_losses import RowLossTrainer, collator

        refuse_renormalised(inputs.rows.parts["train"])
        tokenizer, model, max_length = inputs.load(AutoModelForCausalLM)
        ids = ids_by_text(tokenizer)

        def in_vocabulary(row: Row) -> Assessment:
            missing = any(token not in ids for token in row["tokens"])
            return Assessment("a token of the teacher is not in the student's vocabulary" if missing else "")

        chosen = inputs.rows.select(in_vocabulary)
        most = 1 + max(
            len(top) for rows in chosen.parts.values() for row in rows for top in row["top_tokens"]
        )

        chosen = chosen.map(_tokenised, tokenizer=tokenizer, ids=ids, most=most, max_length=max_length)
        chosen = chosen.select(lambda row: fit(row["prompt_tokens"], row["whole_tokens"], max_length))
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


def _tokenised(row: Row, tokenizer: Any, ids: Mapping[str, int], most: int, max_length: int) -> Row:
    """Return the ids of a row, cut at `max_length`, with the alternatives of each learnt token."""
    before = tokens(tokenizer, row["prompt"], opened=True)
    after = [ids[token] for token in row["tokens"]]
    columns = (row["tokens"], row["logprobs"], row["top_tokens"], row["top_logprobs"])
    outcomes = [alternatives(*token, ids, most) for token in zip(*columns, strict=True)]
    if after[-1] != tokenizer.eos_token_id:  # endpoints omit the end; it is learnt as a hard label
        after, outcomes = [*after, tokenizer.eos_token_id], [*outcomes, ([0] * most, [0.0] * most)]
    learnt = min(len(after), max(0, max_length - len(before)))
    row_ids = (before + after)[:max_length]
    return {
        "input_ids": row_ids,
        "attention_mask": [1] * len(row_ids),
        "labels": ([-100] * len(before) + after)[: len(row_ids)],
        "top_ids": [top_ids for top_ids, _ in outcomes][:learnt],
        "top_probabilities": [shares for _, shares in outcomes][:learnt],
        "prompt_tokens": len(before),
        "whole_tokens": len(before) + len(after),
    }


def divergence(logits: Any, ids: Any, probabilities: Any, kind: Divergence) -> Any:
    """Return each token's divergence over k alternatives and the tail, in nats.

    `logits` [tokens, vocabulary] are the student's; `ids` and `probabilities` [tokens, k] are the teacher's,
    0 where there are fewer than k. The result is exact: a tail without probability adds nothing, and k
    alternatives that are the whole vocabulary have no tail. Only the reverse divergence, which is infinite if
    the student has a tail and the teacher has none, uses LEAST_TAIL.
    """
    import torch

    present = probabilities > 0
    outside = logits.scatter(-1, ids.where(present, ids[:, :1]), -torch.inf)
    complete = outside.isneginf().all(-1, keepdim=True)  # there is no other token
    tail = outside.masked_fill(complete, 0.0).logsumexp(-1, keepdim=True)
    q = torch.cat([logits.gather(-1, ids), tail], -1) - logits.logsumexp(-1, keepdim=True)
    total = probabilities.sum(-1, keepdim=True)
    # rounded probabilities may sum to a little more than 1
    top = probabilities / total.where(complete, total.clamp(min=1.0))
    p = torch.cat([top, (1 - top.sum(-1, keepdim=True)).clamp(min=0.0).masked_fill(complete, 0.0)], -1)
    outcomes = torch.cat([present, ~complete], -1)
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
    """Return the ids and probabilities of a token and its alternatives, filled up to `most`.

    Alternatives that the student's vocabulary lacks are left to the tail.
    """
    shares = {ids[text]: math.exp(value) for text, value in zip(top, logprobs, strict=True) if text in ids}
    if logprob is not None and token not in top:
        shares[ids[token]] = math.exp(logprob)
    fill = most - len(shares)
    return [*shares, *[ids[token]] * fill], [*shares.values(), *[0.0] * fill]


def ids_by_text(tokenizer: Any) -> dict[str, int]:
    """Return the id of each token's text; of several tokens with one text, the lowest id."""
    texts: dict[str, int] = {}
    for piece, number in sorted(tokenizer.get_vocab().items(), key=lambda item: -item[1]):
        text = tokenizer.convert_tokens_to_string([piece])
        if piece.startswith("▁") and not text.startswith(" "):
            text = " " + text  # SentencePiece decodes a first word without its space
        texts[text] = number
    return texts


def _has_top(signals: Logprobs) -> bool:
    return any(top for _, _, top in signals)


def refuse_renormalised(rows: Any) -> None:
    """Raise ConfigError if no unsure token has any probability besides its alternatives."""
    largest_tail, unsure = 0.0, 0
    for row in rows:
        for top in row["top_logprobs"]:
            shares = [math.exp(value) for value in top]
            if shares and max(shares) < UNSURE:
                largest_tail, unsure = max(largest_tail, 1 - sum(shares)), unsure + 1
        if largest_tail > RENORMALISED:
            return
    if unsure >= FEW:
        raise ConfigError(
            f"the alternatives of each of {unsure:,} unsure tokens sum to 1: they were renormalised, which "
            "trains far worse students than hard labels do. Record them as the teacher gives them, or use "
            "objective 'sft'"
        )
