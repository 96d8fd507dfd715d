"""The costs of requests: the worst case before they are sent, and the cost of what the endpoint reports."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from distillgen.inference.ledger import UNANSWERED
from distillgen.inference.request import Completion, Request
from distillgen.inference.spec import Spec

log = logging.getLogger("distillgen")


class Pricing:
    """The costs of one model. `name` is the model's name in the pipeline, for warnings."""

    def __init__(self, name: str, spec: Spec) -> None:
        self.name, self.spec, self._online = name, spec, spec.asked_online
        self.excess = 1.0
        """Factor of the worst case, above 1 once an answer has cost more than its worst case."""
        self._warnings: set[str] = set()

    def cost_usd(self, request: Request, completion: Completion) -> float:
        """Return the cost of an answer, 0 without a price. Uncounted input tokens cost the highest input
        price.
        """
        c = completion
        if self.spec.price is None:
            return 0.0
        spec = self._spec_of(request)
        if "input_tokens" in c.uncounted:
            return spec.most_usd(c.input_tokens, c.output_tokens)
        return spec.cost_usd(c.input_tokens, c.cached_tokens, c.output_tokens, c.cache_write_tokens)

    def _spec_of(self, request: Request) -> Spec:
        """Return the entry with the price of a request: embeddings and scores go through no batch API."""
        return self.spec if request.asks_text else self._online

    def worst_cost_usd(self, request: Request, samples: int) -> float:
        """Return the most that a request can cost: a token has at least one byte, an answer at most
        `max_tokens`.
        """
        if self.spec.price is None:
            return 0.0
        input_tokens, output_tokens = self._most_input(request), _most_output(request, samples)
        return self._spec_of(request).most_usd(input_tokens, output_tokens) * self.excess

    def _most_input(self, request: Request) -> int:
        """Return the most input tokens of a request, those of the provider's own words included."""
        has_schema = request.schema is not None
        parts = self.spec.tokens_of(request.parts) if request.parts else 0
        return (
            len(request.json) + parts + self.spec.added_tokens(tools=bool(request.tools), schema=has_schema)
        )

    def check(self, cost_usd: float, worst_usd: float, excess: float) -> None:
        """Double the excess of an answer that cost more than its worst case, which was computed with
        `excess`.
        """
        if cost_usd > 1.000001 * worst_usd > 0:
            self.excess = max(self.excess, 2 * excess * cost_usd / worst_usd)
            self._warn(
                "an answer cost more than the worst case of its request; from now on, twice as much is "
                "reserved"
            )

    def counted(
        self, request: Request, samples: int, completions: Sequence[Completion]
    ) -> Sequence[Completion]:
        """Return the completions of a request; tokens that the endpoint does not count are set to their upper
        bound.
        """
        first, *others = completions
        if first.cache_write_tokens and self.spec.price and self.spec.price.cache_write is None:
            self._warn(
                "the endpoint counts tokens written to its cache; without price.cache_write, they cost as "
                "much as input"
            )
        if not first.uncounted:
            return completions
        bounds = {
            "input_tokens": self._most_input(request),
            "output_tokens": _most_output(request, samples) or sum(len(c.json()) for c in completions),
        }
        if first.status not in UNANSWERED:
            self._warn(
                "the endpoint does not report the tokens of its answers; the most that they can be is counted"
            )
        counts = {name: max(bounds[name], getattr(first, name)) for name in first.uncounted}
        return [first._replace(**counts), *others]

    def _warn(self, message: str) -> None:
        """Log a warning once."""
        if message not in self._warnings:
            self._warnings.add(message)
            log.warning("%s: %s", self.name, message)


def _most_output(request: Request, samples: int) -> int:
    """Return the most tokens that the answers to a request can have, 0 if there is no bound."""
    if request.embed is not None or request.target is not None:
        return 0 if request.target is None else samples
    most = request.sampling.get("max_tokens", 0)
    if extra := request.sampling.get("extra"):
        counts = {name: value for name, value in extra.items() if isinstance(value, int)}
        most = max(most, counts.get("max_tokens", 0), counts.get("max_completion_tokens", 0))
        samples = max(samples, counts.get("n", 0), counts.get("best_of", 0))
    return int(most * samples)
