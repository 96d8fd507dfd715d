"""meta-dmoe: planted domains, in which only a student that adapts to the rows of the domain is right."""

from collections import Counter
from statistics import fmean

import pytest

from data.domains import domains
from distillgen.located_yaml import read_yaml
from distillgen.project import home
from tests.recipes.harness import accuracies, teach, train_here


def along(row: dict, direction: list[float]) -> float:
    return sum(a * b for a, b in zip(row["x"], direction, strict=True))


def test_a_row_alone_does_not_tell_its_class_and_its_domain_does():
    rows = [*domains(seed=0, new=10)]
    roles = Counter((row["role"], row["split"], row["label"] is None) for row in rows)
    assert roles == {
        ("source", "train", False): 1440,
        ("support", "train", True): 240,
        ("asked", "test", True): 2000,
    }
    assert Counter(row["expert"] for row in rows) == {0: 480, 1: 480, 2: 480, None: 2240}
    asked = [row for row in rows if row["role"] == "asked"]
    centres = {
        gold: [fmean(column) for column in zip(*(r["x"] for r in asked if r["gold"] == gold), strict=True)]
        for gold in ("above", "below")
    }
    direction = [a - b for a, b in zip(centres["above"], centres["below"], strict=True)]

    def right(middle: dict[str, float]) -> float:
        said = ["above" if along(row, direction) > middle[row["domain"]] else "below" for row in asked]
        return fmean(answer == row["gold"] for answer, row in zip(said, asked, strict=True))

    places: dict[str, list[float]] = {}
    for row in rows:
        if row["role"] == "support":
            places.setdefault(row["domain"], []).append(along(row, direction))
    supports = {domain: fmean(values) for domain, values in places.items()}
    assert right(supports) > 0.85, "the mean of 24 rows without labels tells the offset of the domain"
    assert right(dict.fromkeys(supports, fmean(supports.values()))) < 0.75
    others = {row["domain"]: supports[row["other"]] for row in asked}
    assert right(others) < 0.75 and all(row["other"] != row["domain"] for row in asked)
    assert [*domains(seed=0)][7] == rows[7] != [*domains(seed=1)][7]


def recipe(new: list[str]) -> dict:
    """The recipe with fewer new domains, and fewer steps."""
    file = home("pipelines") / "meta-dmoe.yaml"
    pipeline, _ = read_yaml(file.read_text(encoding="utf-8"), file)
    source, expert, erm, meta, adapted, strange, *asking, _ = (
        next(iter(s.values())) for s in pipeline["stages"]
    )
    source["with"]["new"] = len(new)
    erm["max_steps"] = meta["max_steps"] = 250
    adapted["each"], strange["each"] = {"domain": new}, {"other": new}
    for stage in asking:
        stage["model"] = stage["model"][: len(new)]
    return pipeline


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_student_adapts_to_its_own_domain_and_not_by_the_rows_of_another(tmp_path, monkeypatch):
    for package in ("torch", "accelerate", "datasets"):
        pytest.importorskip(package)
    train_here(monkeypatch)
    run = teach(recipe(["n0", "n1"]), {}, out=tmp_path / "run")
    right = accuracies(run)
    assert right["adapted"] > right["student-erm"] + 0.1 and right["adapted"] > right["strange"] + 0.1
    experts = run.directory / "student-meta/peers/experts"
    assert (experts / "network.json").is_file(), "later stages step towards what the training leaves"
