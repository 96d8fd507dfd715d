# ruff: noqa: E501 (a case a line)
"""Keys as people have them: with a trailing newline, in an address, echoed by an endpoint, in exceptions of
any kind.
"""

import json
import traceback

import pytest

import distillgen
from tests.batch_endpoint import BatchEndpoint
from tests.endpoint import Endpoint, completion
from tests.test_safety import KEY, PASSWORD, TOKEN, leaks

TRANSPORTS = ["", ", transport: openai", ", mode: batch, gather_s: 0.05, poll_s: 0.05"]


def pipeline(project, url, rows=1, key="${T_KEY}", **more):
    path = project.ask_pipeline(url, rows, **more)
    path.write_text(path.read_text().replace("api_key: secret-key-123", f"api_key: {key}"))
    return path


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("around", ["{}\n", "\ufeff{}\r\n", " {}\t"])
def test_a_key_as_it_is_read_from_a_file_works_on_every_transport(project, monkeypatch, transport, around):
    monkeypatch.setenv("T_KEY", around.format(KEY))
    monkeypatch.setenv("T_TOKEN", around.format(f"Bearer {TOKEN}"))
    with BatchEndpoint(key=KEY) as endpoint:
        pipeline(project, endpoint.url, model=", headers: {X-Token: '${T_TOKEN}'}" + transport)
        distillgen.run("ask")
        for headers in ({name.lower(): value for name, value in sent.items()} for sent in endpoint.headers):
            assert headers["authorization"] == f"Bearer {KEY}" and headers["x-token"] == f"Bearer {TOKEN}"
    assert len(project.read("runs/ask/corpus.jsonl")) == 1 and not leaks(project)


@pytest.mark.parametrize("where", ["api_key", "headers", "also", "also headers", "name"])
@pytest.mark.parametrize("bad", ["{}\nX-Other: 1", "“{}”", "{}\r\n{}", "{}\0", "clé-{}"])
def test_what_no_header_can_carry_is_refused_without_showing_it(project, endpoint, monkeypatch, where, bad):
    monkeypatch.setenv("T_KEY", KEY if "\0" in bad else bad.replace("{}", KEY))
    value = json.dumps(bad.replace("{}", KEY)) if "\0" in bad else "${T_KEY}"
    other = f'{{base_url: "{endpoint.url}", api_key: '
    model = {
        "headers": f", headers: {{X-Token: {value}}}", "also": f", also: [{other}{value}}}]",
        "also headers": f", also: [{other}other-key, headers: {{X-Token: {value}}}}}]", "name": ", headers: {'X Token': a}",
    }.get(where, "")  # fmt: skip
    pipeline(project, endpoint.url, key=value if where == "api_key" else "fine-key", model=model)
    with pytest.raises(distillgen.ConfigError, match="which no HTTP header can carry|without spaces") as told:
        distillgen.run("ask")
    assert KEY not in "".join(traceback.format_exception(told.value)) and not endpoint.bodies


def test_an_exception_that_nobody_foresaw_shows_no_key(project, monkeypatch):
    """On the terminal, in the log, in what a Python program gets, and in what a task leaves that nobody
    awaits.
    """
    import asyncio

    from distillgen.teachers.openai import OpenAI

    async def fail(self, place, path, body):
        async def unheard():
            raise ValueError(f"unheard {KEY}")

        asyncio.get_running_loop().create_task(unheard())
        await asyncio.sleep(0.01)
        try:
            raise KeyError(f"inner {KEY}")
        except KeyError as error:
            raise LookupError({"Authorization": f"Bearer {KEY}\n"}) from error

    monkeypatch.setattr(OpenAI, "_post", fail)
    pipeline(project, "http://127.0.0.1:9/v1", key=KEY)
    with pytest.raises(Exception, match="withheld") as told:
        distillgen.run("ask")
    shown = "".join(traceback.format_exception(told.value))
    assert KEY not in shown and "test_secrets.py:" in str(told.value)
    assert not leaks(project) and "in fail" in (project.path / "runs/ask/run.log").read_text()


def test_our_errors_keep_their_kind_and_lose_the_key(project, monkeypatch):
    from distillgen.inference.faults import TeacherDown
    from distillgen.teachers.openai import OpenAI

    async def fail(self, place, path, body):
        raise TeacherDown("no more") from ValueError(f"because of {KEY}")

    monkeypatch.setattr(OpenAI, "_post", fail)
    pipeline(project, "http://127.0.0.1:9/v1", key=KEY)
    with pytest.raises(TeacherDown, match="no more") as told:
        distillgen.run("ask")
    assert KEY not in "".join(traceback.format_exception(told.value)) and not leaks(project)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_key_that_an_endpoint_repeats_in_an_answer_is_in_no_file(project, transport):
    """Also where its tokens spell it; the rest of the answer stays."""
    tokens = {"content": [{"token": part, "logprob": -0.1} for part in ("My key is ", KEY[:9], KEY[9:], ".")]}
    message = {"content": f"My key is {KEY}.", "reasoning_content": f"{KEY}? {TOKEN}"}
    calls = [{"id": KEY, "function": {"name": "f", "arguments": json.dumps({"key": KEY})}}]
    choice = {"finish_reason": "stop", "message": message, "logprobs": tokens}

    def behave(body, times):
        number = int(body["messages"][0]["content"][8])
        changed = [
            {},
            {"message": message | {"tool_calls": calls}},
            {"finish_reason": KEY},
            {"message": {"content": [{"type": KEY}]}},
        ][number]
        return completion(body, choices=[choice | changed], model=f"m {KEY}")

    with BatchEndpoint(behave, key=KEY) as endpoint:
        model = f", headers: {{X-Token: Bearer {TOKEN}}}{transport}"
        pipeline(project, endpoint.url, 4, key=KEY, model=model, stage=", logprobs: 0, reasoning: why")
        distillgen.run("ask")
    assert project.read("runs/ask/corpus.jsonl")[0]["answer"] == "My key is [withheld]."
    assert not leaks(project)


def test_a_header_that_is_no_secret_leaves_answers_as_they_are(project):
    with Endpoint(
        lambda body, times: completion(
            body, choices=[{"finish_reason": "stop", "message": {"content": "medical research"}}]
        )
    ) as endpoint:
        pipeline(project, endpoint.url, key="none", model=", headers: {X-Title: medical research}")
        distillgen.run("ask")
    assert project.read("runs/ask/corpus.jsonl")[0]["answer"] == "medical research"


QUERY = "query-key-5d1e8a7b9c3f"


@pytest.mark.parametrize(
    "address",
    [f"{PASSWORD}@", f"{PASSWORD}:x@", f"user:{PASSWORD}@", f"user:{PASSWORD.replace('-', '%2D')}@"],
)
def test_a_key_in_an_address_is_withheld_in_every_form(project, address):
    def behave(body, times):
        return completion(
            body, choices=[{"finish_reason": "stop", "message": {"content": f"{PASSWORD} {address} {body}"}}]
        )

    with Endpoint(behave) as endpoint:
        pipeline(project, endpoint.url.replace("//", f"//{address}"), key="none")
        distillgen.run("ask")
        sent = endpoint.headers[0].get("Authorization", "")
    for file in (f for f in (project.path / "runs").rglob("*") if f.is_file()):
        content = file.read_bytes()
        assert PASSWORD.encode() not in content and PASSWORD.replace("-", "%2D").encode() not in content, file
        assert not sent.startswith("Basic ") or sent[6:].encode() not in content


def test_a_key_in_an_addresss_query_is_a_secret():
    from distillgen.teachers.openai import OpenAISpec

    spec = OpenAISpec(
        model="m",
        provider="openai",
        base_url=f"https://host/v1?api-key={QUERY}&api-version=2024-02-01-preview",
    )
    assert spec.credentials() == {QUERY}
    assert QUERY not in spec.identity


@pytest.mark.parametrize(
    "given",
    [
        f"teacher.base_url=https://{PASSWORD}@host/v1",
        f"teacher.base_url=https://h/v1?key={QUERY}",
        f"teacher={{api_key: {KEY}}}",
    ],
)
def test_no_key_in_what_was_typed_is_shown(project, endpoint, given):
    project.ask_pipeline(endpoint.url)
    with pytest.raises(distillgen.ConfigError) as told:
        distillgen.load("ask", [given, "teacher.temprature=1"])
    assert not [secret for secret in (PASSWORD, QUERY, KEY) if secret in str(told.value)]
