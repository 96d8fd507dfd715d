"""Options of an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.teachers._batch_spec import BatchSpec

_SERVER_CAPABILITIES = {"vllm": frozenset({"score", "grammar"}), "llamacpp": frozenset({"grammar"})}
Lack = Literal[
    "n",
    "logprobs",
    "tools",
    "embeddings",
    "response_format",
    "seed",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "images",
    "audio",
]
_USER_TURN = frozenset({"user_turn"})
NOT_IN_RESPONSES = frozenset({"stop", "seed", "top_k", "min_p", "presence_penalty", "frequency_penalty"})
"""Sampling options that the Responses API does not have."""
_SET_ELSEWHERE = frozenset(
    "n best_of logit_bias logprobs top_logprobs messages prompt input response_format stream stream_options"
    " store background max_output_tokens functions function_call modalities audio prediction".split()
)
"""Keys of `extra` that the Responses API does not have, or that are set by options or by the mode."""


class OpenAISpec(BatchSpec):
    """An HTTP endpoint that speaks OpenAI's protocol.

    `also` adds endpoints or keys that give the same answers; the ledger keeps all answers under the first
    address.
    """

    api: Literal["chat", "completions"] = Field(
        "chat", description="chat, or completions, which sends the prompt as one text"
    )
    transport: Literal["http", "openai"] = Field(
        "http", description="http, or openai, which goes through the openai package"
    )
    server: Literal["openai", "vllm", "llamacpp"] = Field(
        "openai", description="program that answers, for options that only it has"
    )
    lacks: list[Lack] | None = Field(
        None,
        description="parameters that the endpoint does not take: n, response_format and max_tokens are "
        "replaced, others left out; check refuses what needs logprobs, tools, embeddings, images or audio",
    )

    mode: Literal["online", "batch", "background"] = Field(  # type: ignore[assignment]
        "online",
        description="online; batch: through the endpoint's batch API, cheaper and within a day; or "
        "background: through its Responses API, where a kill of the run ends no answer in flight",
    )
    poll_s: float = Field(
        30.0,
        gt=0,
        description="longest wait between two looks at a batch, in seconds; at a response in the background, "
        "10 at most",
    )

    @property
    def capabilities(self) -> frozenset[str]:
        """The capabilities of the protocol and of the server."""
        if self.mode == "background":
            able = {"logprobs", "json_schema", "tools", "embeddings", "images"} - {*(self.lacks or ())}
            return frozenset(able | (_SERVER_CAPABILITIES.get(self.server, frozenset()) & {"score"}))
        opens = self.server != "openai" and (self.api, self.mode) == ("chat", "online")
        sees = frozenset({"images", "audio"} if self.api == "chat" else ())
        return (
            (frozenset({"n", "logprobs", "json_schema", "tools", "embeddings"}) | sees)
            - {*(self.lacks or ())}
            | _SERVER_CAPABILITIES.get(self.server, frozenset())
            | (_USER_TURN if opens else frozenset())
        )

    def sampling_refusal(self, sampling: Mapping[str, Any]) -> str:
        """Return why its requests cannot have these sampling options: the Responses API has fewer."""
        if self.mode == "background":
            lacking = [name for name in sampling if name in NOT_IN_RESPONSES]
            extra = sampling.get("extra") or {}
            lacking += [f"extra.{name}" for name in extra if name in NOT_IN_RESPONSES | _SET_ELSEWHERE]
            if lacking:
                remedy = "leave it out, or ask with mode: online"
                return f"asks the Responses API (mode: background), which takes no '{lacking[0]}'; {remedy}"
        return super().sampling_refusal(sampling)

    def check(self, root: Path) -> None:
        """Raise ConfigError for a malformed address, or an option that the mode does not have."""
        super().check(root)
        if self.mode != "online" and "/openai/deployments/" in self.base_url:
            place = "base_url: https://NAME.openai.azure.com/openai/v1, with the deployment as 'model'"
            kind = "batches" if self.mode == "batch" else "Responses API"
            raise ConfigError(f"Azure has no {kind} below a deployment; write {place}")
        if self.mode != "background":
            return
        if self.also:
            why = "for a response lies at one address"
            raise ConfigError(f"'also' has no meaning with mode: background, {why}; leave it out")
        if self.api == "completions":
            raise ConfigError("mode: background asks with chat turns; leave 'api: completions' out")
        if self.transport == "openai":
            raise ConfigError("mode: background has a transport of its own; leave 'transport: openai' out")
        if refusal := self.sampling_refusal(self.sampling_options()):
            raise ConfigError(f"the model {refusal}")
