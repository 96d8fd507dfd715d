"""The loop of networks: what a step computes, what a training keeps, and that a kill changes no bit."""

import json
import math

import pytest

from distillgen.errors import ConfigError
from distillgen.project import Project
from tests.training.lessons import accuracy, bits, prepared, row, says, step_of

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_a_network_learns_labels_and_not_shuffled_ones(tmp_path):
    rows = [row(i) for i in range(60)]
    loop = prepared(rows, [("cross_entropy", {})], tmp_path, max_steps=200)
    loop.train()
    assert accuracy(loop) == 1.0
    shuffled = [
        {**r, "label": rows[(i * 5) % 60]["label"] if i % 2 else r["label"]} for i, r in enumerate(rows)
    ]
    control = prepared(shuffled, [("cross_entropy", {})], tmp_path, max_steps=200)
    control.train()
    assert accuracy(control) < 0.9


def test_a_row_without_a_label_changes_nothing_for_labels(tmp_path):
    labelled = [row(i) for i in range(6)]
    more = [*labelled, *(row(i, label=False) for i in range(6, 18))]
    one, other = (step_of(prepared(rows, [("cross_entropy", {})], tmp_path)) for rows in (labelled, more))
    assert math.isclose(float(one.total()), float(other.total()), rel_tol=0.02)
    none = step_of(prepared([row(0), *more[6:]], [("cross_entropy", {})], tmp_path))
    none.batch["label"][0] = -100
    assert float(none.total()) == 0.0


def test_a_weight_is_arithmetic_over_progress_and_epoch(tmp_path):
    loss = ("cross_entropy", {"weight": "0.5 ** epoch * progress"})
    loop = prepared([row(i) for i in range(6)], [loss], tmp_path)
    loop.model.when = (0.5, 0, 0)
    half = float(step_of(loop).total())
    loop.model.when = (0.5, 2, 0)
    assert math.isclose(float(step_of(loop).total()), half / 4, rel_tol=1e-6) and half > 0


@pytest.mark.parametrize("names", ["abc", "ab", "a"])
def test_classes_that_a_teacher_did_not_name_are_one_tail(tmp_path, names):
    """By hand: KL over the named classes and one outcome for the others."""
    shares = dict(zip("abc", (0.7, 0.2, 0.1), strict=True))
    said = {"teacher.t.names": [*names], "teacher.t.logprobs": [math.log(shares[n]) for n in names]}
    rows, teachers = [row(i, **said) for i in range(3)], {"t": {"field": "f"}}
    loop = prepared(rows, [("divergence", {"teacher": "t"})], tmp_path, teachers=teachers)
    step = step_of(loop)
    q = step.out().classes["class"].softmax(-1).detach().tolist()
    expected = []
    for student in q:
        p = [shares[n] for n in names] + ([1 - sum(shares[n] for n in names)] if len(names) < 3 else [])
        s = student[: len(names)] + ([sum(student[len(names) :])] if len(names) < 3 else [])
        expected.append(sum(a * math.log(a / b) for a, b in zip(p, s, strict=True)))
    assert math.isclose(float(step.total()), sum(expected) / 3, abs_tol=1e-6)


def test_two_heads_are_read_as_one_prediction(tmp_path):
    read = {"gold": 0.25, "soft": {"share": 0.75, "temperature": 0.5}}
    student = {"mlp": [8], "heads": ["gold", "soft"], "read": read}
    rows = [row(i) for i in range(6)]
    loop = prepared(rows, [("cross_entropy", {"head": "gold"})], tmp_path, student=student)
    network = loop.model.networks["student"].eval()
    out = network(loop.train_dataset.all_rows())
    by_hand = 0.25 * out.classes["gold"].softmax(-1) + 0.75 * (out.classes["soft"] / 0.5).softmax(-1)
    assert torch.allclose(network.probabilities(out), by_hand)
    assert torch.allclose(by_hand.sum(-1), torch.ones(6))


def test_a_reading_is_chosen_on_validation_rows_and_the_network_comes_back_to_the_bit(tmp_path):
    from distillgen.networks.network import load

    rows = {"train": [row(i) for i in range(30)], "validation": [row(i) for i in range(30, 45)]}
    student = {"mlp": [8], "heads": ["gold", "idle"], "read": {"gold": [0.0, 1.0], "idle": 0.5}}
    loop = prepared(rows, [("cross_entropy", {"head": "gold"})], tmp_path, student=student, max_steps=100)
    loop.train()
    loop.save_model(str(tmp_path / "student"))
    network = load(tmp_path / "student", Project(tmp_path))
    assert network.read["gold"].share == 1.0, "the head that was not trained would be taken"
    batch = loop.train_dataset.all_rows()
    mine = loop.model.networks["student"]
    assert torch.equal(network.probabilities(network(batch)), mine.probabilities(mine(batch)))


def test_without_validation_rows_nothing_can_be_chosen(tmp_path):
    student = {"mlp": [8], "read": {"class": [0.5, 1.0]}}
    with pytest.raises(ConfigError, match="no validation record"):
        prepared([row(i) for i in range(6)], [("cross_entropy", {})], tmp_path, student=student)


def live(tmp_path, **options):
    """A student of a live teacher that was trained before, over a part of the classes."""
    teacher = prepared([row(i) for i in range(60)], [("cross_entropy", {})], tmp_path, max_steps=200)
    teacher.train()
    teacher.save_model(str(tmp_path / "big"))
    return prepared(
        [row(i, label=i < 3) for i in range(60)],
        [("divergence", {"teacher": "big"})],
        tmp_path,
        teachers={"big": {"model": "big", "inputs": ["x"]}},
        models={"big": tmp_path / "big"},
        max_steps=150,
        **options,
    )


def labels_apart(loop) -> float:
    """The accuracy on the true classes, of which the rows tell only three."""
    network, batch = loop.model.networks["student"].eval(), loop.train_dataset.all_rows()
    return float((network(batch).classes["class"].argmax(-1) == torch.arange(60) % 3).float().mean())


def test_a_live_teacher_teaches_is_frozen_and_not_in_the_checkpoint(tmp_path):
    loop = live(tmp_path)
    teacher = loop.model.teachers.live["big"]
    before = [value.clone() for value in teacher.parameters()]
    loop.train()
    assert labels_apart(loop) == 1.0
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert not teacher.training and not any("big" in name for name in loop.model.state_dict())


def test_the_shuffled_arm_of_a_live_teacher_teaches_nothing(tmp_path):
    loop = live(tmp_path, shuffled=True)
    loop.train()
    assert labels_apart(loop) < 0.7


def test_a_control_exchanges_what_the_teachers_that_it_names_say_and_keeps_what_others_say(tmp_path):
    live(tmp_path).save_model(str(tmp_path / "big"))
    loop = prepared(
        [row(i, **says(i)) | {"teacher.t.vector": [float(i)]} for i in range(12)],
        [("divergence", {"teacher": ["says", "t"]}), ("features", {"teacher": "sees"})],
        tmp_path,
        teachers={**dict.fromkeys(("says", "sees"), {"model": "big", "inputs": ["x"]}), "t": {"field": "t"}},
        models={"big": tmp_path / "big"},
        shuffle=["sees", "t"],
        shuffled=True,
    )
    step, own = step_of(loop), step_of(loop).out("big")
    assert torch.equal(step.teacher("says"), own.classes["class"])
    assert torch.equal(step.vector("says"), own.features)
    assert torch.equal(step.teacher("sees"), own.classes["class"].roll(6, 0))
    assert torch.equal(step.vector("sees"), own.features.roll(6, 0))
    assert step.vector("t").flatten().tolist() == [*range(12)], (
        "the rows of recorded teachers hold others' words"
    )
    assert torch.equal(step.teacher("student"), step.out().classes["class"])


def test_a_checkpoint_continues_to_the_same_bits(tmp_path):
    rows = [row(i, **says(i, sure=0.6)) for i in range(40)]

    def loop(folder: str, **options):
        return prepared(
            rows,
            [("cross_entropy", {"weight": "1 - progress"}), ("divergence", {"teacher": "t"})],
            tmp_path / folder,
            teachers={"t": {"field": "f"}},
            student={"mlp": [16, 8], "dropout": 0.3},
            root=tmp_path,
            **options,
        )

    whole = loop("a")
    whole.train()
    stopped = loop("b", save_strategy="steps", save_steps=13)
    stopped.train()
    again = loop("b")
    again.train(resume_from_checkpoint=str(tmp_path / "b" / "out" / "checkpoint-13"))
    assert bits(whole) == bits(again)
    assert bits(whole) != bits(loop("c")), "the training changes the weights"


def test_values_that_do_not_fit_are_refused(tmp_path):
    loop = prepared([row(i) for i in range(6)], [("cross_entropy", {})], tmp_path)
    network = loop.model.networks["student"]
    assert network.values("[1, 0, 0]") == {"x": [1, 0, 0]}
    wrong = {"hello": "not JSON", "[1, 2]": "shape", '["a", 1, 2]': "no number", "[1, true, 2]": "no number"}
    for text, reason in wrong.items():
        with pytest.raises(ValueError, match=reason):
            network.values(text)
    json.dumps(network.config())


def test_a_weight_learns_at_its_rate(tmp_path):
    words = [
        {**says(i), **{key.replace(".t.", ".u."): value for key, value in says(i + 1).items()}}
        for i in range(30)
    ]
    rows, moved = [{**row(i), **said} for i, said in enumerate(words)], []
    for rate in (1e-12, 0.05):
        gate = {"route": ("gate", {"over": 2, "rate": rate})}
        losses = [("divergence", {"teacher": ["t", "u"], "weight": "route"})]
        loop = prepared(rows, losses, tmp_path, weights=gate, teachers={n: {"field": n} for n in "tu"})
        before = [value.detach().clone() for value in loop.model.parts.parameters()]
        loop.train()
        pairs = zip(before, loop.model.parts.parameters(), strict=True)
        moved.append(max(float((one - other).abs().max()) for one, other in pairs))
    assert moved[0] < 1e-6 and moved[1] > 1e-3
