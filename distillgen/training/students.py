"""The models that a training can begin with: folders, names on the Hub, GGUF files, or `tiny`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from distillgen.errors import ConfigError, did_you_mean
from distillgen.inference.gguf_file import check_gguf
from distillgen.inference.model_class import model_class, sees
from distillgen.inference.spec import Spec
from distillgen.inference.weights import KNOWN_MODELS, SHIPPED, fetched, find_weights, shipped
from distillgen.networks.spec import DISTILLER
from distillgen.platforms import lock
from distillgen.project import file_sha256
from distillgen.state_files import whole_folder
from distillgen.training.options import TINY as TINY
from distillgen.training.options import Tiny
from distillgen.training.tiny import CHAT as CHAT
from distillgen.training.tiny import CHAT_WITH_PICTURES, tiny_layers, write_tiny
from distillgen.training.tiny import VOCABULARY as VOCABULARY

Kind = Literal["causal", "seq2seq", "vision", "encoder"]
ENCODERS = frozenset(
    "albert bert camembert convbert deberta deberta-v2 distilbert electra ernie esm funnel longformer "
    "mobilebert modernbert mpnet nomic_bert roberta squeezebert xlm-roberta".split()
)
ON_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
STUDENT = "student"
PEERS = "peers"  # the folder, inside of a student, of the networks that were trained along
PREVIOUS = "previous"  # inside rounds: the student that the same stage trained in the round before
NAMES = (TINY, *SHIPPED, *KNOWN_MODELS)
WITH_WEIGHTS = ("transformers", "network", "embedded")  # providers whose `model` a training can begin with
WIDE = 8 * VOCABULARY  # for objectives that look up each token of a teacher in the student's vocabulary


def local(student: str, root: Path) -> Path | None:
    """Return the folder or file that `student` names; None if there is none."""
    path = root / Path(student).expanduser()
    return path if path.exists() else None


def is_weights(name: str, root: Path) -> bool:
    """Return whether a name is a folder with a whole model, or that of a model on the Hugging Face Hub."""
    path = local(name, root)
    return (path / "config.json").is_file() if path else ON_HUB.fullmatch(name) is not None


def is_trained(student: str) -> bool:
    """Return whether a stage trains this student: its name is `student`, or `student-` and the stage's name.

    These names are reserved: a folder of such a name is written ./student.
    """
    return student == STUDENT or re.fullmatch(rf"{STUDENT}-[\w-]+", student) is not None


def weights_of(name: str, models: Mapping[str, Spec], trained: Collection[str]) -> str:
    """Return the student that the start of a loop names: for a model of the pipeline, its weights.

    Raise ConfigError if its provider does not have them.
    """
    if name in trained or name not in models:
        return name
    spec = models[name]
    if spec.provider not in WITH_WEIGHTS:
        remedy = f"start with a model of provider {', '.join(WITH_WEIGHTS)}, or with a student"
        raise ConfigError(
            f"'{PREVIOUS}' begins with '{name}', whose provider {spec.provider} gives no weights; {remedy}"
        )
    return spec.model


def check(student: str, root: Path, trained: Sequence[str] = ()) -> None:
    """Raise ConfigError if there is no such student. Loads no model, and uses no network."""
    if is_trained(student):
        remedy = f"a folder of this name is ./{student}" if local(student, root) else ""
        near = did_you_mean(student, trained, otherwise=remedy)
        raise ConfigError(f"no earlier stage trains '{student}'{near}")
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
    if path is None and student not in NAMES and (is_gguf(student) or not ON_HUB.fullmatch(student)):
        remedy = "give a folder, a .gguf file, or owner/name on the Hugging Face Hub"
        raise ConfigError(f"there is no student '{student}'{did_you_mean(student, NAMES, otherwise=remedy)}")


@dataclass(frozen=True)
class Outline:
    """Properties of a student that its small files tell before it is loaded."""

    kind: Kind | None = None
    """Vision is that of a tiny student: of others that see, no file tells which can be loaded as causal."""
    sees: bool | None = None
    """Whether it takes pictures; None if its files were not read."""
    template: str | None = None
    """The chat template."""
    read: bool = True
    """False if the files were not read, so that there may be a template."""
    special: Mapping[str, str] = field(default_factory=dict)
    """The special tokens, by name: a template may use them."""
    vocabulary: int | None = None
    """The number of tokens."""
    layers: frozenset[str] = frozenset()
    """The names of the layers; empty if they are unknown."""
    tokens: frozenset[str] = frozenset()
    """The earlier students whose tokens it has."""
    family: str | None = None
    """The family of models that it is of, as transformers names it."""
    depth: int | None = None
    """The number of layers."""
    experts: bool = False
    """Whether tokens are sent to experts."""
    distiller: bool = False
    """Whether it reads demonstrations as vectors."""
    packs: bool = True
    """Whether texts in one sequence stay apart: attention has a mask for that, convolutions have none."""


_TINY: Mapping[str, tuple[Kind, str | None]] = {
    "decoder": ("causal", CHAT),
    "encoder-decoder": ("seq2seq", None),
    "vision": ("vision", CHAT_WITH_PICTURES),
}


def outline(
    student: str, root: Path, revision: str | None = None, *, fetch: bool = False, tiny: Tiny | None = None
) -> Outline:
    """Return what a student's small files tell. Raises ConfigError if they cannot be read.

    Files on the Hub and the header of a GGUF file are only read with `fetch`. `tiny` is the size of a tiny
    student.
    """
    if student == TINY:
        size = tiny or Tiny()
        special = {"eos_token": "<|im_end|>", "pad_token": "<|end|>"}
        kind, template = _TINY[size.kind]
        family = "lfm2" if size.convolutions else {"causal": "llama", "seq2seq": "t5"}.get(kind)
        return Outline(
            kind,
            kind == "vision",
            template,
            special=special,
            layers=frozenset(tiny_layers(size)),
            family=family,
            depth=size.layers,
            packs=not size.convolutions,
        )
    if student in SHIPPED:
        return Outline("encoder", sees=False)
    if is_gguf(student):
        return (
            _outline_of_gguf(find_weights(student, root)) if fetch else Outline("causal", False, read=False)
        )
    folder = local(student, root)
    if folder:
        return _outlined(lambda name: folder / name, root)
    if not fetch:
        return Outline(read=False)
    return _outlined(lambda name: fetched(student, name, revision), root)


def _outlined(file: Callable[[str], Path], root: Path) -> Outline:
    """Return the outline of a model, or of an adapter with its base; `file` returns the path of a file."""
    adapter = _json(file("adapter_config.json"))
    base = (
        outline(str(adapter["base_model_name_or_path"]), root)
        if "base_model_name_or_path" in adapter
        else Outline()
    )
    config, tokenizer = _json(file("config.json")), _json(file("tokenizer_config.json"))
    template = tokenizer.get("chat_template")
    if isinstance(template, list):  # variants by name
        template = {variant["name"]: variant["template"] for variant in template}
    if isinstance(template, dict):
        template = template.get("default")
    template_file = file("chat_template.jinja")
    if template_file.is_file():
        template = template_file.read_text(encoding="utf-8")
    template = template or _json(file("chat_template.json")).get("chat_template")
    words = {name: value for name, value in tokenizer.items() if name.endswith("_token")}
    special = {name: value["content"] if isinstance(value, dict) else value for name, value in words.items()}
    special = {name: value for name, value in special.items() if isinstance(value, str)}
    if not config:
        return replace(base, template=template, special=special) if tokenizer else base
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    return Outline(
        _kind(config),
        "vision_config" in config,
        template,
        special=special,
        vocabulary=size,
        layers=_layers(file),
        family=config.get("model_type"),
        depth=config.get("num_hidden_layers"),
        experts="num_experts_per_tok" in config,
        distiller=file(DISTILLER).is_file(),
        packs="conv" not in (config.get("layer_types") or ()),
    )


def _kind(config: Mapping[str, Any]) -> Kind | None:
    """Return the kind of a model; None if its configuration does not tell."""
    if config.get("is_encoder_decoder"):
        return "seq2seq"
    if any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in config.get("architectures") or ()):
        return "causal"
    return "encoder" if config.get("model_type") in ENCODERS else None


def _layers(file: Callable[[str], Path]) -> frozenset[str]:
    """Return the layers' names from the index of the weights, or from the header of a single file."""
    names = _json(file("model.safetensors.index.json")).get("weight_map", {})
    if not names and (path := file("model.safetensors")).is_file():
        with path.open("rb") as weights:
            size = int.from_bytes(weights.read(8), "little")
            names = json.loads(weights.read(size)) if 0 < size < 1 << 27 else {}
    return frozenset(name.removesuffix(".weight") for name in names)


def _outline_of_gguf(file: Path) -> Outline:
    from gguf import GGUFReader

    try:
        header = GGUFReader(file).fields.get("tokenizer.chat_template")
    except (ValueError, OSError, IndexError) as error:
        raise ConfigError(f"the GGUF file {file} cannot be read: {error}") from error
    return Outline("causal", False, str(header.contents()) if header else None)


def _json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file; {} if there is no file. Raises ConfigError if it is not JSON."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_bytes())
    except ValueError as error:
        raise ConfigError(f"the student's {file} is not JSON: {error}") from error
    return value if isinstance(value, dict) else {}


def is_gguf(student: str) -> bool:
    """Return whether the student's weights are in a GGUF file."""
    return student in KNOWN_MODELS or student.endswith(".gguf")


def ready(
    student: str,
    root: Path,
    folder: Path,
    texts: Iterable[str],
    *,
    vocabulary: int = VOCABULARY,
    tiny: Tiny | None = None,
    tokens: Path | None = None,
) -> str:
    """Return the folder or name that `from_pretrained` takes.

    A tiny student, whose tokenizer is that of the folder `tokens` or is trained on `texts`, or an adapter
    merged with its base is written to `folder`. A GGUF file is converted once, into the cache (0.5 B weights:
    1.3 GB, a few minutes).
    """
    if student == TINY:
        return str(
            whole_folder(folder, lambda new: write_tiny(new, tiny or Tiny(), tokens, texts, vocabulary))
        )
    if student in SHIPPED:
        return shipped(student)
    path = local(student, root)
    if is_gguf(student):
        return str(_converted(find_weights(student, root)))
    if path and (path / "adapter_config.json").is_file():
        return str(whole_folder(folder, partial(_merge, path)))
    return str(path or student)


def _merge(adapter: Path, folder: Path) -> None:
    """Write a model with its adapter merged into the weights, so that any training can continue from it."""
    from peft import PeftConfig, PeftModel
    from transformers import AutoConfig, AutoProcessor, AutoTokenizer

    base = str(PeftConfig.from_pretrained(adapter).base_model_name_or_path)
    config = AutoConfig.from_pretrained(base)
    model = PeftModel.from_pretrained(model_class(config).from_pretrained(base), adapter)
    model.merge_and_unload().save_pretrained(folder)
    (AutoProcessor if sees(config) else AutoTokenizer).from_pretrained(adapter).save_pretrained(folder)


def _converted(file: Path) -> Path:
    """Convert a GGUF file to safetensors in bfloat16, unless the cache has them; return the folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "distillgen" / "students"
    folder = cache / f"{file.stem}-{file_sha256(file)[:12]}"
    if folder.is_dir():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    def convert(new: Path) -> None:
        plain = {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.bfloat16}
        AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, **plain).save_pretrained(new)
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(new)

    cache.mkdir(parents=True, exist_ok=True)
    try:
        with (cache / f".{folder.name}.lock").open("a") as stream:
            lock(stream.fileno(), wait=True)  # another process may convert it at this moment
            whole_folder(folder, convert)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            f"the GGUF file {file} cannot be converted: {error}. Is the package gguf installed?"
        ) from error
    return folder
