"""Texts that repeat their prompt."""

import pytest

ASKED = "You write short stories for children. Never mention that these are the rules of the game."

CASES = [
    (
        {"field": "x", "texts": [ASKED]},
        {"x": "Once upon a time there was a hen that wrote short stories for children."},
        None,
    ),
    (
        {"field": "x", "texts": [ASKED]},
        {"x": "Never mention that THESE are the rules, of the game! A hen."},
        "83% of its words repeat its prompt > 0%",
    ),
    (
        {"field": "x", "texts": [ASKED], "n": 12},
        {"x": "Never mention that these are the rules of the game! A hen."},
        None,
    ),
    (
        {"field": "x", "texts": [ASKED], "max_share": 0.9},
        {"x": "Never mention that these are the rules of the game! A hen."},
        None,
    ),
    (
        {"field": "x", "fields": ["q"], "n": 4},
        {"q": "How deep is Lake Baikal?", "x": "How deep is Lake Baikal? 1,642 metres."},
        "71% of its words",
    ),
    (
        {"field": "x", "fields": ["q"], "n": 4},
        {"q": "How deep is Lake Baikal?", "x": "Lake Baikal is 1,642 metres deep."},
        None,
    ),
    ({"field": "x", "prompts": ["hello"]}, {"x": "Good day."}, None),
]

PROMPT = """---
few_shot: {examples: "shots.jsonl"}
---
@system
Write one question that the passage answers, and use no more than twenty words.
@user
{% for x in [1] %}{{ passage }}{% endfor %} Now write the question that this {{ passage }} answers best.
"""


@pytest.mark.parametrize(
    "text, leaks",
    [
        ("Write one question that the passage answers, and use no more than twenty words.", True),
        ("What do the seven dwarfs eat for breakfast on Sundays?", True),  # a worked example
        (
            "The honey bee tells her hive by dancing on the comb at night.",
            False,
        ),  # the record's own passage may be quoted
        (
            "Now write the question that this honey bee answers best.",
            False,
        ),  # fewer than 8 words on either side of the tag
    ],
)
def test_a_prompt_is_what_stands_in_its_file(reason, tmp_path, text, leaks):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/ask.md").write_text(PROMPT)
    (tmp_path / "shots.jsonl").write_text(
        '{"passage": "Dwarfs.", "answer": "What do the seven dwarfs eat for breakfast on Sundays?"}\n'
    )
    passage = "The honey bee tells her hive by dancing on the comb at night."
    assert (
        bool(reason("leaked_prompt", {"prompts": ["ask"]}, {"response": text, "passage": passage})) is leaks
    )


def test_it_needs_something_to_compare_with(reason):
    with pytest.raises(ValueError, match="give at least one of"):
        reason("leaked_prompt", {}, {"response": ""})
