"""Each shipped filter keeps what it must, drops what it must and says why, and decides the borderline as documented."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distillgen.project import Project
from distillgen.record import Record

PASSAGE = "Lake Baikal, in Siberia, is the deepest lake on Earth, reaching 1,642 metres. Three rivers flow out."
BAIKAL = {"title": "Lake Baikal", "passage": PASSAGE}

CASES = [
    ("word_count", {"field": "x", "min_words": 2, "max_words": 3}, {"x": "one two three"}, None),
    ("word_count", {"field": "x", "min_words": 2, "max_words": 3}, {"x": "one two three four"}, "4 words > 3"),
    ("word_count", {"field": "x", "min_words": 2}, {"x": "one"}, "1 words < 2"),
    ("finished", {"fields": ["x", "y"]}, {"x": "Is it?", "y": "It is.\u201d"}, None),
    ("finished", {"fields": ["x", "y"]}, {"x": "Is it?", "y": "It is the"}, "1 of 2 fields break off"),
    ("finished", {"fields": ["x"]}, {"x": "cut 男孩,"}, "1 of 1 fields break off"),
    ("finished", {"fields": ["x"]}, {"x": "Yes. \n"}, None),
    ("grounded", {"sources": ["title", "passage"]}, {**BAIKAL, "answer": "Lake Baikal is 1,642 metres deep."}, None),
    ("grounded", {"sources": ["title", "passage"]}, {**BAIKAL, "answer": "Lake Baikal reaches 1,700 metres."}, "1 of its numbers not in"),
    ("grounded", {"sources": ["passage"]}, {**BAIKAL, "answer": "It was dug by bored monks."}, "0% of its words in the passage < 80%"),
    ("grounded", {"sources": ["passage"], "min_share": 0.5}, {**BAIKAL, "answer": "The deepest hole."}, None),
    ("grounded", {"sources": ["passage"]}, {**BAIKAL, "answer": "3 rivers flow out."}, None),
    ("standalone", {"fields": ["q", "a"], "subject": "title"}, {**BAIKAL, "q": "How deep is Lake Baikal?", "a": "1,642 metres."}, None),
    ("standalone", {"fields": ["q", "a"], "subject": "title"}, {**BAIKAL, "q": "How deep is it?", "a": "Deep."}, "points outside itself"),
    ("standalone", {"fields": ["q", "a"], "subject": "title"}, {**BAIKAL, "q": "What does the passage say of Baikal?", "a": "Much."}, "1 times"),
    ("standalone", {"fields": ["q", "a"], "subject": "title"}, {**BAIKAL, "q": "What is Baikal?", "a": "It is a lake."}, "1 times"),
    ("standalone", {"fields": ["q", "a"], "subject": "title"}, {**BAIKAL, "q": "What lives in a lake and its rivers?", "a": "Seals."}, None),
    ("standalone", {"fields": ["q", "a"], "subject": "title"}, {**BAIKAL, "q": "What is the starter used for?", "a": "For bread."}, "1 times"),
    ("responsive", {"field": "a", "to": "q"}, {"q": "How deep is Lake Baikal?", "a": "Lake Baikal is 1,642 metres deep."}, None),
    ("responsive", {"field": "a", "to": "q"}, {"q": "How deep is Lake Baikal?", "a": "Bread rises slowly."}, "takes up 0% of the q < 50%"),
    ("responsive", {"field": "a", "to": "q"}, {"q": "Is Lake Baikal deep?", "a": "Lake Baikal is deep."}, "only repeats the q"),
    ("responsive", {"field": "a", "to": "q"}, {"q": "Deep lake?", "a": "A lake with 1 seal."}, None),
    ("answer_kind", {"field": "a", "to": "q"}, {"q": "When did it open?", "a": "In November 1869."}, None),
    ("answer_kind", {"field": "a", "to": "q"}, {"q": "When did it open?", "a": "After a long while."}, "not the kind of answer asked for"),
    ("answer_kind", {"field": "a", "to": "q"}, {"q": "Why is it deep?", "a": "It is a valley."}, "not the kind of answer asked for"),
    ("answer_kind", {"field": "a", "to": "q"}, {"q": "How do bees dance?", "a": "On the comb."}, None),
    ("unique", {"by": ["x"]}, {"x": "anything"}, None),
]  # fmt: skip


@pytest.mark.parametrize("name, options, fields, expected", CASES)
def test_decision(reason, name, options, fields, expected):
    found = reason(name, options, **fields)
    assert found is None if expected is None else expected in (found or "")


def test_unique_keeps_the_first_and_levels_case_and_punctuation(tmp_path):
    made = Project(tmp_path).filter("unique")(by=["x"])
    numbers = made.measure([Record.read({"x": x}, "") for x in ("How deep?", "how  deep", "How deep is it?")])
    numbers += made.measure([Record.read({"x": "HOW DEEP!"}, "")])
    assert [made.decide(n) for n in numbers] == [None, "the same as 1 before it", None, "the same as 2 before it"]


def test_every_shipped_filter_has_its_cases(tmp_path):
    names = set(Project(tmp_path).names("filters", ".py"))
    assert names == {case[0] for case in CASES}
    for name in names - {"unique"}:
        outcomes = {case[3] is None for case in CASES if case[0] == name}
        assert outcomes == {True, False}, name


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=300) | st.text(alphabet="\x00\x1b\u202e\u200f .?the1,it", max_size=200), other=st.text(max_size=50))
def test_no_text_makes_a_filter_crash(reason, text, other):
    for name, options, fields, _ in CASES:
        found = reason(name, options, **{key: text if i % 2 else other for i, key in enumerate(fields)})
        assert found is None or isinstance(found, str)


def test_a_megabyte_is_measured(reason):
    for name, options, fields, _ in CASES[:1] + CASES[3:4] + CASES[7:8] + CASES[18:19]:
        reason(name, options, **dict.fromkeys(fields, "deep lake 1,642 " * 65_000))
