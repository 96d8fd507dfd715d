"""The answers of one model in an evaluation, and their figures with confidence intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from statistics import fmean
from typing import Any, NamedTuple

from distillgen.algorithms.calibration import calibration_error
from distillgen.algorithms.intervals import interval, paired
from distillgen.algorithms.set_figures import Guess, Measured
from distillgen.algorithms.set_figures import compared as compared_figures
from distillgen.algorithms.votes import majority_at_k, pass_at_k
from distillgen.answers.classes import Classes
from distillgen.answers.compare import golds
from distillgen.answers.final_answer import Kind, final_answer
from distillgen.flow.measures import Measure
from distillgen.inference.logprobs import distribution
from distillgen.inference.request import Completion
from distillgen.record import Record

GOLD = "gold"  # the field that gives a metric the right answer


class Choice(NamedTuple):
    """The likeliest option of a question."""

    share: float
    """Its probability; those of all options sum to 1."""
    right: bool
    answer: str
    gold: str
    """The right option, or the gold answer if it is none."""


def guesses_of(completions: Sequence[Completion], gold_answers: Sequence[Any]) -> list[Guess]:
    """Return the class of the answer to each item, its probability, and the class of the item.

    Of several right answers the item's class is the one that the answer is, or else the first. An answer that
    is no class, and a missing one, count as wrong.
    """
    right = [[text.strip() for text in golds(gold)] or [""] for gold in gold_answers]
    classes = Classes(chain.from_iterable(right))
    guesses = []
    for completion, texts in zip(completions, right, strict=True):
        came = completion.status in ("ok", "length")
        answer = classes.of(completion.text) if came else None
        shares = distribution(completion.text, completion.logprobs) if came else {}
        gold = answer if answer in texts else texts[0]
        guesses.append(Guess(answer, gold or "", shares.get(completion.text.strip())))
    return guesses


@dataclass
class Answered:
    """The answers of one model, `n` to each item, and their measurements."""

    name: str
    n: int
    completions: Sequence[Completion]
    records: list[Record]
    """For each completion, a record with the fields of the item and the answer."""
    groups: Sequence[str] = ()
    """The group of each item, if the stage reports figures by group."""
    tokens: float = 0.0
    """The mean number of output tokens of an answer; majority@k costs k times as many."""
    passed: dict[str, list[float | None]] = field(default_factory=dict)
    """By metric, for each completion: 1 or 0, or a number between; None if it could not be judged."""
    numbers: dict[str, list[float]] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)
    judges: dict[str, float] = field(default_factory=dict)
    """Figures of the judges over all answers, such as a position bias."""
    log_likelihoods: list[tuple[float, int] | None] = field(default_factory=list)
    """For each item, the log-probability of the right answer in nats, and its number of tokens; None if
    unknown.
    """
    choices: list[Choice | None] = field(default_factory=list)
    """For each item, the likeliest option; None if unknown."""
    figures: Sequence[str] = ()
    """The figures of all answers together that are wanted, by name."""

    @cached_property
    def guesses(self) -> list[Guess | None]:
        """For each item the likeliest option, or else the answer; None if no option is known."""
        if self.choices:
            return [choice and Guess(choice.answer, choice.gold, choice.share) for choice in self.choices]
        return [*guesses_of(self.completions, [record.fields.get(GOLD) for record in self.records])]

    @cached_property
    def measured(self) -> dict[str, Measured]:
        """The figures of all answers together, by name."""
        return {name: Measured(name, self.guesses) for name in self.figures}

    def report(self, vote: Kind | None) -> dict[str, Any]:
        """Return the figures for evaluation.json and the report."""
        statuses = Counter(completion.status for completion in self.completions)
        votes = (
            [*self.by_item([final_answer(completion.text, vote) for completion in self.completions])]
            if vote
            else None
        )
        figures: dict[str, Any] = {
            "answers": statuses.total(),
            "tokens": self.tokens,
            "cut_off": statuses["length"],
            "failed": statuses["failed"] + statuses["refused"],
            "metrics": {metric: self._metric(metric, votes) for metric in self.passed},
            "numbers": {name: fmean(values) for name, values in self.numbers.items()},
            "judges": self.judges,
        }
        if self.figures:
            figures["figures"] = {name: figure.summary() for name, figure in self.measured.items()}
        if log_likelihoods := [value for value in self.log_likelihoods if value is not None]:
            figures["perplexity"] = perplexity(log_likelihoods)
        if chosen := [choice for choice in self.choices if choice is not None]:
            figures["likeliest_option"] = summary([float(choice.right) for choice in chosen])
            if "ece" not in self.figures:
                figures["ece"] = calibration_error([(choice.share, choice.right) for choice in chosen])
        return figures

    def report_by_group(self) -> dict[str, dict[str, Any]]:
        """Return for each group the number of its items, their figures, and the intervals of shares."""
        groups = {}
        for group, items in self._places().items():
            intervals = {
                name: value_interval._asdict()
                for name, values in self._shares(items)
                if (value_interval := interval(values))
            }
            for name, figure in self.measured.items():
                of_group = figure.of(items).summary()
                if of_group["n"]:
                    intervals[name] = {key: of_group[key] for key in ("low", "high", "method")}
            groups[group] = {"items": len(items), **dict(self._figures(items)), "intervals": intervals}
        return groups

    def _places(self) -> dict[str, list[int]]:
        """Return the indices of the items of each group."""
        places: dict[str, list[int]] = {group: [] for group in sorted(set(self.groups))}
        for i, group in enumerate(self.groups):
            places[group].append(i)
        return places

    def by_item(self, values: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """Yield for each item the values of its samples."""
        return (values[i : i + self.n] for i in range(0, len(values), self.n))

    def means(self, metric: str) -> list[float | None]:
        """Return for each item the share of its samples that pass; None if one could not be judged."""
        return [None if None in row else fmean(row) for row in self.by_item(self.passed[metric])]

    def measures(self) -> Iterator[tuple[Measure, float]]:
        """Yield the figures of the model over all items, of the judges, and of each group."""
        items = range(max(len(self.records) // self.n, len(self.log_likelihoods), len(self.choices)))
        for metric, value in chain(self._figures(items), self.judges.items()):
            yield Measure(metric, model=self.name), value
        for group, places in self._places().items():
            for metric, value in self._figures(places):
                yield Measure(metric, model=self.name, group=group), value

    def _figures(self, items: Sequence[int]) -> Iterator[tuple[str, float]]:
        yield from ((name, fmean(values)) for name, values in self._shares(items))
        if self.log_likelihoods and (
            log_likelihoods := [value for i in items if (value := self.log_likelihoods[i]) is not None]
        ):
            yield "perplexity", perplexity(log_likelihoods)
        for name, figure in self.measured.items():
            if (of_items := figure.of(items)).usable:
                yield name, of_items.mean

    def _shares(self, items: Sequence[int]) -> Iterator[tuple[str, list[float]]]:
        """Yield for each metric, and for the likeliest options, the values of these items; items without a
        value are left out.
        """
        for metric in self.passed:
            means = self.means(metric)
            if judged := [mean for i in items if (mean := means[i]) is not None]:
                yield metric, judged
        if self.choices and (chosen := [choice for i in items if (choice := self.choices[i]) is not None]):
            yield "likeliest_option", [float(choice.right) for choice in chosen]

    def _metric(self, metric: str, votes: Sequence[Sequence[str | None]] | None) -> dict[str, Any]:
        means = {i: mean for i, mean in enumerate(self.means(metric)) if mean is not None}
        figures = summary([*means.values()])
        if not means:
            return figures
        passed = [*self.by_item(self.passed[metric])]
        rows = [[*map(bool, passed[i])] for i in means]
        sizes = sorted({1 << i for i in range(self.n.bit_length())} | {self.n})
        if self.n > 1:
            figures["pass_at_k"] = {k: fmean(pass_at_k(self.n, sum(row), k) for row in rows) for k in sizes}
        if votes is not None:
            figures["majority_at_k"] = {
                k: fmean(map(partial(majority_at_k, k), [votes[i] for i in means], rows)) for k in sizes
            }
        return figures

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each answer with its item, its scores, and the reasons of the metrics that it fails."""
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


def perplexity(log_likelihoods: Sequence[tuple[float, int]]) -> float:
    """Return the perplexity of texts from pairs of log-probability in nats and number of tokens: exp of the
    negative mean log-probability of a token. All tokens have equal weight.
    """
    return math.exp(
        -sum(value for value, _ in log_likelihoods) / sum(tokens for _, tokens in log_likelihoods)
    )


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean of values between 0 and 1, its 95 % interval, the method, and the number of values."""
    mean_interval = interval(values)
    return {"mean": fmean(values), **mean_interval._asdict(), "n": len(values)} if mean_interval else {"n": 0}


def compared(one: Answered, other: Answered) -> Iterator[Mapping[str, Any]]:
    """Yield, for each metric and figure, the difference of two models on the items that both have a value
    for.
    """
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
    for name in one.measured:
        if difference := compared_figures(one.measured[name], other.measured[name]):
            yield {"metric": name, "first": one.name, "second": other.name, **difference}
