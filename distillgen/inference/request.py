"""A request to a teacher, and the completion that comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, NamedTuple

import orjson

from distillgen.inference.ledger import LOST, UNUSABLE
from distillgen.inference.logprobs import unpack
from distillgen.inference.parts import parts_in, with_parts, without_file
from distillgen.record import dumps


@dataclass(frozen=True)
class Request:
    """Everything that is sent: `messages` for chat (content: text or a list of parts), or `prompt` for
    completion. A part may refer to a picture or a sound (see `parts`).

    With `target`, the request asks for the log-probability of that text after the prompt. With `embed`, it
    asks for the embedding of that text. With `write`, which is "user", the model writes the user's next turn
    instead of the assistant's. With `constraints`, a mapping with `clauses`, `ordered` and the settings of
    the `search`, the samples are the likeliest answers that meet the clauses, the best first.
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
    write: str | None = None
    constraints: Mapping[str, Any] | None = None

    @cached_property
    def json(self) -> bytes:
        """Canonical JSON of the fields that are set, with the hashes of pictures and sounds."""
        values = {name: value for name in _FIELDS if (value := getattr(self, name)) not in (None, (), [], {})}
        if self.parts:
            values["messages"] = with_parts(self.messages, without_file)
        return dumps(values)

    @cached_property
    def parts(self) -> Sequence[Mapping[str, Any]]:
        """The parts of the messages that refer to pictures and sounds."""
        return [*parts_in(self.messages or ())]

    @property
    def asks_text(self) -> bool:
        """Whether an answer is asked for, and no embedding or score: a batch API takes no others."""
        return self.embed is None and self.target is None

    def keys(self, endpoint: str, samples: int) -> list[bytes]:
        """Return the ledger keys of samples 0, 1, …: SHA-256 of the endpoint's identity, the request and the
        index.
        """
        common = dumps(endpoint) + self.json
        return [hashlib.sha256(common + b"#%d" % sample).digest() for sample in range(samples)]


_FIELDS = [f.name for f in fields(Request)]


class Completion(NamedTuple):
    """Everything that came back. `status` is ok, length (cut off), refused, or failed (`error` holds the
    reason). `finish` is the endpoint's finish reason, kept if it says more than the status.

    `logprobs` holds [token, log-probability, [[token, log-probability], …]] for each token of the answer, or
    of the request's `target`, as natural logarithms. `input_tokens` include `cached_tokens` and
    `cache_write_tokens`; `output_tokens` include `reasoning_tokens`. The endpoint does not report the counts
    named in `uncounted`.
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
    """Parameters of the request that were not sent, because the endpoint does not accept them."""
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
    def from_row(cls, key: bytes, status: str, completion: bytes, signals: bytes | None) -> Completion:
        """Return the completion in a ledger row."""
        values = orjson.loads(completion)
        if signals:
            values["logprobs"], values["embedding"] = unpack(signals)
        return cls(status=status, key=key, **values)

    def json(self) -> bytes:
        """JSON for the ledger, of the fields that have no column of their own."""
        names = ("text", "reasoning", "tool_calls", "model", "error", "left_out", "attempt", "finish")
        return dumps({name: value for name in names if (value := getattr(self, name))})


_TOKENS = ("input_tokens", "output_tokens")
LOST_ANSWER = Completion(status=LOST, uncounted=_TOKENS)
"""The usage of a request that was sent and never answered: it may be billed."""
UNUSABLE_ANSWER = Completion(status=UNUSABLE, uncounted=_TOKENS)
"""The usage of an answer that is billed and cannot be read."""
