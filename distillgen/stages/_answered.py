"""What was found about the answers of one model: how many are right, and how sure that is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from statistics import fmean
from typing import Any

from distillgen.algorithms.calibration import calibration_error
from distillgen.algorithms.intervals import interval, paired
from distillgen.algorithms.votes import majority_at_k, pass_at_k
from distillgen.answers.final_answer import Kind, final_answer
from distillgen.flow.measures import Measure
from distillgen.inference.request import Completion
from distillgen.record import Record

GOLD = "gold"  # the field in which a metric finds the right answer


@dataclass
class Answered:
    """What one model said, `n` answers to each item, and what was measured of them."""

    name: str
    n: int
    completions: list[Completion]
    records: list[Record]
    """One for each completion: the item's fields with the answer."""
    groups: Sequence[str] = ()
    """The group of each item, where figures are also told by group."""
    tokens: float = 0.0
    """Mean output tokens of an answer: majority@k is the accuracy at k times as many."""
    passed: dict[str, list[float | None]] = field(default_factory=dict)
    """By metric, for each completion: 1 or 0; None where no judge could read it."""
    numbers: dict[str, list[float]] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)
    judges: dict[str, float] = field(default_factory=dict)
    """What the verdicts on all answers show together of whoever judged them, such as a bias."""
    log_likelihoods: list[tuple[float, int] | None] = field(default_factory=list)
    """Of each item's right answer: its log-probability in nats, and its tokens; None where it is not known."""
    choices: list[tuple[float, bool] | None] = field(default_factory=list)
    """Of each question with options: the probability of the likeliest among them, and whether it is the right one."""

    def told(self, vote: Kind | None) -> dict[str, Any]:
        """What the report shows."""
        statuses = Counter(completion.status for completion in self.completions)
        said = (
            [*self.by_item([final_answer(completion.text, vote) for completion in self.completions])]
            if vote
            else None
        )
        told: dict[str, Any] = {
            "answers": statuses.total(),
            "tokens": self.tokens,
            "cut_off": statuses["length"],
            "failed": statuses["failed"] + statuses["refused"],
            "metrics": {metric: self._metric(metric, said) for metric in self.passed},
            "numbers": {name: fmean(values) for name, values in self.numbers.items()},
            "judges": self.judges,
        }
        if known := [value for value in self.log_likelihoods if value is not None]:
            told["perplexity"] = perplexity(known)
        if chosen := [choice for choice in self.choices if choice is not None]:
            told["likeliest_option"] = summary([float(right) for _, right in chosen])
            told["ece"] = calibration_error(chosen)
        return told

    def told_by_group(self) -> dict[str, dict[str, Any]]:
        """For each group its items, the figures of these, and the intervals of the shares among them."""
        told = {}
        for group, some in self._places().items():
            intervals = {
                name: found._asdict() for name, own in self._shares(some) if (found := interval(own))
            }
            told[group] = {"items": len(some), **dict(self._figures(some)), "intervals": intervals}
        return told

    def _places(self) -> dict[str, list[int]]:
        """Where the items of each group stand."""
        places: dict[str, list[int]] = {group: [] for group in sorted(set(self.groups))}
        for i, group in enumerate(self.groups):
            places[group].append(i)
        return places

    def by_item(self, values: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """The values of each item's samples."""
        return (values[i : i + self.n] for i in range(0, len(values), self.n))

    def means(self, metric: str) -> list[float | None]:
        """For each item, the share of its samples that pass; None where one could not be judged."""
        return [None if None in row else fmean(row) for row in self.by_item(self.passed[metric])]

    def measures(self) -> Iterator[tuple[Measure, float]]:
        """Yield the model's figures over all items, those of the judges, and those of each group."""
        items = range(max(len(self.records) // self.n, len(self.log_likelihoods), len(self.choices)))
        for metric, value in chain(self._figures(items), self.judges.items()):
            yield Measure(metric, model=self.name), value
        for group, places in self._places().items():
            for metric, value in self._figures(places):
                yield Measure(metric, model=self.name, group=group), value

    def _figures(self, items: Sequence[int]) -> Iterator[tuple[str, float]]:
        yield from ((name, fmean(own)) for name, own in self._shares(items))
        if self.log_likelihoods and (
            known := [value for i in items if (value := self.log_likelihoods[i]) is not None]
        ):
            yield "perplexity", perplexity(known)

    def _shares(self, items: Sequence[int]) -> Iterator[tuple[str, list[float]]]:
        """Of each metric, and of the likeliest options, the values of those of these items that have one."""
        for metric in self.passed:
            means = self.means(metric)
            if judged := [mean for i in items if (mean := means[i]) is not None]:
                yield metric, judged
        if self.choices and (chosen := [choice for i in items if (choice := self.choices[i]) is not None]):
            yield "likeliest_option", [float(right) for _, right in chosen]

    def _metric(self, metric: str, said: Sequence[Sequence[str | None]] | None) -> dict[str, Any]:
        means = {i: mean for i, mean in enumerate(self.means(metric)) if mean is not None}
        told = summary([*means.values()])
        if not means:
            return told
        passed = [*self.by_item(self.passed[metric])]
        rows = [[*map(bool, passed[i])] for i in means]
        sizes = sorted({1 << i for i in range(self.n.bit_length())} | {self.n})
        if self.n > 1:
            told["pass_at_k"] = {k: fmean(pass_at_k(self.n, sum(row), k) for row in rows) for k in sizes}
        if said is not None:
            told["majority_at_k"] = {
                k: fmean(map(partial(majority_at_k, k), [said[i] for i in means], rows)) for k in sizes
            }
        return told

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each answer, with its item, its scores, and why a metric holds it wrong."""
        for i, (record, completion) in enumerate(zip(self.records, self.completions, strict=True)):
            yield {
                "item": record.parents[0],
                "source": record.source,
                "model": self.name,
                "sample": i % self.n,
                "status": completion.status,
                "answer": completion.text,
                "gold": record.fields.get(GOLD),
                "scores": self.scores.get(record.id, {}),
                "reasons": self.reasons.get(record.id, {}),
                "key": completion.key.hex(),
            }


def perplexity(known: Sequence[tuple[float, int]]) -> float:
    """Of texts with these log-probabilities and numbers of tokens: a token counts alike, whatever its text's length."""
    return math.exp(-sum(value for value, _ in known) / sum(tokens for _, tokens in known))


def summary(values: Sequence[float]) -> dict[str, Any]:
    """The mean of shares over items, with its 95 % interval and how that was computed."""
    found = interval(values)
    return {"mean": fmean(values), **found._asdict(), "n": len(values)} if found else {"n": 0}


def compared(one: Answered, other: Answered) -> Iterator[Mapping[str, Any]]:
    """For each metric of both, the difference on the items on which both could be judged."""
    for metric in (metric for metric in one.passed if metric in other.passed):
        pairs = zip(one.means(metric), other.means(metric), strict=True)
        both = [(a, b) for a, b in pairs if a is not None and b is not None]
        if both:
            yield {
                "metric": metric,
                "first": one.name,
                "second": other.name,
                **paired(*map(list, zip(*both, strict=True))),
            }
