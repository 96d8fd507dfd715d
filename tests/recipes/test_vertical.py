"""The recipe vertical: one pipeline for four verticals, whose answers stand in the documents."""

import json

import pytest

from tests.recipes.harness import Teacher, drops, teach


def reply(text, sample):
    before, _, document = text.rpartition(": \n\n")
    title = before.rpartition("\n\n")[2]
    sentence = " ".join(document.split()).partition(". ")[0]
    pairs = [
        {"question": f"What is true of the topic {title}?", "answer": f"{sentence}."},
        {"question": f"Who invented {title}?", "answer": "Professor Quincy Zebulon discovered 42 parsnips."},
    ]
    return json.dumps(pairs)


@pytest.mark.parametrize("vertical", ["law", "medicine", "finance", "science"])
def test_grounded_answers_stay_and_invented_ones_leave(project, vertical):
    sets = [f"source.path=data/verticals/{vertical}", f"generate.prompt=vertical/{vertical}"]
    run = teach("vertical", Teacher({"": reply}), sets=sets)
    rows = [json.loads(line) for line in (run.directory / "corpus.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and drops(run) == {("filter", "grounded"): 3}
    for row in rows:
        answer = row["messages"][1]["content"].rstrip(".")
        assert answer in " ".join(row["text"].split())
    assert "no legal, medical or financial advice" in (run.directory / "README.md").read_text()


def test_without_the_filter_invented_answers_get_through(project):
    run = teach("vertical", Teacher({"": reply}), sets=["grounded=null"])
    corpus = (run.directory / "corpus.jsonl").read_text()
    assert sum("parsnips" in json.loads(line)["answer"] for line in corpus.splitlines()) == 3
