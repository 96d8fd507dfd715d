"""A mixture of experts out of a dense language model (Komatsuzaki et al. 2023, Sparse Upcycling)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.training.options import Experts

FAMILIES = {"llama": "mixtral", "mistral": "mixtral", "qwen3": "qwen3_moe"}
"""The family of the mixture, by that of the dense model."""
STEP = 4  # 16 bytes of float32
KEPT = ("model_type", "architectures", "transformers_version")  # of a configuration: the family's own
BIASES = ("attention_bias", "mlp_bias")  # Mixtral has none


def check_family(family: str) -> None:
    """Raise ConfigError if no mixture of experts is known for a family of models."""
    if family not in FAMILIES:
        families = ", ".join(FAMILIES)
        raise ConfigError(f"student: of: a model of the family '{family}' gets no experts; take {families}")


def check_width(width: int) -> None:
    """Raise ConfigError if the experts' layers are of a size that torch cannot multiply in groups."""
    if width % STEP:
        widths = "widths, of the model and of its feed-forward layers,"
        raise ConfigError(f"student: of: experts need {widths} that are multiples of {STEP}; one is {width}")


def write_experts(dense: str, folder: Path, size: Experts, revision: str | None = None) -> Path:
    """Write a mixture of experts that says what the dense model says, with its tokenizer, to a folder.

    Each expert is a copy of the feed-forward layer, and the shares of the experts that a token is sent to sum
    to 1. The routers are random. Raises ConfigError if the model cannot be made into one.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(dense, revision=revision, dtype="float32")
    sparse = AutoModelForCausalLM.from_config(_configuration(model.config, size))
    kept = {name: value for name, value in model.state_dict().items() if ".mlp." not in name}
    missing, unexpected = sparse.load_state_dict(kept, strict=False)
    if unexpected or any(".mlp." not in name for name in missing):
        raise ConfigError(f"student: of: the layers of '{dense}' are not those of its family")
    for block, layer in zip(sparse.model.layers, model.model.layers, strict=True):
        _copy(layer.mlp, block.mlp.experts)
    sparse.save_pretrained(folder)
    AutoTokenizer.from_pretrained(dense, revision=revision).save_pretrained(folder)
    return folder


def _configuration(dense: Any, size: Experts) -> Any:
    """Return the configuration of a mixture; no trainer adds a loss of the routers by itself."""
    from transformers import AutoConfig

    check_family(dense.model_type)
    family = FAMILIES[dense.model_type]
    for width in (dense.hidden_size, dense.intermediate_size):
        check_width(width)
    if family == "mixtral" and any(getattr(dense, bias, False) for bias in BIASES):
        raise ConfigError("student: of: a model whose layers have biases gets no experts")
    names = {*AutoConfig.for_model(family).to_dict(), "head_dim"} - {*KEPT}
    shape = {name: value for name, value in dense.to_dict().items() if name in names}
    experts: dict[str, Any] = {
        "num_experts": size.experts,
        "num_experts_per_tok": size.top,
        "router_aux_loss_coef": 0.0,
    }
    if family == "mixtral":
        experts["num_local_experts"] = experts.pop("num_experts")
    else:
        experts |= {"moe_intermediate_size": dense.intermediate_size, "norm_topk_prob": True}
    return AutoConfig.for_model(family, **shape, **experts)


def _copy(dense: Any, experts: Any) -> None:
    """Set every expert to a feed-forward layer."""
    import torch

    both = torch.cat([dense.gate_proj.weight, dense.up_proj.weight])
    with torch.no_grad():
        experts.gate_up_proj.copy_(both.expand_as(experts.gate_up_proj))
        experts.down_proj.copy_(dense.down_proj.weight.expand_as(experts.down_proj))
