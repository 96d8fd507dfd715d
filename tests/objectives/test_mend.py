"""The objective mend: its rows, and what is told before anything is trained."""

from pathlib import Path

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.objectives.mend import Mend
from distillgen.project import Project
from distillgen.record import Record
from distillgen.training.rows import Unusable
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

ROWS = [
    {"shown": " kiwi red" * 3, "prompt": " kiwi", "completion": " red", "text": " kiwi red" * 4, "id": i}
    for i in range(20)
]
LM = {"train": {"name": "lm", "student": {"tiny": {"tokens": "words"}}, "text": "text"}}
PLAIN = {"train": {"name": "plain", "objective": "mend", "student": "student-lm", "text": "text"}}


def pipeline(*stages: dict, models=(), **options) -> dict:
    learning = {"objective": "mend", "student": "student-lm", "demos": "shown", **options}
    return {
        "version": 1,
        "models": dict(models),
        "stages": [{"source": {"path": "data/rows.jsonl"}}, LM, *stages, {"train": learning}],
    }


@pytest.fixture
def filled(project, monkeypatch, installed):  # noqa: F811
    project.rows("data/rows.jsonl", ROWS)
    project.write("pipelines/.keep", "")
    monkeypatch.chdir(project.path)
    return project


def asks(template: str) -> dict:
    return {
        "evaluate": {
            "models": ["student-plain"],
            "template": template,
            "gold": "completion",
            "metrics": ["exact"],
            "about": "trained",
        }
    }


@pytest.mark.parametrize(
    ("stages", "options"),
    [
        ((), {}),
        ((), {"distiller": {"tiny": {"layers": 1, "width": 32}}, "slots": 9, "kl": 0}),
        ((), {"distiller": "student-lm"}),
        ((PLAIN,), {"student": "student-plain"}),
        ((PLAIN, asks("{{ [shown, prompt] | json }}")), {"student": "student-plain"}),
        ((), {"on": "shuffled"}),
        ((), {"arms": {"answers": {"kl": 0}}}),
    ],
)
def test_what_is_right_passes_the_check(filled, stages, options):
    distillgen.load(pipeline(*stages, **options))


CHAT = {"teacher": {"provider": "openai", "model": "gpt-4.1-mini", "base_url": "http://localhost:1"}}
LIKE = {"train": {"name": "like", "objective": "sft", "student": "student-plain", "text": "text"}}
TAUGHT = {
    "train": {
        "name": "taught",
        "objective": "distil",
        "student": {"tiny": {"tokens": "student-lm"}},
        "losses": [{"divergence": {"teacher": "student-plain"}}],
    }
}
TOKENS = {"train": {"name": "tokens", "student": {"tiny": {"tokens": "student-plain"}}, "text": "text"}}


@pytest.mark.parametrize(
    ("stages", "options", "message"),
    [
        ((), {"demos": "shwn"}, "shwn"),
        ((), {"kl": 0, "text": "text"}, "a text teaches by the divergence alone, and kl: 0 leaves it out"),
        ((), {"text": "text", "on": "shuffled"}, "a plain text has no demonstrations to exchange"),
        ((), {"student": "tiny"}, "a new tiny one has learnt nothing: train it first"),
        ((), {"student": {"mlp": [4]}}, "it trains language models, not networks"),
        (
            (),
            {"student": "teacher", "models": CHAT},
            "there is no student 'teacher'; known: .* give a folder",
        ),
        ((), {"lora": {"r": 2}}, "leave out 'lora'"),
        ((), {"distiller": {"mlp": [4]}}, r"give \{tiny: "),
        ((), {"distiller": {"tiny": {"layer": 2}}}, "layer"),
        ((), {"distiller": {"tiny": {"kind": "encoder-decoder"}}}, "a decoder with the student's tokens"),
        ((), {"distiller": {"tiny": {"tokens": "chars"}}}, "a decoder with the student's tokens"),
        ((), {"distiller": "student-ml"}, "no model 'student-ml'; did you mean 'student-lm'?"),
        ((), {"distiller": "nowhere"}, "there is no model 'nowhere'"),
        ((PLAIN,), {"distiller": "student-plain"}, "'student-plain' reads demonstrations as vectors"),
        ((PLAIN,), {"student": "student-plain", "slots": 4}, "slots: the student has a distiller"),
        ((PLAIN,), {"student": "student-plain", "distiller": "student-lm"}, "distiller: the student has a"),
        ((PLAIN, LIKE), {}, "'student-plain' was trained by 'mend', and cannot go on with this"),
        ((PLAIN, TAUGHT), {}, "'student-plain' reads demonstrations as vectors"),
        ((PLAIN, TOKENS), {}, "no earlier stage trains a language model 'student-plain'"),
        ((PLAIN, asks("{{ shown }}{{ prompt }}")), {}, r"the prompt must be a pair, such as \{\{ \[demos"),
    ],
)
def test_what_is_wrong_is_told_by_the_check(filled, stages, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        distillgen.load(pipeline(*stages, **options))
    assert "stage" in str(error.value) or "pipeline" in str(error.value)


def test_another_objective_does_not_lose_the_distiller_of_a_folder(filled):
    folder = filled.path / "mended"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "vocab_size": 9}')
    stages = {"version": 1, "stages": [{"source": {"path": "data/rows.jsonl"}}]}
    stages["stages"].append({"train": {"student": "./mended", "text": "text"}})
    distillgen.load(stages)
    (folder / "distiller.json").write_text("{}")
    with pytest.raises(ConfigError, match="reads demonstrations as vectors, and only 'mend' goes on with it"):
        distillgen.load(stages)


def record(**fields) -> Record:
    return Record("", fields, source="data:1", scores={})


def test_a_row_has_the_texts_and_says_what_is_missing():
    fields = {"demos": " a b", "prompt": " a", "completion": " b", "text": " a b a b"}
    assert Mend().row(record(**fields), {}) == {
        name: fields[name] for name in ("demos", "prompt", "completion")
    }
    assert Mend(text="text").row(record(**fields), {}) == {"text": " a b a b"}
    for name in ("demos", "prompt", "completion"):
        for value in (None, "", ["a"]):
            with pytest.raises(Unusable, match=f"'{name}' holds no text"):
                Mend().row(record(**fields | {name: value}), {})


def test_its_students_are_asked_with_texts_that_are_pairs():
    assert Mend().gives() == "demonstrated" and Mend().api({}) == "completions"
    assert Mend().answers() == ("demos",)
    assert Project(Path()) and Mend(distiller="student-lm").models() == ["student-lm"]
