"""A client of endpoints that answer JSON over HTTP: addresses, redirects, faults, and parameters that an
endpoint does not accept.

It builds and reads JSON itself: packages of providers take milliseconds of CPU for a call, repeat requests by
themselves, and their default transports slow down as concurrency rises.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import urljoin, urlsplit

import orjson
from pyreqwest.exceptions import RequestError, RequestTimeoutError

from distillgen.inference.endpoint import Endpoint, Services
from distillgen.inference.faults import Rejected, Retryable, TeacherDown, TimedOut, Unreachable
from distillgen.inference.request import LOST_ANSWER, Completion, Request
from distillgen.inference.spec import Spec
from distillgen.privacy import used_by
from distillgen.record import dumps
from distillgen.teachers._addresses import Address, Place
from distillgen.teachers._content import with_content
from distillgen.teachers._http_spec import HttpSpec
from distillgen.teachers._openai_wire import read_json
from distillgen.teachers._refusal import (
    COMMON,
    LONGEST_WAIT_S,
    PROMPT_PARTS,
    Misfit,
    Moved,
    NothingThere,
    NotTaken,
    WebPage,
    explanation_of,
    kind_of,
    page_title,
    refused_parameter,
    refused_value,
    wait_of,
)
from distillgen.teachers._settling import settled

log = logging.getLogger("distillgen")

FORBIDDEN = 5  # unexplained statuses 403 in a row, after which they are about the account, not about prompts
MOVES = 3  # redirects that one request follows
REST_S = 30.0  # pause of an address that failed, if there are others
GATEWAY = (408, 502, 504, 520, 524)  # statuses of a gateway: the model may still answer and bill
_RESUME = "The answers so far are safe: run the same command again then"


class HttpClient(Endpoint):
    """Puts requests to one of several addresses, and learns what the endpoint does not accept.

    A subclass gives the protocol: `headers`, `path`, `body`, `completions`, and what else differs.
    """

    spec: HttpSpec
    lengths: ClassVar[tuple[str, ...]] = ()
    """The names of the parameter that bounds an answer, if the endpoint may refuse it."""
    required: ClassVar[frozenset[str]] = frozenset()
    """Parameters that a request cannot do without."""
    lacks: frozenset[str] = frozenset()
    """Options of a request that the endpoint does not have. They are left out, with one note."""
    replacements: ClassVar[Mapping[str, str]] = {}
    """What replaces a parameter that the endpoint does not accept; other parameters are left out."""
    paths: ClassVar[str] = ""
    """A pattern of the paths below an address, at the end of a URL."""
    usual_end: ClassVar[str] = ""
    """The end of most addresses, for a message."""
    detour: str = ""
    """What helps where nothing is at the address, for a message."""

    def __init__(self, name: str, spec: Spec, services: Services) -> None:
        super().__init__(name, spec, services)
        self._places = [Place(address) for address in (self.spec, *self.spec.also)]
        self._refused = self._left_out = frozenset[str]()
        self._leave_out(self.lacks)
        self._unmentioned = self.lacks
        self._accepted = set[tuple[str, Any]]()
        """The parameters and their values with which the endpoint has answered."""

    def headers(self, address: Address) -> dict[str, str]:
        """Return the headers that carry the key."""
        raise NotImplementedError

    def path(self, request: Request) -> str:
        """Return the path of a request below the address."""
        raise NotImplementedError

    def body(self, request: Request, n: int, attempt: int, sample: int) -> dict[str, Any]:
        """Return the parameters of a request."""
        raise NotImplementedError

    def completions(self, payload: Any) -> list[Completion]:
        """Return the completions in the JSON of an answer, at least one. Raise Retryable."""
        raise NotImplementedError

    def holds_answer(self, payload: Mapping[str, Any]) -> bool:
        """Return whether JSON that came with a status of success may hold an answer."""
        return True

    def unstreamed(self, content: bytes) -> dict[str, Any] | None:
        """Return the answer in the events of a stream; None if it breaks off."""
        return None

    def outgoing(self, client: Any, url: str, body: Mapping[str, Any]) -> Any:
        """Return the HTTP request that carries the parameters."""
        return client.post(url).body_bytes(dumps(body, sort_keys=False)).build()

    def without_address(self, reason: str) -> str:
        """Return the reason of a failure, without the address of a server that is not public."""
        for url in used_by({self.name: self.spec}):
            for part in (url.rstrip("/"), urlsplit(url).netloc, urlsplit(url).hostname or ""):
                reason = reason.replace(part, "(the endpoint)") if part else reason
        return reason

    async def answer(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Return the completions of one request, settled."""
        answers = await self.ask(request, samples, attempt)
        return [settled(request, completion, self.spec.finish_reasons) for completion in answers]

    async def ask(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Return the endpoint's answers as they came, before they are settled."""
        body = self.body(await self.with_content(request), len(samples), attempt, samples[0])
        if self._unmentioned:
            self.mention_lacks(body)
        completions = self.completions(await self.call(self.path(request), body))
        return self.marked(completions, body) if self._refused else completions

    async def with_content(self, request: Request) -> Request:
        """Return a request as it is sent, with the content of its pictures and sounds. Raise Rejected."""
        return await with_content(request, self.services.root) if request.parts else request

    def mention_lacks(self, body: Mapping[str, Any]) -> None:
        """Log once what happens to options that the endpoint does not have."""
        if unmentioned := self._unmentioned & body.keys():
            self._unmentioned -= unmentioned
            self._mention(unmentioned)

    def marked(self, completions: list[Completion], body: Mapping[str, Any]) -> list[Completion]:
        """Return the completions with the names of the parameters that the endpoint does not accept."""
        left_out = sorted(self._left_out & body.keys())
        return [c._replace(left_out=left_out) for c in completions] if left_out else completions

    def fitted(self, body: Mapping[str, Any], refused: frozenset[str] | None = None) -> Mapping[str, Any]:
        """Return the body without the parameters that the endpoint refuses."""
        refused = self._refused if refused is None else refused
        return {name: value for name, value in body.items() if name not in refused} if refused else body

    def is_boundless(self, refused: frozenset[str]) -> bool:
        """Return whether no parameter is left that bounds an answer."""
        return bool(self.lengths) and refused.issuperset(self.lengths)

    def removable(self, parameters: Iterable[str]) -> Iterable[str]:
        """Return the parameters that a request can do without."""
        return [name for name in parameters if name not in self.required] if self.required else parameters

    def learn(self, refused: frozenset[str]) -> None:
        """Leave the refused parameters out from now on, and log that once."""
        new = refused - self._refused - {"stream_options"}
        self._leave_out(refused)
        self._mention(new)

    def _leave_out(self, refused: frozenset[str]) -> None:
        self._refused |= refused
        lengths = frozenset(() if self.is_boundless(self._refused) else self.lengths)
        self._left_out = self._refused - {"stream", "stream_options", "n"} - lengths

    def _mention(self, names: Iterable[str]) -> None:
        """Log what happens to parameters that the endpoint does not take."""
        boundless = self.is_boundless(self._refused)
        for name in sorted(names):
            change = (
                "asked without a bound"
                if boundless and name in self.lengths
                else self.replacements.get(name, "asked without it")
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
                if self.is_boundless(refused) and self.services.budget.max_cost_usd is not None:
                    remedy = "run without --max-cost-usd, or ask another model"
                    boundless = "An answer can have any length, so that the cap could not hold"
                    raise self.down(f"{error}. {boundless}; {remedy}") from error
                if self.requests:
                    await self.requests.take(1.0)
                continue
            except Misfit as error:
                raise self.misfit(error, fitted) from error
            self._accepted.update(_scalars(fitted))
            if not refused <= self._refused:
                self.learn(refused)
            return answer

    def misfit(self, error: Misfit, body: Mapping[str, Any]) -> Exception:
        """Return the error for a value that the endpoint refuses: every request has it, unless some with it
        were answered.
        """
        option = next(_scalars({error.name: body.get(error.name)}))
        if option in self._accepted:
            return Rejected(str(error))
        name, number = option
        text = f"{number:g}" if isinstance(number, float) else number
        value = name if number is None else f"{name}: {text}"
        remedy = "correct it in the model's entry, the stage or the prompt"
        return self.down(
            f"{error}. The endpoint does not accept '{value}', which concerns every row: {remedy}"
        )

    async def _send(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a request to the next address."""
        place = self._choose()
        try:
            for _ in range(MOVES):
                try:
                    answer = await self._post(place, path, body)
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
            response = await self.outgoing(client, url, body).send()
            content = bytes(await response.bytes())
        except RequestError as error:
            raise self._broken(place, error) from error
        if not 200 <= response.status < 300:
            refusal = self.refusal_of(place, response.status, content, response.headers, body)
            if response.status in GATEWAY and isinstance(refusal, Retryable):
                refusal.used = LOST_ANSWER
            raise refusal
        return self._json_of(place, content, response.headers, body)

    def _broken(self, place: Place, error: RequestError) -> Retryable:
        """Return the fault of a request without a response."""
        # ConnectError is raised for other faults, too
        not_sent = any("(Connect)" in cause for cause in _causes(error))
        used = None if not_sent else LOST_ANSWER
        if isinstance(error, RequestTimeoutError):
            return TimedOut(f"no answer within {self.spec.timeout_s:g} s", used=used)
        if not_sent:
            return unreachable(place.address, _cause(error))
        return Retryable(f"the connection broke: {_cause(error)}", used=used)

    def _connected(self, address: Address) -> Any:
        from pyreqwest.client import ClientBuilder

        longest = timedelta(seconds=self.spec.timeout_s)
        builder = ClientBuilder().timeout(longest).connect_timeout(min(longest, timedelta(seconds=10)))
        headers = {"content-type": "application/json", "user-agent": "distillgen"}
        if address.local:
            builder = builder.no_proxy()
        return (
            builder.follow_redirects(False)
            .default_headers(headers | self.headers(address) | address.headers)
            .build()
        )

    def _json_of(
        self, place: Place, content: bytes, headers: Mapping[str, str], parameters: Iterable[str]
    ) -> Any:
        """Return the JSON of an answer with a status of success; raise the fault if it is a refusal."""
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            answer = self._unusual(place, content)
        if isinstance(answer, dict) and not self.holds_answer(answer):
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
            usual = f": most end in {self.usual_end}" if self.usual_end else ""
            raise WebPage(f"{where} gives a web page{called}, and no answer. Check base_url{usual}")
        if start.startswith((b"data:", b"event:", b"id:", b"retry:", b":")):
            if answer := self.unstreamed(content):
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
        message = self.redact(explanation.message)[:300].rstrip(".")  # a sentence may follow
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
        parameters = list(parameters)
        name = refused_parameter(status, explanation, self.removable(parameters))
        if value := refused_value(status, explanation, parameters, name):
            return Misfit(text, value)
        if name:
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
            base = re.sub(self.paths, "", where) if self.paths else where
            hint = f"; most end in {self.usual_end}" if self.usual_end else ""
            if base != where:
                hint = f"; it ends before {where[len(base) :]}"
            elif where.endswith(self.usual_end):
                hint = ""
            check = f"Check base_url ({where}{proxy}{hint}) and model ('{self.spec.model}'){self.detour}"
            return NothingThere(str(self.down(f"{text}. {check}")))
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
        base = re.sub(self.paths, "", there)
        return self.down(
            f"HTTP {status}: {where}{proxy} redirects to {there}. "
            f"Set base_url to where the endpoint is: {base}?"
        )

    async def close(self) -> None:
        """Close the connections."""
        for place in self._places:
            for client in filter(None, (place.client, place.package)):
                await client.close()


def unreachable(address: Address, cause: str) -> Unreachable:
    """Return the fault of a connection that could not be made."""
    remedy = "Is the server running, and base_url right?"
    if "certificate" in cause.lower():
        remedy = (
            "Is base_url right, with the name that the certificate bears? To trust a certificate of your "
            "own: export SSL_CERT_FILE=FILE.pem"
        )
    elif "InvalidContentType" in cause or "WRONG_VERSION_NUMBER" in cause:
        remedy = "The server there does not speak TLS: does base_url begin with http://?"
    return Unreachable(f"cannot connect to {address.identity}{address.proxy()}: {cause}. {remedy}")


def _scalars(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the parameters that are not of the prompt, with their values; None for a list or a mapping."""
    for name, value in body.items():
        if name not in PROMPT_PARTS:
            yield name, value if isinstance(value, (str, int, float)) else None


def _causes(error: Exception) -> list[str]:
    details = getattr(error, "details", None) or {}
    return [
        str(cause.get("message", "")) for cause in details.get("causes") or [] if isinstance(cause, Mapping)
    ]


def _cause(error: Exception) -> str:
    causes = _causes(error)
    return causes[-1] if causes else str(error)
