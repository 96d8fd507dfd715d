"""Answers that a planted model finds again."""

from distillgen.plugins import filter_factory
from distillgen.project import Project
from distillgen.record import Record

TEXT = {"model": "m", "shown": ["question"]}
NUMBER = {**TEXT, "kind": "number"}
BACK = {"model": "m", "shown": ["answer"], "field": "question", "prompt": "round_trip/question"}

CASES = [
    (
        TEXT,
        {"question": "Where is Lake Baikal?", "answer": "In Siberia, Russia."},
        None,
        ["The answer is Siberia."],
    ),
    (
        TEXT,
        {"question": "Where is Lake Baikal?", "answer": "In Siberia."},
        "F1 0.00 of the answer with what was found again < 0.5",
        ["Chile"],
    ),
    (
        {**TEXT, "min_f1": 0.8},
        {"question": "Where?", "answer": "south Siberia"},
        "F1 0.67 of the answer",
        ["Siberia"],
    ),
    (NUMBER, {"question": "2 + 2?", "answer": "It is 4."}, None, ["2 + 2 = 4. The answer is 4.0"]),
    (NUMBER, {"question": "2 + 2?", "answer": "It is 5."}, "the answer was not found again", ["4"]),
    (NUMBER, {"question": "2 + 2?", "answer": "It is five or so"}, None, ["5"]),
    (NUMBER, {"question": "2 + 2?", "answer": "It is much."}, "no number in the answer", ["4"]),
    (NUMBER, {"question": "2 + 2?", "answer": "It is 4."}, "not judged: the answer is empty", [" "]),
    (
        BACK,
        {"question": "How deep is Lake Baikal?", "answer": "1,642 metres."},
        None,
        ["How deep is Lake Baikal at most?"],
    ),
    (
        BACK,
        {"question": "How deep is Lake Baikal?", "answer": "1,642 metres."},
        "of the question with",
        ["What is 1,642?"],
    ),
]


def test_what_it_is_asked(tmp_path):
    project = Project(tmp_path)
    for options, shown, hidden in (
        (TEXT, "Where is it?", "In Siberia"),
        (BACK, "In Siberia", "Where is it?"),
    ):
        made = filter_factory("round_trip", project)(**options, project=project)
        (request,) = made.asks(Record.read({"question": "Where is it?", "answer": "In Siberia"}, ""))
        said = " ".join(message["content"] for message in request.messages)
        assert request.model == "m" and shown in said and hidden not in said
