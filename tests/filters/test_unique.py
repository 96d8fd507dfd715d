"""Exact repetitions."""

from distillgen.plugins import filter_factory
from distillgen.project import Project
from distillgen.record import Record

CASES = [({"by": ["x"]}, {"x": "anything"}, None)]


def test_unique_keeps_the_first_and_levels_case_and_punctuation(tmp_path):
    made = filter_factory("unique", Project(tmp_path))(by=["x"])
    numbers = made.measure([Record.read({"x": x}, "") for x in ("How deep?", "how  deep", "How deep is it?")])
    numbers += made.measure([Record.read({"x": "HOW DEEP!"}, "")])
    assert [made.decide(n) for n in numbers] == [
        None,
        "the same as 1 before it",
        None,
        "the same as 2 before it",
    ]
