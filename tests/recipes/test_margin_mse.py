"""margin-mse: margins teach a ranking where scores, whose level differs from query to query, do not."""

import json

import pytest

import distillgen
from distillgen.project import Project
from distillgen.stages.source import Source
from tests.recipes.harness import teach, train_here
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

FEW = [  # the gate is about two of the arms
    "source.with={test: 30}",
    "train.arms={pointwise: {where: \"{{ kind == 'pair' }}\", fields: [query, document], loss: cosine, "
    "score: score}, shuffled: {on: shuffled}}",
    "evaluate.models=[student, student-pointwise, student-shuffled]",
]


def test_the_recipe_passes_the_check_with_all_its_arms(project, installed):  # noqa: F811
    pipeline = distillgen.load("margin-mse")
    arms = ["train", "train-pointwise", "train-ranking", "train-shuffled"]
    assert [stage.name for stage in pipeline.stages if stage.name.startswith("train")] == arms


def test_a_shift_of_all_scores_of_a_query_changes_no_margin(tmp_path):
    def numbers(kind, field, offset):
        options = {"train": 20, "test": 2, "offset": offset}
        source = Source(name="source", script="data/rankings.py:rankings", **{"with": options})
        rows = [record.fields for record in source.records(Project(tmp_path), 3)]
        return [row[field] for row in rows if row["kind"] == kind]

    margins = numbers("triple", "margin", 0)
    assert numbers("triple", "margin", 50) == pytest.approx(margins, abs=1e-6) and len(margins) == 100
    scores = zip(numbers("pair", "score", 0), numbers("pair", "score", 50), strict=True)
    assert max(abs(one - other) for one, other in scores) > 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_margins_teach_more_than_scores_and_margins_of_other_triples_nothing(tmp_path, monkeypatch):
    for package in ("torch", "accelerate", "datasets", "sentence_transformers"):
        pytest.importorskip(package)
    train_here(monkeypatch)
    run = teach("margin-mse", {}, FEW, out=tmp_path / "run")
    models = json.loads((run.directory / "evaluation.json").read_bytes())["models"]
    gain = {name: figures["metrics"]["ndcg"]["mean"] for name, figures in models.items()}
    assert gain["student"] > 0.88 and gain["student"] > gain["student-pointwise"] + 0.02
    assert gain["student-shuffled"] < 0.82, "a random order has 0.756"
