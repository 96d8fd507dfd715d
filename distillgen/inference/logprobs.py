"""Log-probabilities and embeddings in a compact binary form, for the ledger.

A token takes 7 bytes, an alternative 4, and the text of each distinct token is stored once in a completion:
with five alternatives, about 27 bytes for a token and the texts, where JSON takes about 170. A dimension of
an embedding takes 4 bytes. The log-probability of a sampled token is a float32, that of an alternative a
float16. Logarithms are natural.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

Logprobs = list[list[Any]]
"""[text, log-probability or None, [[text, log-probability], …] of the likeliest tokens] for each token."""

MOST_ALTERNATIVES = 255
"""The most alternatives of a token that the binary form holds: their number takes one byte."""


class Signal(NamedTuple):
    """What a stage recorded of a record: the answer's text, its log-probabilities, and the embedding.

    A stage `embed` records no text and no log-probabilities; other stages record no embedding.
    """

    text: str = ""
    logprobs: Logprobs = []
    embedding: list[float] = []


def distribution(text: str, logprobs: Sequence[Sequence[Any]]) -> dict[str, float]:
    """Return the probability of each outcome of an answer; what they leave of 1 is that of all others.

    The outcomes are the stripped texts of the alternatives of a one-token answer. An answer of several tokens
    is one outcome, with the product of their probabilities. It is empty without log-probabilities.
    """
    tokens = [token for token in logprobs if token[0].strip()]
    if len(tokens) != 1:
        values = [logprob for _, logprob, _ in tokens if logprob is not None]
        return {text.strip(): math.exp(sum(values))} if tokens else {}
    ((token, logprob, alternatives),) = tokens
    shares: dict[str, float] = {}
    for other, value in alternatives:
        shares[other.strip()] = shares.get(other.strip(), 0.0) + math.exp(value)
    if token.strip() not in shares and logprob is not None:
        shares[token.strip()] = math.exp(logprob)
    return {name: share for name, share in shares.items() if name}


def pack(logprobs: Sequence[Sequence[Any]], embedding: Sequence[float]) -> bytes | None:
    """Return both as one blob, or None if both are empty."""
    if not logprobs and not embedding:
        return None
    ids: dict[str, int] = {}
    sampled = [ids.setdefault(token, len(ids)) for token, _, _ in logprobs]
    others = [other for _, _, top in logprobs for other in top]
    alternatives = [ids.setdefault(token, len(ids)) for token, _ in others]
    texts = orjson.dumps([text.encode("utf-8", "replace").decode() for text in ids])
    return b"".join(
        (
            struct.pack("<IIII", len(sampled), len(alternatives), len(texts), len(embedding)),
            texts,
            struct.pack(f"<{len(sampled)}{_index(ids)}", *sampled),
            struct.pack(
                f"<{len(sampled)}f", *(math.nan if value is None else value for _, value, _ in logprobs)
            ),
            struct.pack(f"<{len(sampled)}B", *(len(top) for _, _, top in logprobs)),
            struct.pack(f"<{len(alternatives)}{_index(ids)}", *alternatives),
            struct.pack(f"<{len(alternatives)}e", *(max(value, -65504.0) for _, value in others)),
            struct.pack(f"<{len(embedding)}f", *embedding),
        )
    )


def unpack(blob: bytes | None) -> tuple[Logprobs, list[float]]:
    """Return the log-probabilities and the embedding of a blob of `pack`."""
    if not blob:
        return [], []
    at = 16
    tokens, others, size, dimensions = struct.unpack_from("<IIII", blob)
    texts = orjson.loads(blob[at : at + size])
    at += size

    def column(count: int, kind: str) -> list[Any]:
        nonlocal at
        values = struct.unpack_from(f"<{count}{kind}", blob, at)
        at += struct.calcsize(f"<{count}{kind}")
        return list(values)

    sampled, values, counts = column(tokens, _index(texts)), column(tokens, "f"), column(tokens, "B")
    alternatives = iter(zip(column(others, _index(texts)), column(others, "e"), strict=True))
    logprobs = [
        [
            texts[token],
            None if math.isnan(value) else value,
            [[texts[i], v] for i, v in (next(alternatives) for _ in range(n))],
        ]
        for token, value, n in zip(sampled, values, counts, strict=True)
    ]
    return logprobs, column(dimensions, "f")


def _index(texts: Any) -> str:
    return "H" if len(texts) <= 0x10000 else "I"
