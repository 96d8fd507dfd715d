"""Options of an OpenAI-compatible endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

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

    @property
    def capabilities(self) -> frozenset[str]:
        """The capabilities of the protocol and of the server."""
        opens = self.server != "openai" and (self.api, self.mode) == ("chat", "online")
        sees = frozenset({"images", "audio"} if self.api == "chat" else ())
        return (
            (frozenset({"n", "logprobs", "json_schema", "tools", "embeddings"}) | sees)
            - {*(self.lacks or ())}
            | _SERVER_CAPABILITIES.get(self.server, frozenset())
            | (_USER_TURN if opens else frozenset())
        )

    def check(self, root: Path) -> None:
        """Raise ConfigError for a malformed address, or an option that the mode does not have."""
        super().check(root)
        if self.mode == "batch" and "/openai/deployments/" in self.base_url:
            place = "base_url: https://NAME.openai.azure.com/openai/v1, with the deployment as 'model'"
            raise ConfigError(f"Azure has no batches below a deployment; write {place}")
