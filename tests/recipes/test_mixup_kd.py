"""mixup-kd: mixtures harm a student of plain logits, not one of rescaled ones; others teach nothing."""

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.located_yaml import read_yaml
from distillgen.project import home
from tests.recipes.harness import accuracies, teach, train_here
from tests.stages.test_train import installed  # noqa: F401  as if every package were there


def recipe(*arms: str) -> dict:
    """The recipe with some of its arms."""
    file = home("pipelines") / "mixup-kd.yaml"
    pipeline, _ = read_yaml(file.read_text(encoding="utf-8"), file)
    train, evaluate = (
        stage[kind] for stage, kind in zip(pipeline["stages"][-2:], ("train", "evaluate"), strict=True)
    )
    train["arms"] = {name: train["arms"][name] for name in arms}
    evaluate["models"] = ["student", *(f"student-{name}" for name in arms), "student-big"]
    return pipeline


def test_the_teacher_of_mixtures_is_asked_in_the_training_and_not_before(project, monkeypatch, installed):  # noqa: F811
    pytest.importorskip("sklearn")
    monkeypatch.chdir(project.path)
    recorded = recipe()
    says = {
        "name": "says",
        "model": "student-big",
        "template": "{{ image | json }}",
        "output": "guess",
        "logprobs": 10,
    }
    recorded["stages"].insert(2, {"generate": says})
    for loss in recorded["stages"][-2]["train"]["losses"]:
        for options in loss.values():
            options.update({"teacher": "says"} if "teacher" in options else {})
    with pytest.raises(ConfigError, match="what 'says' said was recorded, and of no mixture"):
        distillgen.load(recorded)
    del recorded["stages"][-2]["train"]["mixup"]
    distillgen.load(recorded)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_rescaled_logits_mend_what_full_mixup_harms_and_another_mixture_teaches_nothing(
    tmp_path, monkeypatch
):
    for package in ("torch", "accelerate", "datasets", "sklearn"):
        pytest.importorskip(package)
    train_here(monkeypatch)
    run = teach(recipe("full", "full-rescaled", "shuffled"), {}, out=tmp_path / "run")
    right = accuracies(run)
    assert right["student-big"] > 0.9
    assert right["student-full-rescaled"] > right["student-full"]
    assert right["student"] > right["student-shuffled"] + 0.1
