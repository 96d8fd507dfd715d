"""Reasoning is split from the answer in every known form; an answer that only resembles reasoning stays as it
is.
"""

import pytest

from distillgen.inference.reasoning import opens_thought, split_reasoning

FINAL = "<|start|>assistant<|channel|>final<|message|>"


@pytest.mark.parametrize(
    "text",
    [
        "<think>\nhm\n</think>\nyes",
        "hm</think>\n\nyes",
        "\n <think>hm</think>yes",
        "<THINK>hm</Think> yes",
        "<think type='x'>hm</think>yes",
        "<thinking>hm</thinking>yes",
        "<reasoning>\nhm</reasoning>yes",
        "<thought>hm</thought>yes",
        "<analysis>hm</analysis>yes",
        "hm</reasoning>yes",
        "<scratchpad>hm</scratchpad>\nyes",
        "[THINK]hm[/THINK]yes",
        "hm[/THINK]\nyes",
        "[reasoning]hm[/reasoning]yes",
        "<think>hm</thinking>yes",
        "<seed:think>hm</seed:think>yes",
        "◁think▷hm◁/think▷yes",
        "<unused94>thought\nhm<unused95>yes",
        "<|begin_of_thought|>hm<|end_of_thought|><|begin_of_solution|>yes<|end_of_solution|>",
        "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>yes<|END_RESPONSE|>",
        "<|channel>thought\nhm<channel|>yes",
        f"<|channel|>analysis<|message|>hm<|end|>{FINAL}yes",
        f"<|channel|>analysis<|message|>hm<|end|>{FINAL}yes<|return|>",
        f"hm<|end|>{FINAL}yes",
        "analysis<|channel|>final<|message|>yes".replace("analysis", "hm"),
        f"<|channel|>commentary to=functions.f <|constrain|>json<|message|>hm<|call|>{FINAL}yes",
        "analysis(hm)assistantfinalyes",
        "<think>`</think>` is said in it: hm</think>yes",
        "yes <think>hm</think>",
        "yes\n<think>hm</think>",
        "<think>hm\n```\nx</think>yes",
    ],
)
def test_thought_is_split_off(text):
    split = split_reasoning(text)
    assert (
        split.answer.lower() == "yes"
        and "hm" in split.reasoning
        and "yes" not in split.reasoning
        and split.complete
    )


@pytest.mark.parametrize(
    "text",
    [
        "<think>hm",
        "\n<think>\nhm hm",
        "[THINK]hm",
        "<thinking>hm",
        "<|channel|>analysis<|message|>hm",
        "<|channel|>analysis<|message|>hm<|end|>",
        "<|channel|>analysis",
        "analysisWe need to think",
        "<|START_THINKING|>hm",
        "<think>a</think>\n<think>hm",
        "yes\n<think>hm",
    ],
)
def test_a_thought_that_does_not_end_is_no_answer(text):
    assert not split_reasoning(text).complete


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        " yes ",
        "Use `<think>` and `</think>`.",
        'The tags "<think>" and "</think>".',
        "```\n<think>\nx\n</think>\n```",
        "The <think> tag is one.",
        "x < y, a[1] and <b>bold</b>",
        "analysis of it is long",
        "analysis",
        "[Reasoning] First, it rains.",
        "Steps:\n<analysis> is a tag",
        "<answer>yes</answer>",
        "<|message|>yes",
        "analysisserver is a name",
        "I think</b> so",
        "",
        "The <reasoning> tag opens it and </reasoning> ends it.",
    ],
)
def test_an_answer_without_thought_stays_as_it_is(text):
    assert split_reasoning(text) == ("", text, True)


def test_a_tag_that_the_request_names_is_the_form_that_it_asks_for():
    text = "<reasoning>hm</reasoning><answer>yes</answer>"
    assert split_reasoning(text, is_named=lambda mark: mark == "reasoning").answer == text
    assert split_reasoning(text, is_named=lambda mark: mark == "thinking").answer == "<answer>yes</answer>"
    assert split_reasoning("<think>hm</think>yes", is_named=lambda mark: True).answer == "yes"


def test_a_thought_that_the_prompt_opened():
    assert (
        split_reasoning("hm</think>yes", opened=True)
        == split_reasoning("<think>hm</think>yes", opened=True)
        == ("hm", "yes", True)
    )
    assert split_reasoning("hm", opened=True) == ("hm", "", False)
    assert (
        opens_thought("assistant\n<think>\n")
        and opens_thought("[THINK]")
        and not opens_thought("<think></think>")
        and not opens_thought("think")
    )
