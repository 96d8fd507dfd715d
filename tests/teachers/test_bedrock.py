"""The bedrock teacher against a server that speaks Converse and checks signatures, with its faults."""

import json

import pytest

from tests.native_endpoint import KEY, BedrockEndpoint, aws_error, cli, converse
from tests.teachers.test_anthropic import pipeline as any_pipeline
from tests.teachers.test_anthropic import rows, run, totals

MODEL = "eu.anthropic.claude-x-v1:0"


def pipeline(project, url, *args, key=True, **more):
    path = any_pipeline(project, url, *args, **more)
    text = path.read_text().replace(
        "provider: anthropic, model: claude-x", f"provider: bedrock, model: '{MODEL}'"
    )
    text = text.replace(
        ', api_key: "${T_KEY}"', (', api_key: "${T_KEY}"' if key else "") + ", region: eu-west-1"
    )
    path.write_text(text)
    return path


def test_what_is_sent_with_a_key(project):
    with BedrockEndpoint() as endpoint:
        template = "@system\\nBe brief.\\n@user\\n{{ question }}"
        stage = ", temperature: 0.5, stop: END, seed: 3, max_tokens: 9, top_k: 2"
        extra = ", extra: {additionalModelRequestFields: {top_k: 2}}"
        pipeline(project, endpoint.url, 3, template=template, stage=stage + extra)
        done = run(project)
    assert endpoint.bodies[0] == {
        "messages": [{"role": "user", "content": [{"text": "What is 0?"}]}],
        "system": [{"text": "Be brief."}],
        "inferenceConfig": {"temperature": 0.5, "stopSequences": ["END"], "maxTokens": 9},
        "additionalModelRequestFields": {"top_k": 2},
    }
    assert len(rows(project)) == 3
    log = (project.path / "runs/ask/run.log").read_text()
    assert log.count("does not take 'seed'") == log.count("does not take 'top_k'") == 1
    assert done.stderr.count("does not take 'seed'") == done.stderr.count("does not take 'top_k'") == 1


@pytest.mark.parametrize("secret", [BedrockEndpoint.SECRET, "wrong"])
def test_requests_are_signed_with_the_credentials_of_aws(project, secret):
    pytest.importorskip("botocore")
    env = {"AWS_ACCESS_KEY_ID": BedrockEndpoint.ACCESS, "AWS_SECRET_ACCESS_KEY": secret}
    with BedrockEndpoint() as endpoint:
        pipeline(project, endpoint.url, 30, key=False)
        done = cli("run", "ask", check=None, env=env | {"AWS_EC2_METADATA_DISABLED": "true"})
        if secret == "wrong":
            assert "security token" in done.stderr and done.returncode == 2
            assert "failed" not in (project.path / "runs/ask/corpus.jsonl").read_text()
        else:
            assert len(rows(project)) == 30 and "Bearer" not in endpoint.headers[0]["Authorization"]
    files = [file for file in project.path.rglob("*") if file.is_file()]
    assert not [file for file in files if secret.encode() in file.read_bytes() and secret != "wrong"]


def test_without_credentials_the_first_request_says_what_to_set(project):
    pytest.importorskip("botocore")
    with BedrockEndpoint() as endpoint:
        pipeline(project, endpoint.url, 30, key=False)
        off = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(project.path)}
        done = cli("run", "ask", check=None, env=off)
    assert "AWS_ACCESS_KEY_ID" in done.stderr and not endpoint.bodies


def test_a_missing_region_and_a_missing_package_are_told_by_check(project, monkeypatch):
    path = pipeline(project, "http://127.0.0.1:9")
    text = path.read_text()
    path.write_text(text.replace(', base_url: "http://127.0.0.1:9"', "").replace(", region: eu-west-1", ""))
    assert "region: us-east-1" in cli("check", "ask", check=2, env={"T_KEY": KEY}).stderr
    path.write_text(text.replace(', base_url: "http://127.0.0.1:9"', ""))
    cli("check", "ask", env={"T_KEY": KEY})


def test_the_cache_is_counted_and_paid(project):
    counts = {"inputTokens": 10, "outputTokens": 40, "totalTokens": 2350}
    cached = {"cacheReadInputTokens": 300, "cacheWriteInputTokens": 2000}
    with BedrockEndpoint(lambda body, times: converse(body, **counts, **cached)) as endpoint:
        template = "@system\\nBe brief.\\n@user\\n{{ question }}"
        pipeline(project, endpoint.url, template=template, model=", cache: 5m, price: {input: 2, output: 10}")
        run(project)
    assert endpoint.bodies[0]["system"][-1] == {"cachePoint": {"type": "default", "ttl": "5m"}}
    assert totals(project)["input_tokens"] == 2310 and totals(project)["cache_write_tokens"] == 2000
    assert totals(project)["cost_usd"] == pytest.approx((2 * (10 + 1.25 * 2000 + 0.1 * 300) + 400) / 1e6)


def test_reasoning_calls_and_a_schema(project):
    content = [
        {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "x"}}},
        {"text": '{"a": "b"}'},
    ]
    with BedrockEndpoint(lambda body, times: converse(body, content)) as endpoint:
        project.write(
            "prompts/form.md", "---\nabout: a\noutput: {json: {a: string}}\n---\n@user\n{{ question }}\n"
        )
        path = pipeline(project, endpoint.url)
        path.write_text(
            path.read_text().replace('template: "{{ question }}", output: answer', "prompt: form")
        )
        run(project)
    assert rows(project)[0]["a"] == "b"
    form = endpoint.bodies[0]["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"]
    assert json.loads(form)["additionalProperties"] is False


def test_calls_of_tools(project):
    use = {"toolUse": {"toolUseId": "t1", "name": "f", "input": {"x": 1}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    with BedrockEndpoint(lambda body, times: converse(body, [use], stop="tool_use")) as endpoint:
        pipeline(project, endpoint.url, stage=f", tools: {json.dumps([tool])}")
        run(project)
    assert json.loads(rows(project)[0]["tool_calls"][0]["function"]["arguments"]) == {"x": 1}
    spec = {"name": "f", "inputSchema": {"json": {"type": "object"}}}
    assert endpoint.bodies[0]["toolConfig"] == {"tools": [{"toolSpec": spec}]}


@pytest.mark.parametrize(
    "stop", ["guardrail_intervened", "content_filtered", "max_tokens", "malformed_tool_use"]
)
def test_an_answer_that_is_not_whole_is_dropped(project, stop):
    with BedrockEndpoint(lambda body, times: converse(body, stop=stop)) as endpoint:
        pipeline(project, endpoint.url)
        run(project, check=None)
    (dropped,) = project.read("runs/ask/dropped.jsonl")
    kind = {"max_tokens": "truncated", "malformed_tool_use": "malformed_tool_use"}.get(stop, "refused")
    assert kind in json.dumps(dropped)


def test_throttling_is_waited_out_and_a_wrong_model_ends_the_run_at_once(project):
    def behave(body, times):
        if times == 1:
            return aws_error(
                429, "ThrottlingException", "Too many requests, please wait before trying again."
            )
        return aws_error(503, "ServiceUnavailableException", "Unavailable") if times == 2 else None

    with BedrockEndpoint(behave) as endpoint:
        pipeline(project, endpoint.url)
        run(project)
        assert len(endpoint.bodies) == 3
    wrong = "The provided model identifier is invalid."
    with BedrockEndpoint(lambda body, times: aws_error(400, "ValidationException", wrong)) as endpoint:
        pipeline(project, endpoint.url, 50, model=", max_concurrency: 1")
        done = cli("run", "ask", "-o", "runs/other", check=None, env={"T_KEY": KEY})
        assert "Check model" in done.stderr and len(endpoint.bodies) == 1
