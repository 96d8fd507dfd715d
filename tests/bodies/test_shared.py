"""A student behind its teacher's classifier: a projector learns, and the folder is whole."""

import json

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.project import Project
from tests.objectives.test_distil import BIG, NETWORK, filled, kd, pipeline  # noqa: F401
from tests.stages.test_train import installed  # noqa: F401  as if every package were there
from tests.training.lessons import prepared, row

SHARED = {"mlp": [4], "heads": {"class": {"of": "student-big"}}}
BIGGER = {"train": {**NETWORK, "name": "big", "student": {"mlp": [16]}, "losses": [kd()]}}


def test_a_classifier_can_be_shared(filled):  # noqa: F811
    losses = [{"features": {"teacher": "student-big", "linear": False}}]
    distillgen.load(pipeline(BIGGER, student=SHARED, losses=losses))


@pytest.mark.parametrize(
    ("first", "options", "message"),
    [
        (
            {},
            {"student": SHARED | {"heads": {"class": {"of": "student-bog"}}}},
            "trains 'student-bog'; did you",
        ),
        (
            {},
            {"student": SHARED | {"heads": {"a": {"of": "student-big"}, "b": {}}}},
            "is the only one, and has",
        ),
        (
            {},
            {"student": SHARED | {"heads": {"a": {"of": "student-big", "groups": 2}}}},
            "and has no 'groups'",
        ),
        (
            {"student": {"mlp": [4], "heads": {"a": {"groups": 2}}}},
            {"student": SHARED},
            "heads: 'student-big' has not one linear layer over its features",
        ),
        ({"student": {"mlp": [4], "heads": ["a", "b"]}}, {"student": SHARED}, "has not one linear layer"),
        (
            {},
            {"teachers": {"tutor": {"peer": SHARED}}, "losses": [kd("tutor")]},
            "the peer 'tutor' begins with random weights, and this network shares the classifier",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(filled, first, options, message):  # noqa: F811
    with pytest.raises(ConfigError) as error:
        distillgen.load(pipeline({"train": {**BIG["train"], **first}}, **options))
    assert message in str(error.value)


ROWS = [row(i, label=False) for i in range(60)]


def taught(tmp_path, rows=None, **options):
    """The loop of a student of two neurons behind the classifier of one that knows the labels."""
    big = prepared(
        [row(i) for i in range(60)],
        [("cross_entropy", {})],
        tmp_path,
        student={"mlp": [17], "dropout": 0.1},
        max_steps=150,
    )
    big.train()
    big.save_model(str(tmp_path / "student-big"))
    return prepared(
        rows or ROWS,
        [("features", {"teacher": "student-big", "linear": False})],
        options.pop("folder", tmp_path),
        root=tmp_path,
        student={"mlp": [4], "heads": {"class": {"of": "student-big"}}},
        teachers={"student-big": {"model": "student-big", "inputs": ["x"]}},
        models={"student-big": tmp_path / "student-big"},
        **{"max_steps": 200, "learning_rate": 0.02, **options},
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_projector_learns_and_the_classifier_is_the_teachers(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    from distillgen.networks.network import load

    loop = taught(tmp_path)
    student, batch = loop.model.networks["student"], loop.train_dataset.all_rows()
    assert student.classes == ["a", "b", "c"] and student.width == 17, "the rows have no label"
    big = load(tmp_path / "student-big", Project(tmp_path))
    assert student.heads["class"].weight.equal(big.heads["class"].weight)
    loop.train()
    loop.save_model(str(tmp_path / "student"))
    (tmp_path / "student-big").rename(tmp_path / "gone")
    network = load(tmp_path / "student", Project(tmp_path))
    assert network.heads["class"].weight.equal(big.heads["class"].weight), "it did not learn"
    assert network.heads["class"].bias.equal(big.heads["class"].bias)
    out = network(batch)
    assert out.features.shape == (60, 17) and out.classes["class"].equal(big.heads["class"](out.features))
    right = (out.classes["class"].argmax(-1) == torch.arange(60) % 3).float().mean()
    assert right > 0.9, "it learnt classes from features alone"
    assert not load_file(tmp_path / "student" / "model.safetensors").keys() & {"body.layers.1.0.weight"}
    assert json.loads((tmp_path / "student/network.json").read_text())["networks"] == {}
    assert not any(p.requires_grad for p in network.heads.parameters()), "nor does it when it goes on"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_label_that_the_classifier_does_not_have_is_an_error(tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(ConfigError, match="the shared classifier has no class 'd': its are a, b, c"):
        taught(tmp_path, [*ROWS, {**row(1), "id": "60", "label": ["d"]}])
