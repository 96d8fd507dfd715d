"""A small Llama of a Hub folder as a GGUF file, for llama.cpp."""

import json
from pathlib import Path

LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""The names of a layer's weights in transformers and in GGUF."""
NORMAL, CONTROL = 1, 3  # kinds of tokens


def make_gguf(folder: Path, path: Path) -> Path:
    """Write a Llama with a byte-level BPE tokenizer as 32-bit GGUF."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer, config = AutoTokenizer.from_pretrained(folder), model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    _add_tokenizer(writer, folder, tokenizer)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        **{
            f"model.layers.{i}.{name}": f"blk.{i}.{other}"
            for i in range(config.num_hidden_layers)
            for name, other in LAYER.items()
        },
    }
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    state = model.state_dict()
    for name, other in names.items():
        weights = state[f"{name}.weight"]
        if count := heads.get(name.rpartition(".")[2]):  # llama.cpp rotates neighbouring numbers of a head
            halves = weights.reshape(count, 2, len(weights) // count // 2, -1)
            weights = halves.swapaxes(1, 2).reshape(weights.shape)
        writer.add_tensor(f"{other}.weight", weights.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer, folder: Path, tokenizer) -> None:
    data = json.loads((folder / "tokenizer.json").read_bytes())
    vocabulary = data["model"]["vocab"]
    control = {token["id"] for token in data["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    writer.add_token_types([CONTROL if i in control else NORMAL for i in range(len(vocabulary))])
    writer.add_token_merges([" ".join(pair) for pair in data["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
