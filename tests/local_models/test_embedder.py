"""Embeddings: always a planted static embedder, and the real encoder where it is installed."""

import os
import shutil
import socket
import subprocess
import sys

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from distillgen.errors import ConfigError
from distillgen.local_models.embedder import WINDOWS, check, embed
from tests.filters.models import embedder


def test_a_static_model_gives_unit_vectors_in_order():
    vectors = embed(["Bread rises. Dough!", "bees", "bread", "bees", "so", ""], model=embedder())
    assert vectors.dtype == numpy.float32 and vectors.shape == (6, 5)
    assert numpy.allclose(numpy.linalg.norm(vectors, axis=1), [1, 1, 1, 1, 0, 0])
    assert numpy.allclose(vectors @ vectors.T, [[int(a == b != "x") for b in "ababxx"] for a in "ababxx"])


def test_all_of_a_long_text_counts():
    near = embed(["so " * 5000 + "bread " * 10 + "bees", "bread", "bees"], model=embedder())
    assert near[0] @ near[1] > 0.99 and 0.09 < near[0] @ near[2] < 0.11


@pytest.mark.parametrize(
    "text", ["", "\ud800", "\x00\u200f", "a" * 1_000_000], ids=["empty", "surrogate", "controls", "long"]
)
def test_any_text(text):
    assert embed([text], model=embedder()).shape == (1, 5)


def test_a_model_whose_vectors_are_not_numbers_is_named(tmp_path):
    shutil.copytree(embedder(), tmp_path / "damaged")
    file = tmp_path / "damaged" / "model.safetensors"
    tensors = load_file(file)
    save_file({name: numpy.full_like(tensor, numpy.nan) for name, tensor in tensors.items()}, file)
    with pytest.raises(ConfigError, match=r"damaged' gives a vector with NaN .* for the text 'bread'"):
        embed(["", "bread"], model=str(tmp_path / "damaged"))


def test_what_cannot_be_loaded(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="the embedder '.*' cannot be loaded: "):
        embed(["x"], model=str(tmp_path))
    monkeypatch.setattr("distillgen.local_models.embedder.find_spec", lambda name: None)
    monkeypatch.setattr("distillgen.extras.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"the embedder 'owner/name' needs the extra 'embeddings'.*6 GB"):
        check("owner/name")
    monkeypatch.setattr("distillgen.extras.find_spec", lambda name: name)
    monkeypatch.setitem(
        __import__("distillgen.local_models.embedder").local_models.embedder.SHIPPED,
        "tiny",
        ("no-such-package", "x"),
    )
    with pytest.raises(
        ConfigError, match="the embedder 'tiny' needs its package: pip install no-such-package"
    ):
        check("tiny")


@pytest.mark.slow
class TestMiniLM:
    """The packaged encoder."""

    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch):
        pytest.importorskip("sentence_transformers", reason="needs the extra 'embeddings'")
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda *given, **more: pytest.fail(f"a network look-up: {given}")
        )

    def test_near_is_near_and_a_batch_changes_nothing(self):
        texts = [
            "A cat sat on the mat.",
            "There is a cat upon the rug.",
            "Shares fell on Monday.",
            "\ud800",
            "",
            "\u200f\x00",
        ]
        vectors = embed(texts)
        assert vectors.dtype == numpy.float32 and numpy.allclose(
            numpy.linalg.norm(vectors, axis=1), 1, atol=1e-5
        )
        assert vectors[0] @ vectors[1] > 0.6 > 0.2 > vectors[0] @ vectors[2]
        assert numpy.allclose(numpy.concatenate([embed([text]) for text in texts]), vectors, atol=1e-4)

    def test_what_stands_beyond_the_models_length_counts(self):
        filler, told = (
            "The committee met again, and again it put off what it had to decide. " * 40,
            "Honey bees dance to tell of nectar. " * 30,
        )
        alone, behind, without = embed([told, filler + told, filler + filler])
        assert alone @ behind > alone @ without + 0.2

    def test_a_long_text_costs_no_more_than_its_windows(self):
        import time

        embed(["warm"])
        started = time.monotonic()
        embed(["word " * 256] * 1 + ["other " * 256])
        two = time.monotonic() - started
        started = time.monotonic()
        embed(["word " * 200_000])
        assert time.monotonic() - started < WINDOWS * two + 2

    def test_it_is_quiet_and_leaves_torch_as_it_was(self):
        code = (
            "import torch; n = torch.get_num_threads(); "
            "from distillgen.local_models.embedder import embed; embed(['x']); "
            "assert torch.get_num_threads() == n"
        )
        done = subprocess.run(
            [sys.executable, "-W", "error::UserWarning", "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_words_are_an_embedder_that_is_no_model():
    same, other, half, none = embed(
        ["The red apples!", "apple, red", "a red house", "seven ships"], model="words"
    )
    assert same @ other == pytest.approx(1) and same @ half == pytest.approx(0.5) and same @ none == 0
