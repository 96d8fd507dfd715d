"""NeuroLogic decoding (Lu et al. 2021): the likeliest texts of a language model that meet clauses, by a beam
search over buckets of the clauses that are met.

The model is one function: the log-probabilities, in nats, of the next token after some prefixes. A search is
a generator that yields prefixes and is sent these numbers, so that several searches share each call.

A function may know the likeliest tokens only. Where `prune` is finite, the search is as exact with them: it
asks for more until each token that it does not know is less likely than the last one that is not pruned.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from distillgen.algorithms.clauses import Clauses, State

Array = np.ndarray[Any, np.dtype[Any]]
Tokens: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Settings:
    """How a search fills its beam; `inference/constraints.py` describes the options and has the published
    values.
    """

    beam: int
    tolerance: int
    prune: int | None
    beta: float
    early_stop: float
    ngram: int
    length_penalty: float
    per_bucket: Literal["best", "sample"]
    min_tokens: int
    buckets: Literal["met", "progress"]


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model."""

    text: Callable[[int], str]
    """Returns the text of a token inside of a text."""
    tokens: Callable[[str], Sequence[int]]
    decode: Callable[[Tokens], str]
    ends: Collection[int]
    """The tokens that end a text."""


class Answer(NamedTuple):
    """A text that meets the clauses. `score` is its log-probability over length to the length penalty."""

    text: str
    tokens: Tokens
    score: float
    complete: bool
    """Whether it ends by itself; else it is cut off at the largest number of tokens."""


class Result(NamedTuple):
    """The best answers, the best first, and the reason why there are no more."""

    answers: Sequence[Answer]
    reason: str


class Question(NamedTuple):
    """Prefixes, and how many of the likeliest tokens after each must have a log-probability."""

    prefixes: Sequence[Tokens]
    top: int


Search: TypeAlias = Generator[Question, Array, Result]
LogProbs: TypeAlias = Callable[[Sequence[tuple[int, Tokens]], int], Array]
"""Takes (number of the search, prefix) pairs and the number of tokens to know; returns [pairs, vocabulary].

What is not known is NaN, and at most as likely as each token that is known.
"""


class _Row(NamedTuple):
    """A text that may go on: its tokens, their log-probability, and where its clauses stand."""

    tokens: Tokens
    score: float
    state: State
    tail: str
    """The end of the text, in which a stop text may begin."""
    met: Tokens
    """The numbers of the clauses with `at_least` that are met."""


def together(searches: Sequence[Search], logprobs: LogProbs) -> list[Result]:
    """Return the results of several searches. All prefixes of a call have the same length, if all
    log-probabilities are known.
    """
    results: dict[int, Result] = {}
    questions = {i: next(search) for i, search in enumerate(searches)}
    while questions:
        rows = [(i, prefix) for i, question in questions.items() for prefix in question.prefixes]
        values, start = logprobs(rows, max(question.top for question in questions.values())), 0
        for i, question in [*questions.items()]:
            end = start + len(question.prefixes)
            try:
                questions[i] = searches[i].send(values[start:end])
            except StopIteration as stop:
                results[i] = stop.value
                del questions[i]
            start = end
    return [results[i] for i in range(len(searches))]


def search(
    clauses: Clauses,
    vocabulary: Vocabulary,
    settings: Settings,
    *,
    max_tokens: int,
    stops: Sequence[str] = (),
    prompt: Sequence[int] = (),
    seed: int = 0,
) -> Search:
    """Search for the likeliest texts that meet the clauses and end at one of `stops` or with the model's end.

    No part of a text up to a token exceeds a clause's `at_most`. Texts that meet the clauses and are cut off
    at `max_tokens` follow those that end.
    """
    return _Beam(clauses, vocabulary, settings, max_tokens, stops, tuple(prompt), seed).search()


class _Beam:
    """The state of one search."""

    def __init__(
        self,
        clauses: Clauses,
        vocabulary: Vocabulary,
        settings: Settings,
        max_tokens: int,
        stops: Sequence[str],
        prompt: Tokens,
        seed: int,
    ) -> None:
        self.clauses, self.vocabulary, self.settings = clauses, vocabulary, settings
        self.max_tokens, self.stops, self.prompt = max_tokens, stops, prompt
        self.draw = random.Random(seed)
        self.tail = max((len(stop) for stop in stops), default=1) - 1
        self.reach = int(settings.beam * settings.early_stop)
        self.states: dict[tuple[State, str], tuple[State, Tokens, bool]] = {}
        self.openings: dict[str, set[tuple[int, int, str]]] = {}
        """By the beginning of a phrase: its next token, the clause, and the space before the phrase."""
        self.progress: dict[str, dict[int, float]] = {}
        """By the beginning of a phrase: the share of its tokens that it has, for each clause."""
        for number in clauses.positive:
            for phrase in clauses.clauses[number].spellings():
                for space in ("", " "):
                    self._add_phrase(number, phrase, space)

    def _add_phrase(self, number: int, phrase: str, space: str) -> None:
        clause, tokens = self.clauses.clauses[number], self.vocabulary.tokens(space + phrase)
        texts = [self.vocabulary.text(token) for token in tokens]
        if clause.form("".join(texts).lstrip()) != clause.form(phrase):
            return  # the model has no tokens for it
        for place, token in enumerate(tokens):
            beginning = clause.form("".join(texts[:place]).lstrip(), end=False)
            self.openings.setdefault(beginning, set()).add((token, number, space))
            if beginning:
                shares = self.progress.setdefault(beginning, {})
                shares[number] = max(shares.get(number, 0.0), place / len(tokens))

    def search(self) -> Search:
        """Fill the beam, a token at a time, until no row can become one of the best answers."""
        answers: list[Answer] = []
        rows = [_Row((), 0.0, self.clauses.start, "", ())]
        top = 2 * max(self.settings.beam, self.settings.prune or 0, self.reach)
        for length in range(1, self.max_tokens + 1):
            while True:
                logprobs = yield Question([row.tokens for row in rows], top)
                candidates, ends, is_exact = self._candidates(rows, logprobs, length)
                if is_exact:
                    break
                if self.settings.prune is None or top >= logprobs.shape[1]:
                    raise ValueError(f"the log-probabilities of {top} tokens are too few for this search")
                top *= 2
            answers = self._best([*answers, *self._answers(ends, complete=True)])
            rows, last = self._next_rows(candidates, length), rows
            if not rows or self._is_decided(answers, rows[0].score, length):
                break
        else:
            of_ends = {answer.text for answer in answers}
            cut_off = self._best(self._answers(rows, complete=False))
            answers = [*answers, *(answer for answer in cut_off if answer.text not in of_ends)]
        return Result(answers[: self.settings.beam], self._reason(rows or last))

    def _candidates(
        self, rows: Sequence[_Row], logprobs: Array, length: int
    ) -> tuple[list[_Row], list[_Row], bool]:
        """Return the rows that may go on, and those that end, each longer by a token, and whether no token
        that is not known would change them.

        A row goes on with the likeliest tokens, of itself or of all rows, and with tokens that open or
        continue a phrase of a clause that is not met.
        """
        beam, prune, reach = self.settings.beam, self.settings.prune, self.reach
        longer: dict[Tokens, _Row] = {}
        ends: list[tuple[_Row, bool]] = []
        scores: list[float] = []
        for row, values in zip(rows, logprobs, strict=True):
            blocked, count = self._blocked(row.tokens), 0
            depth = max(beam, prune or 0)
            for place, token in enumerate(_likeliest(values, max(reach, 2 * depth) + 1)):
                if count >= depth and place >= reach:
                    break
                ends_here = token in self.vocabulary.ends or self._stops_at(row, token)
                if token in blocked or count >= depth and not ends_here:
                    continue
                candidate = self._with(row, token, float(values[token]), ends_here)
                if candidate is None or ends_here and not self._may_end(candidate, length):
                    continue
                scores.append(candidate.score)
                if ends_here:
                    ends.append((candidate, place < reach))
                    continue
                count += 1
                if count <= beam:
                    longer[candidate.tokens] = candidate
            for token in self._openings(row, values) - blocked:
                if row.tokens + (token,) not in longer and not self._stops_at(row, token):
                    if candidate := self._with(row, token, float(values[token]), False):
                        longer[candidate.tokens] = candidate
        best = heapq.nlargest(beam, scores)
        least, limit, distinct = best[-1] if best else -math.inf, -math.inf, sorted(set(scores), reverse=True)
        if prune is not None and distinct:
            limit = min(least, distinct[min(prune - 1, len(distinct)) - 1])
            longer = {tokens: row for tokens, row in longer.items() if row.score >= limit}
        if len(best) < beam or prune is None or len(distinct) < prune - 1:
            limit = -math.inf  # less likely tokens would lower it
        is_exact = all(self._is_known(row, values, limit) for row, values in zip(rows, logprobs, strict=True))
        return [*longer.values()], [row for row, near in ends if near or row.score >= least], is_exact

    def _is_known(self, row: _Row, values: Array, limit: float) -> bool:
        """Return whether each token that is not known is less likely than the limit."""
        numbers = values[~np.isnan(values)]
        return len(numbers) == len(values) or row.score + float(numbers.min()) < limit

    def _stops_at(self, row: _Row, token: int) -> bool:
        """Return whether a token completes a stop text."""
        if not self.stops:
            return False
        text = row.tail + self.vocabulary.text(token)
        return any(stop in text for stop in self.stops)

    def _may_end(self, row: _Row, length: int) -> bool:
        return len(row.met) == len(self.clauses.positive) and length >= self.settings.min_tokens

    def _with(self, row: _Row, token: int, logprob: float, ends: bool) -> _Row | None:
        """Return a row with one more token; None if a clause has too many phrases then."""
        text = "" if token in self.vocabulary.ends else self.vocabulary.text(token)
        tail = (row.tail + text)[-self.tail :] if self.tail else ""
        if ends and text:
            text = self._cut(row.tail + text)[len(row.tail) :]
        if (after := self.states.get((row.state, text))) is None:
            state = self.clauses.read(row.state, text)
            counts = self.clauses.counts(state)
            unmet = self.clauses.unmet(counts)
            met = tuple(i for i in self.clauses.positive if i not in unmet)
            after = self.states[row.state, text] = state, met, not self.clauses.exceeded(counts)
        state, met, valid = after
        return _Row((*row.tokens, token), row.score + logprob, state, tail, met) if valid else None

    def _cut(self, text: str) -> str:
        """Return a text without its first stop text and what follows."""
        return text[: min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=None)]

    def _blocked(self, tokens: Tokens) -> set[int]:
        """Return the tokens that would complete a sequence of `ngram` tokens for the second time."""
        n, before = self.settings.ngram, self.prompt + tokens
        if not n or len(before) < n:
            return set()
        last = before[len(before) - n + 1 :]
        return {before[i + n - 1] for i in range(len(before) - n + 1) if before[i : i + n - 1] == last}

    def _open(self, met: Tokens) -> set[int]:
        """Return the clauses of which a phrase counts now: those that are not met, or the first of them."""
        unmet = [i for i in self.clauses.positive if i not in met]
        return set(unmet[:1] if self.clauses.ordered else unmet)

    def _openings(self, row: _Row, values: Array) -> set[int]:
        """Return the tokens that continue phrases of open clauses, and the likeliest that begin one: there
        may be hundreds, and the beam has no place for more of them.
        """
        clauses, match = self._open(row.met), row.state.match
        tokens, first = set[int](), set[int]()
        for place in range(len(match) + 1):
            for token, number, space in self.openings.get(match[place:], ()) if clauses else ():
                if number in clauses and (place < len(match) or self._fits(space, number, row.state.last)):
                    (tokens if place < len(match) else first).add(token)
        possible = [token for token in first if values[token] > -math.inf]
        likeliest = heapq.nsmallest(self.settings.beam, possible, key=lambda token: (-values[token], token))
        return {token for token in tokens if values[token] > -math.inf} | {*likeliest}

    def _fits(self, space: str, number: int, last: str) -> bool:
        """Return whether a phrase with this space before it can begin after a character of this kind."""
        if not self.clauses.clauses[number].whole_words or last not in ("w", " "):
            return True
        return (space == " ") == (last == "w")

    def _next_rows(self, candidates: Sequence[_Row], length: int) -> list[_Row]:
        """Return the next rows, the likeliest first: from each bucket in turn."""
        if not candidates:
            return []
        most = max(len(row.met) for row in candidates) - self.settings.tolerance
        ranks = {row.tokens: self._rank(row, length) for row in candidates if len(row.met) >= most}
        buckets: dict[Tokens, list[_Row]] = {}
        for row in sorted(candidates, key=lambda row: (-ranks.get(row.tokens, 0.0), row.tokens)):
            if row.tokens in ranks:
                buckets.setdefault(self._bucket(row), []).append(row)
        if self.settings.per_bucket == "sample":
            for bucket in buckets.values():
                self.draw.shuffle(bucket)
        rows: list[_Row] = []
        for place in range(max(map(len, buckets.values()))):
            turn = [bucket[place] for bucket in buckets.values() if place < len(bucket)]
            rows += sorted(turn, key=lambda row: (-ranks[row.tokens], row.tokens))
        return sorted(rows[: self.settings.beam], key=lambda row: (-row.score, row.tokens))

    def _bucket(self, row: _Row) -> Tokens:
        """Return the numbers of the clauses that are met, or also of those of which a phrase is begun."""
        if self.settings.buckets == "met":
            return row.met
        return tuple(sorted({*row.met, *self._shares(row)}))

    def _rank(self, row: _Row, length: int) -> float:
        """Return the mean log-probability, with the bonus of a phrase that is begun."""
        shares = self._shares(row).values()
        return row.score / length - (self.settings.beta * math.log(max(shares)) if shares else 0.0)

    def _shares(self, row: _Row) -> dict[int, float]:
        """Return the largest share of a phrase that a row ends with, for each open clause with one."""
        match, clauses, shares = row.state.match, self._open(row.met), dict[int, float]()
        for place in range(len(match)):
            for number, share in self.progress.get(match[place:], {}).items():
                if number in clauses:
                    shares[number] = max(share, shares.get(number, 0.0))
        return shares

    def _answers(self, rows: Sequence[_Row], *, complete: bool) -> Iterator[Answer]:
        """Yield the rows whose whole text meets the clauses: a token may be a part of a character only."""
        for row in rows:
            tokens = row.tokens[:-1] if row.tokens[-1] in self.vocabulary.ends else row.tokens
            text = self._cut(self.vocabulary.decode(tokens))
            if not self.clauses.mistake(text):
                score = row.score / len(row.tokens) ** self.settings.length_penalty
                yield Answer(text, row.tokens, score, complete)

    def _best(self, answers: Iterable[Answer]) -> list[Answer]:
        """Return the best answers, no text twice."""
        texts: dict[str, Answer] = {}
        for answer in sorted(answers, key=lambda answer: (-answer.score, answer.tokens)):
            texts.setdefault(answer.text, answer)
        return [*texts.values()][: self.settings.beam]

    def _is_decided(self, answers: Sequence[Answer], score: float, length: int) -> bool:
        """Return whether no row can become better than the answers, however long it gets."""
        if len(answers) < self.settings.beam:
            return False
        penalty = self.settings.length_penalty
        possible: float = score / (self.max_tokens if penalty > 0 else length) ** penalty
        return answers[-1].score >= possible

    def _reason(self, rows: Sequence[_Row]) -> str:
        """Return which clauses the row that met most of them did not meet."""
        row = max(rows, key=lambda row: (len(row.met), row.score))
        unmet = [self.clauses.name(i) for i in self.clauses.positive if i not in row.met]
        if unmet:
            return f"the search met no text with {' and '.join(unmet)}"
        limits = [self.clauses.name(i) for i, c in enumerate(self.clauses.clauses) if c.at_most is not None]
        return f"the search came to no end within {' and '.join(limits) or 'its limits'}"


def _likeliest(values: Array, count: int) -> Iterator[int]:
    """Yield the tokens that are possible, the likeliest first; the first `count` are cheap."""
    last = min(count, len(values)) - 1
    least = -np.partition(-values, last)[last]
    first = np.flatnonzero(values >= least)
    for token in first[np.lexsort((first, -values[first]))].tolist():
        if values[token] > -np.inf:
            yield token
    if len(first) < len(values):
        order = np.argsort(-values, kind="stable")
        yield from (token for token in order[len(first) :].tolist() if values[token] > -np.inf)
