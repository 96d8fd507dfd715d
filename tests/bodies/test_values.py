"""Whatever a request holds, a network reads it as inputs of the training's shape, or refuses it."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillgen.networks.body import shape_of
from distillgen.networks.spec import NetworkSpec
from distillgen.project import Project

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

numbers = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=3))
arrays = st.recursive(numbers, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
contents = st.one_of(
    arrays.map(json.dumps),
    st.dictionaries(st.sampled_from(["x", "y", "t", "z"]), arrays, max_size=4).map(json.dumps),
    st.text(max_size=20),
    st.sampled_from(["[" * 3000 + "]" * 3000, "1" + "0" * 400, "9" * 6000, "[1e999, 1]", "[1e38, 1]"]),
)
INPUTS = {"a pair": {"x": (2,)}, "a number": {"x": (1,)}, "a matrix and a pair": {"x": (2, 2), "y": (2,)}}


def network(inputs):
    from distillgen.networks.network import Network

    return Network(NetworkSpec(body="mlp", options={"sizes": [4]}), inputs, ["a", "b"], Project(Path()))


@pytest.mark.parametrize("kind", INPUTS)
@given(texts=st.lists(contents, min_size=1, max_size=4))
@settings(deadline=None, max_examples=60, database=None)
def test_a_request_is_read_or_refused(kind, texts):
    student, rows = network(INPUTS[kind]), []
    for text in texts:
        try:
            rows.append(student.values(text))
        except ValueError:
            continue
        assert {name: shape_of(value) for name, value in rows[-1].items()} == INPUTS[kind]
    if rows:
        said = student.probabilities(student(student.batch(rows)))
        assert said.shape == (len(rows), 2) and said.isfinite().all()


def test_a_number_and_a_list_of_it_are_read_alike():
    student = network({"x": (1,)})
    batch = student.batch([student.values(text) for text in ("5", "[5]", "[5.0]")])
    assert batch["input.x"].tolist() == [[5.0]] * 3
    for text in ("[[5]]", "[]", "true", '"5"', '{"x": 5}'):
        with pytest.raises(ValueError):
            student.values(text)
