"""Clauses about the phrases of a text, which is read from left to right, whole or a token at a time.

A text and the phrases are compared in one form: white space becomes one space, and a mark stands at every
word edge. A phrase with marks at both ends matches whole words only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

EDGE = "\0"
"""The mark at a word edge, where one of two neighbouring characters is a letter, a digit or `_`."""
PHRASES_SHOWN = 3  # phrases of a clause in a message


@dataclass(frozen=True)
class Clause:
    """How often the phrases of a list occur in a text, all together.

    A phrase also matches with its first letter in the other case.
    """

    phrases: tuple[str, ...]
    at_least: int = 0
    at_most: int | None = None
    whole_words: bool = True

    def spellings(self) -> list[str]:
        """Return each phrase as it stands, and with its first letter in lower and in upper case."""
        phrases = [phrase for text in self.phrases if (phrase := " ".join(text.split()))]
        return sorted({head + p[1:] for p in phrases for head in (p[0], p[0].lower(), p[0].upper())})

    def form(self, text: str, *, end: bool = True) -> str:
        """Return the marked form of a phrase; without `end`, of the beginning of one."""
        form = marked(text, end=end)
        return form if self.whole_words else form.strip(EDGE)

    def __str__(self) -> str:
        """Return the clause in words, with its first phrases."""
        bounds = [f"at least {self.at_least}"] if self.at_least else []
        bounds += [] if self.at_most is None else [f"at most {self.at_most}"]
        phrases = [repr(phrase) for phrase in self.phrases[:PHRASES_SHOWN]]
        phrases += ["…"] if len(self.phrases) > PHRASES_SHOWN else []
        return f"{' and '.join(bounds)} of {', '.join(phrases)}"


class State(NamedTuple):
    """What matters of a text that may go on."""

    match: str = ""
    """The longest end of the marked text with which a phrase begins."""
    last: str = ""
    """The kind of the last character: w in a word, a space, . for others; "" for an empty text."""
    counts: tuple[int, ...] = ()
    """How often each clause's phrases have occurred, without one whose word the text may go on with."""


def marked(text: str, *, end: bool = True) -> str:
    """Return a text with the marks at its word edges, the one at its end only if the text ends there."""
    symbols = [*_symbols(text, "")]
    ends_in_word = bool(symbols) and symbols[-1][1] == "w"
    return "".join(symbol for symbol, _ in symbols) + EDGE * (end and ends_in_word)


def _symbols(text: str, last: str) -> Iterator[tuple[str, str]]:
    """Yield the symbols of a text after a character of kind `last`, each with the kind of its character."""
    for character in text:
        kind = "w" if character.isalnum() or character == "_" else " " if character.isspace() else "."
        if (kind == "w") != (last == "w"):
            yield EDGE, kind
        if kind != " ":
            yield character, kind
        elif last != " ":
            yield " ", kind
        last = kind


class Clauses:
    """Clauses with the automaton of their phrases (Aho and Corasick 1975), which is built as it is used.

    If they are `ordered`, the clauses with `at_least` are met from left to right: a phrase of one counts only
    after those before it are met.
    """

    def __init__(self, clauses: Sequence[Clause], *, ordered: bool = False) -> None:
        self.clauses, self.ordered = tuple(clauses), ordered
        self.positive = [i for i, clause in enumerate(self.clauses) if clause.at_least]
        self.start = State(counts=(0,) * len(self.clauses))
        self._forms: dict[str, list[int]] = {}
        for i, clause in enumerate(self.clauses):
            for form in dict.fromkeys(map(clause.form, clause.spellings())):
                self._forms.setdefault(form, []).append(i)
        self._beginnings = {form[:end] for form in self._forms for end in range(len(form) + 1)} | {""}
        self._moves: dict[tuple[str, str], tuple[str, list[int]]] = {}

    def read(self, state: State, text: str) -> State:
        """Return the state after more of a text."""
        match, last, counts = state
        for symbol, kind in _symbols(text, last):
            match, counts = self._advance(match, counts, symbol)
            last = kind
        return State(match, last, counts)

    def counts(self, state: State) -> tuple[int, ...]:
        """Return how often each clause's phrases occur, if the text ends here."""
        return self._advance(state.match, state.counts, EDGE)[1] if state.last == "w" else state.counts

    def unmet(self, counts: Sequence[int]) -> list[int]:
        """Return the numbers of the clauses that have fewer phrases than `at_least`."""
        return [i for i in self.positive if counts[i] < self.clauses[i].at_least]

    def exceeded(self, counts: Sequence[int]) -> list[int]:
        """Return the numbers of the clauses that have more phrases than `at_most`."""
        return [i for i, c in enumerate(self.clauses) if c.at_most is not None and counts[i] > c.at_most]

    def mistake(self, text: str) -> str:
        """Return the first clause that a text does not meet, with its number of phrases; "" for none."""
        counts = self.counts(self.read(self.start, text))
        wrong = sorted([*self.unmet(counts), *self.exceeded(counts)])
        return f"{self.name(wrong[0])}: it has {counts[wrong[0]]}" if wrong else ""

    def name(self, number: int) -> str:
        """Return a clause for a message, with its place in the list."""
        return f"clause {number + 1}, {self.clauses[number]}"

    def _advance(self, match: str, counts: tuple[int, ...], symbol: str) -> tuple[str, tuple[int, ...]]:
        """Return the match and the counts after a symbol."""
        if (move := self._moves.get((match, symbol))) is None:
            text = match + symbol
            ends = [i for k in range(len(text)) for i in self._forms.get(text[k:], ())]
            longest = next(text[k:] for k in range(len(text) + 1) if text[k:] in self._beginnings)
            # the last clause first: where one text is a phrase of two clauses, it meets one of them
            move = self._moves[match, symbol] = longest, sorted(ends, reverse=True)
        for i in move[1]:
            if not self._before_its_turn(i, counts):
                counts = (*counts[:i], counts[i] + 1, *counts[i + 1 :])
        return move[0], counts

    def _before_its_turn(self, number: int, counts: Sequence[int]) -> bool:
        return self.ordered and number in self.positive and any(i < number for i in self.unmet(counts))


def clauses_of(constraints: Mapping[str, Any]) -> Clauses:
    """Return the clauses of a request's `constraints`."""
    return _clauses_of(orjson.dumps([constraints["clauses"], constraints.get("ordered", False)]))


@lru_cache(64)
def _clauses_of(json: bytes) -> Clauses:
    clauses, ordered = orjson.loads(json)
    return Clauses([Clause(tuple(options.pop("any")), **options) for options in clauses], ordered=ordered)
