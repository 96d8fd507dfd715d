"""The recipe bistil: half of the layers, the tokens of two languages, and a task in few of the weights."""

import json

import pytest

import distillgen
from data.tongues import World, tongues
from distillgen.located_yaml import read_yaml
from distillgen.project import home
from tests.recipes.harness import teach, train_here
from tests.stages.test_train import installed  # noqa: F401  as if every package were there


def recipe() -> dict:
    file = home("pipelines") / "bistil.yaml"
    pipeline, _ = read_yaml(file.read_text(encoding="utf-8"), file)
    return pipeline


def test_the_recipe_passes_the_check_with_all_its_arms(project, installed):  # noqa: F811
    names = {stage.name for stage in distillgen.load("bistil").stages}
    arms = {f"pair-{arm}" for arm in ("whole", "others", "six", "copied", "scratch")}
    assert {"pair", "full", "full-shuffled", "train", "train-chance"} | arms <= names


def test_only_the_first_language_has_tasks_to_learn_from_and_the_languages_share_a_few_words():
    rows = list(tongues(seed=0, texts=40, tasks=30, test=20))
    assert rows == list(tongues(seed=0, texts=40, tasks=30, test=20)) != list(tongues(seed=1))[: len(rows)]
    tasks = [row for row in rows if row["kind"] == "task"]
    assert {(r["language"], r["split"]) for r in tasks} == {("l0", "train"), ("l0", "test"), ("l1", "test")}
    world = World(0, 6)
    words = [{word for words in tongue for word in words} for tongue in world.words]
    common = {*world.common}
    assert all(len(one) == 40 for one in words) and len(set().union(*words, common)) == 6 * 40 + 10
    for row in rows:
        own = words[int(row["language"][1])]
        text = (row["prompt"] + row["completion"] * (row["kind"] == "text")).split()
        assert {*text} <= own | common | {"."} and len(text) == 17
        if row["kind"] == "task":
            of_class = world.words[int(row["language"][1])][world.common.index(row["completion"].strip())]
            assert text[-2] in of_class and text[-1] == "."


def few() -> dict:
    """The recipe with few rows and steps, and without arms and evaluations."""
    pipeline = recipe()
    pipeline["stages"] = [stage for stage in pipeline["stages"] if "evaluate" not in stage]
    for stage in pipeline["stages"]:
        for kind, inner in stage.items():
            if kind == "train":
                inner.pop("arms", None)
                inner["max_steps"] = 8
            if kind == "source":
                inner["with"] = {"texts": 40, "tasks": 64, "test": 2}
    return pipeline


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_student_keeps_half_of_the_layers_two_languages_and_most_weights_of_the_first_phase(
    tmp_path, monkeypatch
):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    train_here(monkeypatch)
    folder = teach(few(), {}, out=tmp_path / "run").directory

    def model(name):
        return transformers.AutoModelForCausalLM.from_pretrained(folder / name)

    def weights(name):
        return torch.cat([value.detach().flatten() for value in model(name).parameters()])

    vocabulary = transformers.AutoTokenizer.from_pretrained(folder / "student-pair").get_vocab()
    world = World(0, 6)
    for number, tongue in enumerate(world.words):
        known = [f" {word}" in vocabulary for words in tongue for word in words]
        assert sum(known) > 30 if number < 2 else not any(known)
    pair, full, student = (weights(name) for name in ("student-pair", "student-full", "student"))
    assert len(model("student-pair").model.layers) == 2 and len(model("student-many").model.layers) == 4
    changed = student != pair
    count = round(0.08 * len(pair))
    most = (full - pair).abs().topk(count).values.min()
    assert 0.9 * count < changed.sum() <= count and ((full - pair).abs()[changed] >= most).all()
    assert (full != pair).float().mean() > 0.9, "the control: without a mask"
    other = few()
    other["stages"][3]["train"]["student"]["layers"] = "every 4"
    teach(other, {}, out=tmp_path / "run", until="pair")
    assert len(model("student-pair").model.layers) == 1, "another surgery is another training"
    manifest = json.loads((folder / "student/manifest.json").read_text())
    assert manifest["options"]["only"] == {"changed_by": "student-full", "density": 0.08}
