"""What losses and weights learn and remember is in a checkpoint, from which a training goes on bit by bit."""

import pytest

from tests.training.lessons import bits, prepared, row, says

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

LOSSES = [
    ("cross_entropy", {"weight": "1 - alpha"}),
    ("taid", {"teacher": "t", "weight": "alpha", "pace": 0.2}),
    ("features", {"teacher": "v", "rate": 0.05}),
    ("information", {"teacher": "v", "neurons": 4}),
    ("subclasses", {"teacher": "t", "embedding": "v", "head": "sub"}),
    ("divergence", {"teacher": ["t", "u"], "weight": "route", "temperature": 2}),
]
WEIGHTS = {"alpha": ("trilateral", {"teacher": "t", "validation_rows": 5}), "route": ("gate", {"over": 2})}
STUDENT = {"mlp": [8], "heads": {"class": {}, "sub": {"groups": 2}}, "dropout": 0.3}


def rows(start: int, stop: int) -> list[dict]:
    return [
        row(i, **says(i, sure=0.7))
        | {f"teacher.u.{kind}": says(i + i % 2)[f"teacher.t.{kind}"] for kind in ("names", "logprobs")}
        | {"teacher.v.vector": [float(i % 3), i % 4 - 1.0, (i * 7 % 5) / 2]}
        for i in range(start, stop)
    ]


def loop(tmp_path, folder: str, **options):
    return prepared(
        {"train": rows(0, 40), "validation": rows(40, 52)},
        LOSSES,
        tmp_path / folder,
        weights=WEIGHTS,
        teachers={name: {"field": name} for name in "tuv"},
        student=STUDENT,
        root=tmp_path,
        max_steps=16,
        **options,
    )


def test_parts_with_parameters_and_with_state_go_on_to_the_same_bits(tmp_path):
    whole = loop(tmp_path, "a")
    before = bits(whole)
    whole.train()
    loop(tmp_path, "b", save_strategy="steps", save_steps=7).train()
    again = loop(tmp_path, "b")
    again.train(resume_from_checkpoint=str(tmp_path / "b" / "out" / "checkpoint-7"))
    assert bits(whole) == bits(again)
    changed = {name for name, value in bits(whole).items() if value != before[name]}
    assert {
        "parts.loss 1.share",
        "parts.loss 2.0.weight",
        "parts.loss 3.0.baseline.0.weight",
        "parts.route.weight",
        "parts.alpha.4.bias",
    } <= changed
    assert "parts.loss 4.directions" in before.keys() - changed, "what the fit set stays"


def test_the_last_weights_are_written_row_by_row(tmp_path):
    trained = loop(tmp_path, "a")
    trained.save_model(str(tmp_path / "student"))
    lines = (tmp_path / "student/weights.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 40
    assert '"alpha"' in lines[0] and '"route"' in lines[0]


def test_relations_of_drawn_tokens_go_on_to_the_same_bits(tmp_path):
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 4}
    student = {"transformers": {"model_type": "vit", "patch_size": 1, **sizes}, "shape": [1, 3]}

    def seeing(folder: str, **options):
        return prepared(
            rows(0, 20),
            [("cross_entropy", {}), ("token_relations", {"teacher": "peer", "sampled": 9, "k": 3})],
            tmp_path / folder,
            teachers={"peer": {"peer": student, "inputs": ["x"]}},
            student=student,
            max_steps=9,
            **options,
        )

    whole = seeing("a")
    before = bits(whole)
    whole.train()
    seeing("b", save_strategy="steps", save_steps=4).train()
    again = seeing("b")
    again.train(resume_from_checkpoint=str(tmp_path / "b" / "out" / "checkpoint-4"))
    assert bits(whole) == bits(again)
    assert bits(whole)["parts.loss 1.0.weight"] != before["parts.loss 1.0.weight"]
