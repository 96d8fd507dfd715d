"""A client of OpenAI-compatible endpoints: chat and completions, over a fast HTTP client or the openai
package.

The fast way builds and reads JSON itself: the openai package takes about 2 ms of CPU for a call, and its
default transport slows down as concurrency rises. `transport: openai` selects the package.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urljoin, urlsplit

import orjson
from pyreqwest.exceptions import RequestError, RequestTimeoutError

from distillgen.inference.endpoint import Endpoint, Services
from distillgen.inference.faults import Rejected, Retryable, TeacherDown, TimedOut, Unreachable
from distillgen.inference.opening import USER_TURN, opening
from distillgen.inference.request import LOST_ANSWER, UNUSABLE_ANSWER, Completion, Request
from distillgen.inference.spec import Spec
from distillgen.inference.teacher import REJECTIONS
from distillgen.record import dumps
from distillgen.teachers._addresses import OFFICIAL, Address, Place, azure_headers
from distillgen.teachers._openai_spec import OpenAISpec
from distillgen.teachers._openai_wire import (
    add_schema,
    completions_of,
    embedding_of,
    is_strict,
    read_json,
    score_of,
)
from distillgen.teachers._refusal import (
    COMMON,
    LONGEST_WAIT_S,
    Moved,
    NothingThere,
    NotTaken,
    WebPage,
    explanation_of,
    kind_of,
    page_title,
    refused_parameter,
    unstreamed,
    wait_of,
)
from distillgen.teachers._settling import settled

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")

log = logging.getLogger("distillgen")

FORBIDDEN = 5  # unexplained statuses 403 in a row, after which they are about the account, not about prompts
MOVES = 3  # redirects that one request follows
REST_S = 30.0  # pause of an address that failed, if there are others
GATEWAY = (408, 502, 504, 520, 524)  # statuses of a gateway: the model may still answer and bill
_LENGTHS = ("max_tokens", "max_completion_tokens")
_REPLACEMENTS = {
    "max_tokens": "'max_completion_tokens' is sent instead",
    "max_completion_tokens": "'max_tokens' is sent instead",
    "response_format": "the schema is put into the prompt",
    "n": "samples are asked for one by one",
}
"""What replaces a parameter that an endpoint does not accept; other parameters are left out."""
_RESUME = "The answers so far are safe: run the same command again then"


class OpenAIClient(Endpoint):
    """Puts requests to one of several addresses, and learns what the endpoint does not accept."""

    spec: OpenAISpec

    def __init__(self, name: str, spec: Spec, services: Services) -> None:
        super().__init__(name, spec, services)
        self._places = [Place(address) for address in (self.spec, *self.spec.also)]
        self._refused = self._left_out = frozenset[str]()
        self._signals, self._silences = False, 0

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
            return [await self._score(request, request.target)]
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

    async def ask(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Return the endpoint's answers as they came, before they are settled."""
        path = "completions" if request.prompt is not None else "chat/completions"
        body = self.body(request, len(samples), attempt, samples[0])
        completions = completions_of(await self.call(path, body))
        return self.marked(completions, body) if self._refused else completions

    def marked(self, completions: list[Completion], body: Mapping[str, Any]) -> list[Completion]:
        """Return the completions with the names of the parameters that the endpoint does not accept."""
        left_out = sorted(self._left_out & body.keys())
        return [c._replace(left_out=left_out) for c in completions] if left_out else completions

    def fitted(self, body: Mapping[str, Any], refused: frozenset[str] | None = None) -> Mapping[str, Any]:
        """Return the body without the parameters that the endpoint refuses.

        A schema is put into the prompt instead, and the limit of an answer's length gets its other name.
        """
        refused = self._refused if refused is None else refused
        if not refused:
            return body
        fitted = {name: value for name, value in body.items() if name not in refused}
        for name, other in zip(_LENGTHS, _LENGTHS[::-1], strict=True):
            if name in refused and name in body and other not in refused:
                fitted[other] = body[name]
        if "response_format" in refused and "response_format" in body:
            add_schema(fitted, body["response_format"])
        if "stream" in refused:
            fitted["stream"] = True
            if "stream_options" not in refused:
                fitted["stream_options"] = {"include_usage": True}
        return fitted

    def learn(self, refused: frozenset[str]) -> None:
        """Leave the refused parameters out from now on, and log that once."""
        new = sorted(refused - self._refused - {"stream_options"})
        self._refused |= refused
        boundless = set(_LENGTHS) <= self._refused
        self._left_out = (
            self._refused - {"stream", "stream_options", "n"} - frozenset(() if boundless else _LENGTHS)
        )
        for name in new:
            change = (
                "asked without a bound"
                if boundless and name in _LENGTHS
                else _REPLACEMENTS.get(name, "asked without it")
            )
            notice = f"the endpoint does not take '{name}': {change}"
            if name == "stream":
                notice = "the endpoint answers only as a stream: its pieces are put together"
            log.warning("%s: %s", self.name, notice)

    async def call(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST JSON to a path below an address, and return the JSON of the answer.

        A parameter that the endpoint refuses is left out. If the endpoint then answers, it is left out from
        now on.
        """
        refused, first = self._refused, None
        while True:
            fitted = self.fitted(body, refused)
            try:
                answer = await self._send(path, fitted)
            except NotTaken as error:
                first = first or error
                if error.name in refused:
                    raise first from error
                refused |= {error.name}
                if set(_LENGTHS) <= refused and self.services.budget.max_cost_usd is not None:
                    remedy = "run without --max-cost-usd, or ask another model"
                    boundless = "An answer can have any length, so that the cap could not hold"
                    raise self.down(f"{error}. {boundless}; {remedy}") from error
                if self.requests:
                    await self.requests.take(1.0)
                continue
            if not refused <= self._refused:
                self.learn(refused)
            return answer

    async def _send(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a request to the next address."""
        place = self._choose()
        post = self._post_by_package if self.spec.transport == "openai" else self._post
        try:
            for _ in range(MOVES):
                try:
                    answer = await post(place, path, body)
                    break
                except Moved as moved:
                    path = str(moved)
            else:
                raise self.down(
                    f"{place.address.identity} redirects again and again, to {path}. Check base_url"
                )
        except (Unreachable, TeacherDown) as error:
            place.down, place.rests_until = isinstance(error, TeacherDown), time.monotonic() + REST_S
            if all(other.down for other in self._places) if place.down else not self._awake():
                raise
            raise Retryable(str(error)) from error
        except Retryable as error:
            place.rests_until = time.monotonic() + error.retry_after_s
            raise
        place.down, place.forbidden = False, 0
        return answer

    def _awake(self) -> list[Place]:
        """Return the addresses that do not pause."""
        now = time.monotonic()
        return [place for place in self._places if place.rests_until <= now]

    def _choose(self) -> Place:
        """Return the next address by weight among those that do not pause, else the one that may come back
        first.
        """
        if len(self._places) == 1:
            return self._places[0]
        if awake := self._awake():
            place = min(awake, key=lambda place: place.served)
        else:
            place = min(self._places, key=lambda place: (place.down, place.rests_until))
        place.served += 1 / place.address.weight
        return place

    async def _post(self, place: Place, path: str, body: Mapping[str, Any]) -> Any:
        client = place.client = place.client or self._connected(place.address)
        if (url := place.urls.get(path)) is None:
            url = place.urls[path] = path if path.startswith("http") else place.address.url(path)
        try:
            response = await client.post(url).body_bytes(dumps(body, sort_keys=False)).build().send()
            content = bytes(await response.bytes())
        except RequestError as error:
            # ConnectError is raised for other faults, too
            not_sent = any("(Connect)" in cause for cause in _causes(error))
            used = None if not_sent else LOST_ANSWER
            if isinstance(error, RequestTimeoutError):
                raise TimedOut(f"no answer within {self.spec.timeout_s:g} s", used=used) from error
            if not_sent:
                fault = f"cannot connect to {place.address.identity}{place.address.proxy()}: {_cause(error)}"
                raise Unreachable(f"{fault}. Is the server running, and base_url right?") from error
            raise Retryable(f"the connection broke: {_cause(error)}", used=used) from error
        if not 200 <= response.status < 300:
            refusal = self.refusal_of(place, response.status, content, response.headers, body)
            if response.status in GATEWAY and isinstance(refusal, Retryable):
                refusal.used = LOST_ANSWER
            raise refusal
        return self._json_of(place, content, response.headers, body)

    def _connected(self, address: Address) -> Any:
        from pyreqwest.client import ClientBuilder

        longest = timedelta(seconds=self.spec.timeout_s)
        builder = ClientBuilder().timeout(longest).connect_timeout(min(longest, timedelta(seconds=10)))
        headers = {"content-type": "application/json", "user-agent": "distillgen"}
        if address.api_key:
            headers["authorization"] = f"Bearer {address.api_key}"
        if address.local:
            builder = builder.no_proxy()
        return (
            builder.follow_redirects(False)
            .default_headers(headers | azure_headers(address) | address.headers)
            .build()
        )

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
                http_client=openai.DefaultAsyncHttpxClient(trust_env=not address.local),
            )
        try:
            return await send(place.package)
        except openai.APITimeoutError as error:
            raise TimedOut(f"no answer within {self.spec.timeout_s:g} s") from error
        except openai.APIConnectionError as error:
            fault = f"{address.identity}{address.proxy()}: {error.__cause__ or error}"
            if _is_unconnected(error):
                raise Unreachable(
                    f"cannot connect to {fault}. Is the server running, and base_url right?"
                ) from error
            raise Retryable(f"the connection broke: {fault}") from error
        except openai.APIStatusError as error:
            response = error.response
            raise self.refusal_of(
                place, error.status_code, response.content, response.headers, parameters
            ) from error
        except (openai.APIError, ValueError) as error:
            raise Retryable(f"not a usable answer: {error}") from error

    def _json_of(
        self, place: Place, content: bytes, headers: Mapping[str, str], parameters: Iterable[str]
    ) -> Any:
        """Return the JSON of an answer with a status of success; raise the fault if it is a refusal."""
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            answer = self._unusual(place, content)
        if isinstance(answer, dict) and not answer.get("choices") and "data" not in answer:
            refusal = self.refusal_of(place, 200, dumps(answer, sort_keys=False), headers, parameters)
            if answer.get("error") or not isinstance(refusal, Retryable):
                raise refusal
        return answer

    def _unusual(self, place: Place, content: bytes) -> Any:
        """Return an answer that is a stream of events, or JSON that only the slow reader accepts."""
        start = content.lstrip()[:7]
        if start.startswith(b"<"):
            title = page_title(content.decode("utf-8", "replace"))
            where, called = f"{place.address.identity}{place.address.proxy()}", f" ({title})" if title else ""
            raise WebPage(f"{where} gives a web page{called}, and no answer. Check base_url: most end in /v1")
        if start.startswith((b"data:", b"event:", b"id:", b"retry:", b":")):
            if answer := unstreamed(content):
                return answer
            raise Retryable("the stream of the answer broke off", used=LOST_ANSWER)
        return read_json(content)

    def refusal_of(
        self,
        place: Place,
        status: int,
        content: bytes,
        headers: Mapping[str, str],
        parameters: Iterable[str] = COMMON,
    ) -> Exception:
        """Return the error for a response without an answer; `parameters` are the names of those that were
        sent.
        """
        explanation, where = explanation_of(content), place.address.identity
        message = self.redact(explanation.message)[:300]
        text = f"HTTP {status}{f': {message}' if message else ''}"
        wait_s = wait_of(headers, explanation, limited=429 in (status, explanation.status))
        kind, proxy = (
            kind_of(status, explanation, wait_s),
            "" if self.activity.answered else place.address.proxy(),
        )
        if kind == "prompt":
            return Rejected(f"refused by the endpoint's content filter: {message}")
        if kind == "money":
            return self.down(f"{text}. The account behind the key has no money or quota left")
        if kind == "day":
            return self.down(f"{text}. {_RESUME}, when the quota is renewed")
        unknown_key = (
            f"{text}. The endpoint {where}{proxy} does not accept the key: check api_key, and its account"
        )
        if kind == "account":
            return self.down(unknown_key)
        if kind == "address":
            return self._lost(place, status, text, headers.get("location") or "", proxy)
        if name := refused_parameter(status, explanation, parameters):
            if name in ("logprobs", "top_logprobs"):  # the row asks for them: leaving them out does not help
                remedy = "leave 'logprobs' out, or ask a model that gives them"
                return self.down(f"{text}. The endpoint gives no log-probabilities: {remedy}")
            return NotTaken(text, name)
        if kind == "moment" or status == 200:
            if wait_s > LONGEST_WAIT_S:
                span = f"{wait_s / 60:.0f} minutes" if wait_s < 7200 else f"{wait_s / 3600:.1f} hours"
                most = f"a run waits {LONGEST_WAIT_S / 60:.0f} minutes at most"
                return self.down(f"{text}. It asks to wait {span}, and {most}. {_RESUME}")
            if proxy and status in (502, 503, 504):
                return Unreachable(f"{text}, from {where}{proxy}")
            waiting = f"waiting {wait_s:.0f} s, as the endpoint asks: " if wait_s >= 5 else ""
            return Retryable(
                waiting + text, wait_s, overloaded=bool({status, explanation.status} & {429, 503, 529})
            )
        if status == 403:
            place.forbidden += 1
            if not self.activity.answered or place.forbidden > FORBIDDEN:
                return self.down(unknown_key)
        return Rejected(text)

    def _lost(self, place: Place, status: int, text: str, location: str, proxy: str) -> Exception:
        """Return the error for a status that says that the address is wrong, or a redirect."""
        where = place.address.identity
        if status >= 400:
            online = "; mode: online does without the batch API" if self.spec.mode == "batch" else ""
            check = f"{text}. Check base_url ({where}{proxy}) and model ('{self.spec.model}'){online}"
            return NothingThere(str(self.down(check)))
        target, base_url = (
            urlsplit(urljoin(place.address.url(""), location)),
            urlsplit(place.address.base_url),
        )
        if (
            status in (307, 308)
            and location
            and (target.scheme, target.netloc) == (base_url.scheme, base_url.netloc)
        ):
            return Moved(target.geturl())
        there = f"{target.scheme}://{target.hostname}{f':{target.port}' if target.port else ''}{target.path}"
        base = (
            there.removesuffix("/chat/completions").removesuffix("/completions").removesuffix("/embeddings")
        )
        return self.down(
            f"HTTP {status}: {where}{proxy} redirects to {there}. "
            f"Set base_url to where the endpoint is: {base}?"
        )

    async def close(self) -> None:
        """Close the connections."""
        for place in self._places:
            for client in filter(None, (place.client, place.package)):
                await client.close()


def _is_unconnected(error: BaseException | None) -> bool:
    """Return whether nothing was sent: the HTTP client of the openai package raised ConnectError or
    ConnectTimeout.
    """
    return type(error.__cause__ if error else None).__name__.startswith("Connect")


def _causes(error: Exception) -> list[str]:
    details = getattr(error, "details", None) or {}
    return [
        str(cause.get("message", "")) for cause in details.get("causes") or [] if isinstance(cause, Mapping)
    ]


def _cause(error: Exception) -> str:
    causes = _causes(error)
    return causes[-1] if causes else str(error)
