"""A client of a provider's own protocol, which is not OpenAI's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import orjson
from pyreqwest.exceptions import RequestError

from distillgen.inference.faults import Rejected, Retryable
from distillgen.record import dumps
from distillgen.teachers._addresses import Place
from distillgen.teachers._http_client import MOVES, HttpClient
from distillgen.teachers._refusal import COMMON, Misfit, Moved, NotTaken

_BOUNDS = frozenset(
    "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength minItems maxItems"
    " uniqueItems minProperties maxProperties default examples title $schema".split()
)
"""Keywords that constrained decoding does not take. The prompt's parser checks the answer all the same."""


class NativeClient(HttpClient):
    """Puts requests in a provider's own protocol.

    A JSON Schema that the model does not take is put into the prompt.
    """

    schema_parameter: ClassVar[str] = ""
    """The parameter that holds the JSON Schema of the answer."""

    def schema_of(self, body: Mapping[str, Any]) -> Any:
        """Return the JSON Schema of the answer in the parameters."""
        raise NotImplementedError

    def with_words(self, body: Mapping[str, Any], words: str) -> dict[str, Any]:
        """Return the parameters with words at the end of the last turn."""
        raise NotImplementedError

    def content(self, body: Mapping[str, Any]) -> bytes:
        """Return the JSON of the parameters."""
        return dumps(body, sort_keys=False)

    def fitted(self, body: Mapping[str, Any], refused: frozenset[str] | None = None) -> Mapping[str, Any]:
        """Return the body without what the endpoint refuses; a schema goes into the prompt."""
        fitted = super().fitted(body, refused)
        if self.schema_parameter in body and self.schema_parameter not in fitted:
            return self.with_words(fitted, schema_words(self.schema_of(body)))
        return fitted

    async def fetch(
        self, place: Place, path: str, content: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Return the answer to a request that asks no model, and is not billed: a POST of `content`, or a
        GET.
        """
        client = place.client = place.client or self._connected(place.address)
        for _ in range(MOVES):
            url = path if path.startswith("http") else place.address.url(path)
            request = client.get(url) if content is None else client.post(url).body_bytes(content)
            try:
                response = await request.headers(headers or {}).build().send()
                answer = bytes(await response.bytes())
            except RequestError as error:
                fault = self._broken(place, error)
                fault.used = None
                raise fault from error
            if 200 <= response.status < 300:
                return answer
            refusal = self.refusal_of(place, response.status, answer, response.headers)
            if not isinstance(refusal, Moved):
                raise refusal
            path = str(refusal)
        raise self.down(f"{place.address.identity} redirects again and again, to {path}. Check base_url")

    async def fetch_json(
        self, place: Place, path: str, content: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Return the JSON object that `fetch` gets."""
        answer = await self.fetch(place, path, content, headers)
        try:
            value = orjson.loads(answer)
        except orjson.JSONDecodeError as error:
            raise Retryable(f"the answer is not JSON: {answer[:200].decode('utf-8', 'replace')}") from error
        if isinstance(value, dict):
            return value
        raise Retryable(f"the answer is not a JSON object: {str(value)[:200]}")

    def refusal_of(
        self,
        place: Place,
        status: int,
        content: bytes,
        headers: Mapping[str, str],
        parameters: Iterable[str] = COMMON,
    ) -> Exception:
        """Return the error of a response; a complaint about a schema is one about its parameter."""
        names = list(parameters)
        refusal = super().refusal_of(place, status, content, headers, names)
        if type(refusal) in (Rejected, Misfit) and status == 400 and self.schema_parameter in names:
            words = content.lower()
            if b"schema" in words or self.schema_parameter.lower().encode() in words:
                return NotTaken(str(refusal), self.schema_parameter)
        return refusal


def schema_words(schema: Any) -> str:
    """Return the sentence that asks for JSON by a schema."""
    return f"Answer with JSON alone, by this JSON Schema: {dumps(schema, sort_keys=False).decode()}"


def closed(schema: Any) -> Any:
    """Return a JSON Schema whose objects take no further keys, without keywords that constrained decoding
    does not take; None if an object's keys are open.
    """
    if isinstance(schema, list):
        items = [closed(item) for item in schema]
        return None if None in items else items
    if not isinstance(schema, Mapping):
        return schema
    kind = schema.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind):
        if not schema.get("properties") or schema.get("additionalProperties", False) is not False:
            return None
        schema = {**schema, "additionalProperties": False}
    copy: dict[str, Any] = {}
    for name, value in schema.items():
        if name in ("properties", "$defs", "definitions"):
            inner = {key: closed(part) for key, part in value.items()}
            if None in inner.values():
                return None
            copy[name] = inner
        elif name in ("enum", "const", "required", "description"):
            copy[name] = value
        elif name not in _BOUNDS:
            part = closed(value)
            if part is None and value is not None:
                return None
            copy[name] = part
    return copy
