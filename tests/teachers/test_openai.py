"""The openai teacher against a real HTTP server: requests and responses."""

import json
import time

import pytest

import distillgen
from distillgen.errors import DistillgenError
from tests.endpoint import Endpoint, completion


def test_a_run_asks_each_question_once_and_a_second_run_asks_nothing(project, endpoint):
    project.ask_pipeline(endpoint.url, 30)
    project.cli("run", "ask")
    assert len(endpoint.bodies) == 30 and set(endpoint.asked.values()) == {1}
    corpus = (project.path / "runs/ask/corpus.jsonl").read_bytes()
    assert [row["number"] for row in project.read("runs/ask/corpus.jsonl")] == list(range(30))
    project.cli("run", "ask")
    assert len(endpoint.bodies) == 30
    assert (project.path / "runs/ask/corpus.jsonl").read_bytes() == corpus
    usage = json.loads((project.path / "runs/ask/usage.json").read_text())
    assert usage["totals"]["requests"] == 30 and usage["totals"]["input_tokens"] == 300


def test_two_rows_with_the_same_request_share_one_answer(project, endpoint):
    project.ask_pipeline(endpoint.url)
    project.rows("data/seeds.jsonl", [{"question": "same", "number": i} for i in range(10)])
    project.cli("run", "ask")
    assert len(endpoint.bodies) == 1
    assert len({row["answer"] for row in project.read("runs/ask/corpus.jsonl")}) == 1
    assert [row["number"] for row in project.read("runs/ask/corpus.jsonl")] == list(range(10))


def test_samples_are_asked_in_one_request_and_told_apart(project, endpoint):
    project.ask_pipeline(endpoint.url, 3, stage=", n: 4")
    project.cli("run", "ask")
    assert len(endpoint.bodies) == 3 and endpoint.bodies[0]["n"] == 4
    rows = project.read("runs/ask/corpus.jsonl")
    assert len({row["answer"] for row in rows}) == 12 and len({row["meta"]["id"] for row in rows}) == 12


def test_an_endpoint_that_ignores_n_is_asked_for_each_sample(project):
    with Endpoint(lambda body, times: completion({**body, "n": 1})) as endpoint:
        project.ask_pipeline(endpoint.url, 2, stage=", n: 3")
        project.cli("run", "ask")
        assert [body.get("n", 1) for body in endpoint.bodies] in (
            [3, 3, 2, 2, 1, 1],
            [3, 2, 1, 3, 2, 1],
            [3, 3, 2, 1, 2, 1],
        )
    assert len(project.read("runs/ask/corpus.jsonl")) == 6
    usage = json.loads((project.path / "runs/ask/usage.json").read_text())["totals"]
    assert (usage["requests"], usage["answers"], usage["input_tokens"], usage["output_tokens"]) == (
        6,
        6,
        60,
        30,
    )


def test_the_cap_and_the_rate_hold_at_an_endpoint_that_ignores_n(project):
    """Each request costs $0.005 whatever `n` says; the cap pays for six of twenty."""
    moments = []

    def one(body, times):
        moments.append(time.monotonic())
        return completion({**body, "n": 1}, usage={"prompt_tokens": 5000, "completion_tokens": 1})

    with Endpoint(one) as endpoint:
        project.ask_pipeline(
            endpoint.url, 1, model=", rpm: 120, price: {input: 1, output: 1}", stage=", n: 20, max_tokens: 2"
        )
        project.rows("data/seeds.jsonl", [{"question": "word " * 4000}])
        project.cli("run", "ask", "--max-cost-usd", "0.05", check=4)
    usage = json.loads((project.path / "runs/ask/usage.json").read_text())["totals"]
    assert usage["requests"] == usage["answers"] == len(moments) > 3 and usage["cost_usd"] <= 0.05
    assert moments[-1] - moments[0] >= 0.9 * (len(moments) - 3) / 2


def test_what_is_sent(project, endpoint):
    project.write(
        "prompts/shape.md",
        "---\noutput: {json: {a: string}}\nsampling: {temperature: 0.2, max_tokens: 9}\n---\n"
        "@system\nS\n@user\n{{ question }}\n",
    )
    path = project.ask_pipeline(endpoint.url, 1)
    text = path.read_text().replace(
        'template: "{{ question }}", output: answer',
        "prompt: shape, temperature: 0.5, logprobs: 2, stop: ['x']",
    )
    path.write_text(text)
    project.cli("run", "ask", check=3)
    body = endpoint.bodies[0]
    assert body["messages"] == [{"role": "system", "content": "S"}, {"role": "user", "content": "What is 0?"}]
    assert (body["temperature"], body["max_tokens"], body["stop"]) == (0.5, 9, ["x"])
    assert body["logprobs"] is True and body["top_logprobs"] == 2
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["a"]
    assert endpoint.headers[0]["Authorization"] == "Bearer secret-key-123"


def choice(message=None, finish="stop", **more):
    return {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": "text", **(message or {})},
        **more,
    }


@pytest.mark.parametrize(
    "given, dropped",
    [
        (choice(finish="length"), ("truncated", "cut off at max_tokens")),
        (choice(finish="content_filter"), ("refused", "refused")),
        (choice({"refusal": "I will not", "content": None}), ("refused", "I will not")),
        (choice({"content": ""}), ("malformed", "empty")),
        (choice({"content": None}), ("malformed", "empty")),
    ],
)
def test_an_answer_that_is_none_is_recorded_as_what_it_is(project, given, dropped):
    with Endpoint(lambda body, times: completion(body, choices=[given])) as endpoint:
        project.ask_pipeline(endpoint.url, 2)
        project.cli("run", "ask", check=3)
        assert len(endpoint.bodies) == 2
        rows = project.read("runs/ask/dropped.jsonl")
        assert [row["meta"]["dropped"]["filter"] for row in rows] == [dropped[0]] * 2
        assert dropped[1] in rows[0]["meta"]["dropped"]["reason"]
        project.cli("run", "ask", check=3)
        assert len(endpoint.bodies) == 2
        endpoint.behave = None
        project.cli("run", "ask", "--retry-failed")
        assert len(endpoint.bodies) == 4
    assert len(project.read("runs/ask/corpus.jsonl")) == 2


def test_reasoning_is_kept_apart(project):
    def think(body, times):
        if body["messages"][0]["content"] == "What is 0?":
            return completion(body, choices=[choice({"content": "<think>\nhm\n</think>\nyes"})])
        return completion(body, choices=[choice({"content": "yes", "reasoning_content": "hm"})])

    with Endpoint(think) as endpoint:
        project.ask_pipeline(endpoint.url, 2, stage=", reasoning: thoughts")
        project.cli("run", "ask")
    assert {(row["answer"], row["thoughts"]) for row in project.read("runs/ask/corpus.jsonl")} == {
        ("yes", "hm")
    }


def test_tool_calls_and_log_probabilities_are_kept(project):
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    tokens = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -1.0}]}]}
    with Endpoint(
        lambda body, times: completion(
            body, choices=[choice({"content": None, "tool_calls": calls}, "tool_calls", logprobs=tokens)]
        )
    ) as endpoint:
        project.ask_pipeline(
            endpoint.url, 1, stage=", logprobs: 1, tools: [{type: function, function: {name: f}}]"
        )
        project.cli("run", "ask")
        assert endpoint.bodies[0]["tools"][0]["function"]["name"] == "f"
    row = project.read("runs/ask/corpus.jsonl")[0]
    assert row["tool_calls"] == calls and row["meta"]["scores"] == {
        "generate.logprob": -0.5,
        "generate.mean_logprob": -0.5,
    }


def test_the_completions_protocol(project):
    def answer(body, times):
        signals = {"tokens": ["more"], "token_logprobs": [-1.0], "top_logprobs": [{"more": -1.0, "y": -2.0}]}
        return {
            "model": "m",
            "choices": [{"index": 0, "text": "more", "finish_reason": "stop", "logprobs": signals}],
            "usage": {},
        }

    with Endpoint(answer) as endpoint:
        project.ask_pipeline(endpoint.url, 1, model=", api: completions, logprobs: 2")
        project.cli("run", "ask")
        assert endpoint.bodies[0]["prompt"] == "What is 0?" and endpoint.bodies[0]["logprobs"] == 2
    assert project.read("runs/ask/corpus.jsonl")[0]["answer"] == "more"


def test_the_openai_package_as_transport_gives_the_same_corpus(project, endpoint):
    project.ask_pipeline(endpoint.url, 5)
    project.cli("run", "ask", "-o", "runs/a")
    project.cli("run", "ask", "-o", "runs/b", "--ledger", "b.sqlite3", "--set", "teacher.transport=openai")
    assert len(endpoint.bodies) == 10
    assert (project.path / "runs/a/corpus.jsonl").read_bytes() == (
        project.path / "runs/b/corpus.jsonl"
    ).read_bytes()


def test_sampling_of_stage_wins_over_model_wins_over_prompt(project, endpoint):
    project.write(
        "prompts/p.md", "---\nsampling: {temperature: 0.1, top_p: 0.1, max_tokens: 1}\n---\n{{ question }}\n"
    )
    path = project.ask_pipeline(endpoint.url, 1, model=", top_p: 0.2, max_tokens: 2", stage=", max_tokens: 3")
    path.write_text(path.read_text().replace('template: "{{ question }}"', "prompt: p"))
    project.cli("run", "ask")
    assert [endpoint.bodies[0][name] for name in ("temperature", "top_p", "max_tokens")] == [0.1, 0.2, 3]


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
ADDED = 804  # Anthropic's largest published figure, which an endpoint of OpenAI's protocol may pass on


@pytest.mark.parametrize("kind", ["tools", "schema"])
def test_the_plan_and_the_cap_hold_where_the_endpoint_bills_words_of_its_own(project, kind):
    """A token a byte of the prompt and of the schema or the tools, and its own words about tools."""

    def billed(body, times):
        form = [body.get("response_format", {}).get("json_schema", {}).get("schema"), body.get("tools")]
        texts = [body["messages"][0]["content"], *(json.dumps(part) for part in form if part)]
        tokens = (ADDED if kind == "tools" else 0) + sum(map(len, texts))
        text = json.dumps({"answer": "x" * 30}) if kind == "schema" else "a"
        choice = {"index": 0, "finish_reason": "stop", "message": {"content": text}}
        usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
        return completion(body, choices=[choice], usage=usage)

    project.write("prompts/p.md", "---\noutput: {json: {answer: string}}\n---\n@user\n{{ question }}\n")
    with Endpoint(billed) as endpoint:
        model = ", max_concurrency: 1, max_tokens: 1, price: {input: 1000, output: 0}"
        stage = f", tools: {json.dumps([TOOL])}" if kind == "tools" else ""
        path = project.ask_pipeline(endpoint.url, 8, model=model, stage=stage)
        if kind == "schema":
            form = path.read_text().replace('template: "{{ question }}", output: answer', "prompt: p")
            path.write_text(form)
        least = 0.8 if kind == "tools" else 0.06
        most = distillgen.load(path).plan()[-1][1].max_cost_usd
        with pytest.raises(DistillgenError, match="max-cost-usd"):
            distillgen.run(path, out=project.path / "runs/a", max_cost_usd=least)
        assert not endpoint.bodies  # the first request costs more
        distillgen.run(path, out=project.path / "runs/a")
        assert 8 * least < spent(project, "a") <= most
        assert len(endpoint.bodies) == 8


def spent(project, run):
    return json.loads((project.path / f"runs/{run}/usage.json").read_text())["totals"]["cost_usd"]
