"""Searches over a model in llama.cpp's server, which gives the likeliest tokens after a prefix.

That is enough for a search with a finite `prune`, which then has the answers that all tokens would give.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from threading import Event
from typing import Any, TypeVar

from distillgen.errors import Stopped
from distillgen.inference.faults import Rejected
from distillgen.inference.opening import USER_TURN, opening
from distillgen.inference.request import Completion, Request

ALL = 10_000_000  # more tokens than a vocabulary has
SURE = 1e6  # added to a logit
IMPOSSIBLE = -1e30  # nats; the server writes the least number of 32 bits where a probability is 0
Call = Callable[[str, Mapping[str, Any]], Coroutine[Any, Any, Any]]
Wait = Callable[[Coroutine[Any, Any, Any]], Any]
T = TypeVar("T")


class ServerTokenizer:
    """The tokenizer of a llama.cpp server, with what `vocabulary_of` needs of one of transformers.

    Its methods block: use them in a thread. They raise what `call` raises.
    """

    def __init__(self, call: Callable[[str, Mapping[str, Any]], Any], size: int) -> None:
        self.call, self.size = call, size

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self.size

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        """Return the tokens of a text; with `add_special_tokens`, those of a whole prompt."""
        special = {"add_special": add_special_tokens, "parse_special": add_special_tokens}
        return {"input_ids": self.call("tokenize", {"content": text, **special})["tokens"]}

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of tokens."""
        return str(self.call("detokenize", {"tokens": [*tokens]})["content"])


class ServerSearch:
    """The searches on one server. `call` POSTs JSON to a path of it and returns the answer's JSON."""

    def __init__(self, call: Call, *, model: str) -> None:
        self._call, self.model = call, model
        self._stop_event = Event()
        self._vocabulary: Any = None
        self._sampled = 0
        """The token that the server samples. With a part of a character it would give no probabilities."""

    async def answer(self, request: Request, samples: Sequence[int], seed: int) -> list[Completion]:
        """Return the samples of a request: the best answers of one search, in a thread of its own."""
        loop = asyncio.get_running_loop()

        def wait(work: Coroutine[Any, Any, T]) -> T:
            if self._stop_event.is_set():
                work.close()
                raise Stopped("stopped before this was answered")
            return asyncio.run_coroutine_threadsafe(work, loop).result()

        return await asyncio.to_thread(self._search, wait, request, samples, seed)

    def stop(self) -> None:
        """End the searches at their next token; they raise Stopped."""
        self._stop_event.set()

    def _search(self, wait: Wait, request: Request, samples: Sequence[int], seed: int) -> list[Completion]:
        from distillgen.teachers._search import Query, searched

        if self._vocabulary is None:
            self._vocabulary = self._read_vocabulary(wait)
        tokenizer, vocabulary = self._vocabulary
        context = tokenizer(wait(self._prompt(request)), add_special_tokens=True)["input_ids"]

        def logprobs(rows: Sequence[tuple[int, tuple[int, ...]]], top: int) -> Any:
            return wait(self._logprobs([[*context, *prefix] for _, prefix in rows], top, len(tokenizer)))

        query = Query(request, context, samples, seed)
        return searched([query], vocabulary, logprobs, model=self.model)[0]

    def _read_vocabulary(self, wait: Wait) -> tuple[ServerTokenizer, Any]:
        """Return the tokenizer and the vocabulary. The server lists the tokens that end a text among those
        that `ignore_eos` forbids.
        """
        from distillgen.teachers._search import vocabulary_of

        self._sampled = wait(self._call("../tokenize", {"content": "a"}))["tokens"][-1]
        answer = wait(self._next([0], ALL))
        size = len(answer["completion_probabilities"][0]["top_logprobs"])
        biases = answer["generation_settings"]["logit_bias"]
        ends = {bias["token"] for bias in biases if bias["token"] != self._sampled}
        tokenizer = ServerTokenizer(lambda path, body: wait(self._call(f"../{path}", body)), size)
        return tokenizer, vocabulary_of(tokenizer, ends)

    async def _prompt(self, request: Request) -> str:
        """Return the text of a prompt, or of messages in the model's chat template."""
        if request.prompt is not None:
            return request.prompt
        messages = [*request.messages, USER_TURN] if request.write else request.messages
        text = str((await self._call("../apply-template", {"messages": messages}))["prompt"])
        try:
            return opening(text) if request.write else text
        except ValueError as error:
            raise Rejected(f"the server cannot open a user's turn: {error}") from error

    async def _next(self, tokens: Sequence[int], top: int) -> dict[str, Any]:
        """Return the server's answer about the token after others, with the likeliest ones."""
        body = {"prompt": tokens, "n_predict": 1, "n_probs": top, "temperature": 0, "cache_prompt": True}
        sampled = {"logit_bias": [[self._sampled, SURE]], "ignore_eos": True}  # change no log-probability
        answer: dict[str, Any] = await self._call("../completion", {**body, **sampled})
        return answer

    async def _logprobs(self, prefixes: Sequence[Sequence[int]], top: int, size: int) -> Any:
        """Return [prefixes, vocabulary], in nats: NaN for all but the likeliest tokens."""
        import numpy as np

        answers = await asyncio.gather(*(self._next(prefix, min(top, size)) for prefix in prefixes))
        logprobs = np.full((len(prefixes), size), np.nan)
        for row, answer in zip(logprobs, answers, strict=True):
            tokens = answer["completion_probabilities"][0]["top_logprobs"]
            values = np.array([token["logprob"] for token in tokens])
            row[[token["id"] for token in tokens]] = np.where(values > IMPOSSIBLE, values, -np.inf)
        return logprobs
