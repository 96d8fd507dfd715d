"""Entailment: the arithmetic on a tiny model built on the spot, and a scripted model."""

import pytest

from distillgen.errors import ConfigError
from distillgen.local_models.nli import entailment


def test_a_scripted_model(project):
    path = project.write(
        "nli.py",
        "def judge(pairs):\n    return [(1.0, 0.0, 0.0) if p == h else (0.0, 0.0, 1.0) for p, h in pairs]\n",
    )
    assert entailment([("a", "a"), ("a", "b")], model=f"{path}:judge") == [(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)]
    assert entailment([], model="never/loaded") == []
    with pytest.raises(ConfigError, match="has no function 'other'"):
        entailment([("a", "a")], model=f"{path}:other")


@pytest.fixture
def tiny(tmp_path):
    """tiny(labels) -> a BERT of one layer with random weights and these labels in this order, as a folder."""
    pytest.importorskip("torch", reason="needs the extra 'filters'")
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    def make(*labels):
        folder = tmp_path / "-".join(labels).replace(" ", "_")
        folder.mkdir()
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"lake is deep bread rises why".split()]
        (folder / "vocab.txt").write_text("\n".join(words))
        BertTokenizerFast(
            vocab={word: i for i, word in enumerate(words)}, model_max_length=48
        ).save_pretrained(folder)
        torch.manual_seed(0)
        names = dict(enumerate(labels))
        size = {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 64,
        }
        config = BertConfig(
            vocab_size=len(words),
            id2label=names,
            label2id={v: k for k, v in names.items()},
            initializer_range=2.0,
            **size,
        )
        BertForSequenceClassification(config).eval().save_pretrained(folder)
        return str(folder)

    return make


PAIRS = [
    ("lake is deep", "bread rises"),
    ("bread", "why"),
    ("lake " * 200, "deep"),
    ("", "\ud800"),
    ("is", "lake is deep why bread"),
] * 9


@pytest.mark.slow
def test_probabilities_are_those_of_the_labels_whatever_their_order(tiny):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    first = tiny("entailment", "neutral", "contradiction")
    found = entailment(PAIRS, model=first)
    tokenizer, network = (
        AutoTokenizer.from_pretrained(first),
        AutoModelForSequenceClassification.from_pretrained(first),
    )
    for pair, own in zip(PAIRS[:3], found, strict=False):
        read = tokenizer(*pair, truncation=True, max_length=48, return_tensors="pt")
        with torch.no_grad():
            assert own == pytest.approx(network(**read).logits.softmax(-1)[0].tolist(), abs=1e-5)
    assert all(sum(own) == pytest.approx(1) for own in found) and len({round(own[0], 6) for own in found}) > 3
    for labels, order in {
        ("CONTRADICTION", "NEUTRAL", "ENTAILMENT"): (2, 1, 0),
        ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO"): (0, 2, 1),
    }.items():
        other = entailment(PAIRS, model=tiny(*labels))
        assert other == [tuple(own[i] for i in order) for own in found]


@pytest.mark.slow
def test_two_labels(tiny):
    named = entailment(PAIRS, model=tiny("entailment", "not_entailment"))
    unnamed = entailment(PAIRS, model=tiny("LABEL_0", "LABEL_1"))
    assert all(
        neutral == 0 and entail + contradict == pytest.approx(1) for entail, neutral, contradict in named
    )
    assert unnamed == [(contradict, 0, entail) for entail, _, contradict in named]


@pytest.mark.slow
def test_what_is_no_nli_model(tiny, tmp_path):
    with pytest.raises(ConfigError, match="is not an NLI model: its labels are joy, anger, fear"):
        entailment(PAIRS, model=tiny("joy", "anger", "fear"))
    with pytest.raises(ConfigError, match="the NLI model '.*' cannot be loaded: "):
        entailment(PAIRS, model=str(tmp_path / "nothing"))
