"""mst-distill: three stages, in each of which what is to learn learns, and what is frozen does not."""

import json

import pytest

from tests.recipes.harness import accuracies, teach, train_here

for package in ("torch", "accelerate", "datasets", "sklearn"):
    pytest.importorskip(package)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_masked_teachers_and_a_gate_teach_a_student_that_sees_one_half(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    train_here(monkeypatch)
    run = teach("mst-distill", {}, ["train.max_steps=40"], out=tmp_path / "run")
    right = accuracies(run)
    assert min(right.values()) > 0.6, "the tops of 1,297 digits; a guess would be right for one in ten"
    together = run.directory / "student-together"
    for peer in ("both", "cross"):
        before = load_file(together / "peers" / peer / "model.safetensors")
        after = load_file(run.directory / f"student-masked-{peer}" / "model.safetensors")
        assert all(value.equal(after[f"body.network.{name}"]) for name, value in before.items())
    routes = {name: _routes(run.directory / name) for name in ("student", "student-released")}
    assert all(len(route) == 4 and abs(sum(route) - 1) < 1e-5 for route in routes["student"])
    assert all(sorted(route) == [0, 0, 0, 1] for route in routes["student-released"])
    assert max(map(max, routes["student"])) < 1


def _routes(folder) -> list[list[float]]:
    return [json.loads(line)["route"] for line in (folder / "weights.jsonl").read_text().splitlines()]
