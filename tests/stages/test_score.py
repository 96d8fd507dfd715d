"""The stage score: what is asked with a context and without one, and who is not asked."""

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.inference.request import Completion
from tests.pictures import colour_of, folder_of

SERVER = {"provider": "openai", "server": "vllm", "model": "m", "base_url": "http://127.0.0.1:9"}


def pipeline(context: str, **model) -> dict:
    score = {"name": "lm", "model": "m", "context": context, "target": "{{ text }}"}
    return {
        "version": 1,
        "models": {"m": model or {"provider": "scripted", "model": "echo"}},
        "stages": [{"source": {"path": "rows.jsonl"}}, {"score": score}],
    }


@pytest.mark.parametrize(
    ("context", "prompts"),
    [("", ["", ""]), ("say {{ start }}", ["say a", "say b"]), ("{{ start }}", ["a", "b"])],
)
def test_no_context_is_an_empty_prompt_and_the_score_sums_all_tokens(project, context, prompts):
    project.rows("rows.jsonl", [{"start": "a", "text": "x"}, {"start": "b", "text": "yy"}])
    requests = []

    def answer(request, sample):
        requests.append(request)
        return Completion(logprobs=[[token, -2.0, []] for token in request.target])

    run = distillgen.run(pipeline(context), out="run", teachers={"m": answer})
    asked = [r.prompt if r.prompt is not None else r.messages[0]["content"] for r in requests]
    assert sorted(asked) == prompts and all((r.prompt is None) == bool(context) for r in requests)
    assert [row["meta"]["scores"]["lm.logprob"] for row in run.corpus] == [-2.0, -4.0]


def test_a_context_that_a_row_leaves_empty_drops_the_row(project):
    project.rows("rows.jsonl", [{"start": "", "text": "x"}, {"start": "b", "text": "y"}])
    answer = Completion(logprobs=[["x", -2.0, []]])
    run = distillgen.run(pipeline("{{ start }}"), out="run", teachers={"m": lambda request, sample: answer})
    assert [row["start"] for row in run.corpus] == ["b"]


def test_a_server_that_scores_no_first_token_is_refused(project):
    project.rows("rows.jsonl", [{"text": "x"}])
    distillgen.load(pipeline("say", **SERVER))
    with pytest.raises(ConfigError, match=r"'m' \(openai\) cannot do first_token; .*vllm or transformers"):
        distillgen.load(pipeline("", **SERVER))


def test_a_text_is_scored_after_the_picture_of_its_row(project):
    colours = [(1, 2, 3), (9, 9, 9)]
    folder_of(project.path / "pictures", colours)
    told = pipeline("What is it?")
    told["stages"][0]["source"]["path"] = "pictures"
    told["stages"][1]["score"] |= {"target": "{{ file }}", "images": ["image"]}

    def answer(request, sample):
        picture, text = request.messages[0]["content"]
        assert text == {"type": "text", "text": "What is it?"}
        return Completion(logprobs=[["x", -float(colour_of(picture["data"])[0]), []]])

    run = distillgen.run(told, out="run", teachers={"m": answer})
    assert [row["meta"]["scores"]["lm.logprob"] for row in run.corpus] == [-1.0, -9.0]
    told["models"]["m"] |= {"price": {"input": 1000}, "image_tokens": 1000}
    assert 2.0 <= distillgen.load(told).plan()[-1][1].max_cost_usd < 2.2


def test_pictures_are_refused_without_a_turn_that_shows_them_or_a_model_that_scores_after_them(project):
    folder_of(project.path / "pictures", [(1, 2, 3)])

    def loaded(context="say", images=("image",), target="{{ file }}", **model):
        told = pipeline(context, **model)
        told["stages"][0]["source"]["path"] = "pictures"
        told["stages"][1]["score"] |= {"target": target, "images": [*images]}
        return distillgen.load(told)

    loaded()
    with pytest.raises(ConfigError, match="seen in the turn of the context: give 'context' a text"):
        loaded(context="")
    for name, value in {"images": ["imag"], "context": "{{ imag }}", "target": "{{ imag }}"}.items():
        with pytest.raises(ConfigError, match=f"'{name}' needs the field 'imag'"):
            loaded(**{name: value})
    with pytest.raises(ConfigError, match=r"'m' \(openai\) cannot do picture_score; .*vllm or transformers"):
        loaded(**SERVER)


def test_evaluate_reads_likelihoods_after_pictures_of_no_server(project):
    folder_of(project.path / "pictures", [(1, 2, 3)])
    stage = {"models": ["m"], "template": "Which?", "gold": "file", "perplexity": True, "images": ["image"]}
    stages = [{"source": {"path": "pictures"}}, {"evaluate": stage}]
    with pytest.raises(ConfigError, match="cannot do picture_score"):
        distillgen.load({"version": 1, "models": {"m": SERVER}, "stages": stages})
    project.rows("items.jsonl", [{"image": "gone.png", "file": "x"}])
    with pytest.raises(ConfigError, match="items.jsonl:1: .*gone.png"):
        of_a_file = {**stage, "data": "items.jsonl", "perplexity": False, "metrics": ["exact"]}
        distillgen.load(
            {"version": 1, "models": {"m": SERVER}, "stages": [stages[0], {"evaluate": of_a_file}]}
        )
    del stage["images"]
    distillgen.load({"version": 1, "models": {"m": SERVER}, "stages": stages})
