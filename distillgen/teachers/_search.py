"""Searches for the likeliest texts that meet clauses, and the full logits of a model of transformers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from distillgen.inference.request import Completion, Request

if TYPE_CHECKING:
    from distillgen.algorithms.neurologic import LogProbs

MAX_TOKENS = 256  # default: a model that does not stop would fill its context


class Query(NamedTuple):
    """A request with the tokens of its prompt, the numbers of its samples, and the seed of its draws."""

    request: Request
    context: Sequence[int]
    samples: Sequence[int]
    seed: int


class NextTokens:
    """The log-probabilities of the next token after prefixes of equal length, which grow by a token a call.

    The model's cache of keys and values follows the prefixes.
    """

    def __init__(self, model: Any, contexts: Sequence[Sequence[int]], *, pad: int, seq2seq: bool) -> None:
        import torch

        self.model, self.seq2seq, self.device = model, seq2seq, model.device
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.options = inspect.signature(base.forward).parameters.keys()
        self.cache_name = (
            "cache" if "cache" in self.options else "past_key_values"
        )  # before transformers 5.24
        width = max(map(len, contexts))
        rows = [[pad] * (width - len(ids)) + [*ids] for ids in contexts]
        masks = [[0] * (width - len(ids)) + [1] * len(ids) for ids in contexts]
        self.contexts = torch.tensor(rows, device=self.device)
        self.masks = torch.tensor(masks, device=self.device)
        self.start = base.config.decoder_start_token_id if seq2seq else None
        self.places: dict[tuple[int, tuple[int, ...]], int] = {}
        self.cache: Any = None

    def __call__(self, rows: Sequence[tuple[int, tuple[int, ...]]]) -> Any:
        """Return [rows, vocabulary], in nats, for (number of a context, prefix) pairs."""
        import torch

        numbers = torch.tensor([number for number, _ in rows], device=self.device)
        masks, options = self.masks[numbers], dict[str, Any](use_cache=True)
        if self.cache is None:
            ids = self.contexts[numbers]
        else:
            parents = [self.places[number, prefix[:-1]] for number, prefix in rows]
            self.cache.reorder_cache(torch.tensor(parents, device=self.device))
            ids = torch.tensor([[prefix[-1]] for _, prefix in rows], device=self.device)
        with torch.inference_mode():
            if self.seq2seq:
                options |= self._of_encoder(numbers, masks, ids)
            else:
                grown = masks.new_ones((len(rows), len(rows[0][1])))
                masks = torch.cat([masks, grown], 1)
                options |= {"input_ids": ids, "attention_mask": masks}
                if "position_ids" in self.options:
                    options["position_ids"] = (masks.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
                if "logits_to_keep" in self.options:
                    options["logits_to_keep"] = 1
            output = self.model(**{self.cache_name: self.cache}, **options)
            logprobs = output.logits[:, -1].float().log_softmax(-1).cpu().numpy()
        self.cache = getattr(output, self.cache_name)
        self.places = {row: place for place, row in enumerate(rows)}
        return logprobs

    def _of_encoder(self, numbers: Any, masks: Any, ids: Any) -> dict[str, Any]:
        from transformers.modeling_outputs import BaseModelOutput

        if self.cache is None:
            encoder = self.model.get_encoder()
            self.states = encoder(input_ids=self.contexts, attention_mask=self.masks).last_hidden_state
            ids = ids.new_full((len(numbers), 1), self.start)
        states = BaseModelOutput(last_hidden_state=self.states[numbers])
        return {"encoder_outputs": states, "attention_mask": masks, "decoder_input_ids": ids}


def vocabulary_of(tokenizer: Any, ends: set[int]) -> Any:
    """Return the vocabulary of a tokenizer."""
    from distillgen.algorithms.neurologic import Vocabulary

    def decode(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    # a token has its space only behind another one
    before = next((i for i in range(len(tokenizer)) if decode([i]).strip().isalnum()), None)
    word = "" if before is None else decode([before])

    @cache
    def text(token: int) -> str:
        both = "" if before is None else decode([before, token])
        return both[len(word) :] if word and both.startswith(word) else decode([token])

    @cache
    def tokens(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    return Vocabulary(text, tokens, decode, ends)


def searched(
    queries: Sequence[Query], vocabulary: Any, logprobs: LogProbs, *, model: str
) -> list[list[Completion]]:
    """Return the completions of each request; a sample that the search does not have is failed."""
    from distillgen.algorithms.clauses import clauses_of
    from distillgen.algorithms.neurologic import Settings, search, together

    searches = []
    for request, context, _, seed in queries:
        constraints: Mapping[str, Any] = request.constraints or {}
        stops = request.sampling.get("stop", [])
        searches.append(
            search(
                clauses_of(constraints),
                vocabulary,
                Settings(**constraints["search"]),
                max_tokens=request.sampling.get("max_tokens", MAX_TOKENS),
                stops=[stops] if isinstance(stops, str) else stops,
                prompt=context,
                seed=seed,
            )
        )
    completions = []
    for (_, context, samples, _), result in zip(queries, together(searches, logprobs), strict=True):
        of_request: list[Completion] = []
        for sample in samples:
            used = 0 if of_request else len(context)
            if sample < len(result.answers):
                answer = result.answers[sample]
                of_request.append(
                    Completion(
                        answer.text,
                        finish="stop" if answer.complete else "length",
                        model=model,
                        input_tokens=used,
                        output_tokens=len(answer.tokens),
                    )
                )
            else:
                count = len(result.answers)
                reason = f"the search has {count} answers; {result.reason}" if count else result.reason
                of_request.append(Completion(status="failed", error=reason, model=model, input_tokens=used))
        completions.append(of_request)
    return completions
