"""Exact repetitions."""

from distillgen.project import Project
from distillgen.record import Record

CASES = [({"by": ["x"]}, {"x": "anything"}, None)]


def test_unique_keeps_the_first_and_levels_case_and_punctuation(tmp_path):
    made = Project(tmp_path).filter("unique")(by=["x"])
    numbers = made.measure([Record.read({"x": x}, "") for x in ("How deep?", "how  deep", "How deep is it?")])
    numbers += made.measure([Record.read({"x": "HOW DEEP!"}, "")])
    assert [made.decide(n) for n in numbers] == [
        None,
        "the same as 1 before it",
        None,
        "the same as 2 before it",
    ]
