"""ff-g2m: a student of a graph's teacher needs no graph, and edges that lead elsewhere teach less."""

import pytest

from tests.recipes.harness import accuracies, teach, train_here

for package in ("torch", "accelerate", "datasets"):
    pytest.importorskip(package)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_a_student_learns_of_neighbours_and_less_of_strangers(tmp_path, monkeypatch):
    train_here(monkeypatch)
    run = teach("ff-g2m", {}, out=tmp_path / "run")
    right = accuracies(run)
    assert right["student"] > right["student-mlp"] + 0.05
    assert right["student"] > max(right["student-strangers"], right["student-shuffled"]) + 0.02
    assert right["student-gcn"] > right["student-mlp"] + 0.05, "the teacher knows more than the labels"
