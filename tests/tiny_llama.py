"""A random Llama of 700,000 weights with a tokenizer trained on the spot, and a LoRA adapter for it, as Hub
folders.
"""

import json
from pathlib import Path

CPU = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
}
ENGINE = {"dtype": "float32", "enforce_eager": True, "gpu_memory_utilization": 0.3}
"""What vLLM needs to serve it on two cores: the environment, and the engine's arguments."""

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if opened is defined %}<think>{% endif %}{% endif %}"
)
HIDDEN, LAYERS, RANK = 128, 2, 20


def make_model(folder: Path, *, vocabulary: int = 1000, context: int = 1024) -> Path:
    """Weights wide enough apart that its distributions are peaked, as a trained model's are."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|end|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=alphabet,
    )
    bpe.train(
        [str(Path(__file__).parent.parent / "LICENSE")], trainer
    )  # a text that never changes, as the model must not
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|end|>", model_max_length=context
    )
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {
        "hidden_size": HIDDEN,
        "intermediate_size": 256,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
    }
    ends = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=context, initializer_range=0.15, **shape, **ends
    )
    LlamaForCausalLM(config).float().save_pretrained(folder)
    return folder


def make_adapter(folder: Path, model: Path, seed: int) -> Path:
    """A LoRA adapter, in PEFT's format, that changes every answer."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["q_proj", "o_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(model)}))
    torch.manual_seed(seed)
    names = [
        f"base_model.model.model.layers.{i}.self_attn.{name}"
        for i in range(LAYERS)
        for name in ("q_proj", "o_proj")
    ]
    shapes = {"lora_A": (RANK, HIDDEN), "lora_B": (HIDDEN, RANK)}
    tensors = {
        f"{name}.{part}.weight": torch.randn(shape) / 4 for name in names for part, shape in shapes.items()
    }
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    return folder
