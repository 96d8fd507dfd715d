"""The recipe taid: a language model whose target moves to its teacher, live and as it was recorded."""

import json
import math

import pytest
import yaml

import distillgen
from distillgen.project import home
from distillgen.runs.directory import read_records
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

FEW = [
    "big.max_steps=60",
    "train.max_steps=60",
    "train.arms={five: {losses: [{taid: {teacher: likeliest}}]}}",
    "evaluate.models=[student, student-five, base]",
    "source.with.most=12000",
]


def test_the_recipe_passes_the_check_with_all_its_arms(project, installed):  # noqa: F811
    pipeline = distillgen.load("taid")
    arms = ["", "-linear", "-five", "-five-alone", "-forward", "-reverse", "-labels"]
    assert [stage.name for stage in pipeline.stages if stage.name.startswith("train")] == [
        f"train{arm}" for arm in arms
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_students_of_a_live_and_of_a_recorded_teacher_learn_the_same_texts(project, monkeypatch):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pipeline = yaml.safe_load((home("pipelines") / "taid.yaml").read_text())
    run = distillgen.run(pipeline, out="run", sets=FEW)
    models = json.loads((run.directory / "evaluation.json").read_text())["models"]
    live, recorded, untrained = (models[name]["perplexity"] for name in ("student", "student-five", "base"))
    assert live < untrained * 0.9 and recorded < untrained * 0.9
    manifests = [
        json.loads((run.directory / name / "manifest.json").read_text())
        for name in ("student", "student-five")
    ]
    assert manifests[0]["data"]["rows"]["train"] == manifests[1]["data"]["rows"]["train"] > 200
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.directory / "student-big")
    for record in read_records(run.directory / "corpus.jsonl"):
        prompt, completion = (
            tokenizer(record.fields[name])["input_ids"] for name in ("prompt", "completion")
        )
        whole = tokenizer(record.fields["prompt"] + record.fields["completion"])["input_ids"]
        assert whole == prompt + completion, "the teacher scores the tokens that it learnt"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_target_that_moves_teaches_more_than_the_reverse_divergence(project, monkeypatch):
    """The design's gate, 0.1 nats a token, with one seed and the recipe's full steps."""
    pytest.importorskip("torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pipeline = yaml.safe_load((home("pipelines") / "taid.yaml").read_text())
    pipeline["stages"] = [stage for stage in pipeline["stages"] if "score" not in stage]
    arms = pipeline["stages"][-2]["train"]["arms"]
    pipeline["stages"][-2]["train"]["arms"] = {"reverse": arms["reverse"]}
    run = distillgen.run(pipeline, out="run", sets=["evaluate.models=[student, student-reverse]"])
    models = json.loads((run.directory / "evaluation.json").read_text())["models"]
    moving, reverse = (math.log(models[name]["perplexity"]) for name in ("student", "student-reverse"))
    assert reverse - moving >= 0.1
