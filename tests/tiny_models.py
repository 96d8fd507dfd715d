"""Random models of a few ten thousand weights with tokenizers trained on the spot, as folders to start a
student from.
"""

from pathlib import Path


def words(folder: Path, texts: list[str], *, bert: bool = False):
    """A tokenizer with a token for each word of the texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "</s>"]
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=special))
    if bert:
        ends = [("[CLS]", 2), ("[SEP]", 3)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
        )
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 4)]
        )
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "eos_token": "</s>",
    }
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)
    made.save_pretrained(folder)
    return made


def bert(folder: Path, texts: list[str]) -> Path:
    """An encoder."""
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = words(folder, texts, bert=True)
    torch.manual_seed(0)
    shape = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 64,
    }
    BertModel(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)
    return folder


def t5(folder: Path, texts: list[str]) -> Path:
    """An encoder-decoder."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = words(folder, texts)
    torch.manual_seed(0)
    shape = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    ends = {"pad_token_id": 0, "eos_token_id": 4, "decoder_start_token_id": 0}
    T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **shape, **ends)).save_pretrained(folder)
    return folder
