"""A client of OpenAI-compatible endpoints: chat and completions, over a fast HTTP client or the openai
package.

`transport: openai` selects the package, which takes about 2 ms of CPU for a call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

from distillgen.inference.endpoint import Services
from distillgen.inference.faults import Rejected, Retryable, TeacherDown, TimedOut
from distillgen.inference.opening import USER_TURN, opening
from distillgen.inference.request import LOST_ANSWER, UNUSABLE_ANSWER, Completion, Request
from distillgen.inference.spec import Spec
from distillgen.inference.teacher import REJECTIONS
from distillgen.teachers._addresses import OFFICIAL, Address, Place, azure_headers
from distillgen.teachers._http_client import GATEWAY, HttpClient, unreachable
from distillgen.teachers._openai_spec import OpenAISpec
from distillgen.teachers._openai_wire import add_schema, completions_of, embedding_of, is_strict, score_of
from distillgen.teachers._refusal import COMMON, unstreamed
from distillgen.teachers._settling import settled

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")


class OpenAIClient(HttpClient):
    """Puts requests to endpoints that speak OpenAI's protocol."""

    spec: OpenAISpec
    lengths = ("max_tokens", "max_completion_tokens")
    replacements = {
        "max_tokens": "'max_completion_tokens' is sent instead",
        "max_completion_tokens": "'max_tokens' is sent instead",
        "response_format": "the schema is put into the prompt",
        "n": "samples are asked for one by one",
    }
    paths = "(/chat)?/completions$|/embeddings$"
    usual_end = "/v1"

    def __init__(self, name: str, spec: Spec, services: Services) -> None:
        self.lacks = frozenset(getattr(spec, "lacks", None) or ())
        super().__init__(name, spec, services)
        self._signals, self._silences = False, 0

    def headers(self, address: Address) -> dict[str, str]:
        """Return the bearer token, and Azure's own header."""
        bearer = {"authorization": f"Bearer {address.api_key}"} if address.api_key else {}
        return bearer | azure_headers(address)

    def path(self, request: Request) -> str:
        """Return the path of chat or of completions."""
        return "completions" if request.prompt is not None else "chat/completions"

    def completions(self, payload: Any) -> list[Completion]:
        """Return the choices of an answer."""
        return completions_of(payload)

    def holds_answer(self, payload: Mapping[str, Any]) -> bool:
        """Return whether the JSON has choices or embeddings."""
        return bool(payload.get("choices")) or "data" in payload

    def unstreamed(self, content: bytes) -> dict[str, Any] | None:
        """Return the answer in the chunks of a stream."""
        return unstreamed(content)

    def body(self, request: Request, n: int, attempt: int, sample: int) -> dict[str, Any]:
        """Return the JSON body of a request."""
        sampling = dict(request.sampling)
        body: dict[str, Any] = {"model": request.model, **sampling.pop("extra", {})}
        if request.prompt is not None:
            body["prompt"] = request.prompt
        else:
            body["messages"] = request.messages
        if "seed" in sampling:  # the same seed would give the same answer again
            sampling["seed"] += sample + 1_000_003 * attempt
        if (top := sampling.pop("logprobs", None)) is not None:
            body |= (
                {"logprobs": top} if request.prompt is not None else {"logprobs": True, "top_logprobs": top}
            )
        if self.spec.base_url.startswith(OFFICIAL) and "max_tokens" in sampling:
            sampling["max_completion_tokens"] = sampling.pop(
                "max_tokens"
            )  # the parameter of its newer models
        if request.schema is not None:
            schema = {"name": "answer", "schema": request.schema, "strict": is_strict(request.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if request.grammar is not None:
            body["grammar"] = request.grammar
        if request.tools:
            body["tools"] = request.tools
        if n > 1:
            body["n"] = n
        return body | sampling

    async def answer(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Return the completions of one request: fewer than its samples if the endpoint ignores `n`."""
        if request.embed is not None:
            body = {"model": request.model, "input": request.embed}
            return [embedding_of(await self.call("embeddings", body))]
        if request.target is not None:
            return [await self._score(await self.with_content(request), request.target)]
        if request.write:
            request = await self._opened(request)
        if self._silences >= REJECTIONS and not self._signals and "logprobs" in request.sampling:
            remedy = "leave 'logprobs' out, or ask a model that gives them"
            reason = f"none of {self._silences} answers held the log-probabilities that were asked for"
            raise self.down(f"{reason}; {remedy}")
        answers = await self.ask(request, samples, attempt)
        completions = [settled(request, completion, self.spec.finish_reasons) for completion in answers]
        if "logprobs" in request.sampling:
            self._signals = self._signals or any(completion.logprobs for completion in completions)
            self._silences += 1
        return completions

    async def _opened(self, request: Request) -> Request:
        """Return the request that has a server write the user's next turn, opened by its chat template."""
        if self.spec.server == "vllm":
            turns = [*request.messages, {"role": "user", "content": ""}]
            template = {"add_generation_prompt": False, "continue_final_message": True}
            extra = {**request.sampling.get("extra", {}), **template}
            return replace(request, messages=turns, sampling={**request.sampling, "extra": extra})
        if request.parts:
            raise Rejected("llama.cpp opens a user's turn after texts alone, and the dialogue has a picture")
        answer = await self.call("../apply-template", {"messages": [*request.messages, USER_TURN]})
        try:
            prompt = opening(str(answer["prompt"]))
        except (TypeError, KeyError, ValueError) as error:
            raise Rejected(f"the server cannot open a user's turn: {error!r}") from error
        return replace(request, messages=(), prompt=prompt)

    async def _score(self, request: Request, target: str) -> Completion:
        """Return the log-probabilities of a target, which the server of vLLM gives as `prompt_logprobs`."""
        body: dict[str, Any] = {"model": request.model, "max_tokens": 1, "temperature": 0}
        body["prompt_logprobs"] = request.sampling.get("logprobs", 0)
        if request.prompt is not None:
            answer = await self.call("completions", body | {"prompt": request.prompt + target})
        else:
            messages = [*request.messages, {"role": "assistant", "content": target}]
            continuation = {"add_generation_prompt": False, "continue_final_message": True}
            answer = await self.call("chat/completions", body | {"messages": messages} | continuation)
        return score_of(answer, target)

    def fitted(self, body: Mapping[str, Any], refused: frozenset[str] | None = None) -> Mapping[str, Any]:
        """Return the body without the parameters that the endpoint refuses.

        A schema is put into the prompt instead, and the limit of an answer's length gets its other name.
        """
        refused = self._refused if refused is None else refused
        if not refused:
            return body
        fitted = {name: value for name, value in body.items() if name not in refused}
        for name, other in zip(self.lengths, self.lengths[::-1], strict=True):
            if name in refused and name in body and other not in refused:
                fitted[other] = body[name]
        if "response_format" in refused and "response_format" in body:
            add_schema(fitted, body["response_format"])
        if "stream" in refused:
            fitted["stream"] = True
            if "stream_options" not in refused:
                fitted["stream_options"] = {"include_usage": True}
        return fitted

    async def _post(self, place: Place, path: str, body: Mapping[str, Any]) -> Any:
        if self.spec.transport == "openai":
            return await self._post_by_package(place, path, body)
        return await super()._post(place, path, body)

    async def _post_by_package(self, place: Place, path: str, body: Mapping[str, Any]) -> Any:
        from openai import HttpxBinaryResponseContent as Raw

        url = path if path.startswith("http") else f"/{path}"
        options: Any = {"follow_redirects": False}

        async def send(client: AsyncOpenAI) -> Raw:
            return await client.post(url, cast_to=Raw, body=dict(body), options=options)

        try:
            raw = await self.by_package(place, send, body)
        except Retryable as error:
            cause = error.__cause__
            status, broke = (
                getattr(cause, "status_code", None),
                type(cause).__name__.startswith(("APITimeout", "APIConn")),
            )
            if status in GATEWAY or (broke and not _is_unconnected(cause)):
                error.used = LOST_ANSWER
            elif status is None and not broke:
                error.used = UNUSABLE_ANSWER
            raise
        return self._json_of(place, raw.content, raw.response.headers, body)

    async def by_package(
        self, place: Place, send: Callable[[AsyncOpenAI], Awaitable[T]], parameters: Iterable[str] = COMMON
    ) -> T:
        """Do something through the openai package; raise its errors as those of HTTP."""
        import openai

        address = place.address
        if place.package is None:
            base, _, query = address.base_url.partition("?")
            place.package = openai.AsyncOpenAI(
                base_url=base,
                default_query=dict(parse_qsl(query)),
                api_key=address.api_key or "none",
                max_retries=0,
                timeout=self.spec.timeout_s,
                default_headers=azure_headers(address) | address.headers,
                http_client=openai.DefaultAsyncHttpxClient(
                    trust_env=not address.local,
                    event_hooks={"request": [partial(self._keep_at_home, address)]},
                ),
            )
        try:
            return await send(place.package)
        except openai.APITimeoutError as error:
            raise TimedOut(f"no answer within {self.spec.timeout_s:g} s") from error
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, TeacherDown):
                raise error.__cause__ from error
            cause = str(error.__cause__ or error)
            if _is_unconnected(error):
                raise unreachable(address, cause) from error
            where = f"{address.identity}{address.proxy()}"
            raise Retryable(f"the connection broke: {where}: {cause}") from error
        except openai.APIStatusError as error:
            response = error.response
            raise self.refusal_of(
                place, error.status_code, response.content, response.headers, parameters
            ) from error
        except (openai.APIError, ValueError) as error:
            raise Retryable(f"not a usable answer: {error}") from error

    async def _keep_at_home(self, address: Address, request: Any) -> None:
        """Let a redirect take nothing to another host but the wish to read a file, which may lie elsewhere.

        The package drops the bearer token by itself, and no other header.
        """
        url = request.url
        home = type(url)(address.base_url)
        if (url.scheme, url.host, url.port) == (home.scheme, home.host, home.port):
            return
        if request.method != "GET":
            there = f"{url.scheme}://{url.host}{f':{url.port}' if url.port else ''}"
            raise self.down(f"{address.identity} redirects to {there}. Set base_url to where the endpoint is")
        for name in azure_headers(address) | address.headers:
            request.headers.pop(name, None)


def _is_unconnected(error: BaseException | None) -> bool:
    """Return whether nothing was sent: the HTTP client of the openai package raised ConnectError or
    ConnectTimeout.
    """
    return type(error.__cause__ if error else None).__name__.startswith("Connect")
