"""What a training is prepared from: nothing of it changes, and every row cut or left out is counted."""

from dataclasses import FrozenInstanceError

import pytest
from pydantic import ValidationError

from distillgen.errors import ConfigError
from distillgen.project import Project
from distillgen.stages.train import Train
from distillgen.training.inputs import TrainingInputs
from distillgen.training.job import RowData, TrainingJob
from distillgen.training.rows import Assessment, RowSelection, cut, fit, uncut


class Rows(list):
    """The part of a `datasets.Dataset` that a selection needs."""

    column_names = ("tokens",)

    def select(self, places):
        return Rows(self[i] for i in places)


def rows(*lengths):
    return Rows({"tokens": length} for length in lengths)


def test_a_row_is_assessed_by_its_tokens():
    assert fit(5, 5, 10).left_out == "nothing to learn: no token after the prompt"
    assert fit(10, 12, 10).left_out == "the prompt alone has max_length (10) tokens or more"
    assert fit(5, 11, 10) == cut(11, 10) == Assessment(note="cut at max_length (10) tokens")
    assert uncut(11, 10) == Assessment("longer than max_length (10) tokens")
    assert fit(5, 10, 10) == cut(10, 10) == uncut(10, 10) == Assessment()


def test_a_selection_leaves_the_rows_that_it_was_made_from_as_they_are():
    before = RowSelection({"train": rows(5, 11, 20), "held_out": rows(30)})
    after = before.select(lambda row: uncut(row["tokens"], 15))
    assert [row["tokens"] for row in after.parts["train"]] == [5, 11] and "held_out" not in after.parts
    assert after.counts == {"left out: longer than max_length (15) tokens": 2}
    assert len(before.parts["train"]) == 3 and len(before.parts["held_out"]) == 1 and not before.counts


def test_counts_of_one_selection_go_on_in_the_next_and_in_the_message():
    chosen = RowSelection({"train": rows(5, 11, 20)}).select(lambda row: uncut(row["tokens"], 15))
    again = chosen.select(lambda row: cut(row["tokens"], 8))
    both = {"left out: longer than max_length (15) tokens": 1, "cut at max_length (8) tokens": 1}
    assert again.counts == both and chosen.counts != both
    with pytest.raises(
        ConfigError, match=r"no row is left to train on: 1 left out: longer .*, 2 left out: odd"
    ):
        chosen.select(lambda row: Assessment("odd"))


def test_inputs_cannot_be_changed_while_a_training_is_prepared():
    inputs = TrainingInputs("tiny", RowSelection({"train": rows(5)}), {}, max_length=10)
    for name, value in (("max_length", 5), ("rows", RowSelection({})), ("api", "completions")):
        with pytest.raises(FrozenInstanceError):
            setattr(inputs, name, value)
    with pytest.raises(FrozenInstanceError):
        inputs.rows.counts = {"cut": 1}


def test_the_job_of_the_process_is_validated(tmp_path):
    stage, project = Train(name="train", student="tiny", packing=True, epochs=2), Project(tmp_path)
    job = TrainingJob(
        fingerprint="f",
        options=stage.options,
        objective=stage.learning(project).model_dump(),
        stage=stage.model_dump(),
        root=tmp_path,
        start="tiny",
        to=tmp_path / "student",
        data=RowData(sha256="s", rows={"train": 1}),
        files={},
        versions={},
    )
    read = TrainingJob.model_validate_json(job.model_dump_json())
    assert read == job and read.options.epochs == 2 and read.learning(project) == stage.learning(project)
    for wrong in ({"stage": stage.model_dump(), "fingerprint": "f"}, {**job.model_dump(), "seed": 3}):
        with pytest.raises(ValidationError):
            TrainingJob.model_validate(wrong)
    with pytest.raises(ValidationError):
        TrainingJob.model_validate(job.model_dump() | {"options": {"student": "tiny", "epoch": 3}})
