"""A masked student: only the masks learn, and a teacher under a mask moves towards what it is to say."""

import pytest

from distillgen.project import Project
from tests.training.lessons import prepared, row, says

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ROWS = [row(i, **says(i + 1, sure=0.8)) for i in range(60)]
"""Points of three classes, and a teacher who says the next class of each."""
FOLLOW = [("divergence", {"head": head, "teacher": "t"}) for head in ("0", "1")]


def masked(tmp_path, steps: int):
    """A loop that trains masks on a student that knows the labels, and the folder of that student."""
    first = prepared(
        ROWS, [("cross_entropy", {})], tmp_path, student={"mlp": [16, 16], "dropout": 0.5}, max_steps=150
    )
    first.train()
    first.save_model(str(tmp_path / "student-first"))
    loop = prepared(
        ROWS,
        FOLLOW,
        tmp_path,
        student={"masked": "student-first", "layers": [0, 1]},
        teachers={"t": {"field": "f"}},
        models={"student-first": tmp_path / "student-first"},
        max_steps=steps,
        learning_rate=0.02,
    )
    return loop, tmp_path / "student-first"


def test_only_the_masks_learn_and_each_lowers_its_loss(tmp_path):
    from distillgen.networks.network import load

    loop, folder = masked(tmp_path, 100)
    inner, batch = loop.model.networks["student"].body.network, loop.train_dataset.all_rows()
    before = {name: value.clone() for name, value in inner.state_dict().items()}
    loss = float(loop.model.eval()(batch))
    loop.train()
    assert float(loop.model.eval()(batch)) < 0.8 * loss
    assert all(torch.equal(value, inner.state_dict()[name]) for name, value in before.items())
    learnt = {name for name, value in loop.model.named_parameters() if value.requires_grad}
    assert learnt and all(".masks." in name for name in learnt)
    loop.model.train()
    assert not inner.training, "a frozen teacher drops nothing"
    loop.save_model(str(tmp_path / "student"))
    for file in folder.iterdir():
        file.unlink()  # the masked student does not need the first one any more
    network = load(tmp_path / "student", Project(tmp_path))
    said, expected = network(batch).classes, loop.model.networks["student"].eval()(batch).classes
    assert list(said) == ["0", "1"] and all(torch.equal(said[head], expected[head]) for head in said)
    assert not torch.allclose(said["0"], said["1"])


def test_an_open_mask_changes_nothing_and_a_closed_one_hides_the_layer(tmp_path):
    loop, _ = masked(tmp_path, 1)
    student, batch = loop.model.networks["student"].eval(), loop.train_dataset.all_rows()
    inner = student.body.network
    bare = inner.probabilities(inner(batch))
    for layer, bias in (("0", 50.0), ("1", -50.0)):
        last = student.body.masks[layer][2]
        last.weight.data.zero_()
        last.bias.data.fill_(bias)
    said = student(batch).classes
    assert torch.allclose(said["0"].exp(), bare, atol=1e-6)
    assert torch.allclose(said["1"], said["1"][:1].expand_as(said["1"]), atol=1e-6)
    assert torch.equal(inner.probabilities(inner(batch)), bare), "the masks are only there while it is asked"
