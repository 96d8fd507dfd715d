"""Rows drawn anew each epoch: the rule by hand, what an epoch consists of, and that a kill changes no bit."""

import json
from collections import Counter

import pytest

from tests.training.lessons import bits, prepared, row, says

torch = pytest.importorskip("torch")
learner = pytest.importorskip("distillgen.training.learner")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

# Six rows of a class, three of another, one of a third: r is 1, 1/2 and 1/6, and the bars with cutoff 0.9 are
# 0.9 · r / (2 − r), or 0.9, 0.3 and 0.0818.
CONFIDENCE = [0.95, 0.91, 0.9, 0.89, 0.5, 0.4, 0.31, 0.3, 0.29, 0.082]
CLASSES = [0] * 6 + [1] * 3 + [2]
TAKEN = [1, 1, 0, 0, 0, 0, 1, 0, 0, 1]


def taken(**options) -> list[float]:
    from distillgen.losses.confident import Confident

    measured = torch.tensor([*zip(CONFIDENCE, CLASSES, strict=True)], dtype=torch.double)
    generator = torch.Generator().manual_seed(0)
    return Confident(teacher="t", cutoff=0.9, **options).chances(measured, generator).tolist()


def test_rare_classes_need_less_confidence():
    assert taken() == TAKEN
    assert taken(balanced=False) == [1, 1] + [0] * 8, "the control: one bar for all"


def test_the_controls_take_other_rows():
    random, other = taken(control="random"), taken(control="other")
    assert sum(random) == sum(TAKEN) and random != TAKEN
    assert other != TAKEN and other != random


def test_the_confidence_is_that_of_both_mixed_by_the_share_at_the_time(tmp_path):
    from distillgen.losses.confident import Confident
    from distillgen.training.step import Step

    loop = drawn(tmp_path, sure=0.6)
    batch = loop.train_dataset.all_rows()
    loop.model.eval()
    student = loop.model.networks["student"](batch).classes["class"]
    teacher = batch["teacher.t.logprobs"]
    for progress, share in ((0.0, 1 - 2.71828**-5), (0.25, 1 - 2.71828 ** (-5 * 0.625**2)), (0.5, 0.0)):
        loop.model.when = (progress, 0, 0)
        confidence, classes = Confident(teacher="t").measure(Step(loop.model, batch)).T
        expected = (share * teacher + (1 - share) * student).softmax(-1).max(-1)
        assert torch.allclose(confidence.float(), expected.values, atol=1e-6), progress
        assert classes.tolist() == expected.indices.tolist()


def drawn(tmp_path, *, sure: float = 0.97, **options):
    """A loop over 24 rows, of which the teacher is sure of every other one."""
    rows = [row(i, label=False, **says(i, sure=0.5 if i % 2 else sure)) for i in range(24)]
    draw = {"teacher": "t", "share": 1, "balanced": False}
    return prepared(
        rows,
        [("divergence", {"teacher": "t"})],
        options.pop("folder", tmp_path),
        root=tmp_path,
        teachers={"t": {"field": "t"}},
        draw=("confident", draw | options.pop("rule", {})),
        **{"max_steps": 9, "student": {"mlp": [8], "dropout": 0.3}, **options},
    )


def test_an_epoch_has_as_many_rows_of_those_that_the_teacher_is_sure_of(tmp_path):
    loop = drawn(tmp_path)
    loop.train()
    loop.save_model(str(tmp_path / "student"))
    draws = [json.loads(line) for line in (tmp_path / "student/draws.jsonl").read_text().splitlines()]
    assert [line["id"] for line in draws] == [str(i) for i in range(24)]
    assert sum(line["draws"] for line in draws) == 3 * 24, "three epochs of three batches"
    assert [bool(line["draws"]) for line in draws] == [i % 2 == 0 for i in range(24)]
    epochs = [Counter(loop.model.places(epoch, loop.train_dataset)) for epoch in (7, 8)]
    assert epochs[0] != epochs[1], "anew each epoch"


def test_the_student_learns_from_the_drawn_rows_alone(tmp_path):
    """By the gradient: rows that are not drawn are in no batch."""
    loop, seen = drawn(tmp_path), set()
    ask = loop.model.forward
    loop.model.forward = lambda batch: (seen.update(batch["row"].tolist()), ask(batch))[1]
    loop.train()
    assert seen and all(i % 2 == 0 for i in seen)


def test_where_no_row_has_a_chance_every_row_has_one(tmp_path):
    loop = drawn(tmp_path, sure=0.6)
    assert {i % 2 for i in loop.model.places(0, loop.train_dataset)} == {0, 1}


def test_the_rule_asks_the_student_in_evaluation_mode_and_leaves_it_as_it_was(tmp_path, monkeypatch):
    loop = drawn(tmp_path, rule={"share": 0, "cutoff": 0.2})
    loop.model.train()
    with monkeypatch.context() as few:
        few.setattr(learner.Learner, "at_once", 5)
        loop.model.places(0, loop.train_dataset)
    assert loop.model.training
    first = loop.model.drawn.clone()
    loop.model.drawn_in.fill_(-1)
    loop.model.places(0, loop.train_dataset)
    assert first.equal(loop.model.drawn), "neither dropout nor the size of a batch changes what is drawn"


def test_all_rows_in_one_batch_are_the_drawn_ones(tmp_path):
    places = [0] * 24
    assert drawn(tmp_path).train_dataset.__getitems__(places)["row"].tolist() == places


def test_a_training_goes_on_inside_of_an_epoch_with_the_same_rows(tmp_path):
    rule = {"share": 0, "cutoff": 0.36}  # what the student alone is sure of, which changes with every step
    whole = drawn(tmp_path, folder=tmp_path / "a", rule=rule)
    whole.train()
    drawn(tmp_path, folder=tmp_path / "b", rule=rule, save_strategy="steps", save_steps=4).train()
    again = drawn(tmp_path, folder=tmp_path / "b", rule=rule)
    again.train(resume_from_checkpoint=str(tmp_path / "b" / "out" / "checkpoint-4"))
    assert bits(whole) == bits(again)
