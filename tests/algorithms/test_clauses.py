"""Clauses are counted as str.find counts them, and the same in one piece or in many."""

import random
import re

import pytest

from distillgen.algorithms.clauses import Clause, Clauses, clauses_of


def count(text: str, phrases: list[str]) -> int:
    """How often the phrases occur as whole words, overlapping ones too, by str.find."""
    words = re.sub(r"\b", "|", " ".join(f" {text} ".split(" ")))
    forms = {head + p[1:] for p in phrases for head in (p[0], p[0].lower(), p[0].upper())}
    total = 0
    for form in {re.sub(r"\b", "|", form) for form in forms}:
        at = words.find(form)
        while at >= 0:
            total += 1
            at = words.find(form, at + 1)
    return total


@pytest.mark.parametrize("seed", range(200))
def test_counts_are_those_of_str_find_in_one_piece_and_in_many(seed):
    draw = random.Random(seed)
    text = "".join(draw.choices("aabb cC.1", k=draw.randint(0, 40)))
    text = " ".join(text.split())
    lists = [
        [" ".join(("a" + "".join(draw.choices("ab c1", k=3))).split()) for _ in range(draw.randint(1, 3))]
        for _ in range(draw.randint(1, 3))
    ]
    clauses = Clauses([Clause(tuple(phrases), at_most=0) for phrases in lists])
    whole = clauses.read(clauses.start, text)
    state = clauses.start
    for character in text:
        state = clauses.read(state, character)
    assert state == whole
    assert list(clauses.counts(whole)) == [count(text, phrases) for phrases in lists]


@pytest.mark.parametrize(
    ("text", "clause", "met"),
    [
        ("Cats purr.", Clause(("cat",), 1), False),
        ("A cat, at last", Clause(("cat",), 1), True),
        ("the cat", Clause(("cat",), 1), True),
        ("Cat!", Clause(("cat",), 1), True),
        ("CAT", Clause(("cat",), 1), False),
        ("warm up", Clause(("Warm up",), 1), True),
        ("warm \n up", Clause(("warm up",), 1), True),
        ("smaller", Clause(("er",), 1), False),
        ("smaller", Clause(("er",), 1, whole_words=False), True),
        ("one, two", Clause((",",), at_most=0), False),
        ("naïve", Clause(("na",), at_most=0), True),
        ("may or can", Clause(("may", "can"), at_most=1), False),
        ("may", Clause(("may", "may"), at_most=1), True),
        ("may may", Clause(("may", "can"), 2), True),
        ("", Clause(("a",), at_most=0), True),
        ("", Clause(("a",), 1), False),
    ],
)
def test_a_clause(text, clause, met):
    assert (Clauses([clause]).mistake(text) == "") is met


def test_ordered_clauses_are_met_from_left_to_right_only():
    clauses = [Clause(("can",), 1), Clause(("often",), 1), Clause(("never",), at_most=0)]
    ordered, free = Clauses(clauses, ordered=True), Clauses(clauses)
    assert ordered.mistake("it can often") == "" == free.mistake("often it can")
    assert ordered.mistake("often it can").startswith("clause 2, at least 1 of 'often': it has 0")
    assert ordered.mistake("often it can often") == ""
    assert ordered.mistake("never can it often").startswith("clause 3, at most 0 of 'never': it has 1")
    same = [Clause(("can",), 1), Clause(("can",), 1)]
    assert Clauses(same, ordered=True).mistake("can") and not Clauses(same, ordered=True).mistake("can can")


def test_a_message_has_few_phrases():
    reason = clauses_of({"clauses": [{"any": list("abcde"), "at_least": 2, "at_most": 3}]}).mistake("a")
    assert reason == "clause 1, at least 2 and at most 3 of 'a', 'b', 'c', …: it has 1"
