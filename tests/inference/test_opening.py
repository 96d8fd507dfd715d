"""The opening of a user's turn is what the model's own chat template writes there."""

from pathlib import Path

import pytest

from distillgen.inference.opening import USER_TURN, opening
from distillgen.training.chat_template import rendered

TEMPLATES = Path(__file__).parent / "chat_templates"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]

OPENINGS = {
    "qwen": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
    "llama3": "<s><|start_header_id|>user<|end_header_id|>\n\n",
    "mistral": "<s>[INST] ",
    "gemma": "<s><start_of_turn>user\n",
}
LATER = {
    "qwen": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    "<|im_start|>assistant\nHi!<|im_end|>\n<|im_start|>user\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHi!<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n",
    "mistral": "<s>[INST] Hello[/INST] Hi!</s>[INST] Be brief.\n\n",
    "gemma": "<s><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\nHi!<end_of_turn>\n"
    "<start_of_turn>user\n",
}
"""After a dialogue; Gemma's template refuses a system turn, so it has none there."""


def text(name: str, turns: list[dict], opened: bool = False) -> str:
    return rendered((TEMPLATES / f"{name}.jinja").read_text(), turns, SPECIAL, opened=opened)[0]


def dialogue(name: str) -> list[dict]:
    return TALK if name == "gemma" else [SYSTEM, *TALK]


@pytest.mark.parametrize("name", OPENINGS)
def test_the_opening_is_byte_equal_to_the_templates_own(name):
    for before, expected in (([], OPENINGS[name]), (dialogue(name), LATER[name])):
        said = opening(text(name, [*before, USER_TURN]))
        assert said == expected
        for words in ("What is a fjord?", "Why"):  # whatever the user says, it stands right there
            assert text(name, [*before, {"role": "user", "content": words}]).startswith(said + words)


def test_a_template_that_leaves_the_users_text_out_has_no_opening():
    with pytest.raises(ValueError, match="does not write the text"):
        opening(rendered("{% for m in messages %}{{ m.role }}{% endfor %}", [USER_TURN], SPECIAL)[0])
