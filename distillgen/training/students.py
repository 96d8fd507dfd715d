"""Where a student begins: a folder, a name on the Hugging Face Hub, a GGUF file, or `tiny`, a random one made on the spot."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from distillgen.errors import ConfigError, did_you_mean
from distillgen.inference.gguf_file import check_gguf
from distillgen.local_models.embedder import SHIPPED, shipped
from distillgen.project import file_sha256
from distillgen.teachers.embedded import KNOWN, find_weights

Kind = Literal["causal", "seq2seq", "encoder"]
ENCODERS = frozenset(
    "albert bert camembert convbert deberta deberta-v2 distilbert electra ernie esm funnel longformer mobilebert modernbert "
    "mpnet nomic_bert roberta squeezebert xlm-roberta".split()
)
TINY = "tiny"
ON_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
OF_STAGE = re.compile(r"student(-[\w-]+)?")
"""The names of what stages train; a folder of such a name is ./student."""
NAMED = (TINY, *SHIPPED, *KNOWN)
VOCABULARY, CONTEXT = 2048, 1024
SHAPE = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 2, "num_attention_heads": 4}
"""Of the tiny student: with its vocabulary, 0.9 million weights."""
WIDE = 8 * VOCABULARY  # where each token of a teacher must have one of the student's
LAYERS = [f"self_attn.{part}_proj" for part in "qkvo"] + [
    f"mlp.{part}_proj" for part in ("gate", "up", "down")
]

CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The tiny student's chat template, which tells a trainer what the assistant says."""


def local(student: str, root: Path) -> Path | None:
    """The folder or file that `student` names, if it is one."""
    path = root / Path(student).expanduser()
    return path if path.exists() else None


def check(student: str, root: Path, trained: Sequence[str] = ()) -> None:
    """Raise ConfigError where `student` cannot be one, nor is among those `trained` before. Loads nothing, and asks nobody."""
    if OF_STAGE.fullmatch(student):
        remedy = f"; a folder of this name is ./{student}" if local(student, root) else ""
        raise ConfigError(f"no earlier stage trains '{student}'{did_you_mean(student, trained)}{remedy}")
    path = local(student, root)
    if (
        path
        and path.is_dir()
        and not any((path / name).is_file() for name in ("config.json", "adapter_config.json"))
    ):
        raise ConfigError(f"the folder '{student}' holds no model: it has no config.json")
    if path and path.is_file() and path.suffix != ".gguf":
        raise ConfigError(f"the student '{student}' is a file; give a model's folder, or a .gguf file")
    if path and path.is_file():
        check_gguf(path)
    if path is None and student not in NAMED and (is_gguf(student) or not ON_HUB.fullmatch(student)):
        remedy = "give a folder, a .gguf file, or owner/name on the Hugging Face Hub"
        raise ConfigError(f"there is no student '{student}'{did_you_mean(student, NAMED)}; {remedy}")


@dataclass(frozen=True)
class Outline:
    """What is known of a student before it is loaded."""

    kind: Kind | None = None
    template: str | None = None
    """Its chat template."""
    read: bool = True
    """Whether the template was looked for: where not, it may have one."""
    special: Mapping[str, str] = field(default_factory=dict)
    """Its special tokens, which a template may use."""
    vocabulary: int | None = None
    layers: frozenset[str] = frozenset()
    """The names of what has weights; empty where they are not known."""


def outline(student: str, root: Path, revision: str | None = None, *, fetch: bool = False) -> Outline:
    """What a student's small files tell; those of one on the Hub, and the header of a GGUF file, are only read with `fetch`.
    Raises ConfigError where they cannot be.
    """
    if student == TINY:
        special = {"eos_token": "<|im_end|>", "pad_token": "<|end|>"}
        return Outline(
            "causal", CHAT, special=special, layers=frozenset(f"model.layers.0.{name}" for name in LAYERS)
        )
    if student in SHIPPED:
        return Outline("encoder")
    if is_gguf(student):
        return _outline_of_gguf(find_weights(student, root)) if fetch else Outline("causal", read=False)
    folder = local(student, root)
    if folder:
        return _outlined(lambda name: folder / name, root)
    if not fetch:
        return Outline(read=False)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    def fetched(name: str) -> Path:
        try:
            return Path(hf_hub_download(student, name, revision=revision))
        except LocalEntryNotFoundError as error:
            raise ConfigError(
                f"the student '{student}' cannot be fetched: the Hub cannot be reached"
            ) from error
        except EntryNotFoundError:
            return Path(name, "is", "missing")
        except (HfHubHTTPError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"the student '{student}' cannot be fetched: {reason}") from error

    return _outlined(fetched, root)


def _outlined(file: Callable[[str], Path], root: Path) -> Outline:
    """From a model's folder, or an adapter's, whose base tells what it lacks itself."""
    adapter = _json(file("adapter_config.json"))
    base = (
        outline(str(adapter["base_model_name_or_path"]), root)
        if "base_model_name_or_path" in adapter
        else Outline()
    )
    config, tokenizer = _json(file("config.json")), _json(file("tokenizer_config.json"))
    named = tokenizer.get("chat_template")
    if isinstance(named, list):  # variants by name
        named = {each["name"]: each["template"] for each in named}
    if isinstance(named, dict):
        named = named.get("default")
    own = file("chat_template.jinja")
    template = own.read_text(encoding="utf-8") if own.is_file() else named
    words = {name: value for name, value in tokenizer.items() if name.endswith("_token")}
    special = {name: value["content"] if isinstance(value, dict) else value for name, value in words.items()}
    special = {name: value for name, value in special.items() if isinstance(value, str)}
    if not config:
        return replace(base, template=template, special=special) if tokenizer else base
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    return Outline(_kind(config), template, special=special, vocabulary=size, layers=_layers(file))


def _kind(config: Mapping[str, Any]) -> Kind | None:
    """What a model's configuration says that it is, where it does."""
    if config.get("is_encoder_decoder"):
        return "seq2seq"
    if any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in config.get("architectures") or ()):
        return "causal"
    return "encoder" if config.get("model_type") in ENCODERS else None


def _layers(file: Callable[[str], Path]) -> frozenset[str]:
    """From the index of the weights' files, or from the header of the only one where that is here."""
    names = _json(file("model.safetensors.index.json")).get("weight_map", {})
    if not names and (whole := file("model.safetensors")).is_file():
        with whole.open("rb") as weights:
            size = int.from_bytes(weights.read(8), "little")
            names = json.loads(weights.read(size)) if 0 < size < 1 << 27 else {}
    return frozenset(name.removesuffix(".weight") for name in names)


def _outline_of_gguf(file: Path) -> Outline:
    from gguf import GGUFReader

    try:
        header = GGUFReader(file).fields.get("tokenizer.chat_template")
    except (ValueError, OSError, IndexError) as error:
        raise ConfigError(f"the GGUF file {file} cannot be read: {error}") from error
    return Outline("causal", str(header.contents()) if header else None)


def _json(file: Path) -> dict[str, Any]:
    """An object that a file holds; nothing where there is no file. Raises ConfigError."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_bytes())
    except ValueError as error:
        raise ConfigError(f"the student's {file} is no JSON: {error}") from error
    return value if isinstance(value, dict) else {}


def is_gguf(student: str) -> bool:
    """Whether its weights are llama.cpp's."""
    return student in KNOWN or student.endswith(".gguf")


def ready(
    student: str, root: Path, folder: Path, texts: Iterable[str], *, vocabulary: int = VOCABULARY
) -> str:
    """What `from_pretrained` takes. `folder` receives a tiny student, whose tokenizer is trained on `texts`, or the sum of an
    adapter and its base; a GGUF file is converted once, into the cache (0.5 B weights: 1.3 GB, a few minutes).
    """
    if student == TINY:
        return str(_tiny(folder, texts, vocabulary))
    if student in SHIPPED:
        return shipped(student)
    path = local(student, root)
    if is_gguf(student):
        return str(_converted(find_weights(student, root)))
    if path and (path / "adapter_config.json").is_file():
        return str(_merged(path, folder))
    return str(path or student)


def _tiny(folder: Path, texts: Iterable[str], vocabulary: int) -> Path:
    """A random Llama of 0.9 million weights."""
    if (folder / "config.json").exists():
        return folder
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special, alphabet = ["<|end|>", "<|im_start|>", "<|im_end|>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|end|>", model_max_length=CONTEXT
    )
    tokenizer.chat_template = CHAT
    ends = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=CONTEXT, **SHAPE, **ends)
    )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def _merged(adapter: Path, folder: Path) -> Path:
    """A model with its adapter's changes in its weights, so that it can be trained on, by another adapter or as a whole."""
    if (folder / "tokenizer_config.json").exists():  # written last
        return folder
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    AutoPeftModelForCausalLM.from_pretrained(adapter).merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(adapter).save_pretrained(folder)
    return folder


def _converted(file: Path) -> Path:
    """The folder that a GGUF file's weights are kept in as safetensors, in bfloat16."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "distillgen" / "students"
    folder = cache / f"{file.stem}-{file_sha256(file)[:12]}"
    if folder.is_dir():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    cache.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=cache) as partial:
            whole = Path(partial) / "model"
            plain = {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.bfloat16}
            AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, **plain).save_pretrained(
                whole
            )
            AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(whole)
            whole.rename(folder)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            f"the GGUF file {file} cannot be converted: {error}. Is the package gguf installed?"
        ) from error
    return folder
