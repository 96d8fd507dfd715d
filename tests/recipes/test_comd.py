"""The recipe comd: hard questions are those of the weak skills, and new ones are of their kind."""

import importlib.util
import random
from types import SimpleNamespace

import yaml

import distillgen
from distillgen.project import home
from distillgen.runs.directory import read_records

SPEC = importlib.util.spec_from_file_location("scenes", home("data") / "scenes.py")
scenes = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(scenes)
POOL = 96
SCRIPTED = {"provider": "scripted", "model": "echo"}


def recipe() -> dict:
    """The recipe without its trainings and evaluations, with a scripted student, and a fifth of its rows."""
    pipeline = yaml.safe_load((home("pipelines") / "comd.yaml").read_text())
    (source, *_, loop) = pipeline["stages"]
    source["source"]["with"] = {"learn": 0, "pool": POOL, "asked": 8}
    loop["rounds"] |= {"n": 1, "guard": {"kept": 0.5}}
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


def run(out: str, assessor=scenes.assess, change=lambda stages: None):
    """Return the questions of the pool, each with `hard`, and what the round teaches."""
    pipeline = recipe()
    change(pipeline["stages"][1]["rounds"]["stages"])
    models = {"teacher": scenes.teach, "assessor": assessor, "augmentor": scenes.augment, "pupil": pupil}
    directory = distillgen.run(pipeline, out=out, teachers=models).directory
    offered = {
        record.id: dict(record.fields) for record in read_records(directory / "stages/01-source.jsonl")
    }
    records = [r for r in read_records(directory / "rounds/00/records.jsonl") if not r.dropped]
    taught = [record.fields for record in records if record.fields["pool"]]
    for fields in taught:
        offered[fields["item"]]["hard"] = fields["hard"]
    return [fields for fields in offered.values() if fields["pool"]], taught


def share(rows, test) -> float:
    rows = list(rows)
    assert len(rows) >= 20
    return sum(map(test, rows)) / len(rows)


def weak(fields) -> bool:
    return scenes.skill_of(fields["question"]) in scenes.WEAK


def added(rows):
    return [fields for fields in rows if fields["picture"] in fields["spare"]]


def test_the_hard_questions_are_those_of_the_weak_skills_and_so_are_the_new_ones(project):
    marked, taught = run("run")
    hard = [fields for fields in marked if fields["hard"]]
    assert len(marked) == POOL
    assert share(hard, weak) >= 0.9  # precision
    assert share((f for f in marked if weak(f)), lambda fields: fields["hard"]) >= 0.9  # recall
    new = added(taught)
    assert len(new) == 2 * len(hard) and share(new, weak) >= 0.8
    assert len(taught) == POOL - len(hard) + len(new), "the easy questions stay"
    for fields in taught:
        picture = (project.path / fields["picture"]["path"]).read_bytes()
        assert fields["answer"] == scenes.scene_of(picture)[scenes.skill_of(fields["question"])]
    assert any(fields["answer"] != fields["gold"] for fields in new), "gold is of another picture"

    def at_random(stages):
        for inner in stages:
            for options in inner.values():
                if "hard and" in str(options.get("when")):
                    options["when"] = options["when"].replace("hard", f"lot < {len(hard) / POOL}")

    _, control = run("control", change=at_random)
    assert abs(len(added(control)) - len(new)) <= 0.4 * len(new) and share(added(control), weak) < 0.5


def test_an_assessor_that_favours_a_place_finds_nothing_hard(project):
    marked, taught = run("run", biased)
    assert not any(fields["hard"] for fields in marked) and not added(taught)

    def ties(stages):
        (graded,) = (s["filter"]["filters"][0] for s in stages if s.get("filter", {}).get("name") == "hard")
        graded["graded_pair"]["min_gap"] = 0

    marked, _ = run("control", biased, ties)
    assert all(fields["hard"] for fields in marked), "both orders cancel, no request fails"


def test_pixels_tell_what_was_drawn():
    chance = random.Random(0)
    for _ in range(300):
        scene = scenes.draw(chance)
        assert scenes.scene_of(scenes.png(scene, chance.randrange(3), chance.randrange(3))) == scene


def test_the_first_student_learns_no_weak_skill_and_no_picture_comes_twice():
    rows = list(scenes.scenes(seed=0, learn=600, pool=16, asked=16))
    first = [row for row in rows if row["first"]]
    assert len(first) == 600 and not {row["skill"] for row in first} & {*scenes.WEAK}
    assert {row["skill"] for row in rows if row["pool"]} == {*scenes.SKILLS}
    pictures = [picture for row in rows for picture in (row["picture"], *row["spare"])]
    assert len(pictures) == len({*pictures}) == 632 + 32
    assert all(row["gold"] == scenes.scene_of(row["picture"])[row["skill"]] for row in rows)
    assert all(row["spare"] == [] for row in rows if row["split"] == "test")


def test_the_augmentor_asks_for_the_same_skill_in_other_words():
    for skill in scenes.SKILLS:
        for form in scenes.FORMS:
            asked = form.format(skill)
            parts = [{"data": b""}, {"text": f"Question: {asked}\n\nWrite one new question."}]
            request = SimpleNamespace(messages=[{"content": parts}])
            said = scenes.augment(request, 0)
            assert said != asked and scenes.skill_of(said) == skill
