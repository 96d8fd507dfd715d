"""trg: a long tail of digits, and a ViT that learns of its teacher's patches, and less of other pictures'."""

import json
from collections import Counter

import pytest

from data.digits import digits
from distillgen.located_yaml import read_yaml
from distillgen.project import home
from tests.recipes.harness import teach, train_here


def counts(rows: list[dict], split: str) -> dict[int, int]:
    return Counter(row["gold"] for row in rows if row["split"] == split)


def test_the_training_rows_have_a_long_tail_and_the_test_rows_do_not():
    pytest.importorskip("sklearn")
    even, long, other = (
        list(digits(train=1100, **options)) for options in ({"seed": 0}, LONG, {**LONG, "seed": 1})
    )
    train = counts(long, "train")
    assert sorted(train.values()) == [5, 7, 10, 14, 19, 26, 37, 51, 72, 100], "100 / 20 ** (rank / 9)"
    assert (
        sorted(counts(other, "train").values()) == sorted(train.values()) and counts(other, "train") != train
    )
    assert counts(long, "test") == counts(even, "test") and min(counts(even, "train").values()) > 90
    short = counts(list(digits(seed=0, train=1100, imbalance=4, largest=40)), "train")
    assert max(short.values()) == 40 and min(short.values()) == 10


LONG = {"seed": 0, "imbalance": 20}


def recipe(*arms: str, **options) -> dict:
    """The recipe with some of its arms, and other options of all trainings."""
    file = home("pipelines") / "trg.yaml"
    pipeline, _ = read_yaml(file.read_text(encoding="utf-8"), file)
    _, big, student, asked = (next(iter(stage.values())) for stage in pipeline["stages"])
    big.update(options)
    student.update(options, arms={name: student["arms"][name] for name in arms})
    asked["models"] = ["student", *(f"student-{name}" for name in arms), "student-big"]
    return pipeline


def strangeness(folder, name: str, rows: list[dict]) -> float:
    """The local term of a student's relations of pictures against its teacher's."""
    import torch

    from distillgen.losses.token_relations import TokenRelations
    from distillgen.networks.network import load
    from distillgen.project import Project

    networks = [load(folder / one, Project(folder)) for one in (name, "student-big")]
    with torch.no_grad():
        student, teacher = (net(net.batch([{"image": r["image"]} for r in rows])).tokens for net in networks)
        local = TokenRelations(teacher="student-big")._local(student.flatten(0, 1), teacher.flatten(0, 1))
    return float(local.mean())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_relations_of_the_student_are_nearer_to_its_teachers_than_those_of_the_control(
    tmp_path, monkeypatch
):
    for package in ("torch", "accelerate", "datasets", "sklearn", "transformers"):
        pytest.importorskip(package)
    train_here(monkeypatch)
    run = teach(recipe("kd", "shuffled", max_steps=150), {}, out=tmp_path / "run")
    (file,) = run.directory.glob("evaluation*.json")
    models = json.loads(file.read_bytes())["models"]
    right = {name: model["figures"]["balanced_accuracy"]["mean"] for name, model in models.items()}
    assert right["student-big"] > 0.5, "ten digits"
    new = [row for row in digits(**LONG, train=1100) if row["split"] == "test"][:100]
    far = {name: strangeness(run.directory, name, new) for name in right}
    assert far["student-big"] == pytest.approx(0, abs=1e-6)
    assert far["student"] < min(far["student-shuffled"], far["student-kd"])
