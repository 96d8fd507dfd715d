"""Rows of a recorded answer's tokens, with the likeliest tokens that its teacher named at each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from distillgen.errors import ConfigError
from distillgen.inference.logprobs import Signal
from distillgen.training.dialogue import tokens
from distillgen.training.rows import Row, Unusable

TOKENS = ("tokens", "logprobs", "top_tokens", "top_logprobs")
"""The columns of the tokens and of their recorded alternatives."""
RENORMALISED = 2e-3  # the largest tail of an unsure token if the alternatives were renormalised
UNSURE = (
    0.9  # a token is unsure if its likeliest alternative has less; the tail of a sure token may be that small
)
FEW = 50  # unsure tokens that are needed to exclude chance


def token_row(example: Row, answer: Signal) -> Row:
    """Return a prompt, and the tokens of the recorded answer with their alternatives. Raises Unusable."""
    recorded = [token for token in answer.logprobs if token[0]]  # the end of an answer has no text
    if not any(top for _, _, top in recorded):
        raise Unusable("no log-probabilities with alternatives were recorded of its answer")
    completion = example["completion"]
    text = completion if isinstance(completion, str) else completion[-1]["content"]
    if "".join(token for token, _, _ in recorded).strip() != text.strip():
        raise Unusable("its text differs from the recorded tokens")
    return {
        "prompt": example["prompt"],
        "tokens": [token for token, _, _ in recorded],
        "logprobs": [value for _, value, _ in recorded],
        "top_tokens": [[t for t, _ in top] for _, _, top in recorded],
        "top_logprobs": [[value for _, value in top] for _, _, top in recorded],
    }


def tokenised(row: Row, tokenizer: Any, ids: Mapping[str, int], most: int, max_length: int) -> Row:
    """Return the ids of a row, cut at `max_length`, with the alternatives of each learnt token."""
    before = tokens(tokenizer, row["prompt"], opened=True)
    after = [ids[token] for token in row["tokens"]]
    columns = (row["tokens"], row["logprobs"], row["top_tokens"], row["top_logprobs"])
    outcomes = [alternatives(*token, ids, most) for token in zip(*columns, strict=True)]
    if after[-1] != tokenizer.eos_token_id:  # endpoints omit the end; it is learnt as a hard label
        end = tokenizer.eos_token_id
        after, outcomes = [*after, end], [*outcomes, ([end] * most, [1.0, *[0.0] * (most - 1)])]
    learnt = min(len(after), max(0, max_length - len(before)))
    row_ids = (before + after)[:max_length]
    return {
        "id": row["id"],
        "input_ids": row_ids,
        "attention_mask": [1] * len(row_ids),
        "labels": ([-100] * len(before) + after)[: len(row_ids)],
        "top_ids": [top_ids for top_ids, _ in outcomes][:learnt],
        "top_probabilities": [shares for _, shares in outcomes][:learnt],
        "prompt_tokens": len(before),
        "whole_tokens": len(before) + len(after),
    }


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
    shares = shares or {ids[token]: 1.0}  # nothing was recorded of it: a hard label
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
