"""The recipe comd: hard questions are those of the weak skills, and new ones are of their kind."""

import contextlib
import importlib.util
import random
from types import SimpleNamespace

import pytest
import yaml

import distillgen
from distillgen.project import home
from distillgen.runs.directory import read_records

SPEC = importlib.util.spec_from_file_location("scenes", home("data") / "scenes.py")
scenes = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(scenes)
POOL = 80
SCRIPTED = {"provider": "scripted", "model": "echo"}


def recipe() -> dict:
    """The recipe over a smaller pool, with a scripted student, without trainings."""
    pipeline = yaml.safe_load((home("pipelines") / "comd.yaml").read_text())
    (source, *_, loop) = pipeline["stages"]
    source["source"]["with"] = {"learn": 0, "few": 0, "pool": POOL, "asked": 8, "spare": 1}
    loop["rounds"] |= {"guard": {"kept": 0.5}}
    del loop["rounds"]["start"]
    loop["rounds"]["stages"] = loop["rounds"]["stages"][:-2]
    for stage in loop["rounds"]["stages"]:
        if stage.get("generate", {}).get("model") == "student":
            stage["generate"]["model"] = "pupil"
    pipeline["models"]["pupil"] = SCRIPTED
    pipeline["stages"] = [source, loop]
    return pipeline


def pupil(request, sample):
    """Wrong about the weak skills, and, as a slip, about one of forty others."""
    picture, text = scenes._parts(request)
    skill, scene = scenes.skill_of(text), scenes.scene_of(picture)
    slips = random.Random(str(scene)).random() < 0.025
    if skill in scenes.WEAK or slips:
        return next(value for value in scenes.SKILLS[skill] if value != scene[skill])
    return scene[skill]


def biased(request, sample):
    """Prefers what stands first, whatever it says."""
    return '{"reason": "The first.", "first": 9, "second": 2}'


def run(out: str, assessor=scenes.assess, rounds=1, **hard):
    """Return the questions of the pool, each with `hard`, and what each of the rounds teaches."""
    pipeline = recipe()
    pipeline["stages"][1]["rounds"]["n"] = rounds
    for stage in pipeline["stages"][1]["rounds"]["stages"]:
        if stage.get("filter", {}).get("name") == "hard":
            stage["filter"] |= hard
    models = {"teacher": scenes.teach, "assessor": assessor, "augmentor": scenes.augment, "pupil": pupil}
    directory = distillgen.run(pipeline, out=out, teachers=models).directory
    offered = {
        record.id: dict(record.fields) for record in read_records(directory / "stages/01-source.jsonl")
    }
    taught = [
        [r.fields for r in read_records(file) if not r.dropped and r.fields["pool"]]
        for file in sorted(directory.glob("rounds/0*/records.jsonl"))
    ]
    for fields in taught[0]:
        offered[fields["item"]]["hard"] = fields["hard"]
    return [fields for fields in offered.values() if fields["pool"]], taught


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """The folder of a project in which the round ran, and what `run` returns of it."""
    root = tmp_path_factory.mktemp("comd")
    (root / "pipelines").mkdir()
    with contextlib.chdir(root):
        yield root, *run("runs/chosen", rounds=2)


def share(rows, test) -> float:
    rows = list(rows)
    assert len(rows) >= 16
    return sum(map(test, rows)) / len(rows)


def weak(fields) -> bool:
    return scenes.skill_of(fields["question"]) in scenes.WEAK


def added(rows):
    return [fields for fields in rows if fields["picture"] in fields["spare"]]


def test_the_hard_questions_are_those_of_the_weak_skills_and_so_are_the_new_ones(chosen):
    root, marked, (taught, _) = chosen
    hard = [fields for fields in marked if fields["hard"]]
    assert len(marked) == POOL
    assert share(hard, weak) >= 0.9  # precision
    assert share((f for f in marked if weak(f)), lambda fields: fields["hard"]) >= 0.9  # recall
    new = added(taught)
    assert len(new) == 2 * len(hard) and share(new, weak) >= 0.8
    assert len(taught) == POOL - len(hard) + len(new), "the easy questions stay"
    for fields in taught:
        scene = scenes.scene_of((root / fields["picture"]["path"]).read_bytes())
        assert fields["answer"] == scene[scenes.skill_of(fields["question"])]
        assert fields["gold"] == ("" if fields in new else fields["answer"]), "gold is that of the row"


def test_new_questions_take_the_place_of_hard_ones_and_no_question_comes_twice(chosen):
    _, _, (first, second) = chosen
    for number, rows in enumerate((first, second)):
        assert len({(fields["picture"]["path"], fields["question"]) for fields in rows}) == len(rows)
        new = [fields for fields in rows if fields["picture"] in fields["spare"][2 * number : 2 * number + 2]]
        assert share(new, weak) >= 0.8
    easy = {fields["picture"]["path"] for fields in first if not fields["hard"]}
    assert easy <= {fields["picture"]["path"] for fields in second}, "the easy ones stay"


def test_questions_drawn_at_random_bring_as_many_new_ones_of_all_skills(chosen):
    root, marked, _ = chosen
    n = sum(fields["hard"] for fields in marked)
    lots = f"{{{{ lots[round] < {n / POOL} }}}}"
    with contextlib.chdir(root):
        _, control = run("runs/control", filters=[{"where": {"name": "drawn", "true": lots}}])
    assert len(added(control[0])) == 2 * n and share(added(control[0]), weak) < 0.5


def test_an_assessor_that_favours_a_place_finds_nothing_hard(chosen):
    with contextlib.chdir(chosen[0]):
        marked, taught = run("runs/biased", biased)
    assert not any(fields["hard"] for fields in marked) and not any(map(added, taught))
    assert any(fields["hard"] for fields in chosen[1]), "with an assessor that looks, some are hard"


def test_pixels_tell_what_was_drawn():
    chance = random.Random(0)
    for _ in range(100):
        scene = scenes.draw(chance)
        assert scenes.scene_of(scenes.png(scene, chance.randrange(16), chance.randrange(16))) == scene


def test_the_first_student_learns_little_of_the_weak_skills_and_no_picture_comes_twice():
    rows = list(scenes.scenes(seed=0, learn=180, few=20, pool=16, asked=16))
    first = [row for row in rows if row["first"]]
    assert len(first) == 200 and sum(row["skill"] in scenes.WEAK for row in first) == 20
    assert {row["skill"] for row in rows if row["pool"]} == {*scenes.SKILLS}
    pictures = [picture for row in rows for picture in (row["picture"], *row["spare"])]
    assert len(pictures) == len({*pictures}) == 232 + 8 * 16
    assert all(row["gold"] == scenes.scene_of(row["picture"])[row["skill"]] for row in rows)
    assert all(row["spare"] == [] for row in rows if row["split"] == "test")
    for of_round in zip(*(row["lots"] for row in rows if row["pool"]), strict=True):
        assert sorted(of_round) == [place / 16 for place in range(16)]


def test_the_augmentor_asks_for_the_same_skill_in_other_words():
    for skill in scenes.SKILLS:
        for form in scenes.FORMS:
            asked = form.format(skill)
            parts = [{"data": b""}, {"text": f"Question: {asked}\n\nWrite one new question."}]
            request = SimpleNamespace(messages=[{"content": parts}])
            said = scenes.augment(request, 0)
            assert said != asked and scenes.skill_of(said) == skill
