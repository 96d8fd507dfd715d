"""Words and numbers that the source lacks."""

PASSAGE = (
    "Lake Baikal, in Siberia, is the deepest lake on Earth, reaching 1,642 metres. Three rivers flow out."
)
BAIKAL = {"title": "Lake Baikal", "passage": PASSAGE}

CASES = [
    ({"sources": ["title", "passage"]}, {**BAIKAL, "answer": "Lake Baikal is 1,642 metres deep."}, None),
    (
        {"sources": ["title", "passage"]},
        {**BAIKAL, "answer": "Lake Baikal reaches 1,700 metres."},
        "1 of its numbers not in",
    ),
    (
        {"sources": ["passage"]},
        {**BAIKAL, "answer": "It was dug by bored monks."},
        "0% of its words in the passage < 80%",
    ),
    ({"sources": ["passage"], "min_share": 0.5}, {**BAIKAL, "answer": "The deepest hole."}, None),
    ({"sources": ["passage"]}, {**BAIKAL, "answer": "3 rivers flow out."}, None),
]
