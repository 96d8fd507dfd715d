"""kd3: a pool of mostly foreign pictures, of which the rule draws those of its own classes more often."""

import json
from collections import Counter

import pytest

from data.digits import pool
from distillgen.located_yaml import read_yaml
from distillgen.project import home
from distillgen.runs.directory import read_records
from tests.recipes.harness import accuracies, teach, train_here


def test_the_pool_is_mostly_of_other_classes_and_nothing_is_in_two_parts():
    pytest.importorskip("sklearn")
    rows, other = list(pool(seed=0)), list(pool(seed=1))
    assert Counter((row["role"], row["kind"]) for row in rows) == {
        ("known", "own"): 450,
        ("pool", "own"): 60,
        ("test", "own"): 391,
        ("pool", "other"): 300,
        ("pool", "noise"): 300,
    }
    for row in rows:
        assert (row["label"] is not None) == (row["role"] == "known")
        assert (row["split"] == "test") == (row["role"] == "test")
        assert row["gold"] is None if row["kind"] == "noise" else (row["gold"] < 5) == (row["kind"] == "own")
    assert len({tuple(row["image"]) for row in rows}) == len(rows)
    assert [row["image"] for row in rows[:450]] != [row["image"] for row in other[:450]]
    small = Counter(row["kind"] for row in pool(seed=0, own=0, others=5, noise=2) if row["role"] == "pool")
    assert small == {"other": 5, "noise": 2}


def recipe(*arms: str) -> dict:
    """The recipe with some of its arms."""
    file = home("pipelines") / "kd3.yaml"
    pipeline, _ = read_yaml(file.read_text(encoding="utf-8"), file)
    _, _, student, asked = (next(iter(stage.values())) for stage in pipeline["stages"])
    student["arms"] = {name: student["arms"][name] for name in arms}
    asked["models"] = ["student", *(f"student-{name}" for name in arms), "student-big"]
    return pipeline


def own_share(run, student: str) -> float:
    """The share of the drawn rows that show a digit of the teacher's classes."""
    kinds = {record.id: record.fields["kind"] for record in read_records(run.directory / "corpus.jsonl")}
    lines = (run.directory / student / "draws.jsonl").read_text().splitlines()
    draws = Counter[str]()
    for line in map(json.loads, lines):
        draws[kinds[line["id"]]] += line["draws"]
    return draws["own"] / draws.total()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_rule_draws_more_of_the_own_classes_and_a_shuffled_teacher_teaches_nothing(tmp_path, monkeypatch):
    for package in ("torch", "accelerate", "datasets", "sklearn"):
        pytest.importorskip(package)
    train_here(monkeypatch)
    run = teach(recipe("random", "shuffled"), {}, out=tmp_path / "run")
    right = accuracies(run)
    assert right["student-big"] > 0.95 and right["student"] > 0.8, "five classes"
    assert right["student-shuffled"] < 0.5
    assert own_share(run, "student") > 1.5 * 60 / 660, "the pool's share"
    assert own_share(run, "student-random") < 1.2 * 60 / 660
