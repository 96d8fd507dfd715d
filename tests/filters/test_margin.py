"""Answers that fit another question better."""

import pytest

from tests.filters.models import embedder

TINY = {"field": "a", "to": "q", "embedder": embedder()}
FILE = {**TINY, "others": "tests/filters/questions.jsonl", "key": "question"}

CASES = [
    (FILE, {"q": "How deep is Lake Baikal?", "a": "1,642 metres deep."}, None),
    (
        FILE,
        {"q": "How deep is Lake Baikal?", "a": "Yeast makes dough rise."},
        "-1.00 closer to its own q than to another < 0",
    ),
    (
        FILE,
        {"q": "HOW DEEP IS LAKE BAIKAL", "a": "Deep water, and bread."},
        None,
    ),  # 0.89 - 0.45; its own question is no other
    (
        {**FILE, "min_margin": 0.5},
        {"q": "How deep is Lake Baikal?", "a": "Deep water, and bread."},
        "+0.45 closer",
    ),
    ({**TINY, "distractor": "d"}, {"q": "Bees?", "d": "Rome?", "a": "A hive."}, None),
    ({**TINY, "distractor": "d"}, {"q": "Bees?", "d": "Rome?", "a": "Caesar."}, "-1.00 closer"),
    ({**TINY, "distractor": "d"}, {"q": "Bees?", "d": "Rome?", "a": "Bees in Rome."}, None),
]


def test_mistakes(reason, project):
    project.write("x.jsonl", '{"question": "Why?"}\n{"query": "Why?"}\n')
    with pytest.raises(
        ValueError, match="give either 'distractor', a field, or 'others', a JSONL file of questions"
    ):
        reason("margin", TINY, {"q": "", "a": ""})
    with pytest.raises(
        Exception, match="x.jsonl:2: margin: there is no 'question' in the row; name the right one with 'key'"
    ):
        reason("margin", {**FILE, "others": "x.jsonl"}, {"q": "", "a": ""})
