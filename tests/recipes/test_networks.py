"""The recipes of networks on handwritten digits: each against its rivals, over seeds, with a control."""

import json
from pathlib import Path
from statistics import fmean

import pytest

import distillgen
from distillgen.runs.directory import read_records

for package in ("torch", "accelerate", "datasets", "sklearn"):
    pytest.importorskip(package)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Figures:
    """The figures of a recipe over seeds, in percent."""

    def __init__(self, recipe: str, folder, seeds: int, *sets: str) -> None:
        self.runs = distillgen.run(recipe, out=folder / recipe, seeds=seeds, sets=sets)
        figures = self.runs.summary["figures"]
        self.mean = {(f["model"], f["metric"]): 100 * f["mean"] for f in figures if f["model"]}

    def accuracy(self, model: str) -> float:
        return self.mean[model, "exact"]


def auroc(positive: list[float], negative: list[float]) -> float:
    """The share of pairs in which the positive is larger; half of those that are equal."""
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    return sum(pairs) / len(pairs)


def test_dho_learns_from_few_labels_and_a_teacher_and_not_from_a_shuffled_one(tmp_path):
    figures = Figures("dho", tmp_path, 2)
    assert figures.accuracy("student") > figures.accuracy("student-labels")
    assert figures.accuracy("student") > figures.accuracy("student-shuffled") + 5


def auroc_of_shares(run: Path, student: str) -> float:
    """How well the shares of the teacher tell the rows about which it is right, apart from the others."""
    records = {record.id: record for record in read_records(run / "corpus.jsonl")}
    lines = (run / student / "weights.jsonl").read_text().splitlines()
    shares = {row["id"]: row["alpha"] for row in map(json.loads, lines)}
    right = {name: str(records[name].fields["gold"]) == records[name].fields["guess"] for name in shares}
    return auroc(*([shares[name] for name in shares if right[name] is kind] for kind in (True, False)))


def test_tgeo_kd_finds_the_rows_where_the_teacher_is_wrong_and_a_frozen_controller_does_not(tmp_path):
    figures = Figures("tgeo-kd", tmp_path, 2)
    runs = [figures.runs.place(seed) for seed in range(2)]
    assert fmean(auroc_of_shares(run, "student") for run in runs) >= 0.7
    assert fmean(auroc_of_shares(run, "student-frozen") for run in runs) <= 0.6
    assert figures.accuracy("student") > figures.accuracy("student-half")


def test_lelp_learns_from_embeddings_and_not_from_those_of_other_rows(tmp_path):
    figures = Figures("lelp", tmp_path, 3)
    assert figures.accuracy("student") > figures.accuracy("student-shuffled")


def test_pld_weighs_the_places_of_a_ranking_and_a_shuffled_teacher_ruins_it(tmp_path):
    figures = Figures("pld", tmp_path, 2)
    assert figures.accuracy("student") > figures.accuracy("student-uniform")
    assert figures.accuracy("student") > figures.accuracy("student-shuffled") + 20


def test_bd_kd_is_better_calibrated_than_labels_alone(tmp_path):
    figures = Figures("bd-kd", tmp_path, 3)
    assert figures.mean["student", "ece"] < figures.mean["student-labels", "ece"]
