"""Any OpenAI-compatible endpoint: chat and completions, over a fast HTTP client or over the openai package.

The hot path builds and reads JSON itself: the openai package costs about 2 ms of CPU a call and its default transport
slows down as concurrency rises. `transport: openai` selects it where its knowledge is wanted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import orjson
from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.record import dumps, loads
from distillgen.teachers import (
    Completion,
    Rejected,
    Request,
    Retryable,
    Services,
    Spec,
    Teacher,
    TeacherDown,
    TimedOut,
    Unreachable,
)

OFFICIAL = "https://api.openai.com/v1"
_FINISH = {"length": "length", "max_tokens": "length", "content_filter": "refused"}


class OpenAISpec(Spec):
    """An endpoint's address and key."""

    base_url: str = Field(OFFICIAL, description="up to and without /chat/completions")
    api_key: str | None = Field(None, description="as ${NAME} of an environment variable; never written anywhere")
    api: Literal["chat", "completions"] = Field("chat", description="completions sends the prompt as one text")
    headers: dict[str, str] = Field(default_factory=dict, description="further HTTP headers; never written anywhere")
    timeout_s: float = Field(300.0, gt=0, description="longest wait for one answer")
    transport: Literal["http", "openai"] = Field("http", description="openai goes through the openai package")

    def secrets(self) -> list[str]:
        """The key and the headers' values; short ones are words, not secrets."""
        return [s for s in (self.api_key, *self.headers.values()) if s and len(s) > 6]

    def check(self, root: Path) -> None:
        """Raise ConfigError where the address is not one or the official endpoint has no key."""
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"base_url {self.base_url!r} is not an address like http://localhost:8000/v1")
        if self.base_url.rstrip("/") == OFFICIAL and not self.api_key:
            raise ConfigError("api.openai.com needs a key: api_key: ${OPENAI_API_KEY}")
        if self.api_key is not None and not self.api_key.strip():
            raise ConfigError("api_key is empty")


class OpenAI(Teacher):
    """Chat or completions over HTTP."""

    spec_type = OpenAISpec
    spec: OpenAISpec
    capabilities = frozenset({"n", "logprobs", "json_schema", "tools"})

    def __init__(self, name: str, spec: Spec, services: Services, *, shown_model: str = "") -> None:
        """`identity` is the address without credentials, query or trailing slash."""
        super().__init__(name, spec, services, shown_model=shown_model)
        parts = urlsplit(self.spec.base_url)
        host = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
        self.identity = f"{parts.scheme}://{host}{parts.path.rstrip('/')}#{self.spec.api}"
        self._client: Any = None

    def body(self, request: Request, n: int, attempt: int, sample: int) -> dict[str, Any]:
        """The JSON body that the endpoint gets."""
        sampling = dict(request.sampling)
        body: dict[str, Any] = {"model": request.model, **sampling.pop("extra", {})}
        if request.prompt is not None:
            body["prompt"] = request.prompt
        else:
            body["messages"] = request.messages
        if "seed" in sampling:  # a repeated try with the same seed would give the same answer again
            sampling["seed"] += sample + 1_000_003 * attempt
        if (top := sampling.pop("logprobs", None)) is not None:
            body |= {"logprobs": top} if request.prompt is not None else {"logprobs": True, "top_logprobs": top}
        if self.spec.base_url.startswith(OFFICIAL) and "max_tokens" in sampling:
            sampling["max_completion_tokens"] = sampling.pop("max_tokens")  # what its newer models take
        if request.schema is not None:
            strict = _is_strict(request.schema)
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": request.schema, "strict": strict},
            }
        if request.grammar is not None:
            body["grammar"] = request.grammar
        if request.tools:
            body["tools"] = request.tools
        if n > 1:
            body["n"] = n
        return body | sampling

    async def answer(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """One HTTP request; more where the endpoint gives fewer choices than asked for."""
        completions: list[Completion] = []
        while len(completions) < len(samples):
            rest = samples[len(completions) :]
            path = "/completions" if request.prompt is not None else "/chat/completions"
            body = self.body(request, len(rest), attempt, rest[0])
            call = self._call_package if self.spec.transport == "openai" else self._call
            completions += _completions(await call(path, body))[: len(rest)]
        return completions

    async def _call(self, path: str, body: Mapping[str, Any]) -> Any:
        from pyreqwest.exceptions import ConnectError, RequestError, RequestTimeoutError

        if self._client is None:
            self._client = self._connect()
        try:
            # a leading slash would replace the base URL's path, as in a browser
            response = await self._client.post(path.lstrip("/")).body_bytes(dumps(body)).build().send()
            content = bytes(await response.bytes())
        except ConnectError as error:
            raise Unreachable(f"cannot connect to {self.identity}: {_cause(error)}. Is the server running, and base_url right?") from error
        except RequestTimeoutError as error:
            raise TimedOut(f"no answer within {self.spec.timeout_s:g} s") from error
        except RequestError as error:
            raise Retryable(f"the connection broke: {_cause(error)}") from error
        if response.status != 200:
            self._refuse(response.status, content, response.headers)
        return _json(content)

    def _connect(self) -> Any:
        from pyreqwest.client import ClientBuilder

        longest = timedelta(seconds=self.spec.timeout_s)
        builder = ClientBuilder().timeout(longest).connect_timeout(min(longest, timedelta(seconds=10)))
        headers = {"content-type": "application/json", "user-agent": "distillgen"}
        if self.spec.api_key:
            headers["authorization"] = f"Bearer {self.spec.api_key}"
        if urlsplit(self.spec.base_url).hostname in ("localhost", "127.0.0.1", "::1"):
            builder = builder.no_proxy()
        builder = builder.base_url(self.spec.base_url.rstrip("/") + "/")
        return builder.default_headers(headers | self.spec.headers).build()

    async def _call_package(self, path: str, body: Mapping[str, Any]) -> Any:
        import openai

        if self._client is None:
            self._client = openai.AsyncOpenAI(
                base_url=self.spec.base_url, api_key=self.spec.api_key or "none", max_retries=0,
                timeout=self.spec.timeout_s, default_headers=self.spec.headers,
            )  # fmt: skip
        try:
            return await self._client.post(path, cast_to=object, body=dict(body))
        except openai.APITimeoutError as error:
            raise TimedOut(f"no answer within {self.spec.timeout_s:g} s") from error
        except openai.APIConnectionError as error:
            raise Unreachable(f"cannot connect to {self.identity}: {error.__cause__ or error}") from error
        except openai.APIStatusError as error:
            self._refuse(error.status_code, error.response.content, error.response.headers)
        except (openai.APIError, ValueError) as error:
            raise Retryable(f"not a usable answer: {error}") from error

    def _refuse(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        """Classify a status that is not 200. Always raises."""
        message, code = _error_text(content)
        text = f"HTTP {status}{f': {message}' if message else ''}"
        if status in (401, 403):
            raise self._down(f"{text}. The endpoint {self.identity} does not accept the key: check api_key")
        if status == 402 or code == "insufficient_quota":
            raise self._down(f"{text}. The account behind the key has no money or quota left")
        if status == 404:
            raise self._down(f"{text}. Check base_url ({self.identity}) and model ('{self.shown_model}')")
        if code == "content_filter":
            raise Rejected(f"refused by the endpoint's content filter: {message}")
        if status in (408, 409, 425, 429) or status >= 500:
            raise Retryable(text, _retry_after_s(headers))
        raise Rejected(text)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()


def _cause(error: Exception) -> str:
    details = getattr(error, "details", None) or {}
    causes = [str(cause.get("message", "")) for cause in details.get("causes") or [] if isinstance(cause, Mapping)]
    return causes[-1] if causes else str(error)


def _json(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass  # a lone surrogate, or not JSON at all: the slower reader tells which
    try:
        return loads(content)
    except (ValueError, RecursionError) as error:
        raise Retryable(f"the answer is not JSON: {content[:80]!r}") from error


def _completions(payload: Any) -> list[Completion]:
    """The choices of a response body. Raises Retryable where there is none."""
    try:
        choices, usage = payload["choices"], payload.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        made = []
        for i, choice in enumerate(sorted(choices, key=lambda c: c.get("index") or 0)):
            made.append(
                _completion(choice, payload.get("model") or "")
                | (
                    {
                        "input_tokens": usage.get("prompt_tokens") or 0,
                        "cached_tokens": cached,
                        "output_tokens": usage.get("completion_tokens") or 0,
                    }
                    if i == 0
                    else {}
                )
            )
        if made:
            return [Completion(**fields) for fields in made]
    except (TypeError, KeyError, AttributeError, IndexError, ValueError) as error:
        raise Retryable(f"the answer is not a completion: {str(payload)[:120]}") from error
    raise Retryable(f"the answer has no choices: {str(payload)[:120]}")


def _completion(choice: Mapping[str, Any], model: str) -> dict[str, Any]:
    status = _FINISH.get(choice.get("finish_reason") or "stop", "ok")
    logprobs = choice.get("logprobs") or {}
    if "message" not in choice:
        tops = logprobs.get("top_logprobs") or [{}] * len(logprobs.get("tokens") or [])
        signals = [
            [token, value, sorted((list(kv) for kv in (top or {}).items()), key=lambda kv: -kv[1])]
            for token, value, top in zip(logprobs.get("tokens") or [], logprobs.get("token_logprobs") or [], tops, strict=True)
        ]
        return {"text": str(choice["text"]), "status": status, "model": model, "logprobs": signals}
    message = choice["message"]
    text = message.get("content") or ""
    if isinstance(text, list):
        text = "".join(part.get("text") or "" for part in text)
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    if text.startswith("<think>"):
        reasoning, _, text = text.removeprefix("<think>").partition("</think>")
    if message.get("refusal"):
        status, text = "refused", message["refusal"]
    return {
        "text": text.strip() if reasoning else text,
        "status": status,
        "reasoning": reasoning.strip(),
        "tool_calls": message.get("tool_calls") or (),
        "model": model,
        "logprobs": [
            [t["token"], t["logprob"], [[o["token"], o["logprob"]] for o in t.get("top_logprobs") or ()]]
            for t in logprobs.get("content") or ()
        ],
    }


def _error_text(content: bytes) -> tuple[str, str]:
    """The message and code of an error body, whatever it is."""
    try:
        error = loads(content)["error"]
        if isinstance(error, str):
            return error[:300], ""
        return str(error.get("message") or "")[:300], str(error.get("code") or "")
    except (ValueError, TypeError, KeyError, AttributeError):
        return content[:120].decode("utf-8", "replace"), ""


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from Retry-After as a number or a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass  # a date
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _is_strict(schema: Any) -> bool:
    """Whether a schema satisfies what OpenAI's strict mode demands of every object in it."""
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") == "object":
        properties = schema.get("properties") or {}
        if schema.get("additionalProperties") is not False or set(schema.get("required") or ()) != set(properties):
            return False
        return all(_is_strict(value) for value in properties.values())
    return _is_strict(schema.get("items"))
