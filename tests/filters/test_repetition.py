"""Texts that repeat themselves."""

import random
from pathlib import Path

import pytest

from distillgen.plugins import filter_factory
from distillgen.project import Project
from distillgen.record import Record

PROSE = (
    "Lake Baikal fills a rift valley in Siberia. Its water is clear, cold and very deep; three "
    "hundred rivers feed it and one, "
    "the Angara, leaves. Seals live there, far from any sea, and nobody knows quite how they "
    "came. In winter the ice grows "
    "thick enough to carry lorries, and people cut holes to fish. A railway runs along the "
    "southern shore through many tunnels."
)
LINES = "\n".join(PROSE.split())

CASES = [
    ({"field": "x"}, {"x": PROSE}, None),
    ({"field": "x"}, {"x": "ha ha ha"}, None),
    ({"field": "x"}, {"x": "ha " * 100}, "compresses"),
    ({"field": "x", "max_compression": 100}, {"x": "ha " * 49}, None),
    (
        {"field": "x", "max_compression": 100, "max_top_ngrams": {}, "max_duplicate_ngrams": {}},
        {"x": "ha " * 60},
        None,
    ),
    ({"field": "x", "max_compression": 100}, {"x": "ha " * 60}, "top 2-gram: 100% repeated > 20%"),
    ({"field": "x"}, {"x": f"{PROSE} {PROSE}"}, "duplicate 5-grams: 50% repeated > 15%"),
    ({"field": "x"}, {"x": f"{PROSE}\n{PROSE}"}, "lines: 50% repeated > 30%"),
    (
        {"field": "x", "max_lines": 1, "max_line_characters": 1},
        {"x": f"{PROSE}\n \n{PROSE}"},
        "paragraphs: 50% repeated > 30%",
    ),
    ({"field": "x"}, {"x": f"{LINES}\n{PROSE}\n{PROSE}"}, "line characters: "),
]


def numbers(text):
    (found,) = filter_factory("repetition", Project(Path.cwd()))().measure(
        [Record.read({"response": text}, "")]
    )
    return found


def test_the_shares_by_hand():
    found = numbers(
        "a b c d e f a b c d e g"
    )  # the 5-gram "a b c d e" stands twice: 5 of 12 letters are covered
    assert found["duplicate 5-grams"] == pytest.approx(5 / 12) and found["duplicate 6-grams"] == 0
    assert found["top 2-gram"] == pytest.approx(4 / 12) and found["top 4-gram"] == pytest.approx(8 / 12)
    found = numbers("one\ntwo\n\none\none one")
    assert found["lines"] == pytest.approx(1 / 4) and found["line characters"] == pytest.approx(3 / 16)
    assert found["paragraphs"] == 0 and numbers("p\n\np\n \nq")["paragraphs"] == pytest.approx(1 / 3)


def test_overlapping_repetitions_count_a_character_once():
    assert numbers("w " * 20)["duplicate 5-grams"] == pytest.approx(19 / 20)


def test_what_is_planted_is_found_and_what_is_shuffled_is_not():
    words = [f"w{i}" for i in range(300)]
    shuffled = random.Random(0).sample(words * 2, 600)
    assert numbers(" ".join(words * 2))["duplicate 10-grams"] == pytest.approx(0.5)
    assert numbers(" ".join(shuffled))["duplicate 5-grams"] == 0
