"""trilateral: its state, its weight, and the gradient through the student's step, against NumPy."""

import math

import pytest

from tests.losses import fixtures as f
from tests.training.lessons import prepared

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STRAIGHT = '''
"""straight: the inputs themselves; with one head, a linear network."""

from torch import nn

from distillgen.networks.body import Body


class Straight(Body):
    """No layer below the heads."""

    def module(self, sizes, networks):
        """Return the inputs."""
        body = nn.Flatten()
        body.width = sizes.numbers
        return body
'''
INPUTS = [[0.4, -1.0], [1.2, 0.3], [-0.7, 0.8], [0.1, 0.5]]
VALIDATION, TRUTH = [[0.9, -0.2], [-1.1, 0.6], [0.3, 1.4]], [0, 2, 1]
STEP, TEMPERATURE = 0.7, 2.0


def row(i: int, x: list[float], label: int | None, p: list[float]) -> dict:
    return {
        "id": str(i),
        "input.x": x,
        "label": [] if label is None else [f.CLASSES[label]],
        "teacher.t.names": [*f.CLASSES],
        "teacher.t.logprobs": f.log(p),
        "teacher.u.names": [*f.CLASSES],
        "teacher.u.logprobs": f.log([*p[1:], p[0]]),
        "teacher.v.vector": [x[0] - x[1], 2 * x[1], 1.0],
    }


@pytest.fixture
def loop(tmp_path):
    """A linear student that learns α of the teacher and 1 − α of the labels."""
    return lesson(tmp_path)


def lesson(tmp_path, losses=(), weights=None, student=None, **options):
    (tmp_path / "bodies").mkdir(exist_ok=True)
    (tmp_path / "bodies/straight.py").write_text(STRAIGHT, encoding="utf-8")
    rows = {
        "train": [row(i, x, y, p) for i, (x, y, p) in enumerate(zip(INPUTS, f.Y, f.T, strict=True))],
        "validation": [
            row(i + 4, x, y, f.T[0]) for i, (x, y) in enumerate(zip(VALIDATION, TRUTH, strict=True))
        ],
    }
    losses = [
        ("divergence", {"teacher": "t", "temperature": TEMPERATURE, "weight": "alpha"}),
        ("cross_entropy", {"weight": "1 - alpha"}),
        *losses,
    ]
    weights = {"alpha": ("trilateral", {"teacher": "t", "step": STEP, **options}), **(weights or {})}
    teachers = {name: {"field": name} for name in "tuv"}
    options = {"teachers": teachers, "weights": weights, "student": student or {"straight": None}}
    return prepared(rows, losses, tmp_path, max_steps=4, **options)


def step_of(loop, *, learning=False):
    from distillgen.training.step import Step

    return Step(loop.model, loop.train_dataset.all_rows(), learning=learning)


def controller(loop):
    """The layers of the controller, as [(matrix, biases)] of plain numbers."""
    layers = [layer for layer in loop.model.parts["alpha"] if hasattr(layer, "weight")]
    return [(layer.weight.tolist(), layer.bias.tolist()) for layer in layers]


def said(loop):
    return step_of(loop).out().classes["class"].tolist()


def test_the_state_has_nine_parts(loop):
    weight, layers = loop.model._weights["alpha"], loop.model.parts["alpha"]
    expected = [f.geometry(s, p, y) for s, p, y in zip(said(loop), f.T, f.Y, strict=True)]
    assert torch.allclose(weight._state(step_of(loop), layers.means), torch.tensor(expected), atol=1e-6)
    step = step_of(loop)
    step.batch["label"] = torch.full((4,), -100)
    expected = [f.geometry(s, p, None) for s, p in zip(said(loop), f.T, strict=True)]
    assert torch.allclose(weight._state(step, layers.means), torch.tensor(expected), atol=1e-6)
    assert torch.allclose(layers.means, torch.tensor(f.class_means()), atol=1e-6)


def test_alpha_is_the_sigmoid_of_three_layers(loop):
    expected = [
        f.layers(f.geometry(s, p, y), controller(loop)) for s, p, y in zip(said(loop), f.T, f.Y, strict=True)
    ]
    assert step_of(loop).weight("alpha").tolist() == pytest.approx(expected, abs=1e-6)


def test_in_the_step_that_trains_alpha_is_a_constant(loop):
    assert not step_of(loop, learning=True).weight("alpha").requires_grad
    assert step_of(loop).weight("alpha").requires_grad


def scaled(loop, inputs):
    mean, deviation = loop.model.networks["student"].scale[0].tolist()
    return np.hstack([(np.array(inputs) - mean) / deviation, np.ones((len(inputs), 1))])


def softmax(z):
    powers = np.exp(z - z.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def outer(loop, layers) -> float:
    """By hand: the cross-entropy of the validation rows after one step of descent by a linear student."""
    head = loop.model.networks["student"].heads["class"]
    theta = np.hstack([head.weight.tolist(), np.array(head.bias.tolist())[:, None]]).T
    x, p = scaled(loop, INPUTS), np.array(f.T)
    z = x @ theta
    alpha = np.array(
        [f.layers(f.geometry(s, q, y), layers) for s, q, y in zip(z.tolist(), f.T, f.Y, strict=True)]
    )
    soft = softmax(np.log(p) / TEMPERATURE)
    of_teacher = TEMPERATURE * (softmax(z / TEMPERATURE) - soft)  # of T² KL, by z
    truth = np.array([[float(c == y) for c in range(3)] for y in f.Y])
    labelled = truth.sum(1, keepdims=True)
    of_label = (softmax(z) - truth) * labelled * len(z) / labelled.sum()
    by_z = (alpha[:, None] * of_teacher + (1 - alpha)[:, None] * of_label) / len(z)
    moved = theta - STEP * x.T @ by_z
    q = softmax(scaled(loop, VALIDATION) @ moved)
    return -np.mean([math.log(q[i, y]) for i, y in enumerate(TRUTH)])


def test_the_controller_learns_by_the_gradient_through_the_students_step(loop):
    """Finite differences of the whole formula, in double precision."""
    weight, layers = loop.model._weights["alpha"], loop.model.parts["alpha"]
    loss = weight.learns(step_of(loop, learning=True), layers)
    numbers = controller(loop)
    assert loss.item() == pytest.approx(outer(loop, numbers), abs=1e-6)
    gradients = torch.autograd.grad(loss, [p for p in layers.parameters()])
    for place, (layer, kind, at) in enumerate(
        [(0, 0, (3, 5)), (1, 0, (2, 7)), (2, 0, (0, 4)), (2, 1, (0,)), (0, 1, (9,))]
    ):
        values = numbers[layer][kind]
        for index in at[:-1]:
            values = values[index]
        start, shift = values[at[-1]], 1e-5
        values[at[-1]] = start + shift
        above = outer(loop, numbers)
        values[at[-1]] = start - shift
        difference = (above - outer(loop, numbers)) / (2 * shift)
        values[at[-1]] = start
        assert gradients[2 * layer + kind][at].item() == pytest.approx(difference, abs=1e-6), place
    assert max(g.abs().max().item() for g in gradients) > 1e-4


def test_the_controllers_gradient_in_a_training_is_that_of_its_loss(loop):
    weight, layers = loop.model._weights["alpha"], loop.model.parts["alpha"]
    loss = weight.learns(step_of(loop, learning=True), layers)
    expected = torch.autograd.grad(loss, [*layers.parameters()])
    batch = loop.train_dataset.all_rows()
    loop.model.train()
    total = loop.model(batch)
    total.backward()
    assert total.item() == pytest.approx(loss.item() + step_of(loop).total().item(), abs=1e-5)
    for p, gradient in zip(layers.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, gradient, atol=1e-7)
    assert layers[0].weight.grad.abs().max() > 0


def trained(tmp_path, **options):
    loop = lesson(tmp_path, **options)
    before = controller(loop)
    loop.train()
    return before, controller(loop)


def test_it_learns_unless_it_is_frozen(tmp_path):
    before, after = trained(tmp_path)
    assert before != after
    before, after = trained(tmp_path, frozen=True)
    assert before == after


def test_validation_rows_without_a_label_teach_nothing(loop):
    loop.model._validation.columns["label"][:] = -100
    weight, layers = loop.model._weights["alpha"], loop.model.parts["alpha"]
    assert weight.learns(step_of(loop, learning=True), layers).item() == 0.0


def gradients_of_others(tmp_path, **options):
    """The gradients of all but the controller, where the inner step depends on other modules, too."""
    torch.manual_seed(0)
    more = [("features", {"teacher": "v"}), ("divergence", {"teacher": ["t", "u"], "weight": "route"})]
    weights = {"route": ("gate", {"over": 2})}
    loop = lesson(tmp_path, more, weights, {"mlp": [5]}, **options)
    loop.model.train()
    loop.model(loop.train_dataset.all_rows()).backward()
    named = loop.model.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None and "alpha" not in name}


def test_looking_ahead_moves_no_other_part(tmp_path):
    ahead, frozen = gradients_of_others(tmp_path), gradients_of_others(tmp_path, frozen=True)
    assert ahead.keys() == frozen.keys() and len(ahead) >= 6
    assert all(torch.equal(ahead[name], frozen[name]) for name in ahead)
