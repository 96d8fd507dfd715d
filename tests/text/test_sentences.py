"""Sentences of texts."""

import pytest

from distillgen.text.sentences import sentences


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
        ("A line\nand another. The third", ["A line", "and another.", "The third"]),
        ("...", []),
        ("", []),
    ],
)
def test_sentences(text, expected):
    assert sentences(text) == expected
