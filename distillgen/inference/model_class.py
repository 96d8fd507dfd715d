"""The classes of transformers that load a language model: by its configuration. They need transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def sees(config: Any) -> bool:
    """Return whether a model with this configuration takes pictures."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    return (
        type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        and not config.is_encoder_decoder
        and getattr(config, "vision_config", None) is not None
    )


def model_class(config: Any) -> Any:
    """Return the class that loads a causal model, an encoder-decoder, or a causal model that sees."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM

    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    return AutoModelForImageTextToText if sees(config) else AutoModelForCausalLM


def files_see(folder: Path) -> bool:
    """Return whether the files in the folder of a model, or of an adapter with its base, say that it sees.

    It needs no package. The base may be a name on the Hub, whose files are not read: it may see.
    """
    adapter, config = folder / "adapter_config.json", folder / "config.json"
    if adapter.is_file():
        base = Path(json.loads(adapter.read_bytes())["base_model_name_or_path"])
        return files_see(base) if base.is_dir() else any(folder.glob("*processor_config.json"))
    return config.is_file() and "vision_config" in json.loads(config.read_bytes())
