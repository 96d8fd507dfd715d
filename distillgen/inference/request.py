"""What is sent to a teacher, and what comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, NamedTuple

import orjson

from distillgen.inference.ledger import LOST, UNUSABLE
from distillgen.inference.logprobs import unpack
from distillgen.record import dumps


@dataclass(frozen=True)
class Request:
    """Everything that is sent: `messages` for chat (content: text or a list of parts), or `prompt` for completion. With
    `target`, not an answer is asked for but the log-probability of that text after the prompt; `embed` is a text whose
    embedding is.
    """

    model: str
    messages: Sequence[Mapping[str, Any]] = ()
    prompt: str | None = None
    target: str | None = None
    embed: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    grammar: str | None = None
    tools: Sequence[Mapping[str, Any]] | None = None

    @cached_property
    def json(self) -> bytes:
        """Canonical JSON of what was given."""
        return dumps(
            {name: value for name in _SENT if (value := getattr(self, name)) not in (None, (), [], {})}
        )

    def keys(self, endpoint: str, samples: int) -> list[bytes]:
        """The ledger keys of samples 0, 1, …: SHA-256 of the endpoint's identity, everything sent, and the index."""
        common = dumps(endpoint) + self.json
        return [hashlib.sha256(common + b"#%d" % sample).digest() for sample in range(samples)]


_SENT = [f.name for f in fields(Request)]


class Completion(NamedTuple):
    """Everything that came back. `status` is ok, length (cut off), refused, or failed (`error` says how).
    `finish` is the endpoint's own word for how the answer ended, kept where it says more than the status.

    `logprobs` holds one [token, log-probability, [[token, log-probability], …]] a token, natural logarithm: of the answer,
    or of the request's `target`. `cached_tokens` and `cache_write_tokens` are among the `input_tokens`, `reasoning_tokens`
    among the `output_tokens`; of those that are `uncounted` the endpoint does not say how many it bills.
    """

    text: str = ""
    status: str = "ok"
    reasoning: str = ""
    tool_calls: Sequence[Mapping[str, Any]] = ()
    logprobs: Sequence[Sequence[Any]] = ()
    embedding: Sequence[float] = ()
    model: str = ""
    error: str = ""
    left_out: Sequence[str] = ()
    """Parameters that the request names and that were not sent, for the endpoint does not take them."""
    key: bytes = b""
    attempt: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    uncounted: Sequence[str] = ()
    finish: str = ""

    @classmethod
    def stored(cls, key: bytes, status: str, completion: bytes, signals: bytes | None) -> Completion:
        """From the ledger."""
        kept = orjson.loads(completion)
        if signals:
            kept["logprobs"], kept["embedding"] = unpack(signals)
        return cls(status=status, key=key, **kept)

    def json(self) -> bytes:
        """As kept in the ledger: what the row's own columns do not hold."""
        names = ("text", "reasoning", "tool_calls", "model", "error", "left_out", "attempt", "finish")
        return dumps({name: value for name in names if (value := getattr(self, name))})


_NOTHING_SAID = ("input_tokens", "output_tokens")
LOST_ANSWER = Completion(status=LOST, uncounted=_NOTHING_SAID)
"""What a request may be billed for that was sent, and of which nothing came back."""
UNUSABLE_ANSWER = Completion(status=UNUSABLE, uncounted=_NOTHING_SAID)
"""What is billed for an answer that cannot be read."""
