"""The loss `layers`: its value by hand, and what a student with fewer layers and tokens learns by it."""

import pytest

from distillgen.errors import ConfigError
from distillgen.losses.layers import LayersOfTeacher

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def said(states, attention, there):
    from distillgen.networks.network import Layers

    return Layers(
        [torch.tensor(s, requires_grad=True) for s in states],
        [torch.tensor(a, requires_grad=True) for a in attention],
        torch.tensor(there),
    )


class Step:
    """What two models say of one row of two tokens, with a place behind its end."""

    def __init__(self, student, teacher):
        self.said = {"student": student, "t": teacher}

    def layers(self, name):
        return self.said[name]

    def over_teachers(self, loss, values):
        return values[0]


THERE = [[1, 1, 0]]
STUDENT = said(
    [[[[1.0, 0.0], [2.0, 0.0], [9.0, 9.0]]], [[[0.0, 0.0], [0.0, 4.0], [9.0, 9.0]]]],
    [[[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.9, 0.1, 0.0]]]]],
    THERE,
)
TEACHER = said(
    [
        [[[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]],
        [[[7.0, 7.0], [7.0, 7.0], [7.0, 7.0]]],  # of the layer that the student skips
        [[[0.0, 2.0], [0.0, 4.0], [0.0, 0.0]]],
    ],
    [
        [[[[0.3, 0.7, 0.0], [0.3, 0.7, 0.0], [0.3, 0.7, 0.0]]]],
        [[[[1.0, 0.0, 0.0], [0.2, 0.8, 0.0], [0.3, 0.7, 0.0]]]],
    ],
    THERE,
)


def value(student=STUDENT, teacher=TEACHER, **options):
    return LayersOfTeacher(teacher="t", **options).rows(Step(student, teacher), None)


def test_the_value_by_hand():
    # embeddings: (2 - 0)² over four numbers; the layer: (0 - 2)² over four; the mean over both
    assert value(attention=0).tolist() == pytest.approx([1.0])
    # shares that are not 0 of the teacher's last layer: 1, .2 and .8, at the two tokens that are there
    assert value(hidden=0).tolist() == pytest.approx([(0.0 + 0.09 + 0.09) / 3])
    assert value(hidden=2, attention=3).tolist() == pytest.approx([2 * 1.0 + 3 * 0.06])


def test_it_is_0_against_the_same_layers_and_its_gradient_reaches_the_student_alone():
    picked = said([s.tolist() for s in TEACHER.states[::2]], [TEACHER.attention[1].tolist()], THERE)
    assert value(picked).item() == 0
    value().sum().backward()
    assert STUDENT.states[1].grad[0, 0, 1] < 0 and STUDENT.attention[0].grad.abs().max() > 0
    assert STUDENT.states[1].grad[0, 2].abs().max() == 0, "behind the end of the row"
    assert all(t.grad is None for t in (*TEACHER.states, *TEACHER.attention))


def test_layers_that_do_not_match_are_refused():
    with pytest.raises(ConfigError, match="the student has 2 layers of width 2, and 't' 1 of width 2"):
        value(TEACHER, STUDENT)
    with pytest.raises(ConfigError, match="of width 2, and 't' 1 of width 1"):
        value(
            STUDENT,
            said([s[..., :1].tolist() for s in STUDENT.states], [STUDENT.attention[0].tolist()], THERE),
        )
    heads = said(
        [s.tolist() for s in STUDENT.states], [STUDENT.attention[0].repeat(1, 2, 1, 1).tolist()], THERE
    )
    with pytest.raises(ConfigError, match="other heads than those of 't'"):
        value(heads)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A teacher of two layers, and a student with one of them and some of its tokens, in folders."""
    from distillgen.training.excerpt import write_excerpt
    from distillgen.training.options import Excerpt, Tiny
    from distillgen.training.tiny import write_tiny

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    size = Tiny(layers=2, width=16, heads=2, tokens="words", init=0.3)
    write_tiny(folder / "big", size, None, ["x y z one two three four five six"], 300)
    part = Excerpt(of="big", layers="every 2", vocabulary=1e-6)
    write_excerpt(str(folder / "big"), folder / "small", part, ["one two three four five six"])
    return folder


def loop(models, tmp_path, losses, shuffled=False, student="small", teacher="big"):
    """The loop of a language model over two rows."""
    from datasets import Dataset

    from distillgen.objectives.distil import Distil
    from distillgen.training.inputs import TrainingInputs
    from distillgen.training.rows import RowSelection
    from distillgen.training.sources import Source

    rows = [("one two", " three"), ("four", " five six")]
    parts = {"train": Dataset.from_list([{"id": p, "prompt": p, "completion": c} for p, c in rows])}
    arguments = {"output_dir": str(tmp_path / "out"), "use_cpu": True, "bf16": False, "report_to": []}
    arguments |= {"per_device_train_batch_size": 2, "seed": 0}
    inputs = TrainingInputs(
        str(models / student),
        RowSelection(parts),
        arguments,
        64,
        models={"t": models / teacher},
        shuffled=shuffled,
        api="completions",
    )
    learning = Distil(losses=losses, teachers={"t": Source(model="t")})
    return learning.prepare(inputs).trainer


def batch_of(trainer):
    return next(iter(trainer.get_eval_dataloader(trainer.train_dataset)))


def test_the_teacher_sees_the_students_tokens_under_its_own_numbers(models, tmp_path):
    """And what it says of them is that of its whole vocabulary, in the student's order."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer = loop(models, tmp_path, [{"layers": {"teacher": "t"}}, {"divergence": {"teacher": "t"}}])
    learner, batch = trainer.model.eval(), batch_of(trainer)
    big = AutoModelForCausalLM.from_pretrained(models / "big").eval()
    names, kept = (AutoTokenizer.from_pretrained(models / name) for name in ("big", "small"))
    assert len(kept) < len(names)
    row = [[*kept.convert_ids_to_tokens(ids)] for ids in batch["input_ids"]]
    ids = torch.tensor([names.convert_tokens_to_ids(tokens) for tokens in row])
    assert not torch.equal(ids, batch["input_ids"])
    with torch.no_grad():
        teacher = learner.ask("t", batch)
        expected = big(input_ids=ids, attention_mask=batch["attention_mask"], output_hidden_states=True)
    assert torch.allclose(teacher.layers.states[2], expected.hidden_states[2], atol=1e-5)
    places = names.convert_tokens_to_ids(kept.convert_ids_to_tokens(range(len(kept))))
    learnt = batch["labels"][:, 1:] != -100
    assert torch.allclose(teacher.classes["class"], expected.logits[:, :-1][learnt][:, places], atol=1e-5)
    assert teacher.classes["class"].shape == learner.ask("student", batch).classes["class"].shape


def test_without_a_loss_on_layers_nothing_is_kept_of_them(models, tmp_path):
    trainer = loop(models, tmp_path, [{"divergence": {"teacher": "t"}}])
    assert trainer.model.ask("student", batch_of(trainer)).layers is None


def test_a_control_arm_gives_the_layers_of_another_row(models, tmp_path):
    losses = [{"layers": {"teacher": "t"}}]
    own, other = (loop(models, tmp_path, losses, shuffled=value) for value in (False, True))
    batch = batch_of(own)
    with torch.no_grad():
        assert own.model.eval()(batch) < other.model.eval()(batch)


def test_what_another_row_says_comes_with_its_own_end():
    from distillgen.networks.network import Layers, Out
    from distillgen.training.step import _exchanged

    values = torch.arange(2.0)
    layers = Layers([values[:, None]], [values[:, None, None]], values)
    other = _exchanged(Out({"class": values}, values, layers=layers)).layers
    for part in (*other.states, *other.attention, other.there):
        assert part.flatten().tolist() == [1.0, 0.0]


def test_a_teacher_that_lacks_tokens_of_the_student_is_refused(models, tmp_path):
    with pytest.raises(ConfigError, match="the teacher 't' has other tokens than the student"):
        loop(models, tmp_path, [{"divergence": {"teacher": "t"}}], student="big", teacher="small")
