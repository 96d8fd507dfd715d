"""Responses in the background: an answer goes on at the endpoint without the process that asked for it.

The id of a response is durable in the ledger before the response is waited for. The run after a kill finds it
there, and waits for that response instead of asking again. If the kill strikes between the creation of a
response and the commit of its id, nobody knows the response. Its request is sent again with the same
Idempotency-Key, to which an endpoint that honours the key answers with the same response.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote

from distillgen.inference.endpoint import Endpoint
from distillgen.inference.faults import Rejected, Retryable, TeacherDown
from distillgen.inference.request import LOST_ANSWER, UNUSABLE_ANSWER, Completion, Request
from distillgen.record import dumps
from distillgen.teachers._addresses import Address, azure_headers
from distillgen.teachers._native_client import NativeClient
from distillgen.teachers._openai_responses import chat_of, parameters_of
from distillgen.teachers._openai_spec import OpenAISpec
from distillgen.teachers._openai_wire import completions_of, unusable
from distillgen.teachers._refusal import NothingThere, NotTaken

log = logging.getLogger("distillgen")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0  # between two looks at a response
KEY_DIGITS = 32  # of the 64 of a ledger key, in the name of a response
LOOKS = 4  # looks at a response that is not there, after which the endpoint has forgotten it
PENDING, OVER = (
    "pending response",
    "response without an answer",
)  # states of a response, in place of the file of a batch
_UNENDED = ("queued", "in_progress")
_STATUSES = {"server_error": 500, "rate_limit_exceeded": 429, "vector_store_timeout": 503}
"""HTTP statuses of the faults of responses that are temporary; the others are of the request."""
_RENAMED = {"response_format": "text"}
_idempotency_key: ContextVar[str] = ContextVar("idempotency_key")  # of the request that a task sends


class GoesOn(asyncio.CancelledError):
    """The run ends before the response; nothing is lost, because the endpoint goes on with it."""

    used: Completion | None = None


class Background(NativeClient):
    """Asks the Responses API of an endpoint. A response is a batch of one line in the ledger: what is stored
    of it is our name of it, its state, and its id at the endpoint.
    """

    spec: OpenAISpec
    lengths = ("max_output_tokens",)
    required = frozenset({"model", "input", "background", "store", "tools", "include"})
    schema_parameter = "text"
    replacements = {"text": "the schema is put into the prompt"}
    paths = "/responses(/.*)?$"
    usual_end = "/v1"
    detour = "; mode: online does without the Responses API"

    def __init__(self, owner: Endpoint) -> None:
        """`owner` is the endpoint whose requests it puts."""
        spec: Any = owner.spec
        self.lacks = frozenset(_RENAMED.get(name, name) for name in spec.lacks or ())
        super().__init__(owner.name, owner.spec, owner.services)
        self.identity, self.activity, self.requests = owner.identity, owner.activity, owner.requests
        self.ledger = owner.services.ledger
        self._waiting: set[asyncio.Task[Any] | None] = set()
        """The tasks that wait for responses."""
        self._is_stopped = False

    def headers(self, address: Address) -> dict[str, str]:
        """Return the bearer token, and Azure's own header."""
        bearer = {"authorization": f"Bearer {address.api_key}"} if address.api_key else {}
        return bearer | azure_headers(address)

    def outgoing(self, client: Any, url: str, body: Mapping[str, Any]) -> Any:
        """Return the HTTP request, with the key that tells a repetition from another request."""
        headers = {"idempotency-key": _idempotency_key.get()}
        return client.post(url).headers(headers).body_bytes(self.content(body)).build()

    def body(self, request: Request, n: int, attempt: int, sample: int) -> dict[str, Any]:
        """Return the parameters of a request. Raise TeacherDown for options that the API does not have."""
        if refusal := self.spec.sampling_refusal(request.sampling):
            raise self.down(f"it {refusal}")
        return parameters_of(request)

    def schema_of(self, body: Mapping[str, Any]) -> Any:
        """Return the schema, or {} if the parameter holds another option alone."""
        return body["text"].get("format", {}).get("schema", {})

    def with_words(self, body: Mapping[str, Any], words: str) -> dict[str, Any]:
        """Return the parameters with a turn that asks for the schema."""
        return {**body, "input": [*body["input"], {"role": "user", "content": words}]}

    def holds_answer(self, payload: Mapping[str, Any]) -> bool:
        """Return whether the JSON is a response, ended or not."""
        return isinstance(payload.get("id"), str)

    async def ask(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Return the answer of a response that an earlier run has asked for, or of a new one."""
        key = request.keys(self.identity, samples[0] + 1)[-1]
        name = f"response-{key.hex()[:KEY_DIGITS]}-{attempt}"
        body = self.body(await self.with_content(request), 1, attempt, samples[0])
        self.mention_lacks(body)
        _, state, response_id = self.ledger.find_batch(name) or ("", "", "")
        response: Mapping[str, Any] = {"id": response_id}
        if state != PENDING:
            if self._is_stopped:
                raise GoesOn
            _idempotency_key.set(hashlib.sha256(f"{name} {response_id}".encode()).hexdigest())
            response = await self.call("responses", body)
            if not (isinstance(response, dict) and self.holds_answer(response)):
                raise Retryable(f"the answer is no response: {response}", used=UNUSABLE_ANSWER)
        response_id = response["id"]
        try:
            commit = self.ledger.add_batch(name, PENDING, response_id, [name])
            await asyncio.gather(commit, self.ledger.promises.make_of_claims([key]))
            end = await self._end_of(response)
        except asyncio.CancelledError as cancelled:
            raise GoesOn from cancelled
        try:
            return self.marked(self.completions(end), body)
        except (Retryable, Rejected, TeacherDown):  # if it is asked again, that is a new response
            await self.ledger.add_batch(name, OVER, response_id, [name])
            raise

    def completions(self, payload: Any) -> list[Completion]:
        """Return the answer in a response that has ended. Raise its fault if it has none."""
        status = payload.get("status")
        if status in ("completed", "incomplete"):
            return completions_of(chat_of(payload))
        used = unusable(payload) if payload.get("usage") else None
        if status == "failed":
            error = payload["error"] if isinstance(payload.get("error"), dict) else {}
            content = dumps({"error": {name: error.get(name) for name in ("code", "message")}})
            fault = self.refusal_of(self._places[0], _STATUSES.get(str(error.get("code")), 400), content, {})
            if isinstance(fault, NotTaken):
                self.learn(frozenset({fault.name}))
                fault = Retryable(str(fault))
            if isinstance(fault, (Retryable, Rejected)):
                fault.used = used
            raise fault
        fault_text, used = f"the response ended ({status}) without an answer", used or LOST_ANSWER
        if status == "cancelled":
            raise Rejected(f"{fault_text}; --retry-failed asks again", used=used)
        raise Retryable(fault_text, used=used)

    async def _end_of(self, response: Mapping[str, Any]) -> Mapping[str, Any]:
        """Look at a response, less and less often, until it has ended, and return it. Looks cost nothing, and
        go on until an outage ends. Return the status "forgotten" for a response that is not there any more.
        """
        path, absences = f"responses/{quote(response['id'], safe='')}", 0
        pause_s, longest_s = FIRST_PAUSE_S, min(self.spec.poll_s, LONGEST_PAUSE_S)
        status = response.get("status")
        task = asyncio.current_task()
        self._waiting.add(task)
        try:
            while status in (None, *_UNENDED):
                self._note()
                if status:
                    await self._pause(min(pause_s, longest_s))
                    pause_s *= 1.5
                try:
                    response = await self.fetch_json(self._places[0], path)
                    if not isinstance(response.get("status"), str):
                        raise Retryable(f"the endpoint shows no response, but {response}")
                    status, absences = response["status"], 0
                except NothingThere:
                    status, absences = "queued", absences + 1
                    if absences == LOOKS:
                        return {"status": "forgotten"}
                except Retryable as fault:
                    status = "queued"
                    self.activity.trouble = self.redact(str(fault))
                    log.info("%s: looking at a response again: %s", self.name, self.activity.trouble)
                    await self._pause(fault.retry_after_s)
                except Rejected as error:
                    remedy = "the responses are safe; correct that and run again"
                    raise self.down(f"the endpoint refuses to show a response: {error}; {remedy}") from error
            return response
        finally:
            self._waiting.discard(task)
            self._note()

    def _note(self) -> None:
        """Show how many responses are waited for."""
        count = len(self._waiting)
        self.activity.note = f"responses waited for in the background: {count:,}" if count else ""

    async def _pause(self, pause_s: float) -> None:
        """Sleep; the progress display does not take that for a hang. Raise GoesOn once the run stops: an HTTP
        request whose answer comes at the moment of a cancellation returns the answer.
        """
        if self._is_stopped:
            raise GoesOn
        self.activity.moved_at = time.monotonic() + pause_s
        await asyncio.sleep(pause_s)

    def stop(self, reason: Exception) -> None:
        """Stop waiting. Add a note to `reason` about the responses that go on at the endpoint."""
        self._is_stopped = True
        if self._waiting:
            remedy = "the same command waits for these responses, and asks only the other requests"
            reason.add_note(f"responses that go on at the endpoint: {len(self._waiting):,}; {remedy}")
        for task in filter(None, self._waiting):
            task.cancel()
