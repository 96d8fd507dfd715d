"""The recipe self-instruct: the pool grows by new tasks alone, out of six seeds and two of its own."""

import json
import re
from itertools import combinations

import pytest

from distillgen.project import home
from distillgen.runs.directory import read_records
from distillgen.text.words import words
from filters.rouge import rouges
from tests.recipes.harness import Teacher, draw, teach

STARTS, ENDS = "ba de fi ko lu mo na pe ri su".split(), "rk st lo nt mi".split()
WORDS = [start + end for start in STARTS for end in ENDS]
ROWS = (home("data") / "seed_tasks.jsonl").read_text(encoding="utf-8").splitlines()[:30]
SEEDS = [json.loads(line)["instruction"] for line in ROWS]


def imaginative(text, sample):
    """Return a new task; one in three copies a task of the prompt, but for a word."""
    chance = draw("task", text)
    if chance.random() < 1 / 3:
        shown = chance.choice(re.findall(r"Task \d: (.*)", text))
        return f"{shown} please"
    return "Write " + " ".join(chance.choices(WORDS, k=12))


def tired(text, sample):
    """Return one of three tasks, whatever the prompt shows."""
    return "Describe a " + draw("tired", text).choice(["green old boat", "blue new train", "red small house"])


def labelled(text, sample):
    """Return whether a task asks for a label, as one in two does."""
    return draw("label", text).choice(["Yes", "No"])


@pytest.fixture
def grown(project):
    """Run the recipe; on half of the seeds; gives the run, the teacher, and the records of each round."""

    def grown(ask, *sets):
        example = json.dumps({"input": "some input", "response": "some response"})
        teacher = Teacher(
            {
                "You continue a list": ask,
                "You say whether": labelled,
                "You carry out tasks": example,
                "You make an example": json.dumps({"response": "a label", "input": "another input"}),
            }
        )
        project.write("seeds.jsonl", "\n".join(ROWS))
        seeds = ["source.path=seeds.jsonl", "human.from=seeds.jsonl"]
        run = teach("self-instruct", teacher, [*seeds, *sets])
        folders = sorted((run.directory / "rounds").glob("[0-9]*"))
        return run, teacher, [list(read_records(folder / "records.jsonl")) for folder in folders]

    return grown


def test_the_pool_grows_by_new_tasks_out_of_six_seeds_and_two_of_its_own(grown):
    run, teacher, rounds = grown(imaginative, "rounds.max_records=45")
    kept = [[r for r in records if not r.dropped] for records in rounds]
    assert [len(records) for records in rounds] == [30, min(45, 30 + len(kept[0])), 45]
    pool = [r.fields["instruction"] for records in kept for r in records]
    texts = [words(text) for text in (*SEEDS, *pool)]
    near = [pair for pair in combinations(range(len(texts)), 2) if max(pair) >= len(SEEDS)]
    assert max(rouges(texts[i], texts[j])["rouge_l"] for i, j in near) <= 0.7
    copies = [r for records in rounds for r in records if r.fields["instruction"].endswith(" please")]
    assert len(copies) > 20 and all(r.dropped for r in copies)
    for text in teacher.asked("You continue a list"):
        shown = re.findall(r"Task \d: (.*)", text)
        human = sum(task in SEEDS for task in shown)
        machine = sum(task in pool for task in shown)
        assert len(set(shown)) == 8 and (human, machine) in ((6, 2), (8, 0))
    mixed = [text for text in teacher.asked("You continue a list") if sum(t in text for t in pool) == 2]
    assert len(mixed) == len(rounds[1]) + len(rounds[2]), "each later request shows two of the model's own"
    rows = [json.loads(line) for line in (run.directory / "corpus.jsonl").read_text().splitlines()]
    assert {row["output"] for row in rows if row["fixed"] == "Yes"} == {"a label"}
    assert {row["output"] for row in rows if row["fixed"] == "No"} == {"some response"}
    assert sorted(row["instruction"] for row in rows) == sorted(pool)


def test_a_teacher_that_repeats_itself_stops_the_loop(grown):
    run, _, rounds = grown(tired)
    kept = [sum(not r.dropped for r in records) for records in rounds]
    assert len(rounds) == 2 and kept[0] <= 3 and kept[1] == 0
    ended = json.loads((run.directory / "rounds/rounds.json").read_text())["ended"]
    assert ended.startswith("kept fell to 0, more than 90% below ")


def test_without_the_comparison_the_copies_join(grown):
    """The control: the filter alone keeps the pool new."""
    _, _, rounds = grown(imaginative, "novel=null", "rounds.n=1")
    assert sum(not r.dropped and r.fields["instruction"].endswith(" please") for r in rounds[0]) > 5
