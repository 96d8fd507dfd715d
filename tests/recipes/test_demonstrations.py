"""The recipe demonstrations: what a row may see, a teacher that reads it, and a student that learns by it."""

import json
import sys
from collections import Counter

import pytest

import distillgen
from distillgen.project import home
from distillgen.runs.directory import read_records
from distillgen.text.words import content
from tests.recipes.harness import train_here
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

SMALL = {"meta": 4, "rows": 4, "unseen": 10, "shots": 12, "asked": 8}
NO_STUDENT = [f"{name}=null" for name in ("meta", "few", "evaluate", "none")]
BANK = "from: here, others: true, into: demos, keep: [question, example_answer], k: 4"


@pytest.fixture
def guilds(monkeypatch):
    """The program that draws the data."""
    monkeypatch.syspath_prepend(str(home("data")))
    import guilds

    yield guilds.guilds
    del sys.modules["guilds"]


def labelled(out, *sets):
    """The records with their demonstrations and the teacher's labels."""
    source = [f"source.with={json.dumps(SMALL)}"] if not any("rows.jsonl" in each for each in sets) else []
    run = distillgen.run("demonstrations", out=out, sets=[*source, *NO_STUDENT, *sets])
    return [*read_records(run.directory / "corpus.jsonl")]


def leaks(records):
    """The demonstrations that repeat the question of their record, or nearly, and those that are held out."""
    held_out = {r.fields["question"] for r in records if r.held_out}
    pairs = [(r.fields["question"], demo["question"]) for r in records for demo in r.fields["demos"]]
    assert len(pairs) > 3 * len(records)
    return [demo for question, demo in pairs if demo in held_out or overlap(question, demo) > 0.95]


def overlap(one, other):
    """The cosine of two texts by their content words."""
    one, other = content(one), content(other)
    return len(one & other) / (len(one) * len(other)) ** 0.5


def right(records):
    """The share of held-out questions that the teacher answers right."""
    asked = [r for r in records if r.held_out]
    assert len(asked) == 80
    return sum(r.fields["labelled"] == r.fields["answer"] for r in asked) / len(asked)


def test_the_teacher_gains_by_demonstrations_of_other_rows_and_nothing_by_permuted_answers(project, guilds):
    records = labelled("run")
    assert not leaks(records)
    rows = {row["question"]: row for row in guilds(seed=0, **SMALL)}
    pairs = [(rows[r.fields["question"]], rows[d["question"]]) for r in records for d in r.fields["demos"]]
    assert all(row["phase"] == demo["phase"] for row, demo in pairs)
    assert any(row["guild"] != demo["guild"] for row, demo in pairs)
    gold = labelled("gold", "bank.within=guild")
    assert right(gold) >= right(records) > 0.6
    assert right(labelled("random", f"bank={{by: random, within: phase, {BANK}}}")) < 0.3
    assert right(labelled("permuted", "example.fields.example_answer={{ permuted }}")) < 0.4


def test_a_row_or_a_near_copy_that_is_its_own_demonstration_is_seen(project, guilds):
    rows = [*guilds(seed=0, **SMALL)]
    copies = [
        {**row, "question": " ".join(reversed(row["question"].split())), "split": "train"}
        for row in rows
        if row["split"] == "test"
    ]
    project.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in [*rows, *copies]))
    source = "source={path: rows.jsonl}"
    assert len(copies) == 80 and not leaks(labelled("run", source))
    with_copies = labelled("copies", source, "bank.max_cosine=1")
    assert len(leaks(with_copies)) >= len(copies)
    assert not any(d["question"] == r.fields["question"] for r in with_copies for d in r.fields["demos"])
    trained = sum(row["split"] == "train" for row in [*rows, *copies])
    open_bank = labelled("itself", source, "bank.max_cosine=1", "bank.others=false")
    assert len(leaks(open_bank)) >= len(copies) + trained, "each training row finds itself"


def test_only_rows_of_the_same_guild_tell_a_room(guilds):
    rows = [*guilds(seed=0, **SMALL)]
    assert rows == [*guilds(seed=0, **SMALL)] != [*guilds(seed=1, **SMALL)]
    assert len({(row["guild"], frozenset(row["question"].split())) for row in rows}) == len(rows)
    assert Counter((row["phase"], row["split"]) for row in rows) == {
        ("meta", "train"): 4 * 4,
        ("shots", "train"): 10 * 12,
        ("shots", "test"): 10 * 8,
    }
    assert {r["guild"] for r in rows[:16]}.isdisjoint(r["guild"] for r in rows[16:])
    rooms = {}
    for row in rows:
        rooms.setdefault(row["guild"], set()).add(row["answer"])
        assert row["answer"] in row["options"]
    assert {len(named) for named in rooms.values()} == {4}
    trained = [row for row in rows if row["split"] == "train"]
    answers, permuted = (Counter((r["guild"], r[name]) for r in trained) for name in ("answer", "permuted"))
    assert answers == permuted and sum(row["answer"] == row["permuted"] for row in trained) < 0.4 * len(
        trained
    )


def test_the_recipe_passes_the_check_with_its_arms(project, installed):  # noqa: F811
    names = [stage.name for stage in distillgen.load("demonstrations").stages]
    trainings = [name for name in names if name.startswith(("meta", "few"))]
    assert trainings == ["meta", "meta-none", "few", "few-none"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_student_gains_by_demonstrations_on_new_tasks(project, monkeypatch):
    """One student, asked with a demonstration and without."""
    pytest.importorskip("torch")
    train_here(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sets = ["source.with={asked: 5}", "meta.max_steps=450", "meta.arms={}", "few.arms={}"]
    sets += [f"{stage}.models=[student-few]" for stage in ("evaluate", "none")]
    run = distillgen.run("demonstrations", out="run", sets=sets)
    with_one, without = (
        json.loads((run.directory / file).read_bytes())["models"]["student-few"]["metrics"]["exact"]["mean"]
        for file in ("evaluation.json", "evaluation-none.json")
    )
    assert with_one > without + 0.3
