"""subclasses against NumPy: what is beyond the logits, the directions of each class, the targets."""

import itertools
import math

import pytest

from tests.training.lessons import prepared

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
WIDTH, GROUPS, ROWS = 4, 2, 40
LAST_LAYER = np.array([[1.2, 0.4, 0.0, -0.3], [-1.0, 0.1, 0.5, 0.2]])  # W of the teacher, two classes
EMBEDDINGS = np.random.default_rng(0).normal(size=(ROWS, WIDTH)) * [1.0, 2.0, 0.5, 1.5] + [
    0.1,
    3.0,
    0.0,
    -1.0,
]
LOGITS = EMBEDDINGS @ LAST_LAYER.T + [0.3, -0.6]
SHARES = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
TEACHERS = {"t": {"field": "t"}, "v": {"field": "v"}}
SPLIT = ("subclasses", {"teacher": "t", "embedding": "v", "sharpness": 2.0})


def table(shares=SHARES, embeddings=EMBEDDINGS) -> list[dict]:
    return [
        {
            "id": str(i),
            "input.x": [1.0, float(i % 3)],
            "label": ["ab"[i % 2]],
            "teacher.t.names": ["a", "b"],
            "teacher.t.logprobs": [math.log(x) for x in p],
            "teacher.v.vector": [*map(float, h)],
        }
        for i, (p, h) in enumerate(zip(shares, embeddings, strict=True))
    ]


def split(tmp_path, rows=None, *, groups=GROUPS, **options):
    """The loop with a head of `groups` subclasses, its loss, and the loss's module."""
    student = {"mlp": [3], "heads": {"sub": {"groups": groups}}}
    loop = prepared(rows or table(), [SPLIT], tmp_path, teachers=TEACHERS, student=student, **options)
    return loop, *next(iter(loop.model.losses_with_modules))


def targets(loop, loss, module):
    """The targets [rows, classes, groups]: the loss's gradient by the logits is Q less them."""
    from distillgen.training.step import Step

    step = Step(loop.model, loop.train_dataset.all_rows())
    logits = step.subclasses(loss)
    (gradient,) = torch.autograd.grad(loss.rows(step, module).sum(), logits)
    return (logits.softmax(-1) - gradient).detach().unflatten(1, (2, -1)).numpy()


def rotation():
    return torch.linalg.qr(torch.randn(GROUPS, GROUPS, dtype=torch.float64))[0].numpy()


def by_numpy(rotations):
    """For each class, the targets with each choice of the directions' signs, which are free."""
    null = np.eye(WIDTH) - np.outer(direction := LAST_LAYER[0] - LAST_LAYER[1], direction) / (
        direction @ direction
    )
    for c in range(2):
        members = SHARES.argmax(1) == c
        centred = (EMBEDDINGS - EMBEDDINGS[members].mean(0)) @ null
        _, vectors = np.linalg.eigh(np.cov(centred[members].T))
        principal = vectors[:, ::-1][:, :GROUPS]  # largest variance first
        choices = []
        for signs in itertools.product([1, -1], repeat=GROUPS):
            z = centred @ (principal * signs) @ rotations[c]
            z = z / z[members].std(0)
            powers = np.exp(2.0 * z)
            choices.append(SHARES[:, c, None] * powers / powers.sum(1, keepdims=True))
        yield choices


def test_the_targets_are_those_of_the_formula(tmp_path):
    loop, loss, module = split(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        loss.fit(loop_step(loop), module)
        torch.manual_seed(7)
        rotations = [rotation(), rotation()]
    values = targets(loop, loss, module)
    for c, choices in enumerate(by_numpy(rotations)):
        assert min(np.abs(values[:, c] - choice).max() for choice in choices) < 1e-5


def loop_step(loop):
    from distillgen.training.step import Step

    return Step(loop.model, loop.train_dataset.all_rows())


def test_the_targets_sum_to_the_class_and_do_not_depend_on_the_logits_directions(tmp_path):
    loop, loss, module = split(tmp_path)
    values = targets(loop, loss, module)
    assert np.abs(values.sum(2) - SHARES).max() < 1e-6
    assert values.std() > 0.05 and (values.max(2) / values.sum(2)).mean() > 0.6, "the subclasses differ"
    assert np.abs((LAST_LAYER[0] - LAST_LAYER[1]) @ module.directions.numpy()).max() < 1e-5
    assert np.abs(LAST_LAYER[0] @ module.directions.numpy()).max() > 0.1, "another direction is not removed"


def test_the_loss_is_the_cross_entropy_over_all_subclasses(tmp_path):
    loop, loss, module = split(tmp_path)
    logits = loop_step(loop).subclasses(loss).detach().double().numpy()
    q = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -(targets(loop, loss, module).reshape(ROWS, -1) * np.log(q)).sum(1)
    assert np.abs(loss.rows(loop_step(loop), module).detach().numpy() - expected).max() < 1e-5


@pytest.mark.parametrize(
    "case", ["no direction is left", "a class of one row", "a class of no row", "all alike"]
)
def test_a_class_without_directions_is_shared_evenly(tmp_path, case):
    """The embedding has too few directions, or the rows of a class too few: what is missing says nothing."""
    shares, embeddings = SHARES, EMBEDDINGS
    if case == "no direction is left":
        embeddings = LOGITS[:, :1] - LOGITS[:, 1:]
    elif case == "all alike":
        embeddings = np.ones((ROWS, WIDTH))
    else:
        rest = [0.1, 0.9] if case == "a class of one row" else [0.4, 0.6]
        shares = np.array([[0.9, 0.1] if case == "a class of one row" else rest, *[rest] * (ROWS - 1)])
    loop, loss, module = split(tmp_path, table(shares, embeddings))
    values = targets(loop, loss, module)
    assert np.isfinite(values).all() and np.abs(values.sum(2) - shares).max() < 1e-6
    if case.startswith("a class"):
        assert np.abs(values[:, 0] - shares[:, :1] / 2).max() < 1e-6
    else:
        assert np.abs(values - shares[:, :, None] / 2).max() < 1e-4


def test_rows_that_the_fit_did_not_see_have_targets(tmp_path):
    parts = {"train": table()[:30], "held_out": table()[30:]}
    loop, _, _ = split(tmp_path, parts)
    assert math.isfinite(loop.evaluate()["eval_loss"])


def test_other_losses_see_the_classes_of_a_head_with_subclasses(tmp_path):
    """The probabilities of a class's subclasses add up, for a student and for a teacher with such a head."""
    student = {"mlp": [3], "heads": {"sub": {"groups": GROUPS}}}
    losses = [("cross_entropy", {}), ("divergence", {"teacher": "t"})]
    loop = prepared(table(), losses, tmp_path, teachers=TEACHERS, student=student)
    step = loop_step(loop)
    by_class = step.subclasses(loop.model._losses[0]).softmax(-1).unflatten(1, (2, -1)).sum(-1).detach()
    labels = step.label
    expected = -by_class[torch.arange(ROWS), labels].log()
    values = loop.model._losses[0].rows(step, None)
    assert torch.allclose(values, expected, atol=1e-6)
    assert torch.allclose(step.teacher("student").softmax(-1), by_class, atol=1e-6)
    q = by_class.double().numpy()
    divergence = (SHARES * np.log(SHARES / q)).sum(1)
    assert np.abs(loop.model._losses[1].rows(step, None).detach().numpy() - divergence).max() < 1e-5
