"""The stage score: what is asked with a context and without one, and who is not asked."""

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.inference.request import Completion

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
