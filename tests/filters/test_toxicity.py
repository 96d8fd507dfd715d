"""A classifier's word on a text: a tiny one, trained on the spot to know four words. It has no CASES, for it
must be made first.
"""

import pytest

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch", reason="needs torch and transformers")
transformers = pytest.importorskip("transformers", reason="needs torch and transformers")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A folder with a BERT of a few thousand weights, that finds "awful" and "vile" toxic and "lovely" and
    "kind" not.
    """
    folder = tmp_path_factory.mktemp("classifier")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lovely", "kind", "awful", "vile"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
        id2label={0: "fine", 1: "toxic"},
        label2id={"fine": 0, "toxic": 1},
    )
    model = transformers.BertForSequenceClassification(config)
    texts, labels = (
        ["lovely", "kind", "awful", "vile", "kind lovely", "vile awful"],
        torch.tensor([0, 0, 1, 1, 0, 1]),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        model(**tokenizer(texts, padding=True, return_tensors="pt"), labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "options, text, expected",
    [
        ({}, "lovely", None),
        ({}, "vile", "toxic 1.00 > 0.5"),
        ({"label": "fine"}, "kind", "fine 1.00 > 0.5"),
        ({"max_score": 1.0}, "awful", None),
        ({}, "vile " * 200_000, "toxic 1.00 > 0.5"),
        ({"max_score": 1.0}, "\ud800\x00", None),
        ({"max_score": 1.0}, None, None),
    ],
)
def test_decision(reason, classifier, options, text, expected):
    found = reason("toxicity", {"classifier": classifier, **options}, {"response": text})
    assert found is None if expected is None else expected in found


def test_what_cannot_be_loaded_is_told(reason, classifier, tmp_path):
    from distillgen.errors import ConfigError

    with pytest.raises(ConfigError, match="gives no label 'toxik'; it gives fine, toxic"):
        reason("toxicity", {"classifier": classifier, "label": "toxik"}, {"response": "kind"})
    with pytest.raises(ConfigError, match="cannot be loaded"):
        reason("toxicity", {"classifier": str(tmp_path)}, {"response": "kind"})


def test_its_numbers_depend_on_the_weights(classifier, tmp_path):
    from distillgen.plugins import filter_factory
    from distillgen.project import Project

    factory = filter_factory("toxicity", Project(tmp_path))
    (tmp_path / "model").mkdir()
    ours, other = (factory(classifier=folder).depends_on for folder in (classifier, str(tmp_path / "model")))
    assert ours != other and factory(classifier=classifier, max_score=0.1).depends_on == ours
