"""Tiny students of other sizes: what is right is taken, what is wrong is told in the check."""

import importlib.util
import json
from pathlib import Path

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.training import students
from distillgen.training.options import Tiny, TrainingOptions
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

BIG = {"train": {"name": "big", "student": {"tiny": {"layers": 1, "width": 32, "heads": 2}}}}
BOTH = {"kind": "encoder-decoder", "layers": 1, "width": 24, "heads": 2}
LIVE = {"objective": "distil", "losses": [{"divergence": {"teacher": "student-big"}}]}


def pipeline(*stages: dict, **options) -> dict:
    return {"version": 1, "stages": [{"source": {"path": "rows.jsonl"}}, *stages, {"train": options}]}


@pytest.fixture
def filled(project, monkeypatch, installed):  # noqa: F811
    project.rows("rows.jsonl", [{"prompt": f"{i}?", "completion": str(i)} for i in range(20)])
    project.write("pipelines/.keep", "")
    monkeypatch.chdir(project.path)


@pytest.mark.parametrize(
    ("stages", "options"),
    [
        ((), {"student": {"tiny": None}}),
        ((), {"student": {"tiny": {"tokens": "words", "kind": "encoder-decoder"}}}),
        ((), {"student": {"tiny": {"tokens": "chars"}}, "text": "completion", "pack": 64}),
        ((), {"student": {"tiny": {"kind": "vision", "init": 0.1}}}),
        (
            (),
            {
                "student": {"tiny": {"convolutions": 1, "init": 0.1}},
                "lora": {"r": 2, "target": ["conv.in_proj", "w1", "self_attn.out_proj"]},
            },
        ),
        (
            (),
            {
                "student": {"tiny": {"kind": "encoder-decoder"}},
                "lora": {"r": 2, "target": ["EncDecAttention.q", "wi"]},
            },
        ),
        ((BIG,), {"student": {"tiny": {"width": 16, "tokens": "student-big"}}, **LIVE}),
        ((BIG,), {"student": "student-big", **LIVE}),
        ((), {"student": "a/b", "objective": "distil", "losses": [{"divergence": {"teacher": "c/d"}}]}),
    ],
)
def test_what_is_right_passes_the_check(filled, stages, options):
    distillgen.load(pipeline(*stages, **options))


@pytest.mark.parametrize(
    ("stages", "options", "message"),
    [
        ((), {"student": {"tiny": {"layer": 2}}}, "layer"),
        ((), {"student": {"tiny": {"tokens": "wrods"}}}, "did you mean 'words'?"),
        ((), {"student": {"tiny": {"kind": "encoder"}}}, "must be 'decoder', 'encoder-decoder' or 'vision'"),
        (
            (),
            {"student": {"tiny": {"kind": "encoder-decoder"}}, "text": "completion"},
            "learns a prompt and its completion, no plain text",
        ),
        (
            (),
            {"student": {"tiny": {"kind": "encoder-decoder"}}, "lora": {"r": 2, "target": ["up_proj"]}},
            "it has k, o, q, v, wi, wo",
        ),
        (
            (BIG,),
            {"student": {"tiny": {"kind": "encoder-decoder"}}, **LIVE},
            "it trains a model that writes texts (causal), and this is an encoder-decoder",
        ),
        ((), {"student": {"tiny": {"width": 30, "heads": 4}}}, "30 is no multiple of twice its 4 heads"),
        ((), {"student": {"tiny": {}, "layers": 2}}, "stand at its name"),
        ((), {"student": {"tiny": {**BOTH, "init": 0.1}}}, "init is for a decoder"),
        ((), {"student": {"tiny": {**BOTH, "convolutions": 1}}}, "convolutions is for a decoder"),
        ((), {"student": {"tiny": {"convolutions": 2}}}, "of 2 layers at least one needs attention"),
        (
            (),
            {"student": {"tiny": {"convolutions": 1}}, "packing": True},
            "packing: the student's convolutions",
        ),
        (
            ({"train": BIG["train"] | {"student": {"tiny": {"layers": 2, "convolutions": 1}}}},),
            {"student": "student-big", "text": "completion", "pack": 64},
            "pack: the student's convolutions",
        ),
        ((BIG,), {"student": {"tiny": {"tokens": "student-bg"}}}, "did you mean 'student-big'?"),
        ((BIG,), {"student": {"tiny": {}}, **LIVE}, "{tiny: {tokens: student-big}}"),
        ((BIG,), {"student": "tiny", **LIVE}, "has other tokens than 'student-big'"),
        ((BIG,), {"student": "tiny", **LIVE, "transductive": True}, "'transductive' is for networks"),
        (
            (),
            {"student": "tiny", "objective": "distil", "losses": [{"divergence": {"teacher": "prompt"}}]},
            "'prompt' does not give distributions over tokens",
        ),
        (
            (BIG,),
            {
                "student": "student-big",
                **LIVE,
                "losses": [{"divergence": {"teacher": "student-big", "head": "a"}}],
            },
            "a language model has no named heads",
        ),
        (
            (),
            {
                "student": "tiny",
                "objective": "distil",
                "losses": ["cross_entropy"],
                "teachers": {"t": {"model": "x"}},
            },
            "no earlier stage trains 'x'",
        ),
    ],
)
def test_what_is_wrong_is_refused(filled, stages, options, message):
    with pytest.raises(ConfigError) as error:
        distillgen.load(pipeline(*stages, **options))
    assert message in str(error.value)


def test_a_mapping_is_a_network_or_a_tiny_student():
    sized = TrainingOptions(student={"tiny": {"layers": 3}})
    assert sized.tiny == Tiny(layers=3) and sized.network is None
    network = TrainingOptions(student={"mlp": [4]})
    assert network.tiny is None and network.network == {"mlp": [4]}
    assert TrainingOptions(student="tiny").tiny is None


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_a_size_changes_the_weights_and_no_size_changes_nothing(tmp_path):
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, set_seed

    def made(name: str, **options) -> Path:
        set_seed(0)
        return Path(students.ready("tiny", tmp_path, tmp_path / name, ["one two three"] * 9, **options))

    plain, default = made("plain"), made("default", tiny=Tiny())
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (plain / file).read_bytes() == (default / file).read_bytes()
    small = made("small", tiny=Tiny(layers=1, width=24, heads=2))
    config = json.loads((small / "config.json").read_text())
    sizes = [config[name] for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")]
    assert sizes == [1, 24, 2]
    size = Tiny(layers=3, width=24, heads=2, convolutions=2, init=0.5)
    mixed, outline = made("mixed", tiny=size), students.outline("tiny", tmp_path, tiny=size)
    folder = students.outline("mixed", tmp_path)
    assert outline.layers <= folder.layers and not outline.packs and not folder.packs
    assert students.outline("small", tmp_path).packs
    model = AutoModelForCausalLM.from_pretrained(mixed)
    kinds = ["conv" if hasattr(layer, "conv") else "attention" for layer in model.model.layers]
    assert kinds == ["conv", "conv", "attention"] and sum(p.numel() for p in model.parameters()) < 80_000
    assert abs(model.model.layers[0].conv.in_proj.weight.std() - 0.5) < 0.05
    sees = made("sees", tiny=Tiny(kind="vision", layers=1, width=24, heads=2, init=0.5))
    language = AutoModelForImageTextToText.from_pretrained(sees).model.language_model
    assert abs(language.layers[0].mlp.up_proj.weight.std() - 0.5) < 0.05
    other = Path(students.ready("tiny", tmp_path, tmp_path / "other", ["x y z"] * 9, tokens=small))
    both = Path(students.ready("tiny", tmp_path, tmp_path / "both", [], tokens=small, tiny=Tiny(**BOTH)))
    third = Path(students.ready("tiny", tmp_path, tmp_path / "third", [], tokens=both))
    for folder, ends in ((both, True), (third, False)):  # each kind ends texts in its own way
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert (tokenizer.encode("a")[-1] == tokenizer.eos_token_id) == ends
        assert (tokenizer.chat_template is None) == ends
        assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(small).get_vocab()
    vocabularies = [AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (small, other)]
    assert vocabularies[0] == vocabularies[1]


TEXT = "Anna was born in Paris,  in 1990.\nDon't — she said; naïve e\u0301"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize(
    ("tokens", "parts"), [("words", ["Anna", " was", " born"]), ("chars", ["A", "n", "n", "a"])]
)
def test_tokens_are_words_or_characters_and_transformers_loads_them(tmp_path, tokens, parts, kind):
    from transformers import AutoModel, AutoTokenizer, set_seed

    def made(name: str) -> Path:
        set_seed(0)
        size = Tiny(**BOTH | {"kind": kind, "tokens": tokens})
        return Path(students.ready("tiny", tmp_path, tmp_path / name, [TEXT, "Anna Anna"], tiny=size))

    first, second = made("first"), made("second")
    for file in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    tokenizer, model = AutoTokenizer.from_pretrained(first), AutoModel.from_pretrained(first)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    assert [tokenizer.decode([token]) for token in ids][: len(parts)] == parts
    assert tokenizer.decode(ids) == TEXT and tokenizer.unk_token_id not in ids
    assert tokenizer.unk_token_id in tokenizer.encode("Zoë")
    if kind == "decoder":
        chat = [{"role": role, "content": "Anna"} for role in ("system", "user", "assistant")]
        assert tokenizer.unk_token_id not in tokenizer.apply_chat_template(chat)["input_ids"]
    assert model.config.is_encoder_decoder == (kind == "encoder-decoder")
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
