"""`each`: a student for each value of a field, as a stage of its own."""

import json
import shutil

import pytest
from click.testing import CliRunner

from distillgen.errors import ConfigError
from tests.training.test_arms import (
    asked,
    loop,
    manifest,
    questions,
    stages_of,
    taught,  # noqa: F401 (a fixture)
)
from tests.training.test_arms import begun as begun_with_questions  # noqa: F401 (a fixture)

PLACES = [{**row, "land": ("Peru", "New York", "Chad")[i % 3]} for i, row in enumerate(questions(9))]
SLUGS = ("Peru", "New-York", "Chad")


@pytest.fixture
def begun(project, begun_with_questions):  # noqa: F811
    project.rows("rows.jsonl", PLACES)
    return begun_with_questions


def by_land(each="land", **options):
    return {"train": {"student": "tiny", "held_out": 0, "each": each, **options}}


@pytest.mark.parametrize("each", ["land", {"land": ["Peru", "New York", "Chad"]}])
def test_each_trains_a_student_of_the_records_of_each_value(begun, project, each):
    after = {"train": {"name": "on", "student": "student-New-York", "held_out": 0}}
    assert begun("out", by_land(each), after) == ["tiny"] * 3 + ["student-New-York"]
    ends = [f"train-{slug}" for slug in SLUGS]
    assert stages_of(project, "out") == ["source", "format", *ends, "on"]
    for i, slug in enumerate(SLUGS):
        rows = project.read(f"out/student-{slug}/train.jsonl")
        assert asked(rows) == list(range(i, 9, 3))
        made = json.loads((project.path / f"out/student-{slug}/job.json").read_bytes())
        assert made["data"]["rows"] == {"train": 3, "left out: another 'land'": 6}
    assert not (project.path / "out/student").exists()


def test_each_goes_on_after_an_end_and_trains_a_new_value_alone(begun, project):
    assert len(begun("out", by_land({"land": ["Peru", "Chad"]}))) == 2
    assert begun("out", by_land({"land": ["Peru", "Chad"]})) == []
    shutil.rmtree(project.path / "out/student-Chad")  # as if the run had been killed before it
    assert len(begun("out", by_land({"land": ["Peru", "Chad"]}))) == 1
    assert len(begun("out", by_land())) == 1
    changed = [row | {"answer": "No."} if row["land"] == "Peru" else row for row in PLACES]
    project.rows("rows.jsonl", changed)
    assert len(begun("out", by_land())) == 1


def test_each_with_arms_and_in_rounds(begun, project):
    arms = by_land({"land": ["Peru", "Chad"]}, arms={"fast": {"epochs": 1}})
    begun("arms", arms)
    names = ["train-Peru", "train-Chad", "train-fast-Peru", "train-fast-Chad"]
    assert stages_of(project, "arms") == ["source", "format", *names]
    train = {"each": {"land": ["Peru", "Chad"]}}
    starts = begun("on", loop("previous", n=2, start="tiny", train=train))
    assert starts == ["tiny", "tiny", "rounds/00/student-Peru", "rounds/00/student-Chad"]


def test_a_training_without_each_has_the_fingerprint_of_before(begun, project):
    begun("out", {"train": {"student": "tiny", "held_out": 0}})
    assert not {"each", "when", "arms"} & manifest(project, "out/student").keys()


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        (
            [by_land("lnad")],
            "'each' needs the field 'lnad', which no earlier stage gives; did you mean 'land'?",
        ),
        (
            [by_land({"land": ["Peru", "Chda"]})],
            "no training record has 'land': 'Chda'; did you mean 'Chad'?",
        ),
        ([by_land({"land": []})], "each takes one field and its values"),
        ([by_land({"land": ["Peru"], "n": [1]})], "each takes one field and its values"),
        ([by_land({"land": ["Peru", "peru"]})], "'Peru' and 'peru' give one name"),
        ([by_land({"land": ["Peru", "Peru"]})], "'Peru' and 'Peru' give one name"),
        ([by_land({"land": ["?"]})], "'?' gives no name"),
        (
            [{"format": {"name": "f", "fields": {"land": "{{ n }}"}}}, by_land()],
            "the values of 'land' are not known before the run; list those to train: each: {land: [VALUE",
        ),
        ([loop("tiny", n=2, train={"each": "land"})], "are not known before the run; list those"),
        ([by_land(), {"train": {"name": "on", "student": "student-Peur"}}], "did you mean 'student-Peru'?"),
        (
            [by_land(), {"train": {"name": "Peru", "student": "tiny"}}],
            "stage 'train-Peru' also makes 'student-Peru'",
        ),
    ],
)
def test_a_mistake_of_each_is_told_before_anything_is_trained(begun, stages, says):
    with pytest.raises(ConfigError) as told:
        begun("out", *stages)
    assert says in str(told.value)


def test_a_field_of_very_many_values_is_refused(begun, project):
    project.rows("rows.jsonl", questions(101))
    with pytest.raises(ConfigError, match="'n' has 101 values, more than 100; list those to train"):
        begun("out", by_land("n"))


def test_values_of_held_out_records_make_no_student(begun, project):
    parts = {"Peru": "train", "New York": "test", "Chad": "validation"}
    project.rows("rows.jsonl", [row | {"split": parts[row["land"]]} for row in PLACES])
    begun("out", by_land())
    assert stages_of(project, "out") == ["source", "format", "train-Peru"]
    with pytest.raises(ConfigError, match="no training record has 'land': 'Chad'"):
        begun("out", by_land({"land": ["Chad"]}))


def test_the_command_trains_one_student(begun):
    from distillgen.cli.student import train

    sets = ["--set", "train.each=land", "--set", "train.text=question"]
    result = CliRunner().invoke(train, ["rows.jsonl", "--student", "tiny", *sets])
    assert "each: the command trains one student; write a pipeline for several" in str(result.exception)


def test_values_of_records_that_a_stage_adds_are_listed(begun, project):
    turns = [{"role": "user", "content": "What is 99?"}, {"role": "assistant", "content": "It is 99."}]
    project.rows("more.jsonl", [{"messages": turns, "land": "Mars"}] * 2)
    more = {"add": {"path": "more.jsonl", "n": 2}}
    with pytest.raises(ConfigError, match="values of 'land' are not known before the run"):
        begun("out", more, by_land())
    begun("out", more, by_land({"land": ["Mars", "Peru"]}))
    assert asked(project.read("out/student-Mars/train.jsonl")) == [99, 99]
