"""Embed texts with a small model on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.extras import need
from distillgen.inference.weights import SHIPPED, shipped
from distillgen.platforms import busy_cores
from distillgen.text.words import content

WORDS = "words"  # an embedder without a model: the hashes of a text's content words
WORD_PLACES = 4096

WINDOWS = 16  # most pieces of a text that is longer than the model reads at once
BATCH = 32
_COMPUTING = threading.Lock()


def embed(texts: Sequence[str], *, model: str = "minilm") -> Any:
    """Return a float32 array with a vector of length 1 for each text.

    Raises ConfigError if the model cannot be loaded, or gives a vector that is not finite.

    `model` is `minilm`, a local folder, or a name on the Hugging Face Hub that sentence-transformers or
    model2vec can load. With `words` there is no model: the cosine of two texts measures how many content
    words they share.

    A text that is longer than the model reads at once gets the mean vector of its first 16 pieces. `minilm`
    takes 9 ms of one core for a sentence of 12 words.
    """
    import numpy

    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    clean = [text.encode("utf-8", "replace").decode() for text in rows]  # a tokenizer takes no lone surrogate
    vectors = _encoder(model)(clean)
    if not numpy.isfinite(vectors).all():
        row = int(numpy.isfinite(vectors).all(axis=1).argmin())
        raise ConfigError(
            f"the embedder '{model}' gives a vector with NaN or infinity for the text {clean[row][:80]!r}; "
            "its weights may be damaged: download them again, or name another embedder"
        )
    lengths = numpy.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / numpy.maximum(lengths, 1e-12)).astype(numpy.float32)[[rows[text] for text in texts]]


def cosines(texts: Sequence[str], others: Sequence[str], *, model: str) -> list[float]:
    """Return the cosine of each text and its counterpart in `others`."""
    vectors = embed([*texts, *others], model=model)
    return [float(cosine) for cosine in (vectors[: len(texts)] * vectors[len(texts) :]).sum(axis=1)]


def check(model: str) -> None:
    """Raise ConfigError if a package that `model` needs is missing. Loads nothing."""
    if model == WORDS:
        need("the embedder 'words'", "numpy")
        return
    if model in SHIPPED or not find_spec("model2vec"):
        need(f"the embedder '{model}'", "sentence_transformers")
    if model in SHIPPED:
        shipped(model)


@contextlib.contextmanager
def idle_cores() -> Iterator[None]:
    """Let torch compute on the cores that were idle before, at least one, and for one caller at a time.

    Threads that wait for a busy core spin, which slows both.
    """
    import torch

    with _COMPUTING:
        before = torch.get_num_threads()
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) - _load()))
        try:
            yield
        finally:
            torch.set_num_threads(before)


@cache
def _load() -> int:
    """Return the number of cores that were busy before this process used them."""
    return busy_cores()


@cache
def _encoder(model: str) -> Callable[[list[str]], Any]:
    """Return a function that embeds texts of any length. A local folder needs no network."""
    check(model)
    if model == WORDS:
        return _words
    name = shipped(model) if model in SHIPPED else model
    try:
        folder = Path(name) if Path(name).is_dir() else _configuration(name)
        if find_spec("model2vec") and _is_static(folder):
            from model2vec import StaticModel

            static = StaticModel.from_pretrained(name)
            return lambda texts: static.encode(texts, max_length=None, use_multiprocessing=False)
        return _transformer(name, local=Path(name).is_dir())
    except (OSError, ValueError, ImportError) as error:  # the three packages raise these for other models
        reason = str(error).strip().split("\n")[0][:200]
        raise ConfigError(
            f"the embedder '{model}' cannot be loaded: {type(error).__name__}: {reason}"
        ) from error


def _words(texts: list[str]) -> Any:
    """Return a row of ones and zeros for each text: ones at the hashes of its content words."""
    import numpy

    rows = numpy.zeros((len(texts), WORD_PLACES), numpy.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in content(text):
            row[int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest()) % WORD_PLACES] = 1.0
    return rows


def _configuration(name: str) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=["config.json", "modules.json"]))


def _is_static(folder: Path) -> bool:
    """Return whether the folder holds a model of model2vec: a table of vectors, without a transformer."""
    files = [folder / "modules.json", folder / "config.json"]
    text = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
    return "StaticEmbedding" in text or '"model2vec"' in text


def _transformer(name: str, *, local: bool) -> Callable[[list[str]], Any]:
    import numpy
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # of the weights as they are read
    network = SentenceTransformer(name, local_files_only=local)

    def encode(texts: list[str]) -> Any:
        pieces = [_pieces(network, text) for text in texts]
        starts = numpy.cumsum([0, *map(len, pieces[:-1])])
        all_pieces = [piece for text_pieces in pieces for piece in text_pieces]
        with idle_cores():
            vectors = network.encode(
                all_pieces, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
            )
        return numpy.add.reduceat(vectors, starts, axis=0)

    return encode


def _pieces(network: Any, text: str) -> list[str]:
    """Cut a text into pieces of as many tokens as the model reads at once."""
    most = network.max_seq_length
    # a token has at least one character
    if not most or len(text) <= most - 2 or not getattr(network.tokenizer, "is_fast", False):
        return [text]
    text = text[: WINDOWS * most * 8]
    read = network.tokenizer(
        text, truncation=True, max_length=most, return_overflowing_tokens=True, return_offsets_mapping=True
    )
    spans = [[span for span in offsets if span[1]] for offsets in read["offset_mapping"]]
    return [text[span[0][0] : span[-1][1]] for span in spans if span][:WINDOWS] or [text]
