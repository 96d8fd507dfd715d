"""Pieces of Markdown: their places, their headings, and what stays whole."""

import cProfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from distillgen.text.chunks import pieces

GUIDE = """# Guide

Before all of it.

## Tools

- a hammer. It drives nails. It has a claw.
- a saw.
  It cuts wood.

  ```sh
  saw --help
  ```

### Saws

A saw has teeth.

Setting up
----------

Read this first.

# Index #

The end.
"""


def byte_tokens():
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator([GUIDE] * 3, trainer)
    return bpe


TOKENS = byte_tokens()


def tokens(text):
    return len(TOKENS.encode(text.encode("utf-8", "replace").decode()).ids)


def test_a_piece_knows_the_headings_above_it():
    paths = {line: piece.headings for piece in pieces(GUIDE, 8) for line in piece.text.splitlines()}
    assert paths["Before all of it."] == ("Guide",)
    assert paths["  It cuts wood."] == ("Guide", "Tools")
    assert paths["A saw has teeth."] == ("Guide", "Tools", "Saws")
    assert paths["Read this first."] == ("Guide", "Setting up")
    assert paths["The end."] == ("Index",)
    assert pieces("No heading.", 8)[0].headings == ()
    assert pieces("# A\n\n## B\n\nText.\n\n# C\n", 99)[0].headings == ("A", "B")
    assert pieces("# A\n\n## B\n", 99)[0].headings == ("A", "B"), "headings alone"


def test_an_overlap_does_not_decide_the_headings():
    text = "# A\n\nZero is not. One two three.\n\n# B\n\nFour five six seven.\n"
    _, second = pieces(text, 10, 4)
    assert second.text.startswith("One two three.") and second.headings == ("B",)


def test_an_item_of_a_list_stays_whole_with_what_belongs_to_it():
    cut = [piece.text for piece in pieces(GUIDE, 20)]
    assert any("- a hammer. It drives nails. It has a claw.\n" in text for text in cut)
    assert any("- a saw.\n  It cuts wood.\n\n  ```sh\n  saw --help\n  ```\n" in text for text in cut)
    long = "- one two three. four five six. seven eight nine.\n"
    assert [piece.text for piece in pieces(long, 7)] == [
        "- one two three. four five six. ",
        "seven eight nine.\n",
    ]


def test_a_cut_is_rather_before_an_item_than_inside():
    text = "A b c.\n\n- one two three four.\n\n  five six seven eight.\n"
    assert [piece.text for piece in pieces(text, 9)][0] == "A b c.\n\n"


def test_a_size_may_be_larger_than_the_sum_of_its_parts():
    def size(part):
        return len(part.split()) + 3 * part.strip().count("\n\n")

    assert all(size(piece.text.strip()) <= 12 for piece in pieces("One two three.\n\n" * 9, 12, 0, [], size))


def test_a_heading_that_is_cut_keeps_its_title():
    text = "   " + "# " + "long " * 9 + "heading\n\nText.\n"
    cut = pieces(text, 5, 0, [], len, "characters")
    assert len(cut) > 9 and {piece.headings for piece in cut[2:]} == {("long " * 9 + "heading",)}


def test_a_rule_is_no_underline_of_a_heading():
    text = "---\ntitle: x\n---\n\nA text.\n\n---\n\nMore.\n"
    assert {piece.headings for piece in pieces(text, 3)} == {()}


@pytest.mark.parametrize("unit", ["words", "tokens"])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_places(unit, data):
    parts = st.sampled_from(
        ["# h", "## g ##", "Head\n===", "```\na b\n\nc\n```", "~~~", "| x | y |\n|---|---|\n| 1 | 2 |"]
        + ["- i. j! k", "  more", "1. z\n\n   it", "\n", "\n\n\n", "End. Of it!", "    code", "漢字。" * 9]
        + ["\u2028", "\x0c", "x" * 70, " " * 40, "\ud800"]
    )
    separator = st.sampled_from(["\n", "\n\n", " ", ""])
    text = "".join(a + b for a, b in data.draw(st.lists(st.tuples(parts, separator), max_size=25)))
    most = data.draw(st.integers(10, 40))
    overlap = data.draw(st.integers(0, most - 1))
    size = tokens if unit == "tokens" else lambda part: len(part.split())
    cut = pieces(text, most, overlap, [], size, unit)
    for piece in cut:
        assert text[piece.start : piece.end] == piece.text and piece.text.strip()
        assert size(piece.text.strip()) <= most
    assert [p.start for p in cut] == sorted(p.start for p in cut)
    plain = pieces(text, most, 0, [], size, unit)
    assert "".join(piece.text for piece in plain) == (text if text.strip() else "")


def test_ten_times_the_text_is_ten_times_the_work():
    def calls(sentences):
        profile = cProfile.Profile()
        assert len(profile.runcall(pieces, "Some words of a sentence. " * sentences, 20, 8)) > sentences / 5
        return sum(entry.callcount for entry in profile.getstats())

    assert 9 < calls(4_000) / calls(400) < 11
