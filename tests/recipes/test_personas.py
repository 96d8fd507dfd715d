"""The recipe personas: requests differ by the persona, and repeat themselves without one."""

import json

import pytest

from distillgen.runs.directory import read_records
from tests.recipes.harness import Teacher, draw, teach


def ask(text, sample):
    """The planted truth: a persona leads to topics of its own; anybody asks about one of ten things."""
    persona = text.partition("The person: ")[2].rstrip(".")
    chance, topics = (draw(sample), 10) if persona == "anybody" else (draw(persona), 400)
    first, second = (f"topic{number}" for number in chance.sample(range(topics), 2))
    return f"Please help me to bring {first} and {second} together."


REPLIES = {"The person:": ask, "Please help me": "First write down what you need, then begin."}
CONTROL = ["source.draw.n=1", "ask.n=120", "ask.prompt=persona/plain"]


@pytest.fixture
def diversity(project):
    def diversity(out, *sets):
        run = teach("personas", Teacher(REPLIES), sets=sets, out=out)
        stages = json.loads((run.directory / "usage.json").read_text())["stages"]
        return run, next(stage["measured"] for stage in stages if stage["name"] == "diversity")

    return diversity


def test_personas_make_requests_more_diverse_than_the_same_teacher_alone(diversity):
    run, ours = diversity("run", "source.draw.n=120")
    personas = {record.fields["persona"] for record in read_records(run.directory / "corpus.jsonl")}
    assert len(personas) == 120 and all(" who " in persona for persona in personas)
    control, theirs = diversity("control", *CONTROL)
    assert len(list(read_records(run.directory / "corpus.jsonl"))) == 120
    assert len(list(read_records(control.directory / "corpus.jsonl"))) < 80
    assert ours["distinct_1"] > theirs["distinct_1"] and ours["distinct_2"] > 1.3 * theirs["distinct_2"]
    assert ours["self_bleu"] < theirs["self_bleu"]
