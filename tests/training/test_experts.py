"""A mixture of experts out of a dense model: it says the same before the training, and what is refused."""

import pytest

from distillgen.errors import ConfigError
from distillgen.training.experts import FAMILIES, check_family, check_width
from distillgen.training.options import Experts, Tiny, TrainingOptions


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
