"""A smaller student out of a language model: which layers and tokens it has, and what it says with them."""

import json
import random

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.training.excerpt import check_depth
from distillgen.training.options import Excerpt, Experts, Tiny, TrainingOptions
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

TEXTS = ["a bee sat on a big bay", "the bee sang to the cat", "zebras zigzag to the zoo"]
KEPT = TEXTS[:2]


def test_layers_or_a_vocabulary_make_an_excerpt_and_nothing_else_does():
    assert TrainingOptions(student={"of": "student", "layers": "every 2"}).surgery == Excerpt(
        of="student", layers="every 2"
    )
    assert Excerpt(of="student", layers="every 12").every == 12
    assert Excerpt(of="student", vocabulary=1e-6).every == 1
    assert TrainingOptions(student={"of": "student"}).surgery == Experts(of="student")
    for student in ({"layers": 2}, {"layers": "every 0"}, {"vocabulary": 1}, {"layers": "every 2", "top": 1}):
        with pytest.raises(ValueError):
            TrainingOptions(student={"of": "student", **student})
    check_depth(4, 2)
    with pytest.raises(ConfigError, match="5 layers make no whole groups of 2"):
        check_depth(5, 2)


MANY = {"name": "many", "objective": "distil", "losses": ["cross_entropy"]}
MANY |= {"student": {"tiny": {"layers": 4, "width": 16, "heads": 2}}}
LAYERS = [{"layers": {"teacher": "student-many"}}]
HALF = {"of": "student-many", "layers": "every 2"}


def pipeline(project, *trainings):
    project.write("rows.jsonl", '{"prompt": "a", "completion": " b", "other": [1, 2]}\n' * 2)
    return {"version": 1, "stages": [{"source": {"path": "rows.jsonl"}}, *({"train": t} for t in trainings)]}


def pair(**options):
    return {"name": "pair", "objective": "distil", "student": HALF, "losses": LAYERS, **options}


def full(**options):
    return {"name": "full", "student": "student-pair", **options}


PAIRS = {"objective": "embedder", "fields": ["prompt", "completion"], "loss": "ranking"}
ONLY = {"changed_by": "student-full", "density": 0.1}


def test_an_excerpt_of_an_excerpt_learns_layers_and_then_few_weights(project, installed):  # noqa: F811
    again = pair(name="again", student={"of": "student-pair", "layers": "every 2", "vocabulary": 0.001})
    distillgen.load(pipeline(project, MANY, pair(), again, full(), full(name="train", only=ONLY)))


@pytest.mark.parametrize(
    "trainings, message",
    [
        ([pair(student={**HALF, "layers": "every 3"})], "4 layers make no whole groups of 3"),
        ([pair(), pair(name="p", student={"of": "student-pair", "layers": "every 4"})], "2 layers make no"),
        ([pair(student={**HALF, "of": "student-mani"})], "no earlier stage trains 'student-mani'; did you"),
        ([pair(student={**HALF, "layer": 2})], "layer"),
        ([pair(lora={"r": 4})], "'lora' trains no new models: leave it out"),
        ([pair(losses=["layers"])], "'layers': it learns from a teacher"),
        ([pair(losses=[{"layers": {"teacher": "other"}}])], "'other' does not give distributions"),
        ([full(student="student-many"), full(name="t", student="student-many", only={})], "changed_by"),
        ([pair(), full(), full(name="t", only={"changed_by": "student-ful"})], "did you mean 'student-full'"),
        (
            [pair(), full(student="student-many"), full(name="t", only=ONLY)],
            "only: 'student-full' began with 'student-many', and this with 'student-pair'; begin both with",
        ),
        ([pair(), full(), pair(name="t", only=ONLY)], "only: it goes back to a student that is there"),
        ([pair(), pair(name="full"), full(name="t", only=ONLY)], "only: it goes back to a student that is"),
        ([pair(), full(**PAIRS), full(name="t", only=ONLY, **PAIRS)], "only: it is for language models"),
        ([pair(), full(), full(name="t", only=ONLY, weight_decay=0.1)], "leave out 'weight_decay'"),
        ([pair(), full(), full(name="t", only=ONLY, lora={"r": 4})], "leave out 'lora', or 'only'"),
        ([pair(), full(lora={"r": 4}), full(name="t", only=ONLY)], "leave out 'lora', or 'only'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(
    project,
    installed,  # noqa: F811
    trainings,
    message,
):
    with pytest.raises(ConfigError) as caught:
        distillgen.load(pipeline(project, MANY, *trainings))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "first, second, message",
    [
        (
            {"tiny": {"layers": 4, "width": 16, "heads": 2, "kind": "encoder-decoder"}},
            pair(losses=["cross_entropy"]),
            "is no decoder, of which layers and tokens are kept",
        ),
        (
            {"tiny": {"layers": 4, "width": 16, "heads": 2, "convolutions": 2}},
            pair(),
            "'layers': it compares layers of attention; give a student that has them",
        ),
    ],
)
def test_other_kinds_of_students_are_refused(project, installed, first, second, message):  # noqa: F811
    many = {**MANY, "student": first, "objective": "sft"}
    many.pop("losses")
    with pytest.raises(ConfigError) as caught:
        distillgen.load(pipeline(project, many, second))
    assert message in str(caught.value)


def test_a_teacher_that_went_on_from_the_students_origin_has_its_tokens(project, installed):  # noqa: F811
    tuned = {**MANY, "name": "tuned", "student": "student-many"}
    other = {**MANY, "name": "other"}
    learns = {**MANY, "name": "t", "student": "student-pair"}
    learns["losses"] = [{"divergence": {"teacher": "student-tuned"}}]
    distillgen.load(pipeline(project, MANY, pair(), tuned, learns))
    learns["losses"] = [{"divergence": {"teacher": "student-other"}}]
    with pytest.raises(ConfigError, match="a tiny student has other tokens than 'student-other'"):
        distillgen.load(pipeline(project, MANY, pair(), other, learns))


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("transformers")
    return pytest.importorskip("torch")


def whole(folder, torch, tokens="words", **shape):
    """Write a decoder of four layers with large random weights, and a tokenizer trained on TEXTS."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from distillgen.training.tiny import write_tiny

    write_tiny(folder, Tiny(layers=1, width=16, heads=2, tokens=tokens), None, TEXTS * 3, 300)
    size = len(AutoTokenizer.from_pretrained(folder))
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, **shape}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": size, "eos_token_id": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(shape.pop("model_type", "llama"), **shape, initializer_range=0.5)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def loaded(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("tied", [False, True])
def test_the_last_layer_of_each_group_and_the_tokens_of_the_texts_are_copied(tmp_path, torch, tied):
    from distillgen.training.excerpt import write_excerpt

    first = whole(tmp_path / "whole", torch, tie_word_embeddings=tied)
    size = Excerpt(of="x", layers="every 2", vocabulary=1e-6)
    write_excerpt(first, tmp_path / "part", size, KEPT)
    (big, names), (small, kept) = loaded(first), loaded(tmp_path / "part")
    assert small.config.num_hidden_layers == len(small.model.layers) == 2
    for mine, its in zip(small.model.layers, (big.model.layers[1], big.model.layers[3]), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), its.parameters(), strict=True))
        assert not torch.equal(mine.mlp.up_proj.weight, big.model.layers[0].mlp.up_proj.weight)
    assert " zoo" in names.get_vocab() and " zoo" not in kept.get_vocab()
    assert small.config.vocab_size == len(kept) < len(names)
    assert (small.lm_head.weight is small.model.embed_tokens.weight) == tied
    for token, number in kept.get_vocab().items():
        old = names.get_vocab()[token]
        for layer in ("model.embed_tokens", "lm_head"):
            rows = (model.get_submodule(layer).weight for model in (small, big))
            assert torch.equal(next(rows)[number], next(rows)[old]), token
    for name in ("eos_token_id", "pad_token_id"):
        ours = getattr(small.generation_config, name)
        assert ours is None or kept.convert_ids_to_tokens(ours) == names.convert_ids_to_tokens(
            getattr(big.generation_config, name)
        )


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_with_all_layers_it_says_what_the_model_says_of_its_tokens(tmp_path, torch, family):
    """And with half of them it does not: the control. The last layer of a Phi has biases."""
    from distillgen.training.excerpt import write_excerpt

    first = whole(tmp_path / "whole", torch, model_type=family)
    if family == "phi":
        model, _ = loaded(first)
        torch.nn.init.normal_(model.lm_head.bias)
        model.save_pretrained(first)
    write_excerpt(first, tmp_path / "all", Excerpt(of="x", vocabulary=0), KEPT)
    write_excerpt(first, tmp_path / "half", Excerpt(of="x", layers="every 2"), KEPT)
    big, names = loaded(first)
    for folder, same in (("all", True), ("half", False)):
        small, kept = loaded(tmp_path / folder)
        text = KEPT[0]
        ids, old = (torch.tensor([one.encode(text)]) for one in (kept, names))
        places = [names.get_vocab()[token] for token in kept.convert_ids_to_tokens(range(len(kept)))]
        with torch.no_grad():
            said, expected = small(input_ids=ids).logits, big(input_ids=old).logits[..., places]
        assert torch.allclose(said, expected, atol=1e-5) is same


def test_rare_tokens_are_left_out_by_their_share(tmp_path, torch):
    from distillgen.training.excerpt import write_excerpt

    first = whole(tmp_path / "whole", torch)
    write_excerpt(first, tmp_path / "part", Excerpt(of="x", vocabulary=0.15), KEPT)  # 2 of 13 words
    _, kept = loaded(tmp_path / "part")
    words = {token for token in kept.get_vocab() if not token.startswith("<|")}
    assert words == {" bee", "user", "assistant", "\n"}, "the chat template writes the last three"
    assert kept.encode(" sang") == [kept.unk_token_id]


def test_texts_of_kept_byte_pairs_are_taken_apart_as_before_and_any_text_can_be_written(tmp_path, torch):
    from distillgen.training.excerpt import write_excerpt

    first = whole(tmp_path / "whole", torch, tokens=None)
    write_excerpt(first, tmp_path / "part", Excerpt(of="x", vocabulary=1e-6), KEPT)
    (_, names), (_, kept) = loaded(first), loaded(tmp_path / "part")
    assert len(kept) < len(names)
    rng = random.Random(0)
    words = " ".join(KEPT).split()
    for text in (*KEPT, " ".join(rng.choices(words, k=40))):
        assert kept.tokenize(text) == names.tokenize(text)
    assert kept.tokenize(TEXTS[2]) != names.tokenize(TEXTS[2])
    assert kept.decode(kept.encode("Ωmega zebras\n")) == "Ωmega zebras\n"
    merges = json.loads((tmp_path / "part/tokenizer.json").read_text())["model"]["merges"]
    assert all({a, b, a + b} <= kept.get_vocab().keys() for a, b in merges)


def test_pieces_with_scores_and_the_tokens_around_a_text_get_new_numbers(tmp_path, torch):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from distillgen.training.excerpt import _renumbered, write_vocabulary

    pieces = [("<s>", 0.0), ("<unk>", 0.0), ("▁zoo", -1.0), ("▁a", -2.0), ("▁cat", -3.0), ("s", -4.0)]
    unigram = Tokenizer(models.Unigram(pieces, unk_id=1))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=unigram, unk_token="<unk>", bos_token="<s>").save_pretrained(
        tmp_path
    )
    assert write_vocabulary(tmp_path, {"▁cat", "s"}) == {0: 0, 1: 1, 4: 2, 5: 3}
    kept = AutoTokenizer.from_pretrained(tmp_path)
    assert kept.encode("cats zoo") == [0, 2, 3, 1]
    assert _renumbered({"sep": ["</s>", 4], "cls": ["<s>", 0]}, {0: 0, 4: 2}) == {
        "sep": ["</s>", 2],
        "cls": ["<s>", 0],
    }
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="no tokenizer.json: leave out 'vocabulary'"):
        write_vocabulary(tmp_path, {"a"})


def test_byte_pairs_of_characters_keep_what_a_token_is_made_of_and_the_tokens_of_bytes(tmp_path, torch):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from distillgen.training.excerpt import write_vocabulary

    tokens = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), *"catdog", "at", "cat", "og", "dog"]
    tokens = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    merges = [("a", "t"), ("o", "g"), ("c", "at"), ("d", "og")]
    pairs = Tokenizer(models.BPE(tokens, merges, unk_token="<unk>", byte_fallback=True))
    pairs.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=pairs, unk_token="<unk>").save_pretrained(tmp_path)
    ids = write_vocabulary(tmp_path, {"cat"})
    kept = AutoTokenizer.from_pretrained(tmp_path)
    assert kept.get_vocab().keys() == tokens.keys() - {*"dog", "og", "dog"}
    assert kept.tokenize("cat") == ["cat"] and kept.tokenize("dog") == ["<0x64>", "<0x6F>", "<0x67>"]
    assert {tokens[token]: number for token, number in kept.get_vocab().items()} == ids


def test_lists_by_layer_in_a_configuration_follow_the_layers(tmp_path, torch):
    from distillgen.training.excerpt import write_excerpt

    types = ["sliding_attention", "full_attention"] * 2
    first = whole(tmp_path / "whole", torch, model_type="qwen3", layer_types=types, head_dim=8)
    write_excerpt(first, tmp_path / "part", Excerpt(of="x", layers="every 2"), KEPT)
    small, _ = loaded(tmp_path / "part")
    assert small.config.layer_types == ["full_attention"] * 2
    with torch.no_grad():
        assert small(input_ids=torch.tensor([[1, 2, 3]])).logits.isfinite().all()
