"""A smaller student out of a language model: some of its layers and tokens (Ansell et al. 2023, BiStil)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.training.options import Excerpt

TURNS = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]


def check_depth(layers: int, every: int) -> None:
    """Raise ConfigError if the layers of a model make no whole groups."""
    if layers % every:
        remedy = f"take a number that divides {layers}"
        raise ConfigError(f"student: of: {layers} layers make no whole groups of {every}; {remedy}")


def write_excerpt(
    model_name: str, folder: Path, size: Excerpt, texts: Iterable[str], revision: str | None = None
) -> Path:
    """Write a model with some of the layers, and the tokens of the texts, to a folder.

    Raises ConfigError if the model cannot be made smaller like this.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_name, revision=revision, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(model_name, revision=revision)
    tokenizer.save_pretrained(folder)
    if size.vocabulary is not None:
        ids = write_vocabulary(folder, _frequent(tokenizer, texts, size.vocabulary))
        _keep_tokens(model, ids)
    _keep_layers(model, size.every)
    model.save_pretrained(folder)
    return folder


def _keep_layers(model: Any, every: int) -> None:
    """Keep the last of each group of layers. What the configuration lists by layer follows."""
    from torch.nn import ModuleList

    config = model.config
    count = config.num_hidden_layers
    check_depth(count, every)
    places = range(every - 1, count, every)
    lists = (
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, ModuleList) and len(module) == count
    )
    name, layers = next(lists, ("", None))
    if layers is None:
        raise ConfigError(f"student: of: a model of the family '{config.model_type}' has no list of layers")
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, ModuleList(layers[i] for i in places))
    for option, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == count:
            setattr(config, option, [value[i] for i in places])
    config.num_hidden_layers = len(places)


def _keep_tokens(model: Any, ids: Mapping[int, int]) -> None:
    """Keep the rows of the embeddings that `ids` maps to their new places."""
    import torch

    rows = torch.tensor(sorted(ids, key=lambda old: ids[old]))
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        layer.weight = torch.nn.Parameter(layer.weight.detach()[rows])
        if getattr(layer, "bias", None) is not None:
            layer.bias = torch.nn.Parameter(layer.bias.detach()[rows])
    model.config.vocab_size = len(rows)
    model.tie_weights()
    for config in (model.config, model.generation_config):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
            value = getattr(config, name, None)
            if isinstance(value, list):
                setattr(config, name, [ids[one] for one in value if one in ids])
            elif value is not None:
                setattr(config, name, ids.get(value))


def _frequent(tokenizer: Any, texts: Iterable[str], least: float) -> set[str]:
    """Return the tokens with at least a share of those of the texts, and those of the chat template."""
    counts = Counter[int]()
    for text in texts:
        counts.update(tokenizer.encode(text, add_special_tokens=False))
    kept = {number for number, count in counts.items() if count >= least * counts.total()}
    if tokenizer.chat_template:
        kept.update(tokenizer.apply_chat_template(TURNS, return_dict=False))
    kept.update(tokenizer.all_special_ids)
    return {*tokenizer.convert_ids_to_tokens(sorted(kept))}


def write_vocabulary(folder: Path, frequent: Collection[str]) -> dict[int, int]:
    """Let the tokenizer in a folder keep only these tokens, and those that it needs; return the new id of
    each old one that is kept.

    A text of kept tokens is taken apart as before. Raises ConfigError if a tokenizer is of another kind.
    """
    from transformers import AutoTokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ConfigError("student: of: the tokenizer has no tokenizer.json: leave out 'vocabulary'")
    content = json.loads(file.read_bytes())
    model, added = content["model"], {entry["content"]: entry["id"] for entry in content["added_tokens"]}
    entries = model["vocab"]
    is_list = isinstance(entries, list)  # pieces with their scores: Unigram
    tokens = {piece: i for i, (piece, _) in enumerate(entries)} if is_list else dict(entries)
    tokens |= added
    kept = {*frequent, *added, *_alphabet(content, tokens)} & tokens.keys()
    if is_list and model.get("unk_id") is not None:
        kept.add(entries[model["unk_id"]][0])
    if model.get("unk_token") in tokens:
        kept.add(model["unk_token"])
    if model["type"] == "BPE":
        merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
        kept |= _parts(kept, merges, tokens)
        model["merges"] = [[a, b] for a, b in merges if {a, b, a + b} <= kept]
    ids = {old: new for new, old in enumerate(sorted({tokens[token] for token in kept}))}
    if is_list:
        model["vocab"] = [entry for i, entry in enumerate(entries) if i in ids]
        model["unk_id"] = ids.get(model.get("unk_id"))
    else:
        model["vocab"] = {token: ids[number] for token, number in entries.items() if token in kept}
    for entry in content["added_tokens"]:
        entry["id"] = ids[entry["id"]]
    content["post_processor"] = _renumbered(content["post_processor"], ids)
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    _renumber_config(folder / "tokenizer_config.json", ids)
    if AutoTokenizer.from_pretrained(folder).get_vocab() != {token: ids[tokens[token]] for token in kept}:
        raise ConfigError("student: of: the tokenizer keeps its tokens elsewhere: leave out 'vocabulary'")
    return ids


def _alphabet(content: Mapping[str, Any], tokens: Mapping[str, int]) -> set[str]:
    """Return the tokens of single bytes, in which any text can be written, if the tokenizer has them."""
    from tokenizers.pre_tokenizers import ByteLevel

    places = json.dumps([content["pre_tokenizer"], content["model"].get("byte_fallback")])
    letters = ByteLevel.alphabet() if '"ByteLevel"' in places else ()
    return {*letters, *(token for token in tokens if len(token) == 6 and token.startswith("<0x"))}


def _parts(kept: Iterable[str], merges: Iterable[tuple[str, str]], tokens: Collection[str]) -> set[str]:
    """Return the tokens that arise on the way from characters to the kept ones."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    parts = set[str]()
    for token in kept:
        pieces = [*token]
        parts.update(piece for piece in pieces if piece in tokens)
        while pairs := [pair for pair in zip(pieces, pieces[1:], strict=False) if pair in ranks]:
            first = min(pairs, key=lambda pair: ranks[pair])
            pieces = _merged(pieces, first)
            parts.add("".join(first))
    return parts


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """Return the pieces with each occurrence of a pair, from the left, made one."""
    merged = list[str]()
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def _renumbered(value: Any, ids: Mapping[int, int]) -> Any:
    """Return a post-processor with the new ids of the tokens that it adds."""
    if isinstance(value, list):
        if [type(inner) for inner in value] == [str, int]:  # BERT's and RoBERTa's form
            return [value[0], ids[value[1]]]
        return [_renumbered(inner, ids) for inner in value]
    if not isinstance(value, dict):
        return value
    return {
        name: [ids[number] for number in inner] if name == "ids" else _renumbered(inner, ids)
        for name, inner in value.items()
    }


def _renumber_config(file: Path, ids: Mapping[int, int]) -> None:
    """Give the added tokens of a tokenizer's configuration their new ids, where it lists them."""
    config = json.loads(file.read_bytes())
    if added := config.get("added_tokens_decoder"):
        config["added_tokens_decoder"] = {str(ids[int(old)]): token for old, token in added.items()}
        file.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
