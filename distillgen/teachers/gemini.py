"""Google's Gemini API: generateContent and embedContent, at Google AI Studio or Vertex AI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.inference.request import Completion, Request
from distillgen.record import dumps
from distillgen.teachers._addresses import Address
from distillgen.teachers._batch_spec import BatchSpec
from distillgen.teachers._batches import BatchClient
from distillgen.teachers._gemini_batch import GeminiBatches
from distillgen.teachers._http_spec import NativeSpec
from distillgen.teachers._native_client import NativeClient
from distillgen.teachers._openai_wire import embedding_of
from distillgen.teachers._turns import (
    Answer,
    Call,
    Part,
    Picture,
    Result,
    Sound,
    Text,
    call_of,
    completions_from,
    functions_of,
    mappings,
    text_of,
    turns_of,
)

OFFICIAL = "https://generativelanguage.googleapis.com/v1beta"
_NAMES = {
    "top_p": "topP",
    "top_k": "topK",
    "max_tokens": "maxOutputTokens",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_OUTSIDE = frozenset(
    "contents systemInstruction tools toolConfig safetySettings cachedContent labels serviceTier content"
    " taskType title outputDimensionality".split()
)
"""Parameters that do not stand in generationConfig."""


class GeminiSpec(BatchSpec, NativeSpec):
    """A model behind Google's Gemini API.

    `max_tokens` includes the tokens of its thoughts. `extra: {thinkingConfig: {includeThoughts: true}}` asks
    for them. At Vertex AI, `base_url` ends with `/publishers/google`, and `headers: {Authorization: "Bearer
    ${TOKEN}"}` stands in place of `api_key`.
    """

    base_url: str = Field(OFFICIAL, description="address of the endpoint, up to and without /models")

    @property
    def capabilities(self) -> frozenset[str]:
        """The capabilities of the protocol."""
        return frozenset({"json_schema", "tools", "logprobs", "embeddings", "images", "audio"})

    def check(self, root: Path) -> None:
        """Raise ConfigError for a malformed address or a missing key."""
        super().check(root)
        if self.base_url.rstrip("/") == OFFICIAL and not self.api_key:
            raise ConfigError("generativelanguage.googleapis.com needs a key: api_key: ${GEMINI_API_KEY}")
        if self.mode == "batch" and "/publishers/" in self.base_url:
            why = "its batches need a bucket of Cloud Storage"
            raise ConfigError(f"mode: batch is not supported at Vertex AI, for {why}; leave 'mode' out")


class Gemini(BatchClient, NativeClient):
    """Asks for one answer a request, online or in a batch: most models give no more."""

    spec_type = GeminiSpec
    spec: GeminiSpec
    batch_api = GeminiBatches
    lacks = frozenset({"min_p"})
    required = frozenset({"contents", "content", "tools"})
    schema_parameter = "responseJsonSchema"
    replacements = {"responseJsonSchema": "the schema is put into the prompt"}
    paths = "/models/[^/]*$|/batches.*$"
    usual_end = "/v1beta"

    @property
    def identity(self) -> str:  # type: ignore[override]
        """The address, and the protocol."""
        return f"{self.spec.identity}#gemini"

    def headers(self, address: Address) -> dict[str, str]:
        """Return the key."""
        return {"x-goog-api-key": address.api_key} if address.api_key else {}

    def path(self, request: Request) -> str:
        """Return the path of the model's method."""
        model = request.model if "/" in request.model else f"models/{request.model}"
        return f"{model}:{'generateContent' if request.embed is None else 'embedContent'}"

    async def answer(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Return the completion, or the embedding."""
        if request.embed is None:
            return await super().answer(request, samples, attempt)
        body = {"content": {"parts": [{"text": request.embed}]}, **request.sampling.get("extra", {})}
        answer = await self.call(self.path(request), body)
        vector = answer["embedding"]["values"] if _holds_vector(answer) else None
        data = [] if vector is None else [{"embedding": vector}]
        return [embedding_of({"data": data, "usage": answer.get("usageMetadata"), "model": request.model})]

    def body(self, request: Request, n: int, attempt: int, sample: int) -> dict[str, Any]:
        """Return the parameters; those of generationConfig stand beside the others."""
        sampling = dict(request.sampling)
        extra = sampling.pop("extra", {})
        system, turns = turns_of(request.messages)
        body: dict[str, Any] = {"contents": [_content(*turn) for turn in turns]}
        if system:
            body["systemInstruction"] = {"parts": [{"text": text} for text in system]}
        if request.tools:
            functions = [
                {"name": name, "description": description, "parametersJsonSchema": schema}
                for name, description, schema in functions_of(request)
            ]
            body["tools"] = [{"functionDeclarations": functions}]
        if "seed" in sampling:  # the same seed would give the same answer again
            sampling["seed"] += sample + 1_000_003 * attempt
        if (stop := sampling.pop("stop", None)) is not None:
            body["stopSequences"] = [stop] if isinstance(stop, str) else stop
        if (top := sampling.pop("logprobs", None)) is not None:
            body |= {"responseLogprobs": True, **({"logprobs": top} if top else {})}
        body |= {_NAMES.get(name, name): value for name, value in sampling.items()}
        if request.schema is not None:
            body |= {"responseMimeType": "application/json", self.schema_parameter: request.schema}
        body |= extra
        return body

    def content(self, body: Mapping[str, Any]) -> bytes:
        """Return the JSON of the parameters, with those of generationConfig in it."""
        inside = {name: value for name, value in body.items() if name not in _OUTSIDE}
        options = {**inside.pop("generationConfig", {}), **inside}
        outside = {name: value for name, value in body.items() if name in _OUTSIDE}
        return dumps(outside | ({"generationConfig": options} if options else {}), sort_keys=False)

    def outgoing(self, client: Any, url: str, body: Mapping[str, Any]) -> Any:
        """Return the HTTP request."""
        return client.post(url).body_bytes(self.content(body)).build()

    def schema_of(self, body: Mapping[str, Any]) -> Any:
        """Return the schema."""
        return body[self.schema_parameter]

    def with_words(self, body: Mapping[str, Any], words: str) -> dict[str, Any]:
        """Return the parameters with a text at the end of the last turn."""
        *before, last = body["contents"]
        return {**body, "contents": [*before, {**last, "parts": [*last["parts"], {"text": words}]}]}

    def holds_answer(self, payload: Mapping[str, Any]) -> bool:
        """Return whether the JSON has candidates, says why there is none, or is an embedding."""
        return any(name in payload for name in ("candidates", "promptFeedback", "usageMetadata", "embedding"))

    def completions(self, payload: Any) -> list[Completion]:
        """Return the candidates; a blocked prompt is a refusal."""
        usage = payload.get("usageMetadata") if isinstance(payload, dict) else None
        payload = payload if isinstance(payload, dict) else {}
        answers = [_answer(candidate) for candidate in mappings(payload.get("candidates"))]
        feedback = payload.get("promptFeedback")
        if not answers and isinstance(feedback, dict) and (reason := feedback.get("blockReason")):
            answers = [Answer(finish=reason, refusal=f"the prompt is blocked: {reason}")]
        return completions_from(payload, answers, usage, payload.get("modelVersion"))


def _holds_vector(answer: Any) -> bool:
    embedding = answer.get("embedding") if isinstance(answer, dict) else None
    return isinstance(embedding, dict) and "values" in embedding


def _content(role: str, parts: list[Part]) -> dict[str, Any]:
    return {"role": "model" if role == "assistant" else "user", "parts": [_part(part) for part in parts]}


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"text": text}
        case Picture("", url):
            return {"fileData": {"fileUri": url}}
        case Picture(media, content):
            return {"inlineData": {"mimeType": media, "data": content}}
        case Sound(form, content):
            return {"inlineData": {"mimeType": f"audio/{form}", "data": content}}
        case Call(_, name, arguments, signature):
            signed = {"thoughtSignature": signature} if signature else {}
            return {"functionCall": {"name": name, "args": arguments}, **signed}
        case Result(_, name, text):
            return {"functionResponse": {"name": name, "response": {"result": text}}}


def _answer(candidate: Mapping[str, Any]) -> Answer:
    content = candidate.get("content")
    parts = mappings(content.get("parts") if isinstance(content, dict) else None)
    calls = list[dict[str, Any]]()
    for part in parts:
        if isinstance(call := part.get("functionCall"), dict):
            name = str(call.get("name", ""))
            id = str(call.get("id") or f"call_{len(calls)}_{name}")
            calls.append(call_of(id, name, call.get("args") or {}, part.get("thoughtSignature")))
    return Answer(
        texts=[text_of(part.get("text")) for part in parts if not part.get("thought")],
        thoughts=[text_of(part.get("text")) for part in parts if part.get("thought")],
        calls=calls,
        finish=candidate.get("finishReason"),
        logprobs=_logprobs(candidate.get("logprobsResult")),
    )


def _logprobs(result: Any) -> list[list[Any]]:
    """Return each token with its log-probability and its alternatives; [] if a number is missing."""
    result = result if isinstance(result, dict) else {}
    tops = [mappings(step.get("candidates")) for step in mappings(result.get("topCandidates"))]
    tokens = list[list[Any]]()
    for i, token in enumerate(mappings(result.get("chosenCandidates"))):
        pairs = [_pair(other) for other in (token, *(tops[i] if i < len(tops) else ()))]
        if not all(isinstance(number, (int, float)) for _, number in pairs):
            return []
        tokens.append([*pairs[0], pairs[1:]])
    return tokens


def _pair(token: Mapping[str, Any]) -> list[Any]:
    return [token.get("token"), token.get("logProbability")]
