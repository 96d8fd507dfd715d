"""The recipe dialogues: turns of both sides alternate, and a dialogue ends where its user takes leave."""

from collections import Counter

from distillgen.inference.request import Request
from distillgen.runs.directory import final_records
from tests.recipes.harness import draw, drops, teach, text_of


def planted(system: str) -> int:
    """The exchange in which the user of this assistant takes leave; more than 4: never; 0: says nothing."""
    return draw(system).randint(0, 6)


class Sides:
    """Writes both sides. The user says goodbye where it is planted, or nothing at all."""

    def __init__(self):
        self.requests: list[Request] = []
        self.__qualname__ = "sides"

    def __call__(self, request, sample):
        self.requests.append(request)
        end = planted(request.messages[0]["content"].split(" Answers are")[0])
        number = 1 + sum(turn["role"] == "user" for turn in request.messages)
        if request.write != "user":
            return f"answer to: {request.messages[-1]['content']}"
        return "" if end == 0 else "Goodbye then." if number == end else f"question {number}?"


def test_dialogues_end_where_the_user_takes_leave(project):
    teacher = Sides()
    run = teach("dialogues", {"teacher": teacher})
    lengths = Counter()
    for record in final_records(run, dropped=False):
        system, *turns = record.fields["messages"]
        end = planted(record.fields["system"])
        assert system["role"] == "system" and [turn["role"] for turn in turns] == ["user", "assistant"] * (
            len(turns) // 2
        )
        assert len(turns) // 2 == min(end, 4) > 0
        assert all(
            after["content"] == f"answer to: {before['content']}"
            for before, after in zip(turns[::2], turns[1::2], strict=True)
        )
        assert ("Goodbye" in turns[-2]["content"]) == (end <= 4)
        lengths[len(turns) // 2] += 1
    assert set(lengths) == {1, 2, 3, 4}
    silent = sum(planted(row["system"]) == 0 for row in project_rows())
    assert sum(lengths.values()) == 24 - silent and silent
    whole, answered = ("filter", "whole"), ("filter", "answered")
    assert drops(run) == {
        whole: 3 * 24,
        answered: silent,
    }  # an earlier round's records are parts of the last's


def project_rows():
    from distillgen.project import home
    from distillgen.rows.jsonl import read_rows

    return [row for _, row in read_rows(home("data") / "assistants.jsonl")]


def test_nobody_plays_the_user_in_a_prompt(project):
    """The control: a request for a user's turn has no instruction, and every request ends where it must."""
    teacher = Sides()
    teach("dialogues", {"teacher": teacher})
    user = [request for request in teacher.requests if request.write == "user"]
    assistant = [request for request in teacher.requests if request.write is None]
    assert {request.messages[-1]["role"] for request in user} == {"system", "assistant"}
    assert {request.messages[-1]["role"] for request in assistant} == {"user"}
    assert not any("user" in text_of(r).replace("The user asks about", "") for r in user)


def test_a_run_that_goes_on_asks_nothing_twice(project):
    first, again = Sides(), Sides()
    run = teach("dialogues", {"teacher": first})
    rows = [record.row() for record in final_records(run, dropped=False)]
    run = teach("dialogues", {"teacher": again})
    assert [record.row() for record in final_records(run, dropped=False)] == rows and not again.requests
    assert len({request.json for request in first.requests}) == len(first.requests)
