"""mulki: four domains one after the other, and a student that goes on with two teachers."""

import json
from collections import Counter

import pytest

from data.digits import domains
from distillgen.located_yaml import read_yaml
from distillgen.project import home
from tests.recipes.harness import teach, train_here


def test_a_digit_is_in_four_domains_and_in_one_part():
    pytest.importorskip("sklearn")
    rows = list(domains(seed=0, before=20, train=30, test=10))
    assert Counter((row["task"], row["role"]) for row in rows) == {
        (task, role): count
        for task in range(4)
        for role, count in (("before", 20), ("task", 30), ("test", 10))
    }
    assert all((row["split"] == "test") == (row["role"] == "test") for row in rows)
    plain, negative, transposed, mirrored = (rows[60 * task + 25] for task in range(4))
    assert plain["gold"] == negative["gold"] == transposed["gold"] == mirrored["gold"]
    picture = [plain["image"][start : start + 8] for start in range(0, 64, 8)]
    assert negative["image"] == [16 - pixel for row in picture for pixel in row]
    assert transposed["image"] == [picture[x][y] for y in range(8) for x in range(8)]
    assert mirrored["image"] == [pixel for row in picture for pixel in reversed(row)]
    noisy, other = rows[0]["image"], next(iter(domains(seed=1, before=20, train=30, test=10)))["image"]
    assert noisy != other and min(noisy) < 0, "noise of deviation 6.4"
    clean = {tuple(row["image"]) for row in rows if row["role"] != "before" and row["task"] == 0}
    assert len(clean) == 40


def recipe(*arms: str, rounds: int) -> dict:
    """The recipe with some of its arms, fewer rounds and fewer digits."""
    file = home("pipelines") / "mulki.yaml"
    pipeline, _ = read_yaml(file.read_text(encoding="utf-8"), file)
    pipeline["stages"][0]["source"]["with"] = {"before": 150, "train": 150, "test": 30}
    loop = pipeline["stages"][-1]["rounds"]
    loop["n"] = rounds
    student, asked = loop["stages"][0]["train"], loop["stages"][1]["evaluate"]
    student["arms"] = {name: student["arms"][name] for name in arms}
    asked["models"] = ["student", *(f"student-{name}" for name in arms)]
    return pipeline


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_round_begins_with_the_student_of_the_last_which_teaches_too(tmp_path, monkeypatch):
    for package in ("torch", "accelerate", "datasets", "sklearn"):
        pytest.importorskip(package)
    from safetensors.torch import load_file

    jobs = []
    train_here(monkeypatch, jobs.append)
    run = teach(recipe("finetune", rounds=2), {}, out=tmp_path / "run")
    rounds = run.directory / "rounds"
    zero, first, second = (
        load_file(folder / "model.safetensors")
        for folder in (run.directory / "student-zero", rounds / "00/student", rounds / "01/student")
    )
    names = [name for name in zero if name != "scale"]
    assert all(not zero[n].equal(first[n]) and not first[n].equal(second[n]) for n in names)
    teachers = [{name: str(path) for name, path in job.models.items()} for job in jobs]
    of_student = [t for t in teachers if t]  # the arm without teachers has none
    assert of_student == [
        {
            "student-zero": str(run.directory / "student-zero"),
            "previous": str(run.directory / "student-zero"),
        },
        {"student-zero": str(run.directory / "student-zero"), "previous": str(rounds / "00/student")},
    ]
    starts = [job.start for job in jobs if job.to.name == "student-finetune"]
    assert starts == [str(run.directory / "student-zero"), str(rounds / "00/student-finetune")]
    known = [json.loads((rounds / f"0{i}/evaluation-after.json").read_bytes()) for i in range(2)]
    right = [{name: m["metrics"]["exact"]["mean"] for name, m in one["models"].items()} for one in known]
    assert right[1]["student"] > right[1]["student-finetune"], "of all four domains, after two"
    trust = [
        json.loads(line)["trust"] for line in (rounds / "01/student/weights.jsonl").read_text().splitlines()
    ]
    assert len(trust) == 150 and all(abs(sum(row) - 1) < 1e-6 and 0 < min(row) for row in trust)
    assert len({round(row[0], 3) for row in trust}) > 10, "a share for each row"
