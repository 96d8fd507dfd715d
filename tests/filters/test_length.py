"""Words, characters, sentences and tokens."""

import json
import re

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from distillgen.errors import ConfigError

CASES = [
    ({"field": "x", "at_least": 2, "at_most": 3}, {"x": "one two three"}, None),
    ({"field": "x", "at_least": 2, "at_most": 3}, {"x": "one two three four"}, "4 words > 3"),
    ({"field": "x", "unit": "characters", "at_most": 3}, {"x": "äöü"}, None),
    ({"field": "x", "unit": "characters", "at_most": 3}, {"x": "äöüß"}, "4 characters > 3"),
    ({"field": "x", "unit": "sentences", "at_least": 2}, {"x": 'He said "No." Then he went'}, None),
    (
        {"field": "x", "unit": "sentences", "at_least": 2},
        {"x": "About 3.5 percent, e.g.in this one..."},
        "1 sentences < 2",
    ),
    ({"field": "x", "unit": "sentences", "at_most": 1}, {"x": "第一句。第二句。"}, "2 sentences > 1"),
    ({"field": "x", "unit": "sentences", "at_least": 2}, {"x": "Tuned to A and E. The back is maple."}, None),
    ({"field": "x", "unit": "sentences", "at_most": 0}, {"x": " \n"}, None),
    ({"field": "x", "at_least": 1}, {"x": ["a"]}, None),
]


@pytest.fixture
def tokenizer(tmp_path):
    """A tokenizer.json that cuts words between letters, and would truncate and add special tokens if it were
    let.
    """
    made = Tokenizer(models.WordLevel({"[CLS]": 0, "[UNK]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 0)])
    made.enable_truncation(2)
    made.save(str(tmp_path / "letters.json"))
    return "letters.json"


@pytest.mark.parametrize(
    "text, expected", [("aba", None), ("abab", "4 tokens > 3"), ("", "0 tokens < 1"), ("\ud800", None)]
)
def test_tokens_are_those_of_the_tokenizer_alone(reason, tokenizer, text, expected):
    options = {"field": "x", "unit": "tokens", "tokenizer_file": tokenizer, "at_least": 1, "at_most": 3}
    assert reason("length", options, {"x": text}) == expected


@pytest.mark.parametrize(
    "options, message",
    [
        ({"unit": "tokens"}, "the unit 'tokens' needs either 'tokenizer' or 'tokenizer_file'"),
        ({"unit": "words", "tokenizer": "gpt2"}, "no other unit takes one"),
        ({"unit": "tokens", "tokenizer_file": "none.json"}, "there is no file 'none.json'"),
        ({"unit": "tokens", "tokenizer_file": "broken.json"}, "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_tokenizer_is_told(reason, tmp_path, options, message):
    (tmp_path / "broken.json").write_text(json.dumps({"model": {}}))
    with pytest.raises((ConfigError, ValueError), match=re.escape(message)):
        reason("length", options, {"response": "a"})


def test_the_tokenizer_file_is_part_of_what_a_run_depends_on(tmp_path, tokenizer):
    from distillgen.flow.stage import CheckContext
    from distillgen.project import Project
    from distillgen.stages.filter import FilterStage

    stage = FilterStage(name="filter", filters=[{"length": {"unit": "tokens", "tokenizer_file": tokenizer}}])
    assert (
        stage.bind(CheckContext(frozenset({"answer", "question", "response"}), {}, Project(tmp_path))).files[
            tokenizer
        ]
        == tmp_path / tokenizer
    )
