"""The gemini teacher against a server that speaks generateContent, with its faults."""

import json
import time

import pytest

from tests.native_endpoint import KEY, GeminiEndpoint, candidates, cli, google_error
from tests.teachers.test_anthropic import pipeline as any_pipeline
from tests.teachers.test_anthropic import rows, run, totals


def pipeline(project, url, *args, **more):
    path = any_pipeline(project, url, *args, **more)
    path.write_text(
        path.read_text().replace("provider: anthropic, model: claude-x", "provider: gemini, model: gem")
    )
    return path


def test_what_is_sent(project):
    with GeminiEndpoint() as endpoint:
        template = (
            "@system\\nBe brief.\\n@user\\nAn example\\n@assistant\\nLike this\\n@user\\n{{ question }}"
        )
        options = ", temperature: 0.5, top_k: 3, stop: END, seed: 3, max_tokens: 9, min_p: 0.1"
        extra = ", extra: {safetySettings: [], thinkingConfig: {thinkingBudget: 0}}"
        pipeline(project, endpoint.url, template=template, stage=options + extra)
        done = run(project)
    (body,) = endpoint.bodies
    assert [(turn["role"], turn["parts"][0]["text"]) for turn in body["contents"]] == [
        ("user", "An example"),
        ("model", "Like this"),
        ("user", "What is 0?"),
    ]
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief."}]} and body["safetySettings"] == []
    assert body["generationConfig"] == {
        "temperature": 0.5,
        "topK": 3,
        "stopSequences": ["END"],
        "seed": 3,
        "maxOutputTokens": 9,
        "thinkingConfig": {"thinkingBudget": 0},
    }
    assert done.stderr.count("does not take 'min_p'") == 1 and len(rows(project)) == 1


def test_thoughts_and_cached_tokens_are_counted(project):
    parts = [{"text": "Hm.", "thought": True}, {"text": "an answer"}]
    counts = {"promptTokenCount": 100, "cachedContentTokenCount": 60, "candidatesTokenCount": 5}
    more = {"thoughtsTokenCount": 20, "totalTokenCount": 125}
    with GeminiEndpoint(lambda body, times: candidates(body, parts, **counts, **more)) as endpoint:
        pipeline(project, endpoint.url, model=", price: {input: 10, cached_input: 1, output: 100}")
        run(project)
    assert rows(project)[0]["answer"] == "an answer"
    assert {name: totals(project)[name] for name in ("input_tokens", "cached_tokens", "output_tokens")} == {
        "input_tokens": 100,
        "cached_tokens": 60,
        "output_tokens": 25,
    }
    assert totals(project)["cost_usd"] == pytest.approx((40 * 10 + 60 * 1 + 25 * 100) / 1e6)


def test_a_call_keeps_its_signature(project):
    call = {"functionCall": {"name": "weather", "args": {"city": "Köln"}}, "thoughtSignature": "c2ln"}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    with GeminiEndpoint(lambda body, times: candidates(body, [call])) as endpoint:
        pipeline(project, endpoint.url, stage=f", tools: {json.dumps([tool])}")
        run(project)
    (sent,) = rows(project)[0]["tool_calls"]
    assert json.loads(sent["function"]["arguments"]) == {"city": "Köln"}
    assert sent["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    declared = endpoint.bodies[0]["tools"][0]["functionDeclarations"][0]
    assert declared["name"] == "weather" and declared["parametersJsonSchema"] == {"type": "object"}


def test_turns_with_calls_and_pictures_go_back_as_they_came():
    from distillgen.teachers._turns import turns_of
    from distillgen.teachers.anthropic import _message
    from distillgen.teachers.bedrock import _message as _bedrock
    from distillgen.teachers.gemini import _content

    call = {
        "id": "c1",
        "function": {"name": "f", "arguments": '{"x": 1}'},
        "extra_content": {"google": {"thought_signature": "c2ln"}},
    }
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    system, turns = turns_of(
        [
            {"role": "system", "content": "S"},
            {"role": "user", "content": [{"type": "text", "text": "Look"}, picture]},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "7"},
            {"role": "user", "content": "So?"},
        ]
    )
    assert system == ["S"] and [role for role, _ in turns] == ["user", "assistant", "user"]
    assert [_content(*turn)["parts"] for turn in turns] == [
        [{"text": "Look"}, {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}],
        [{"functionCall": {"name": "f", "args": {"x": 1}}, "thoughtSignature": "c2ln"}],
        [{"functionResponse": {"name": "f", "response": {"result": "7"}}}, {"text": "So?"}],
    ]
    assert [_message(*turn)["content"] for turn in turns] == [
        [
            {"type": "text", "text": "Look"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        ],
        [{"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}}],
        [{"type": "tool_result", "tool_use_id": "c1", "content": "7"}, {"type": "text", "text": "So?"}],
    ]
    assert [_bedrock(*turn)["content"] for turn in turns] == [
        [{"text": "Look"}, {"image": {"format": "png", "source": {"bytes": "AAAA"}}}],
        [{"toolUse": {"toolUseId": "c1", "name": "f", "input": {"x": 1}}}],
        [{"toolResult": {"toolUseId": "c1", "content": [{"text": "7"}]}}, {"text": "So?"}],
    ]


@pytest.mark.parametrize("reason", ["SAFETY", "blocked", "MALFORMED_FUNCTION_CALL"])
def test_a_blocked_answer_and_a_blocked_prompt_are_dropped(project, reason):
    def behave(body, times):
        if reason == "blocked":
            usage = {"promptTokenCount": 10, "totalTokenCount": 10}
            return {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": usage}
        return candidates(body, [], finish=reason)

    with GeminiEndpoint(behave) as endpoint:
        pipeline(project, endpoint.url)
        run(project, check=None)
        assert len(endpoint.bodies) == 1
    (dropped,) = project.read("runs/ask/dropped.jsonl")
    assert (
        ("MALFORMED" in json.dumps(dropped)) if "MALFORMED" in reason else ("refused" in json.dumps(dropped))
    )
    assert totals(project)["input_tokens"] == 10


def test_a_full_minute_is_waited_out_and_a_full_day_ends_the_run(project):
    moments = []
    info = "type.googleapis.com/google.rpc."

    def busy(body, times):
        moments.append(time.monotonic())
        if len(moments) == 1:
            details = [{"@type": info + "RetryInfo", "retryDelay": "1s"}]
            return google_error(429, "RESOURCE_EXHAUSTED", "Resource exhausted.", details)
        if len(moments) > 3:
            quota = {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}
            details = [{"@type": info + "QuotaFailure", "violations": [quota]}]
            return google_error(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.", details)
        return None

    with GeminiEndpoint(busy) as endpoint:
        pipeline(project, endpoint.url)
        run(project)
        pipeline(project, endpoint.url, 9, model=", max_concurrency: 1")
        done = run(project, check=None)
    assert moments[1] - moments[0] >= 1 and len(moments) == 4 and "RESOURCE_EXHAUSTED" not in done.stdout
    assert done.returncode not in (0, 3)


def test_what_a_model_does_not_take_is_left_out_and_logprobs_end_the_run(project):
    def off(body, times):
        if "responseLogprobs" in body["generationConfig"]:
            return google_error(400, "INVALID_ARGUMENT", "Logprobs is not enabled for models/gem")
        if "presencePenalty" in body["generationConfig"]:
            return google_error(400, "INVALID_ARGUMENT", "Penalty is not enabled for models/gem")
        return None

    with GeminiEndpoint(off) as endpoint:
        endpoint.lacks = frozenset({"topK"})
        one = ", max_concurrency: 1"
        pipeline(project, endpoint.url, 9, model=one, stage=", top_k: 4, presence_penalty: 1, temperature: 1")
        done = run(project)
        assert len(rows(project)) == 9 and endpoint.bodies[-1]["generationConfig"] == {"temperature": 1}
        assert done.stderr.count("does not take 'topK'") == done.stderr.count("'presencePenalty'") == 1
        asked = len(endpoint.bodies)
        pipeline(project, endpoint.url, 9, model=one, stage=", logprobs: 2")
        done = cli("run", "ask", "-o", "runs/other", check=None, env={"T_KEY": KEY})
        assert "gives no log-probabilities" in done.stderr and len(endpoint.bodies) == asked + 1


def test_a_schema_that_a_model_does_not_take_stands_in_the_prompt(project):
    def picky(body, times):
        if "responseJsonSchema" in body["generationConfig"]:
            return google_error(
                400, "INVALID_ARGUMENT", "The specified schema produces a constraint too complex"
            )
        return candidates(body, [{"text": '{"a": "b"}'}])

    with GeminiEndpoint(picky) as endpoint:
        project.write(
            "prompts/form.md", "---\nabout: a\noutput: {json: {a: string}}\n---\n@user\n{{ question }}\n"
        )
        path = pipeline(project, endpoint.url, 30, model=", max_concurrency: 1")
        path.write_text(
            path.read_text().replace('template: "{{ question }}", output: answer', "prompt: form")
        )
        run(project)
        assert [row["a"] for row in rows(project)] == ["b"] * 30 and len(endpoint.bodies) == 31
    assert "by this JSON Schema" in endpoint.bodies[-1]["contents"][0]["parts"][-1]["text"]


def test_logprobs_and_embeddings(project):
    chosen = [{"token": "an", "logProbability": -0.1}, {"token": " answer", "logProbability": -0.5}]
    tops = [{"candidates": [token, {"token": "x", "logProbability": -4.0}]} for token in chosen]

    def behave(body, times):
        if "contents" not in body:
            return None
        answer = candidates(body, [{"text": "an answer"}])
        answer["candidates"][0]["logprobsResult"] = {"chosenCandidates": chosen, "topCandidates": tops}
        return answer

    with GeminiEndpoint(behave) as endpoint:
        path = pipeline(project, endpoint.url, stage=", logprobs: 2")
        path.write_text(path.read_text() + '  - embed: {model: teacher, template: "{{ answer }}"}\n')
        run(project)
    assert endpoint.bodies[0]["generationConfig"] == {"responseLogprobs": True, "logprobs": 2}
    assert endpoint.bodies[1] == {"content": {"parts": [{"text": "an answer"}]}}
    assert len(rows(project)) == 1


def test_a_wrong_key_ends_the_run_without_showing_it(project):
    with GeminiEndpoint() as endpoint:
        pipeline(project, endpoint.url, 30)
        done = cli("run", "ask", check=None, env={"T_KEY": "wrong-key-987654"})
    assert "does not accept the key" in done.stderr and "wrong-key" not in done.stderr + done.stdout
