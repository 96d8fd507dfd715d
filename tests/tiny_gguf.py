"""A small Llama or LLaVA of a Hub folder as GGUF files, for llama.cpp."""

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
TOWER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
"""The same of a layer of SigLIP."""
NORMAL, CONTROL = 1, 3  # kinds of tokens


def make_gguf(folder: Path, path: Path) -> Path:
    """Write a Llama, or that of a LLaVA, with a byte-level BPE tokenizer as 32-bit GGUF."""
    import gguf
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from distillgen.inference.model_class import model_class

    kind = model_class(AutoConfig.from_pretrained(folder))
    model = kind.from_pretrained(folder, dtype=torch.float32)
    tokenizer, config = AutoTokenizer.from_pretrained(folder), model.config.get_text_config()
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
    state = {name.replace("language_model.", ""): value for name, value in model.state_dict().items()}
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


def make_mmproj(folder: Path, path: Path) -> Path:
    """Write the vision tower and the projector of a LLaVA with SigLIP as 32-bit GGUF."""
    import gguf
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder)
    config, processor = model.config.vision_config, AutoProcessor.from_pretrained(folder).image_processor
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_vision_image_size(config.image_size)
    writer.add_vision_patch_size(config.patch_size)
    writer.add_vision_embedding_length(config.hidden_size)
    writer.add_vision_feed_forward_length(config.intermediate_size)
    writer.add_vision_projection_dim(model.config.text_config.hidden_size)
    writer.add_vision_block_count(config.num_hidden_layers)
    writer.add_vision_head_count(config.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(config.layer_norm_eps)
    writer.add_vision_image_mean(processor.image_mean)
    writer.add_vision_image_std(processor.image_std)
    writer.add_vision_use_gelu(True)
    # without it llama.cpp takes what the last layer but one gives
    writer.add_array("clip.vision.feature_layer", [config.num_hidden_layers])
    tower, projector = "model.vision_tower", "model.multi_modal_projector"
    names = {
        f"{tower}.embeddings.patch_embedding": "v.patch_embd",
        f"{tower}.embeddings.position_embedding": "v.position_embd",
        f"{projector}.linear_1": "mm.0",
        f"{projector}.linear_2": "mm.2",
        **{
            f"{tower}.encoder.layers.{i}.{name}": f"v.blk.{i}.{other}"
            for i in range(config.num_hidden_layers)
            for name, other in TOWER.items()
        },
    }
    for name, value in model.state_dict().items():
        layer, _, kind = name.rpartition(".")
        if layer in names:
            writer.add_tensor(f"{names[layer]}.{kind}", value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer, folder: Path, tokenizer) -> None:
    data = json.loads((folder / "tokenizer.json").read_bytes())
    vocabulary = data["model"]["vocab"] | {token["content"]: token["id"] for token in data["added_tokens"]}
    control = {token["id"] for token in data["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    writer.add_token_types([CONTROL if i in control else NORMAL for i in range(len(vocabulary))])
    writer.add_token_merges([" ".join(pair) for pair in data["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
