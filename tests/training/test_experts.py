"""A mixture of experts out of a dense model: it says the same before the training, and what is refused."""

import json
import shutil

import pytest

from distillgen.errors import ConfigError
from distillgen.training.experts import FAMILIES, check_family, check_width
from distillgen.training.job import fingerprint_of
from distillgen.training.options import Experts, Tiny, TrainingOptions
from tests.training.test_arms import begun, taught  # noqa: F401  (fixtures)


def test_a_mixture_has_at_least_two_experts_and_no_more_choices_than_experts():
    options = TrainingOptions(student={"of": "student-dense"})
    assert options.surgery == Experts(of="student-dense", experts=4, top=2) and options.network is None
    with pytest.raises(ValueError, match="top: 5 is more than the 4 experts"):
        TrainingOptions(student={"of": "student-dense", "top": 5})
    with pytest.raises(
        ConfigError, match="a model of the family 'gpt2' gets no experts; take llama, mistral"
    ):
        check_family("gpt2")
    check_width(24)
    with pytest.raises(ConfigError, match="multiples of 4; one is 22"):
        check_width(22)


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("transformers")
    return pytest.importorskip("torch")


def written(folder, torch, family="llama"):
    """Write a dense model with large random weights, and the tokenizer of a tiny one."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from distillgen.training.tiny import write_tiny

    write_tiny(folder, Tiny(layers=2, width=16, heads=2, tokens="words"), None, ["one two three"], 300)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "head_dim": 6, "vocab_size": 30, "rms_norm_eps": 1e-4}
    rope = {"rope_type": "default", "rope_theta": 777.0}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **shape, rope_parameters=rope, initializer_range=0.5)
    )
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("top", [1, 2])
def test_the_experts_say_what_the_dense_model_says(tmp_path, torch, family, top):
    from transformers import AutoModelForCausalLM

    from distillgen.training.experts import write_experts

    dense = written(tmp_path / "dense", torch, family)
    write_experts(str(tmp_path / "dense"), tmp_path / "sparse", Experts(of="dense", experts=3, top=top))
    sparse = AutoModelForCausalLM.from_pretrained(tmp_path / "sparse").eval()
    tokens = torch.randint(0, 30, (5, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        said, expected = sparse(input_ids=tokens).logits, dense(input_ids=tokens).logits
        assert expected.std() > 0.5
        torch.testing.assert_close(said, expected, atol=1e-5, rtol=1e-5)
        experts = sparse.model.layers[1].mlp.experts
        experts.down_proj[1] = 0  # the control: experts that differ say something else
        assert (sparse(input_ids=tokens).logits - expected).abs().max() > 0.1
    assert sparse.config.num_experts_per_tok == top and len(experts.down_proj) == 3
    router = sparse.model.layers[0].mlp.gate.weight
    assert router.std() > 0


def test_layers_with_biases_are_refused(tmp_path, torch):
    from transformers import AutoConfig

    from distillgen.training.experts import _configuration

    with pytest.raises(ConfigError, match="biases"):
        _configuration(AutoConfig.for_model("llama", attention_bias=True), Experts(of="dense"))


def test_the_balance_is_1_where_experts_are_used_alike_and_its_gradient_reaches_the_routers(tmp_path, torch):
    from transformers import AutoModelForCausalLM

    from distillgen.training.experts import write_experts
    from distillgen.training.language import Language

    written(tmp_path / "dense", torch)
    write_experts(str(tmp_path / "dense"), tmp_path / "sparse", Experts(of="dense", experts=4, top=2))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "sparse")
    tokens = torch.arange(24).reshape(2, 12)
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}
    language = Language(model, None)
    routers = [layer.mlp.gate.weight for layer in model.model.layers]

    sent = language(batch).balance
    hooks, said = [], []
    for layer in model.model.layers:
        hooks.append(layer.mlp.gate.register_forward_hook(lambda _, __, out: said.append(out[0].softmax(-1))))
    language(batch)
    shares = torch.cat(said)
    chosen = torch.zeros_like(shares).scatter(1, shares.topk(2).indices, 0.5)
    assert sent.item() == pytest.approx((4 * (chosen.mean(0) * shares.mean(0)).sum()).item(), abs=1e-5)
    for hook in hooks:
        hook.remove()

    sent.backward()
    assert all(router.grad.abs().max() > 0 for router in routers)
    with torch.no_grad():
        for router in routers:
            router.zero_()
    assert language(batch).balance.item() == pytest.approx(1, abs=1e-6)
    assert Language(AutoModelForCausalLM.from_pretrained(tmp_path / "dense"), None)(batch).balance is None


def configuration(family, size=None, **shape):
    from transformers import AutoConfig

    from distillgen.training.experts import _configuration

    return _configuration(
        AutoConfig.for_model(family, **shape), size or Experts(of="dense", experts=3, top=1)
    )


@pytest.mark.parametrize("family, sparse", FAMILIES.items())
def test_a_mixture_has_the_shape_of_the_dense_model_and_the_names_of_its_own_family(torch, family, sparse):
    shape = {"hidden_size": 40, "intermediate_size": 52, "num_attention_heads": 5, "bos_token_id": 7}
    made = configuration(family, **shape, tie_word_embeddings=True, architectures=["Dense"], head_dim=12)
    assert made.model_type == sparse and made.tie_word_embeddings and made.head_dim == 12
    assert [getattr(made, name) for name in shape] == [*shape.values()] and made.architectures != ["Dense"]
    assert made.to_dict()["num_local_experts"] == 3
    assert made.num_experts_per_tok == 1 and made.router_aux_loss_coef == 0
    if family == "qwen3":
        assert made.moe_intermediate_size == 52 and made.norm_topk_prob


@pytest.mark.parametrize(
    "family, shape, message",
    [
        ("gpt2", {}, "the family 'gpt2' gets no experts"),
        ("llama", {"hidden_size": 42, "num_attention_heads": 7}, "one is 42"),
        ("qwen3", {"intermediate_size": 54}, "one is 54"),
        ("llama", {"mlp_bias": True}, "biases"),
    ],
)
def test_a_model_that_gets_no_experts_is_refused_before_any_is_made(torch, family, shape, message):
    with pytest.raises(ConfigError, match=message):
        configuration(family, **shape)


def test_layers_with_biases_are_only_refused_where_the_mixture_has_none(torch):
    assert configuration("qwen3", attention_bias=True).attention_bias


def test_weights_are_float32_in_whatever_type_the_dense_model_is_stored(tmp_path, torch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from distillgen.training.experts import write_experts

    dense = written(tmp_path / "dense", torch)
    dense.to(torch.bfloat16).save_pretrained(tmp_path / "dense")
    size = Experts(of="dense", experts=2, top=1)
    assert write_experts(str(tmp_path / "dense"), tmp_path / "sparse", size) == tmp_path / "sparse"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "sparse", dtype="auto")
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    vocabularies = [
        AutoTokenizer.from_pretrained(tmp_path / name).get_vocab() for name in ("dense", "sparse")
    ]
    assert vocabularies[0] == vocabularies[1]
    gates, ups = model.model.layers[1].mlp.experts.gate_up_proj.chunk(2, dim=1)
    assert all(torch.equal(gate, dense.model.layers[1].mlp.gate_proj.weight.float()) for gate in gates)
    assert all(torch.equal(up, dense.model.layers[1].mlp.up_proj.weight.float()) for up in ups)


def test_a_mixture_that_is_whole_is_not_written_again_and_one_that_is_not_is(tmp_path, torch):
    from distillgen.training.surgery import write_student

    written(tmp_path / "dense", torch)
    size, sparse = Experts(of="dense", experts=2, top=1), tmp_path / "sparse"

    def weights():
        write_student(size, str(tmp_path / "dense"), sparse, [], None)
        return (sparse / "model.safetensors").read_bytes()

    first = weights()
    torch.manual_seed(5)  # other routers
    assert weights() == first
    sparse.rename(tmp_path / "sparse.partial")  # as if the process had been killed
    assert weights() != first and (sparse / "tokenizer_config.json").exists()


@pytest.mark.parametrize("layers", [1, 3])
def test_a_dense_model_with_other_layers_than_its_family_is_refused(tmp_path, torch, monkeypatch, layers):
    from distillgen.training import experts

    written(tmp_path / "dense", torch)
    made = experts._configuration

    def other(config, size):
        made_config = made(config, size)
        made_config.num_hidden_layers = layers
        return made_config

    monkeypatch.setattr(experts, "_configuration", other)
    with pytest.raises(ConfigError, match="the layers of '.*dense' are not those of its family"):
        experts.write_experts(str(tmp_path / "dense"), tmp_path / "sparse", Experts(of="dense"))
    assert not (tmp_path / "sparse").exists()


def test_the_revision_is_that_of_the_weights_and_of_the_tokenizer(tmp_path, torch, monkeypatch):
    import transformers

    from distillgen.training.experts import write_experts

    written(tmp_path / "dense", torch)
    revisions = []
    for name in ("AutoModelForCausalLM", "AutoTokenizer"):
        kind = getattr(transformers, name)
        read = kind.from_pretrained

        def noted(place, revision=None, read=read, **options):
            revisions.append(revision)
            return read(place, **options)

        monkeypatch.setattr(kind, "from_pretrained", noted)
    write_experts(str(tmp_path / "dense"), tmp_path / "sparse", Experts(of="dense"), "v2")
    assert revisions == ["v2", "v2"]


TINY = {"tiny": {"layers": 1, "width": 16, "heads": 2}}
DENSE = {"train": {"name": "dense", "student": TINY, "held_out": 0}}


def sparse(of="student-dense", **options):
    return {"train": {"name": "sparse", "student": {"of": of, **options}, "held_out": 0}}


def test_changed_experts_or_a_changed_dense_model_train_again_and_nothing_else_does(begun, project):  # noqa: F811
    assert begun("out", DENSE, sparse()) == ["tiny", "student-dense"]

    def fingerprints():
        return [
            fingerprint_of(project.path / f"out/student-{name}/manifest.json") for name in ("dense", "sparse")
        ]

    first = fingerprints()
    assert begun("out", DENSE, sparse()) == []
    assert begun("out", DENSE, sparse(experts=4, top=2)) == []  # the defaults
    assert begun("out", DENSE, sparse(experts=8)) == ["student-dense"]
    assert begun("out", DENSE, sparse(top=1)) == ["student-dense"]
    assert begun("out", DENSE, sparse()) == ["student-dense"]
    assert fingerprints() == first
    longer = {"train": {**DENSE["train"], "epochs": 4.0}}
    assert begun("out", longer, sparse()) == ["tiny", "student-dense"]
    assert not {*fingerprints()} & {*first}
    shutil.rmtree(project.path / "out/student-sparse")  # as if the run had been killed before it
    assert begun("out", longer, sparse()) == ["student-dense"]
    job = json.loads((project.path / "out/student-sparse/job.json").read_bytes())
    assert job["options"]["student"] == {"of": "student-dense"}


def test_a_changed_folder_of_a_dense_model_trains_again(begun, project):  # noqa: F811
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16}
    project.write("models/dense/config.json", json.dumps(config))
    template = {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}
    project.write("models/dense/tokenizer_config.json", json.dumps(template))
    weights = project.write("models/dense/model.safetensors", "first")
    assert len(begun("out", sparse("models/dense"))) == 1
    assert begun("out", sparse("models/dense")) == []
    assert len(begun("out", sparse("models/dense", experts=8))) == 1
    weights.write_text("second")
    assert len(begun("out", sparse("models/dense", experts=8))) == 1
