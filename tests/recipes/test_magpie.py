"""The recipe magpie: the model writes the user's turn, no prompt asks for a question, the filters hold."""

import json

import pytest

import distillgen
from distillgen.inference.request import Request
from distillgen.runs.directory import final_records
from tests.recipes.harness import Teacher, draw, drops, teach, text_of

WORDS = "oven soil train lens comet ledger violin tyre acid rook cloud kitten".split()


def question(text: str, sample: int) -> str:
    lot = draw(text, sample)
    return " ".join(["How", "do", "I", *lot.sample(WORDS, 8)]) + "?"


def planted(request: Request, sample: int) -> str:
    """Every fourth question is too short, every fourth ends with a colon, every fourth is graded low."""
    if request.write == "user":
        good = question(text_of(request), sample)
        return ("Why?", f"{good[:-1]}:", f"{good} badly", good)[sample % 4]
    if "clear and complete" in text_of(request):
        return json.dumps({"reason": "", "score": 3 if "badly" in text_of(request) else 9})
    return "So it is."


class Recorder:
    def __init__(self, script):
        self.script, self.requests, self.__qualname__ = script, [], "recorder"

    def __call__(self, request, sample):
        self.requests.append(request)
        return self.script(request, sample)


def test_the_questions_are_the_models_own_and_the_filters_take_out_the_planted_ones(project):
    teacher = Recorder(planted)
    run = teach("magpie", {"teacher": teacher})
    asks = [request for request in teacher.requests if request.write == "user"]
    assert len(asks) == 4 * 24 and {tuple(turn["role"] for turn in r.messages) for r in asks} == {("system",)}
    kept = list(final_records(run, dropped=False))
    assert len(kept) == 24
    for record in kept:
        system, user, assistant = record.fields["messages"]
        assert system["content"] == record.fields["system"] and assistant["content"] == "So it is."
        assert user == {"role": "user", "content": record.fields["instruction"]}
        assert record.fields["instruction"].endswith("?") and "badly" not in user["content"]
    assert drops(run) == {
        ("questions", "length"): 24,
        ("questions", "schema"): 24,
        ("questions", "judge"): 24,
    }


def test_a_model_that_repeats_itself_is_left_with_one_question_a_wording(project):
    """The control: without the draw of its own words, near-duplicates are nearly everything."""

    def same(request, sample):
        return planted(request, sample) if request.write != "user" else "How do I bake a loaf of rye bread?"

    run = teach("magpie", {"teacher": Recorder(same)})
    assert drops(run)[("questions", "near_duplicate")] == 95
    assert len(list(final_records(run, dropped=False))) == 1


def test_a_chat_api_is_refused_before_anything_is_asked(project):
    sets = ["models.teacher={provider: openai, model: m, base_url: 'http://127.0.0.1:9/v1'}"]
    with pytest.raises(distillgen.ConfigError, match="cannot do user_turn.*server: vllm or llamacpp"):
        teach("magpie", Teacher({}), sets)
