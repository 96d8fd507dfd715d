"""The tiny student: a language model with random weights, whose tokens are learnt from the training rows."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from distillgen.training.options import PATCH, SPLITS, Tiny

VOCABULARY, CONTEXT = 2048, 1024
MOST_TOKENS = 1 << 16  # of words or characters: rarer ones are unknown
PIXELS = 32
PAD, START, END, UNKNOWN = "<|end|>", "<|im_start|>", "<|im_end|>", "<|unknown|>"
IMAGE = "<image>"
ROLES = ("system\n", "user\n", "assistant\n")
DECODER = [f"self_attn.{part}_proj" for part in "qkvo"] + [
    f"mlp.{part}_proj" for part in ("gate", "up", "down")
]
CONVOLUTION = [f"conv.{part}_proj" for part in ("in", "out")] + [
    f"feed_forward.{part}" for part in ("w1", "w2", "w3")
]
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The tiny student's chat template, which marks the assistant's text for trainers."""

CHAT_WITH_PICTURES = (
    "{% macro text(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{% endif %}{% endmacro %}"
) + CHAT.replace("m.content", "text(m.content)")
"""The same for turns that consist of pictures and texts."""


def tiny_layers(size: Tiny) -> list[str]:
    """Return the names of the layers that an adapter can change, of one block of each kind."""
    if size.convolutions:
        return [f"model.layers.0.{name}" for name in CONVOLUTION] + [
            f"model.layers.{size.convolutions}.self_attn.{name}_proj" for name in ("q", "k", "v", "out")
        ]
    if size.kind == "decoder":
        return [f"model.layers.0.{name}" for name in DECODER]
    if size.kind == "vision":
        sees = [f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")] + ["mlp.fc1", "mlp.fc2"]
        return [
            *(f"model.language_model.layers.0.{name}" for name in DECODER),
            *(f"model.vision_tower.encoder.layers.0.{name}" for name in sees),
            *(f"model.multi_modal_projector.linear_{place}" for place in (1, 2)),
        ]
    attention = ("encoder.block.0.layer.0.SelfAttention", "decoder.block.0.layer.1.EncDecAttention")
    return [f"{place}.{name}" for place in attention for name in "qkvo"] + [
        f"encoder.block.0.layer.1.DenseReluDense.{name}" for name in ("wi", "wo")
    ]


def write_tiny(folder: Path, size: Tiny, tokens: Path | None, texts: Iterable[str], vocabulary: int) -> Path:
    """Write a random Llama, LFM2, T5, or LLaVA. Of the default size, and with byte pairs, the Llama has 0.9
    million weights.

    The tokenizer is that of the folder `tokens`, or is trained on the texts; `vocabulary` is the number of
    its byte pairs.
    """
    from transformers import AutoTokenizer

    if tokens:
        tokenizer = AutoTokenizer.from_pretrained(tokens)
    elif size.tokens:
        tokenizer = _split(texts, SPLITS[size.tokens])
    else:
        tokenizer = _byte_pairs(texts, vocabulary)
    if size.kind == "encoder-decoder":
        _end_texts(tokenizer)
        model = _encoder_decoder(size, tokenizer)
    elif tokenizer.encode("a")[-1:] == [tokenizer.eos_token_id]:  # the tokens of an encoder-decoder
        tokenizer.backend_tokenizer.post_processor = None
    if size.kind == "decoder":
        tokenizer.chat_template = tokenizer.chat_template or CHAT
        model = decoder(size, tokenizer)
    if size.kind == "vision":
        processor = _processor(size, tokenizer)
        model = _vision(size, tokenizer)
        processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def decoder(size: Tiny, tokenizer: Any) -> Any:
    """Return a random Llama, or with convolutions an LFM2."""
    from transformers import Lfm2Config, Lfm2ForCausalLM, LlamaForCausalLM

    if not size.convolutions:
        return LlamaForCausalLM(_llama(size, tokenizer))
    layers = ["conv"] * size.convolutions + ["full_attention"] * (size.layers - size.convolutions)
    config = Lfm2Config(
        layer_types=layers,
        num_key_value_heads=size.heads,
        block_auto_adjust_ff_dim=False,
        **_shape(size, tokenizer),
    )
    return Lfm2ForCausalLM(config)


def _llama(size: Tiny, tokenizer: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(**_shape(size, tokenizer))


def _shape(size: Tiny, tokenizer: Any) -> dict[str, Any]:
    """Return the options of a configuration that Llama and LFM2 share."""
    ends = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    shape: dict[str, Any] = {"hidden_size": size.width, "intermediate_size": size.feed_forward}
    shape |= {"num_hidden_layers": size.layers, "num_attention_heads": size.heads}
    scale = {"initializer_range": size.init} if size.init else {}
    return {"vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, **shape, **scale, **ends}


def _processor(size: Tiny, tokenizer: Any) -> Any:
    """Return what makes tokens and pixels of turns; the tokenizer gets the token of a picture's patch."""
    from tokenizers import AddedToken
    from transformers import LlavaProcessor, SiglipImageProcessorPil

    side = size.pixels or PIXELS
    tokenizer.add_tokens([AddedToken(IMAGE, special=True)])
    tokenizer.chat_template = CHAT_WITH_PICTURES
    return LlavaProcessor(
        SiglipImageProcessorPil(size={"height": side, "width": side}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        chat_template=CHAT_WITH_PICTURES,
        image_token=IMAGE,
    )


def _vision(size: Tiny, tokenizer: Any) -> Any:
    """Return a LLaVA whose vision tower has the size of its decoder.

    The tower is that of SigLIP: it has no class token, which llama.cpp puts behind the patches instead of
    before them, so that each patch of a CLIP gets the position of its neighbour.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

    tower = SiglipVisionConfig(
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        image_size=size.pixels or PIXELS,
        patch_size=PATCH,
        vision_use_head=False,
    )
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=tower,
            text_config=_llama(size, tokenizer),
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    )
    # as large as what patches show; with a tenth of it, as SigLIP has, 250 steps teach colours and no places
    model.get_parameter("model.vision_tower.embeddings.position_embedding.weight").data.normal_()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def _encoder_decoder(size: Tiny, tokenizer: Any) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=size.width,
            d_kv=size.width // size.heads,
            d_ff=size.feed_forward,
            num_layers=size.layers,
            num_heads=size.heads,
            dropout_rate=0.0,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    )


def _end_texts(tokenizer: Any) -> None:
    """Have the tokenizer end every text, as that of T5 does, and read chat turns as one text."""
    from tokenizers.processors import TemplateProcessing

    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    tokenizer.chat_template = None


def _byte_pairs(texts: Iterable[str], vocabulary: int) -> Any:
    """Return a tokenizer of byte pairs that is trained on texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special, alphabet = [PAD, START, END], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=PAD, model_max_length=CONTEXT
    )


def _split(texts: Iterable[str], pattern: str) -> Any:
    """Return a tokenizer whose tokens are the parts of the texts that a pattern matches, the frequent first.

    A text that it has taken apart comes together again as it was. Parts that are in no text are unknown.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    level = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    level.pre_tokenizer, level.decoder = pre_tokenizers.Split(Regex(pattern), "isolated"), decoders.Fuse()
    trainer = trainers.WordLevelTrainer(
        vocab_size=MOST_TOKENS, special_tokens=[PAD, START, END, UNKNOWN], show_progress=False
    )
    level.train_from_iterator(chain(texts, ROLES), trainer)  # a chat template writes the roles
    return PreTrainedTokenizerFast(
        tokenizer_object=level, eos_token=END, pad_token=PAD, unk_token=UNKNOWN, model_max_length=CONTEXT
    )
