"""The recipe multi-teacher: the vote is as often right as independent teachers let it be, and no more."""

import itertools
import math
import re

import pytest

from distillgen.record import Record
from distillgen.runs.directory import read_records
from filters.majority import majority
from tests.recipes.harness import Teacher, draw, drops, teach

SKILL = (0.62, 0.78, 0.7, 0.66, 0.74, 0.58, 0.8)
QUESTIONS = 4_000


def vote(n, rights):
    """The share of questions of which the records that the filter keeps have the right answer.

    The wrong answer is the same for all teachers, so that a vote has two sides.
    """
    judged, won = majority(field="answer", kind="number"), 0
    for right in rights:
        records = [Record(f"{i}", {"answer": "2" if right[i] else "-1"}, ("q",)) for i in range(n)]
        numbers = judged.measure(records)
        kept = [r for r, number in zip(records, numbers, strict=True) if judged.decide(number) is None]
        won += bool(kept) and all(record.fields["answer"] == "2" for record in kept)
    return won / len(rights)


@pytest.fixture(scope="module")
def independent():
    lot = draw("independent")
    return [[lot.random() < skill for skill in SKILL] for _ in range(QUESTIONS)]


def poisson_binomial(skills):
    """The probability that more than half are right, or half of them and the first among these."""
    total = 0.0
    for rights in itertools.product((True, False), repeat=len(skills)):
        wins = sum(rights) * 2 > len(skills) or sum(rights) * 2 == len(skills) and rights[0]
        total += wins * math.prod(p if r else 1 - p for p, r in zip(skills, rights, strict=True))
    return total


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7])
def test_the_vote_of_independent_teachers_is_the_poisson_binomial_and_beats_the_best_of_them(n, independent):
    expected = poisson_binomial(SKILL[:n])
    share = vote(n, independent)
    assert share == pytest.approx(expected, abs=0.02)
    best = max(sum(right[i] for right in independent) for i in range(n)) / QUESTIONS
    assert n not in (5, 7) or share > best, "an even number may lose: a tie goes to the first"


def test_teachers_that_err_together_gain_nothing_by_a_vote():
    """The control: as skilled as independent teachers, and the figure is another."""
    lots = draw("together")
    share = vote(5, [[lot < skill for skill in SKILL] for lot in (lots.random() for _ in range(QUESTIONS))])
    assert share == pytest.approx(sorted(SKILL[:5])[2], abs=0.02), "the middle one's"
    assert abs(share - poisson_binomial(SKILL[:5])) > 0.05


@pytest.fixture
def taught(project):
    """Run the recipe on teachers of these skills: the run, and the answers by question and teacher."""

    def taught(skills, rows=150):
        project.rows("problems.jsonl", [{"question": f"What is {i}?", "gold": str(i)} for i in range(rows)])
        rights = {}

        def teacher(name, skill):
            def reply(text, sample):
                number = int(re.findall(r"What is (\d+)\?", text)[-1])
                rights[number, name] = draw(name, number).random() < skill
                return f"I think.\nThe answer is {number if rights[number, name] else -1}."

            return Teacher({"What is": reply}, name)

        names = ("first", "second", "third")
        teachers = {name: teacher(name, skill) for name, skill in zip(names, skills, strict=True)}
        run = teach(
            "multi-teacher",
            teachers,
            ["source.path=problems.jsonl", "source.held_out=null", "train=null", "evaluate=null"],
        )
        return run, rights

    return taught


def test_the_corpus_holds_what_most_teachers_say(taught):
    run, rights = taught((0.8, 0.7, 0.6))
    rows = list(read_records(run.directory / "corpus.jsonl"))
    assert len(rows) == 150, "three votes always have a majority here"
    for row in rows:
        number = int(row.fields["question"].split()[-1][:-1])
        votes = [rights[number, name] for name in ("first", "second", "third")]
        right = sum(votes) >= 2
        answers = row.fields["answers"]
        assert [part["teacher"] for part in answers] == [
            name for name, v in zip(("first", "second", "third"), votes, strict=True) if v == right
        ]
        assert all(part["answer"].endswith(f"{number if right else -1}.") for part in answers)
        assert row.fields["messages"][1]["content"] == answers[0]["answer"]
        assert row.scores["majority.share"] == pytest.approx(len(answers) / 3)
    lost = sum(3 - len(row.fields["answers"]) for row in rows)
    assert drops(run)["filter", "majority"] == lost
    gathered = sum(len(row.fields["answers"]) - 1 for row in rows)
    assert sum(stage["gathered"] for stage in run.state["stages"]) == gathered


def test_without_a_majority_nothing_is_kept(project):
    project.rows("problems.jsonl", [{"question": "What is 1?", "gold": "1"}])
    teachers = {
        name: Teacher({"What is": f"The answer is {i}."}, name)
        for i, name in enumerate(("first", "second", "third"))
    }
    run = teach(
        "multi-teacher",
        teachers,
        ["source.path=problems.jsonl", "source.held_out=null", "train=null", "evaluate=null"],
    )
    assert run.state["kept"] == 0 and drops(run) == {("filter", "majority"): 3}
