"""A list or a mapping never gets into chat content as Python writes it: the record is dropped instead."""

import pytest

import distillgen
from distillgen.errors import ConfigError

ROW = {"text": "plain", "parts": ["a", "b"], "facts": {"x": 1}, "split": "test"}
MODELS = {"t": {"provider": "scripted", "model": "echo"}}
NO_TEXT = "which has no text of its own"


def run(project, *stages, row=ROW, script=None):
    project.rows("rows.jsonl", [row])
    asked = []

    def teacher(request, sample):
        asked.append(request.messages)
        return "an answer"

    pipeline = {"version": 1, "models": MODELS, "stages": [{"source": {"path": "rows.jsonl"}}, *stages]}
    return distillgen.run(pipeline, out="r", teachers={"t": script or teacher}), asked


@pytest.mark.parametrize("value", ["parts", "facts", "[text]", "{'a': text}", "text ~ parts", "parts[:1]"])
@pytest.mark.parametrize(
    "stage",
    [
        lambda text: {"generate": {"model": "t", "template": text}},
        lambda text: {"format": {"fields": {"new": text}}},
        lambda text: {"format": {"messages": [{"user": text}, {"assistant": "{{ text }}"}]}},
        lambda text: {"format": {"shape": {"messages": {"user": text, "assistant": "text"}}}},
        lambda text: {"filter": [{"where": {"true": text}}]},
        lambda text: {"generate": {"model": "t", "template": "x", "when": text}},
    ],
    ids=["generate", "field", "messages", "shape", "where", "when"],
)
def test_a_value_without_a_text_drops_the_record(project, stage, value):
    _, asked = run(project, stage(f"Say {{{{ {value} }}}}"))
    (row,) = project.read("r/dropped.jsonl")
    assert NO_TEXT in row["meta"]["dropped"]["reason"] and not asked


def test_its_parts_and_its_json_have_a_text(project):
    _, asked = run(
        project, {"generate": {"model": "t", "template": "{{ parts | join(', ') }} {{ facts | json }}"}}
    )
    assert asked[0][0]["content"] == 'a, b {"x": 1}'


@pytest.mark.parametrize("value", ["parts", "facts"])
def test_an_evaluation_asks_no_one_about_it(project, value):
    ask = {
        "evaluate": {
            "models": ["t"],
            "template": f"{{{{ {value} }}}}",
            "metrics": [{"finished": {"fields": ["answer"]}}],
        }
    }
    asked = []
    with pytest.raises(ConfigError, match=NO_TEXT):
        run(project, ask, script=lambda request, sample: asked.append(request) or "an answer")
    assert not asked


@pytest.mark.parametrize("field", ["parts", "facts"])
@pytest.mark.parametrize("shape", ["messages", "sharegpt", "alpaca", "prompt_completion", "preference"])
def test_a_field_without_a_text_does_not_fit_a_shape(project, shape, field):
    parts = {
        "messages": {"user": field, "assistant": "text"},
        "sharegpt": {"user": field, "assistant": "text"},
        "alpaca": {"instruction": field, "output": "text"},
        "prompt_completion": {"prompt": field, "completion": "text"},
        "preference": {"prompt": field, "chosen": "text", "rejected": "text"},
    }
    run(project, {"format": {"shape": {shape: parts[shape]}}})
    assert "is no text" in project.read("r/dropped.jsonl")[0]["meta"]["dropped"]["reason"]


@pytest.mark.parametrize(
    "shape, content, fits",
    [
        ("messages", {"x": 1}, False),
        ("messages", ["a"], False),
        ("messages", [{"type": "text", "text": "a"}], True),
        ("sharegpt", [{"type": "text", "text": "a"}], False),
        ("alpaca", [{"type": "text", "text": "a"}], False),
        ("sharegpt", "a", True),
    ],
)
def test_a_turn_of_the_source_without_a_text_does_not_fit_a_shape(project, shape, content, fits):
    row = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "b"}]}
    run(project, {"format": {"shape": shape}}, row=row)
    assert bool(project.read("r/corpus.jsonl")) is fits
