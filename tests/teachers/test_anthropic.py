"""The anthropic teacher against a server that speaks the Messages API, with its faults."""

import json
import time

import pytest

from tests.native_endpoint import KEY, AnthropicEndpoint, cli, message, refused, stream

CACHED = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 2000,
    "cache_read_input_tokens": 300,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 2000},
    "output_tokens": 40,
}


def pipeline(project, url, rows=1, *, model="", stage="", template="{{ question }}"):
    project.rows("data/seeds.jsonl", [{"question": f"What is {i}?"} for i in range(rows)])
    return project.write(
        "pipelines/ask.yaml",
        f"""# ask.yaml: one answer a question
version: 1
models:
  teacher: {{provider: anthropic, model: claude-x, base_url: "{url}", api_key: "${{T_KEY}}"{model}}}
stages:
  - source: {{path: data/seeds.jsonl}}
  - generate: {{model: teacher, template: "{template}", output: answer{stage}}}
""",
    )


def run(project, *args, check=0):
    return cli("run", "ask", *args, check=check, env={"T_KEY": KEY})


def totals(project):
    return json.loads((project.path / "runs/ask/usage.json").read_text())["totals"]


def rows(project):
    return project.read("runs/ask/corpus.jsonl")


def test_what_is_sent_and_what_is_not_asked_twice(project):
    template = "@system\\nBe brief.\\n@user\\n{{ question }}"
    with AnthropicEndpoint() as endpoint:
        pipeline(
            project, endpoint.url, 3, template=template, stage=", temperature: 0.5, stop: END, seed: 3, n: 2"
        )
        done = run(project)
        run(project)
        assert len(endpoint.bodies) == 6 and len({row["answer"] for row in rows(project)}) == 3
    assert endpoint.bodies[0] == {
        "model": "claude-x",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What is 0?"}]}],
        "system": [{"type": "text", "text": "Be brief."}],
        "temperature": 0.5,
        "stop_sequences": ["END"],
        "max_tokens": 4096,
    }
    assert done.stderr.count("does not take 'seed'") == 1
    assert totals(project)["requests"] == 6 and totals(project)["input_tokens"] == 60


def test_reads_and_writes_of_the_cache_are_counted_and_paid(project):
    """10 fresh tokens, 2000 written at double price, and 300 read at a tenth."""
    with AnthropicEndpoint(lambda body, times: message(body, usage=CACHED)) as endpoint:
        template = (
            "@system\\nBe brief.\\n@user\\nAn example\\n@assistant\\nLike this\\n@user\\n{{ question }}"
        )
        pipeline(project, endpoint.url, template=template, model=", cache: 1h, price: {input: 2, output: 10}")
        run(project)
    counted = totals(project)
    assert (counted["input_tokens"], counted["cached_tokens"], counted["cache_write_tokens"]) == (
        2310,
        300,
        2000,
    )
    assert counted["cost_usd"] == pytest.approx((2 * (10 + 2 * 2000 + 0.1 * 300) + 40 * 10) / 1e6)
    (body,) = endpoint.bodies
    marks = [block.get("cache_control") for turn in body["messages"] for block in turn["content"]]
    control = {"type": "ephemeral", "ttl": "1h"}
    assert body["system"][0]["cache_control"] == control and marks == [None, control, None]


def test_the_cap_holds_where_every_prompt_is_written_to_the_cache(project):
    """Without the price of writing in the bound, the cap would be passed by half of the last request."""

    def written(body, times):
        tokens = len(json.dumps(body["messages"]))
        return message(
            body, usage={"input_tokens": 0, "cache_creation_input_tokens": tokens, "output_tokens": 1}
        )

    with AnthropicEndpoint(written) as endpoint:
        pipeline(
            project,
            endpoint.url,
            40,
            model=", cache: 1h, max_tokens: 1, max_concurrency: 1, price: {input: 1000, output: 0}",
            template="{{ question }}" + "word " * 100,
        )
        run(project, "--max-cost-usd", "6", check=4)
    assert 0 < totals(project)["cost_usd"] <= 6


def test_the_cap_holds_where_the_provider_adds_its_words_about_tools(project):
    """The request has some 300 bytes and so at most as many tokens, and the provider bills 346 more."""

    def added(body, times):
        return message(body, usage={"input_tokens": len(json.dumps(body)) + 346, "output_tokens": 1})

    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    with AnthropicEndpoint(added) as endpoint:
        prices = ", max_tokens: 1, price: {input: 1000, output: 0}"
        pipeline(project, endpoint.url, model=prices, stage=f", tools: {json.dumps([tool])}")
        run(project, "--max-cost-usd", "0.5", check=4)
    assert not endpoint.bodies


def test_thinking_and_calls_of_tools(project):
    """Reasoning is apart from the text; a call is in OpenAI's form, as the rest of the program reads it."""
    content = [
        {"type": "thinking", "thinking": "Look it up.", "signature": "x"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln"}},
    ]
    usage = {"input_tokens": 9, "output_tokens": 30, "output_tokens_details": {"thinking_tokens": 20}}
    thinking = {"type": "enabled", "budget_tokens": 1024}
    tool = {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
    with AnthropicEndpoint(
        lambda body, times: message(body, content=content, stop_reason="tool_use", usage=usage)
    ) as endpoint:
        pipeline(
            project,
            endpoint.url,
            stage=f", tools: {json.dumps([tool])}, extra: {json.dumps({'thinking': thinking})}",
        )
        run(project)
    (row,) = rows(project)
    assert row["answer"] == "I look." and row["tool_calls"][0]["function"]["name"] == "weather"
    assert json.loads(row["tool_calls"][0]["function"]["arguments"]) == {"city": "Köln"}
    assert endpoint.bodies[0]["tools"] == [
        {"name": "weather", "description": "The weather.", "input_schema": tool["function"]["parameters"]}
    ]
    assert endpoint.bodies[0]["thinking"] == thinking
    assert totals(project)["reasoning_tokens"] == 20 and totals(project)["output_tokens"] == 30


def test_the_plan_holds_where_the_provider_adds_its_words_about_schemas(project):
    def added(body, times):
        tokens = len(body["messages"][0]["content"][0]["text"]) + len(json.dumps(body["output_config"])) + 346
        usage = {"input_tokens": tokens, "output_tokens": 1}
        return message(body, content=[{"type": "text", "text": '{"a": "b"}'}], usage=usage)

    project.write("prompts/form.md", PROMPT)
    with AnthropicEndpoint(added) as endpoint:
        path = pipeline(project, endpoint.url, 4, model=", max_tokens: 1, price: {input: 1000, output: 0}")
        form = path.read_text().replace('template: "{{ question }}", output: answer', "prompt: form")
        path.write_text(form)
        planned = json.loads(cli("plan", "ask", "--json", env={"T_KEY": KEY}).stdout)
        run(project)
    assert 4 * 0.346 < totals(project)["cost_usd"] <= planned["totals"]["max_cost_usd"]


PROMPT = "---\nabout: a\noutput: {json: {a: string}}\n---\n@user\n{{ question }}\n"


def test_a_complaint_about_a_part_of_the_schema_puts_it_into_the_prompt(project):
    def behave(body, times):
        text = "output_config.format.schema: 3 properties, and at most 2 are accepted"
        answer = message(body, content=[{"type": "text", "text": '{"a": "b"}'}])
        return refused(400, "invalid_request_error", text) if "output_config" in body else answer

    project.write("prompts/form.md", PROMPT)
    with AnthropicEndpoint(behave) as endpoint:
        path = pipeline(project, endpoint.url, 3, model=", max_concurrency: 1")
        path.write_text(
            path.read_text().replace('template: "{{ question }}", output: answer', "prompt: form")
        )
        run(project)
        assert len(endpoint.bodies) == 4
    assert [row["a"] for row in rows(project)] == ["b"] * 3


@pytest.mark.parametrize("lacks", [False, True])
def test_a_schema_constrains_the_answer_or_stands_in_the_prompt(project, lacks):
    with AnthropicEndpoint() as endpoint:
        endpoint.lacks = frozenset({"output_config"} if lacks else ())
        endpoint.content = [{"type": "text", "text": '{"a": "b"}'}]
        project.write("prompts/form.md", PROMPT)
        path = pipeline(project, endpoint.url, 30, model=", max_concurrency: 1")
        path.write_text(
            path.read_text().replace('template: "{{ question }}", output: answer', "prompt: form")
        )
        done = run(project)
        assert [row["a"] for row in rows(project)] == ["b"] * 30
    sent = endpoint.bodies[-1]
    assert ("output_config" in sent) != lacks
    assert ("by this JSON Schema" in sent["messages"][0]["content"][-1]["text"]) == lacks
    assert (
        len(endpoint.bodies) == 30 + lacks and done.stderr.count("the schema is put into the prompt") == lacks
    )


def test_a_parameter_that_a_model_no_longer_takes_is_left_out_once(project):
    with AnthropicEndpoint() as endpoint:
        endpoint.lacks = frozenset({"temperature"})
        pipeline(project, endpoint.url, 20, model=", max_concurrency: 1", stage=", temperature: 0.3")
        done = run(project)
        assert len(rows(project)) == 20 and len(endpoint.bodies) == 21
    assert done.stderr.count("does not take 'temperature'") == 1
    assert "left_out" in json.dumps(rows(project)[0]["meta"])


def test_overload_and_rate_limits_are_waited_out(project):
    moments = []

    def busy(body, times):
        moments.append(time.monotonic())
        if times == 1:
            return refused(429, "rate_limit_error", "slow down", {"retry-after": "1"})
        return refused(529, "overloaded_error", "Overloaded") if times == 2 else None

    with AnthropicEndpoint(busy) as endpoint:
        pipeline(project, endpoint.url)
        run(project)
    assert len(rows(project)) == 1 and len(moments) == 3 and moments[1] - moments[0] >= 1


@pytest.mark.parametrize("reason", ["refusal", "max_tokens", "pause_turn", "model_context_window_exceeded"])
def test_an_answer_that_is_not_whole_is_dropped_and_says_why(project, reason):
    details = {"type": "refusal", "category": "bio", "explanation": "This may not be answered."}

    def behave(body, times):
        return message(
            body, content=[], stop_reason=reason, stop_details=details if reason == "refusal" else None
        )

    with AnthropicEndpoint(behave) as endpoint:
        pipeline(project, endpoint.url)
        run(project, check=None)
    assert not rows(project)
    (dropped,) = project.read("runs/ask/dropped.jsonl")
    expected = {"refusal": "refused", "pause_turn": "pause_turn"}.get(reason, "truncated")
    assert expected in json.dumps(dropped), dropped["meta"]


@pytest.mark.parametrize("lasts", [2, 5, 7])
def test_a_long_answer_is_streamed_and_one_that_breaks_off_is_asked_again(project, lasts):
    with AnthropicEndpoint(lambda body, times: stream(body, lasts=lasts) if times == 1 else None) as endpoint:
        pipeline(project, endpoint.url, model=", max_tokens: 30000, price: {input: 1, output: 1}")
        run(project)
        assert [body["stream"] for body in endpoint.bodies] == [True, True]
    assert rows(project)[0]["answer"].startswith("answer ")
    assert totals(project)["cost_usd"] >= 30000 / 1e6  # the answer that broke off may be billed


def test_a_wrong_key_and_a_missing_one_stop_the_run_before_rows_fail(project):
    with AnthropicEndpoint() as endpoint:
        path = pipeline(project, endpoint.url, 30)
        done = cli("run", "ask", check=None, env={"T_KEY": "sk-wrong-987654321"})
        assert "does not accept the key" in done.stderr and "sk-wrong" not in done.stderr
        assert "variable T_KEY is not set" in cli("check", "ask").stderr + cli("check", "ask").stdout
        assert len(endpoint.bodies) <= 30
    path.write_text(
        path.read_text().replace(f'base_url: "{endpoint.url}", api_key: "${{T_KEY}}"', "max_tokens: 9")
    )
    assert "variable ANTHROPIC_API_KEY is not set" in cli("check", "ask").stdout
    cli("run", "ask", check=2)


def test_no_file_holds_the_key(project):
    def behave(body, times):
        return (
            refused(400, "invalid_request_error", f"messages: bad {KEY}")
            if "1" in json.dumps(body["messages"])
            else message(body, content=[{"type": "text", "text": f"You said {KEY}"}])
        )

    with AnthropicEndpoint(behave) as endpoint:
        pipeline(project, endpoint.url, 3)
        done = run(project, check=3)
    assert KEY not in done.stdout + done.stderr
    files = [file for file in project.path.rglob("*") if file.is_file()]
    assert len(files) > 5 and not [file for file in files if KEY.encode() in file.read_bytes()]
