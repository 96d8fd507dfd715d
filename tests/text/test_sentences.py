"""Sentences of texts."""

import pytest

from distillgen.text.sentences import sentence_starts, sentences


@pytest.mark.parametrize(
    "text, expected",
    [
        ("One. Two!  Three?", ["One.", "Two!", "Three?"]),
        (
            'He said "No." Then Dr. Smith, of St. Ives, left at 5 p.m. for home.',
            ['He said "No."', "Then Dr. Smith, of St. Ives, left at 5 p.m. for home."],
        ),
        ("- a first\n- 2\n---\n\nlast", ["- a first", "- 2", "last"]),
        ("See e.g. The Sea by J. Banville. Good.", ["See e.g. The Sea by J. Banville.", "Good."]),
        ("水很深。面包！", ["水很深。", "面包！"]),
        ("It is 3.5 m", ["It is 3.5 m"]),
        ("...", []),
        ("", []),
    ],
)
def test_sentences(text, expected):
    assert sentences(text) == expected


def test_a_line_begins_a_sentence_or_not():
    text = "A line\nand another. The third"
    assert sentences(text) == ["A line", "and another.", "The third"]
    assert sentences(text, lines=False) == ["A line\nand another.", "The third"]
    assert [text[start:] for start in sentence_starts(text, lines=False)] == [text, "The third"]
    assert [*sentence_starts("")] == [0]
