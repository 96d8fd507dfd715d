"""The recipe mend: tasks that no training row has, and vectors for their demonstrations."""

import importlib.util
import json
import re
from collections import Counter

import pytest
import yaml

import distillgen
from distillgen.project import home
from tests.recipes.harness import train_here
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

SPEC = importlib.util.spec_from_file_location("label_maps", home("data") / "label_maps.py")
maps = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(maps)
ROWS = [*maps.label_maps(rows=2000, tested=400)]
TRAIN, TEST = ([row for row in ROWS if row["split"] == split] for split in ("train", "test"))
PAIR = re.compile(r" (\w+) (\w+)")


def agrees(row: dict, field: str) -> float:
    """The share of pairs in a field that are those of the row's map."""
    colours = dict(zip(maps.FRUITS, row["task"].split(), strict=True))
    pairs = PAIR.findall(row[field])
    return sum(colours[fruit] == colour for fruit, colour in pairs) / len(pairs)


def leaks(train: list[dict], test: list[dict]) -> int:
    return len({row["task"] for row in train} & {row["task"] for row in test})


def test_the_maps_of_the_test_are_in_no_training_row():
    assert leaks(TRAIN, TEST) == 0 and len({row["task"] for row in TEST}) == 64
    assert leaks([*TRAIN, TEST[0]], TEST) == 1, "the control is found"
    assert len({row["task"] for row in TRAIN}) == 192


def test_a_row_shows_its_map_and_asks_about_it():
    for row in ROWS:
        assert len(PAIR.findall(row["demos"])) == 16 and agrees(row, "demos") == 1
        assert row["text"] == row["demos"] + row["prompt"] + row["completion"] and agrees(row, "text") == 1
        fruits = [fruit for fruit, _ in PAIR.findall(row["prompt"] + row["completion"])]
        assert len(fruits) == len({*fruits}) == (4 if row["split"] == "train" else 1)


def test_colours_at_random_say_nothing_and_no_guess_is_better_than_another():
    right = sum(agrees(row, "other") for row in TEST) / len(TEST)
    assert 0.23 < right < 0.27, "one of four, over 6,400 pairs"
    answers = Counter(row["completion"] for row in TEST)
    assert {*answers} == {f" {colour}" for colour in maps.COLOURS} and max(answers.values()) < 140


def test_equal_seeds_give_equal_rows_and_others_others():
    first, again, other = ([*maps.label_maps(rows=20, tested=5, seed=seed)] for seed in (3, 3, 4))
    assert first == again != other
    assert {row["task"] for row in maps.label_maps(rows=0, tested=400)} != {
        row["task"] for row in maps.label_maps(rows=0, tested=400, seed=4)
    }


def test_the_recipe_passes_the_check(project, installed):  # noqa: F811
    pipeline = distillgen.load("mend")
    trainings = [
        stage.name for stage in pipeline.stages if stage.name.split("-")[0] in ("lm", "plain", "train")
    ]
    assert trainings == ["lm", "plain", "train", "train-answers"]


def test_no_training_row_repeats_a_test_row(project):
    pipeline = yaml.safe_load((home("pipelines") / "mend.yaml").read_text())
    pipeline["stages"] = pipeline["stages"][:2]
    few = ["source.with.rows=200", "source.with.tested=200"]
    assert len(distillgen.run(pipeline, out="run", sets=few).kept) == 400
    repeats = distillgen.run(pipeline, out="repeats", sets=[*few, "decontaminate.questions=[[prompt]]"])
    assert len(repeats.dropped) == 200, "both parts ask about the same fruits"


FEW = [
    "source.with.rows=600",
    "source.with.tested=80",
    "lm.max_steps=40",
    "plain.max_steps=4",
    "train.max_steps=4",
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_recipe_runs_and_its_language_model_stays_as_it_is(project, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    train_here(monkeypatch)
    pipeline = yaml.safe_load((home("pipelines") / "mend.yaml").read_text())
    run = distillgen.run(pipeline, out="run", sets=FEW)
    folders = [run.directory / name for name in ("student-lm", "student-plain", "student", "student-answers")]
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 1
    assert len({(folder / "distiller.safetensors").read_bytes() for folder in folders[1:]}) == 3
    figures = {
        f"{file.stem}/{name}": entry["metrics"]["exact"]
        for file in run.directory.glob("evaluation*.json")
        for name, entry in json.loads(file.read_text())["models"].items()
    }
    assert len(figures) == 5 and all(entry["n"] == 80 for entry in figures.values()), figures
