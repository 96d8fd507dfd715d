"""Error responses in the words of many providers: a failed row, a stop, a pause, or another way to ask."""

import json
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from aiohttp import web

import distillgen
from distillgen.errors import ConfigError, DistillgenError
from distillgen.teachers._addresses import Address
from distillgen.teachers._http_client import unreachable
from distillgen.teachers._refusal import (
    explanation_of,
    kind_of,
    refused_parameter,
    refused_value,
    unstreamed,
    wait_of,
)
from tests.batch_endpoint import BatchEndpoint
from tests.endpoint import Endpoint, completion, reply

TRANSPORTS = ["http", "openai"]


def openai(message, code=None, type=None, param=None, **more):
    return {"error": {"message": message, "type": type, "param": param, "code": code, **more}}


def gemini(
    quota_id=None,
    message="You exceeded your current quota, please check your plan and billing details. "
    "For more information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits.",
    delay=None,
):
    details = (
        [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota_id}]}]
        if quota_id
        else []
    )
    details += [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}] if delay else []
    return [{"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details}}]


BILLING = "You exceeded your current quota, please check your plan and billing details."
MONEY = [
    (429, openai(BILLING, "insufficient_quota", "insufficient_quota")),
    (429, openai(BILLING, None, "insufficient_quota")),
    (429, openai(BILLING)),
    (401, openai("You exceeded your current quota", 401, "insufficient_quota")),
    (400, openai("Billing hard limit has been reached", "billing_hard_limit_reached")),
    (402, openai("Insufficient Balance", "invalid_request_error", "unknown_error")),
    (200, openai("Insufficient Balance", "invalid_request_error")),
    (
        200,
        {
            "error": {
                "message": "Insufficient credits. Add more using https://openrouter.ai/credits",
                "code": 402,
            }
        },
    ),
    (402, openai("This request requires more credits, or fewer max_tokens. You can only afford 2666", 402)),
    (
        403,
        {
            "error": {
                "message": "Key limit exceeded (total limit). Manage it using https://openrouter.ai/keys",
                "code": 403,
            }
        },
    ),
    (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "Your credit balance is too low to access the "
                "Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.",
            },
        },
    ),
    (
        400,
        {
            "type": "error",
            "error": {
                "message": "You have reached your specified API usage limits. You will regain access on "
                "2027-01-01"
            },
        },
    ),
    (
        429,
        {
            "error": {
                "code": "1113",
                "message": "Insufficient balance or no resource package. Please recharge.",
            }
        },
    ),
    (
        429,
        openai(
            "Your account org-1 is suspended due to insufficient balance, please recharge",
            None,
            "exceeded_current_quota_error",
        ),
    ),
    (200, {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}),
    (403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}),
    (
        403,
        {
            "code": "No permission",
            "error": "Your newly created team doesn't have any credits yet. You can purchase them on x.ai",
        },
    ),
    (
        429,
        {
            "code": "Some resource has been exhausted",
            "error": "Your team has either used all available credits or reached its monthly spending limit",
        },
    ),
    (402, {"error": "You have exceeded your monthly included credits for Inference Providers."}),
    (
        412,
        openai(
            "Account a is suspended, possibly due to reaching the monthly spending limit or "
            "failure to pay past invoices"
        ),
    ),
    (400, openai("Access denied, please make sure your account is in good standing.", "Arrearage")),
    (
        403,
        {
            "error": {
                "code": "403",
                "message": "Out of call volume quota for call rate. Quota will be replenished in 18:26:11.",
            }
        },
    ),
    (402, "Payment required"),
]
DAY = [
    (429, gemini("GenerateRequestsPerDayPerProjectPerModel-FreeTier", delay="36s")),
    (429, openai("Rate limit exceeded: free-models-per-day. Add 10 credits to unlock more", 429)),
    (429, {"message": "You are using a Trial key, which is limited to 1000 API calls / month."}),
    (429, {"message": "Too many tokens per day, please wait before trying again."}),
    (
        429,
        openai(
            "Tokens per day limit exceeded - too many tokens processed.",
            "token_quota_exceeded",
            "too_many_tokens_error",
        ),
    ),
    (200, {"error_code": 17, "error_msg": "Open api daily request limit reached"}),
]
MOMENT = [
    (429, gemini("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", delay="36s")),
    (429, gemini("GenerateContentInputTokensPerModelPerMinute")),
    (429, gemini(message="Resource has been exhausted (e.g. check quota).")),
    (429, gemini(delay="20s")),
    (200, openai("Rate limit exceeded", 429)),
    (
        429,
        openai(
            "Rate limit reached for m in organization o on tokens per min (TPM): Limit 30000, Used 29000.",
            "rate_limit_exceeded",
            "tokens",
        ),
    ),
    (
        429,
        openai(
            "Rate limit reached for m on requests per day (RPD): Limit 200. Please try again in 7m12s.",
            "rate_limit_exceeded",
        ),
    ),
    (429, {"message": "Requests rate limit exceeded"}),
    (429, openai("Tokens per minute limit exceeded - too many tokens processed.", "token_quota_exceeded")),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
    (503, "<html><title>503 Service Unavailable</title></html>"),
    (
        500,
        openai(
            "The server had an error while processing your request. Sorry about that!", None, "server_error"
        ),
    ),
    (409, openai("Conflict")),
]
PROMPT = [
    (
        403,
        {
            "error": {
                "code": 403,
                "message": "Your chosen model requires moderation and your input was flagged",
                "metadata": {
                    "reasons": ["violence"],
                    "flagged_input": "insufficient balance, your API key is invalid",
                },
            }
        },
    ),
    (
        400,
        openai(
            "The response was filtered due to the prompt triggering Azure OpenAI's content "
            "management policy.",
            "content_filter",
            None,
            "prompt",
            innererror={"code": "ResponsibleAIPolicyViolation"},
        ),
    ),
    (
        400,
        openai(
            "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
            "invalid_prompt",
        ),
    ),
    (400, openai("Content Exists Risk", "invalid_request_error")),
    (400, openai("Output data may contain inappropriate content.", "data_inspection_failed")),
    (
        403,
        {
            "code": "No permission",
            "error": "Content violates usage guidelines. Team: t, API key ID: k, Failed check: "
            "SAFETY_CHECK_TYPE_BIO",
        },
    ),
    (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "Output blocked by content filtering policy",
            },
        },
    ),
    (400, openai("The request was rejected because it was considered high risk", None, "content_filter")),
    (451, openai("Your request was blocked by the safety system")),
    (200, {"base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"}}),
    (401, openai("The prompt was blocked", "content_policy_violation")),
    (403, {"detail": "Request blocked: unsafe content"}),
]
ACCOUNT = [
    (401, openai("Incorrect API key provided: sk-x. You can find your API key at …", "invalid_api_key")),
    (401, {"message": "Unauthorized", "request_id": "x"}),
    (401, {"detail": "Unauthorized"}),
    (403, openai("Country, region, or territory not supported", "unsupported_country_region_territory")),
    (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "API key not valid. Please pass a valid API key.",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
    ),
    (400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xx"}),
    (
        403,
        {
            "error": {
                "code": 403,
                "message": "Permission denied on resource project p",
                "status": "PERMISSION_DENIED",
            }
        },
    ),
    (403, {"status": 403, "title": "Forbidden", "detail": "Authorization failed"}),
    (403, {"error": {"code": "403", "message": "Access denied due to Virtual Network/Firewall rules."}}),
    (401, openai("Your account was deactivated for violating our usage policies", "account_deactivated")),
    (403, openai("Your access was terminated due to violation of our policies", "access_terminated")),
    (
        200,
        {
            "base_resp": {
                "status_code": 1004,
                "status_msg": "login fail: Please carry the API secret key in the header",
            }
        },
    ),
    (200, openai("No auth credentials found", 401)),
    (407, ""),
]
OTHER = [
    (
        400,
        openai(
            "This model's maximum context length is 8192 tokens, no more than 8192 tokens are taken",
            "context_length_exceeded",
        ),
    ),
    (400, openai("temperature must be between 0 and 1")),
    (422, {"detail": "too long"}),
    (403, "<html><title>403 Forbidden</title></html>"),
    (403, ""),
    (413, openai("Request too large for model")),
]


@pytest.mark.parametrize(
    "kind, status, body",
    [
        (kind, *case)
        for kind, cases in {
            "money": MONEY,
            "day": DAY,
            "moment": MOMENT,
            "prompt": PROMPT,
            "account": ACCOUNT,
            "other": OTHER,
        }.items()
        for case in cases
    ],
)
def test_a_refusal_is_told_by_what_its_body_says(kind, status, body):
    said = explanation_of((body if isinstance(body, str) else json.dumps(body)).encode())
    assert kind_of(status, said, wait_of({}, said, limited=True)) == kind


def said(status, body, **headers):
    return web.Response(
        status=status, text=body if isinstance(body, str) else json.dumps(body), headers=headers
    )


def run(project, out="ask", expect=None, **options):
    """In this process, with a ledger of its own; `expect` is what it stops with. Gives what run.log says."""
    options["ledger"] = project.path / f"{out}.sqlite3"
    with pytest.raises(DistillgenError, match=expect) if expect else nullcontext():
        distillgen.run(project.path / "pipelines/ask.yaml", out=project.path / "runs" / out, **options)
    return (project.path / "runs" / out / "run.log").read_text()


def dropped(project):
    return {row["number"]: row["meta"]["dropped"]["reason"] for row in project.read("runs/ask/dropped.jsonl")}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "status, body, remedy",
    [
        (*MONEY[1], "no money or quota"),
        (*MONEY[6], "no money or quota"),
        (*DAY[0], "run the same command again then"),
        (*ACCOUNT[4], "check api_key"),
        (200, openai("No auth credentials found", 401), "check api_key"),
    ],
)
def test_an_account_refusal_stops_the_run_and_it_can_be_resumed(project, transport, status, body, remedy):
    def behave(asked, times):
        return said(status, body) if endpoint.asked.total() > 10 and not mended else None

    mended = []
    with Endpoint(behave) as endpoint:
        project.ask_pipeline(endpoint.url, 40, model=f", max_concurrency: 2, transport: {transport}")
        run(project, expect=remedy)
        assert endpoint.asked.total() <= 13
        mended.append(True)
        run(project)
        assert sum(endpoint.asked.values()) <= 40 + 3
    assert len(project.read("runs/ask/corpus.jsonl")) == 40


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("status, body", [PROMPT[0], PROMPT[3], PROMPT[9]])
def test_a_prompt_that_is_refused_is_a_row(project, transport, status, body):
    """Also the very first one that is asked."""
    with Endpoint(
        lambda asked, times: (
            said(status, body) if asked["messages"][0]["content"] in ("What is 0?", "What is 3?") else None
        )
    ) as endpoint:
        project.ask_pipeline(endpoint.url, 6, model=f", max_concurrency: 1, transport: {transport}")
        run(project)
        assert endpoint.asked.total() == 6
    assert [*dropped(project)] == [0, 3] and all(
        "content filter" in reason for reason in dropped(project).values()
    )


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_unexplained_403_stops_a_run_without_answers(project, transport):
    model = f", max_concurrency: 1, transport: {transport}"
    with Endpoint(lambda asked, times: said(403, "<html><title>403 Forbidden</title></html>")) as endpoint:
        project.ask_pipeline(endpoint.url, 30, model=model)
        run(project, expect="check api_key")
        assert endpoint.asked.total() == 1
        endpoint.behave = lambda asked, times: (
            said(403, "") if asked["messages"][0]["content"].endswith(("2?", "5?")) else None
        )
        run(project)
        assert [*dropped(project)] == [2, 5, 12, 15, 22, 25]
        run(project, retry_failed=True, expect="check api_key")
        endpoint.behave = None
        run(project, retry_failed=True)
    assert len(project.read("runs/ask/corpus.jsonl")) == 30


def test_a_silently_revoked_key_costs_five_rows(project):
    with Endpoint(lambda asked, times: said(403, "") if endpoint.asked.total() > 10 else None) as endpoint:
        project.ask_pipeline(endpoint.url, 60, model=", max_concurrency: 1")
        run(project, expect="check api_key")
        assert endpoint.asked.total() == 16
        endpoint.behave = None
        run(project, retry_failed=True)
    assert len(project.read("runs/ask/corpus.jsonl")) == 60


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_quota_a_minute_is_waited_for(project, transport):
    def behave(asked, times):
        moments.append(time.monotonic())
        return (
            said(429, gemini("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", delay="1.5s"))
            if times == 1
            else None
        )

    moments = []
    with Endpoint(behave) as endpoint:
        project.ask_pipeline(endpoint.url, 1, model=f", transport: {transport}")
        run(project)
    assert moments[1] - moments[0] >= 1.5


HTTP_DATE = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 90_000))


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "headers, body",
    [
        ({"Retry-After": "86400"}, ""),
        ({"Retry-After": HTTP_DATE}, ""),
        ({"retry-after-ms": "90000000"}, ""),
        ({"x-ratelimit-reset-requests": "23h59m", "x-ratelimit-remaining-requests": "0"}, ""),
        ({"X-RateLimit-Reset": "{ms}"}, ""),
        ({"anthropic-ratelimit-tokens-reset": "{iso}", "anthropic-ratelimit-tokens-remaining": "0"}, ""),
        ({}, "Please retry in 25h3m2.5s"),
    ],
)
def test_a_pause_that_is_too_long_stops_the_run_and_says_so(project, transport, headers, body):
    later = time.time() + 90_000
    moments = {
        "{ms}": f"{later * 1000:.0f}",
        "{iso}": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(later)),
    }
    headers = {name: moments.get(value, value) for name, value in headers.items()}
    with Endpoint(lambda asked, times: said(429, openai(body or "slow down"), **headers)) as endpoint:
        project.ask_pipeline(endpoint.url, 20, model=f", max_concurrency: 1, transport: {transport}")
        run(project, expect=r"asks to wait 2\d.* hours.*run the same command again then")
        assert endpoint.asked.total() == 1
        endpoint.behave = None
        run(project)
    assert len(project.read("runs/ask/corpus.jsonl")) == 20


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"x-ratelimit-reset-tokens": "6m0.5s"}, 360.5),
        (
            {
                "x-ratelimit-reset-tokens": "6m",
                "x-ratelimit-remaining-tokens": "12",
                "x-ratelimit-reset-requests": "250ms",
            },
            0.25,
        ),
        ({"ratelimit-reset": "30"}, 30),
        ({"retry-after": "nonsense"}, 0),
        ({"retry-after": "-3"}, 0),
        ({}, 0),
    ],
)
def test_the_pause_that_headers_ask_for(headers, seconds):
    assert wait_of(headers, explanation_of(b""), limited=True) == pytest.approx(seconds)
    assert (
        "retry-after" in headers
        or "retry-after-ms" in headers
        or wait_of(headers, explanation_of(b""), limited=False) == 0
    )


REFUSING = {
    "response_format": "Invalid parameter: 'response_format' of type 'json_schema' is not supported "
    "with this model.",
    "seed": "Unknown parameter: 'seed'.",
    "n": "'n' : number must be at most 1",
    "temperature": "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default "
    "(1) value is supported.",
    "top_p": "`top_p` is deprecated for this model.",
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
    "'max_completion_tokens' instead.",
    "stop": "ValidationError: stop: Extra inputs are not permitted",
    "presence_penalty": "presence_penalty is not supported",
}
ALL = ", temperature: 0.7, top_p: 0.9, max_tokens: 50, seed: 3, stop: [x], presence_penalty: 0.5, n: 2"


def picky(*refused, form=openai, status=400, answer=lambda body: completion(body)):
    """An endpoint that names the first parameter that it does not take."""

    def behave(body, times):
        name = next((name for name in REFUSING if name in body and name in refused), None)
        return said(status, form(REFUSING[name])) if name else answer(body)

    return behave


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", [name for name in REFUSING if name != "response_format"])
def test_an_unsupported_parameter_is_left_out_with_one_note(project, transport, name):
    with Endpoint(picky(name)) as endpoint:
        project.ask_pipeline(
            endpoint.url, 12, model=f", transport: {transport}, max_concurrency: 1", stage=ALL
        )
        log = run(project)
        refused = [body for body in endpoint.bodies if name in body]
        assert len(refused) == 1, "once known, it is not sent again"
        assert log.count(f"the endpoint does not take '{name}'") == log.count("does not take") == 1
        assert all(
            ("max_completion_tokens" in body) == (name == "max_tokens")
            for body in endpoint.bodies
            if name not in body
        )
    rows = project.read("runs/ask/corpus.jsonl")
    assert len(rows) == 24


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_parameters_left_out_are_recorded_in_the_ledger(project, transport):
    with Endpoint(picky(*REFUSING)) as endpoint:
        project.ask_pipeline(
            endpoint.url, 8, model=f", transport: {transport}, max_concurrency: 4", stage=ALL
        )
        run(project)
        assert all(
            set(body) == {"model", "messages", "max_completion_tokens"} for body in endpoint.bodies[-8:]
        )
    assert len(project.read("runs/ask/corpus.jsonl")) == 16
    left_out = [json.loads(row[0]).get("left_out") for row in answers(project)]
    assert left_out == [["presence_penalty", "seed", "stop", "temperature", "top_p"]] * 16
    assert project.read("runs/ask/corpus.jsonl")[0]["meta"]["made"][0]["left_out"] == left_out[0]


def answers(project):
    import sqlite3

    (path,) = project.path.rglob("*.sqlite3")
    with sqlite3.connect(path) as ledger:
        return ledger.execute("SELECT completion, request FROM answers").fetchall()


def test_left_out_parameters_do_not_change_the_key(project):
    with Endpoint(picky("seed")) as endpoint:
        project.ask_pipeline(endpoint.url, 3, stage=", seed: 5")
        run(project)
        assert all(json.loads(request)["sampling"]["seed"] == 5 for _, request in answers(project))
        endpoint.behave, before = None, endpoint.asked.total()
        run(project)
        assert endpoint.asked.total() == before


@pytest.mark.parametrize(
    "form",
    [
        lambda text: {
            "object": "error",
            "message": {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", text.split("'")[1]],
                        "msg": "Extra inputs are not permitted",
                        "input": 1,
                    }
                ]
            },
        },
        lambda text: {
            "detail": [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", text.split("'")[1]],
                    "msg": "Extra inputs are not permitted",
                }
            ]
        },
        lambda text: {"message": text},
        lambda text: {"error": text},
        lambda text: text,
        lambda text: [{"error": {"code": 400, "message": text, "status": "INVALID_ARGUMENT"}}],
        lambda text: openai(
            "Unsupported parameter", "unsupported_parameter", "invalid_request_error", text.split("'")[1]
        ),
    ],
)
@pytest.mark.parametrize("status", [400, 422, 500, 200])
def test_a_parameter_that_is_not_taken_is_known_in_the_words_of_many(form, status):
    content = form(REFUSING["seed"])
    content = (content if isinstance(content, str) else json.dumps(content)).encode()
    assert (
        refused_parameter(status, explanation_of(content), ["model", "messages", "temperature", "n", "seed"])
        == "seed"
    )
    assert refused_parameter(status, explanation_of(content), ["model", "messages", "temperature", "n"]) == ""
    assert refused_parameter(429, explanation_of(content), ["seed"]) == ""


@pytest.mark.parametrize("status", [400, 200])
def test_a_parameter_is_left_out_also_where_the_status_is_200(project, status):
    with Endpoint(picky("seed", status=status)) as endpoint:
        project.ask_pipeline(endpoint.url, 3, model=", max_concurrency: 1", stage=", seed: 5")
        run(project)
        assert endpoint.asked.total() == 4


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_missing_log_probabilities_are_reported_before_payment(project, transport):
    with Endpoint(lambda body, times: said(400, openai("This model does not support logprobs."))) as endpoint:
        project.ask_pipeline(
            endpoint.url,
            30,
            model=f", max_concurrency: 1, transport: {transport}",
            stage=", logprobs: 2, seed: 3",
        )
        run(
            project, expect="gives no log-probabilities: leave 'logprobs' out, or ask a model that gives them"
        )
        assert endpoint.asked.total() == 1


def test_a_wrong_value_is_the_pipelines_mistake(project):
    with Endpoint(
        lambda body, times: said(400, openai("temperature must be between 0 and 1", param="temperature"))
    ) as endpoint:
        project.ask_pipeline(endpoint.url, 100, model=", max_concurrency: 4", stage=", temperature: 1.7")
        run(project, expect="must be between")
        assert all("temperature" in body for body in endpoint.bodies)


def test_a_row_refused_without_the_parameter_too_proves_nothing(project):
    """Its refusal only seems to be about a parameter."""

    def behave(body, times):
        return (
            said(400, openai("Unsupported text: temperature"))
            if body["messages"][0]["content"] == "What is 1?"
            else None
        )

    with Endpoint(behave) as endpoint:
        project.ask_pipeline(endpoint.url, 4, model=", max_concurrency: 1", stage=", temperature: 0.5")
        log = run(project)
        assert [*dropped(project)] == [1] and "does not take" not in log
        assert sum("temperature" not in body for body in endpoint.bodies) == 1


def test_the_token_bound_is_sent_under_its_other_name(project):
    price = ", price: {input: 1000, output: 10000}, max_concurrency: 4"
    with Endpoint(picky("max_tokens")) as endpoint:
        project.ask_pipeline(endpoint.url, 40, model=price, stage=", max_tokens: 50")
        run(project, max_cost_usd=1.5, expect="max-cost-usd")
        usage = json.loads((project.path / "runs/ask/usage.json").read_text())["totals"]
        assert 0.5 < usage["cost_usd"] <= 1.5
        assert {body["max_completion_tokens"] for body in endpoint.bodies if "max_tokens" not in body} == {50}
    REFUSING["max_completion_tokens"] = "max_completion_tokens: unknown field"
    try:
        with Endpoint(picky("max_tokens", "max_completion_tokens")) as endpoint:
            project.ask_pipeline(endpoint.url, 5, model=price, stage=", max_tokens: 50")
            run(project, "b", max_cost_usd=100, expect="the cap could not hold")
            run(project, "b")
    finally:
        del REFUSING["max_completion_tokens"]
    assert len(project.read("runs/b/corpus.jsonl")) == 5


def events(body, choices=1, usage=True, end=True, error=None):
    """A chat completion as a stream of server-sent events, a character at a time."""
    pieces = []
    for i in range(choices):
        for j, character in enumerate(reply(body, i)):
            delta = {"content": character} | (
                {"role": "assistant", "reasoning_content": "hm"} if j == 0 else {}
            )
            pieces.append({"index": i, "delta": delta, "finish_reason": None})
        pieces.append({"index": i, "delta": {}, "finish_reason": "stop"})
    lines = [": PROCESSING", ""] + [
        f"data: {json.dumps({'model': body['model'], 'choices': [piece]})}\n" for piece in pieces
    ]
    lines = lines[: len(lines) // 2] if not end else lines
    lines += (
        [f"data: {json.dumps({'choices': [], 'usage': {'prompt_tokens': 10, 'completion_tokens': 5}})}\n"]
        if usage and end
        else []
    )
    lines += [f"data: {json.dumps(error)}\n"] if error else []
    lines += ["data: [DONE]\n"] if end else []
    return web.Response(text="\n".join(lines) + "\n", content_type="text/event-stream")


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("how", ["always", "asked", "asked, no stream_options"])
def test_an_endpoint_that_answers_only_as_a_stream(project, transport, how):
    def behave(body, times):
        if how != "always" and not body.get("stream"):
            return said(
                400,
                openai(
                    "This model only support stream mode, please enable the stream parameter "
                    "to access the model."
                ),
            )
        if how == "asked, no stream_options" and "stream_options" in body:
            return said(400, openai("Unknown parameter: 'stream_options'."))
        return events(body)

    with Endpoint(behave) as endpoint:
        project.ask_pipeline(
            endpoint.url,
            5,
            model=f", max_concurrency: 1, transport: {transport}",
            stage=", reasoning: thought",
        )
        done = project.cli("run", "ask")
        assert endpoint.asked.total() == 5 + {"always": 0, "asked": 1, "asked, no stream_options": 2}[how]
        assert done.stderr.count("only as a stream") == (how != "always")
    rows = project.read("runs/ask/corpus.jsonl")
    assert [row["answer"] for row in rows] == [
        reply({"messages": [{"role": "user", "content": f"What is {i}?"}]}) for i in range(5)
    ]
    assert rows[0]["thought"] == "hm"
    totals = json.loads((project.path / "runs/ask/usage.json").read_text())["totals"]
    assert totals["output_tokens"] == 25


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_broken_stream_is_asked_again_and_an_error_is_reported(project, transport):
    with Endpoint(lambda body, times: events(body, end=times > 1)) as endpoint:
        project.ask_pipeline(endpoint.url, 3, model=f", transport: {transport}")
        run(project)
        assert endpoint.asked.total() == 6
        endpoint.behave = lambda body, times: events(body, end=False, error=openai("Insufficient Balance"))
        run(project, "b", expect="no money or quota")


def test_what_comes_in_pieces_is_put_together():
    calls = [
        {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ": 1}"}},
    ]
    pieces = [{"delta": {"tool_calls": [call]}} for call in calls]
    pieces += [{"delta": {"content": "x"}, "logprobs": {"content": [{"token": "x", "logprob": -1}]}}] * 2 + [
        {"delta": {}, "finish_reason": "tool_calls"}
    ]
    (choice,) = unstreamed(
        "".join(f"data: {json.dumps({'choices': [piece]})}\n\n" for piece in pieces).encode()
    )["choices"]
    assert choice["message"]["tool_calls"] == [
        {"type": "function", "id": "c", "function": {"name": "f", "arguments": '{"a": 1}'}}
    ]
    assert (
        choice["message"]["content"] == "xx"
        and len(choice["logprobs"]["content"]) == 2
        and choice["finish_reason"] == "tool_calls"
    )
    assert (
        unstreamed(
            b'data: {"choices": [{"text": "a"}]}\n\ndata: {"choices": [{"text": "b"}]}\n\ndata: [DONE]'
        )["choices"][0]["text"]
        == "ab"
    )


class Elsewhere(Endpoint):
    """Also answers under other paths: what is asked of them is in `paths`."""

    def routes(self, router):
        super().routes(router)
        self.paths = []

        async def note(request):
            self.paths.append(str(request.rel_url))
            return await self._answer(request)

        router.add_post("/v1/chat/completions/", note)
        router.add_post("/openai/deployments/d/chat/completions", note)
        router.add_post("/v2/chat/completions", note)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_web_page_with_status_200_is_told_at_once(project, transport):
    page = "<!doctype html>\n<html><head><title>Welcome to\n nginx!</title></head></html>"
    with Endpoint(lambda body, times: web.Response(text=page, content_type="text/html")) as endpoint:
        project.ask_pipeline(endpoint.url, 100, model=f", max_concurrency: 2, transport: {transport}")
        run(
            project,
            expect=r"gives a web page \(Welcome to nginx!\), and no answer. Check base_url: most end in /v1",
        )
        assert endpoint.asked.total() <= 4


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_status_200_without_an_answer_ends_a_hopeless_run_only(project, transport):
    """Twenty requests that fail, none that was answered: the pipeline is wrong, not its rows."""
    with Endpoint(lambda body, times: {"ok": True}) as endpoint:
        project.ask_pipeline(
            endpoint.url, 100, model=f", max_concurrency: 4, max_retries: 0, transport: {transport}"
        )
        run(project, expect="none of 2. requests was accepted")
        endpoint.behave = lambda body, times: {"ok": True} if endpoint.asked.total() > 45 else None
        run(project, "b")
    assert len(project.read("runs/b/dropped.jsonl")) > 20


@pytest.mark.parametrize(
    "base_url, hint",
    [
        ("{}", r"Check base_url \(http://[\d.:]+; most end in /v1\) and model"),
        ("{}/v1/chat/completions", r"/v1/chat/completions; it ends before /chat/completions\) and model"),
        ("{}/other/v1", r"/other/v1\) and model"),
    ],
)
def test_an_address_with_nothing_there_is_told_with_what_it_should_be(project, base_url, hint):
    with Endpoint() as endpoint:
        project.ask_pipeline(base_url.format(endpoint.url.removesuffix("/v1")), 1)
        run(project, expect=hint)


@pytest.mark.parametrize(
    "cause, remedy",
    [
        ("invalid peer certificate: UnknownIssuer", "trust a certificate of your own: export SSL_CERT_FILE="),
        ("[SSL: CERTIFICATE_VERIFY_FAILED]", "export SSL_CERT_FILE="),
        ("received corrupt message of type InvalidContentType", "does base_url begin with http://"),
        ("Connection refused (os error 111)", "Is the server running, and base_url right?"),
    ],
)
def test_a_failed_connection_is_told_with_its_remedy(cause, remedy):
    told = str(unreachable(Address(base_url="https://me:secret@a.example/v1"), cause))
    assert told.startswith(f"cannot connect to https://a.example/v1: {cause}. ") and remedy in told


def test_an_outage_that_does_not_end_stops_the_run(project, monkeypatch):
    """The server answers five requests, and then none. One that answers now and then is no outage, and a
    short one stops nothing.
    """

    def behave(body, times):
        number = int(body["messages"][0]["content"].split()[-1].rstrip("?"))
        return web.Response(status=500) if number > 5 and (endless or number % 10) else None

    with Endpoint(behave, latency_s=0.02) as endpoint:
        project.ask_pipeline(endpoint.url, 200, model=", max_concurrency: 4, max_retries: 0")
        for name, endless, outage_s, expect in (
            ("a", True, 3600.0, None),
            ("b", False, 0.0, None),
            ("c", True, 0.3, "no answer for 0 minutes.*HTTP 500.*When the endpoint is back.*--retry-failed"),
        ):
            monkeypatch.setattr("distillgen.inference.teacher.OUTAGE_S", outage_s)
            endpoint.asked.clear()
            run(project, name, expect=expect)
            total = endpoint.asked.total()
            assert 25 <= total < 150 if endless and expect else total == 200


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_elsewhere_is_told_at_once_with_where_it_goes(project, transport, status):
    def moved(body, times):
        return web.Response(
            status=status, headers={"Location": "https://api.example.org/v1/chat/completions?x=secret"}
        )

    with Endpoint(moved) as endpoint:
        project.ask_pipeline(endpoint.url, 50, model=f", max_concurrency: 2, transport: {transport}")
        run(
            project,
            expect=rf"HTTP {status}.*redirects to https://api.example.org/v1/chat/completions.*Set base_url.*https://api.example.org/v1\?",
        )
        assert endpoint.asked.total() <= 2
    assert b"x=secret" not in (project.path / "runs/ask/run.log").read_bytes()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_redirect_is_followed_at_the_same_address(project, transport):
    model = f", max_concurrency: 2, transport: {transport}"
    with Elsewhere() as endpoint:
        endpoint.behave = lambda body, times: (
            web.Response(status=307, headers={"Location": "/v1/chat/completions/"}) if times == 1 else None
        )
        project.ask_pipeline(endpoint.url, 4, model=model)
        run(project)
        assert endpoint.paths == ["/v1/chat/completions/"] * 4
        endpoint.behave = lambda body, times: web.Response(
            status=308, headers={"Location": "/v1/chat/completions/"}
        )
        run(project, "b", expect="redirects again and again")


class Storage(Endpoint):
    """Gives the file of another endpoint, and shows the headers with which it was asked."""

    files: dict[str, bytes] = {}

    def routes(self, router):
        router.add_route("*", "/v1/{path:.*}", self._give)

    async def _give(self, request):
        self.headers.append(dict(request.headers))
        name = request.path.split("/")[-2]
        return web.Response(body=self.files.get(name, b""), content_type="application/octet-stream")


BATCH = ", mode: batch, gather_s: 0.25, poll_s: 0.05, headers: {x-secret: header-abcdef}"


def test_a_redirect_of_the_batch_api_takes_no_prompt_and_no_key_to_another_host(project, monkeypatch):
    """A file of results may lie elsewhere; the key of Azure, and headers of the entry, do not go there."""
    monkeypatch.setattr("distillgen.teachers._openai_batch.UPLOADS", 0)

    def moved(request):
        port = storage.port if request.path.endswith(away[0]) else endpoint.port
        there = f"http://127.0.0.1:{port}{request.path}?{request.query_string}&moved=1"
        return "" if "moved" in request.query else there

    away = [""]
    with Storage() as storage, BatchEndpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 3, model=BATCH)
        endpoint.redirect, storage.files = moved, endpoint.files
        for path in ("/files", "/batches"):
            away[:] = [path]
            run(project, expect="redirects to http://127.0.0.1:[0-9]*. Set base_url")
        assert not storage.headers and not endpoint.batches
        away[:] = ["/content"]
        run(project)
        assert len(endpoint.batches) == 1 and len(project.read("runs/ask/corpus.jsonl")) == 3
    sent = json.dumps(storage.headers).lower()
    assert storage.headers and "x-secret" not in sent and "secret-key-123" not in sent


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("status", [201, 202])
def test_any_status_of_success_is_one(project, transport, status):
    with Endpoint(lambda body, times: web.json_response(completion(body), status=status)) as endpoint:
        project.ask_pipeline(endpoint.url, 3, model=f", transport: {transport}")
        run(project)
        assert endpoint.asked.total() == 3


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_wrong_content_type_does_not_matter(project, transport):
    with Endpoint(
        lambda body, times: web.Response(text=json.dumps(completion(body)), content_type="text/html")
    ) as endpoint:
        project.ask_pipeline(endpoint.url, 3, model=f", transport: {transport}")
        run(project)
        assert endpoint.asked.total() == 3


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_address_with_a_query_as_azure_has(project, transport):
    with Elsewhere() as endpoint:
        url = endpoint.url.replace("/v1", "/openai/deployments/d/?api-version=2024-06-01&x=a%20b")
        project.ask_pipeline(url, 2, model=f", transport: {transport}")
        run(project)
        (path,) = set(endpoint.paths)
    path, query = path.split("?")
    assert path == "/openai/deployments/d/chat/completions"
    assert sorted(query.replace("%20", "+").split("&")) == ["api-version=2024-06-01", "x=a+b"]


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "http:///v1", "ftp://host/v1", "http://my host/v1", "http://ho\x7fst/v1"]
    + [f"http://host:{port}/v1" for port in (0, 80_000, "x")]
    + ["http://[::1/v1"],
)
def test_what_is_no_address_of_an_endpoint(url):
    from distillgen.teachers._addresses import Address

    for right in ("http://localhost:8000/v1", "https://host", "http://[::1]:1/v1", "http://häuser.de/v1"):
        Address(base_url=right).check(Path())
    with pytest.raises(ConfigError, match="is not an address like http://localhost:8000/v1"):
        Address(base_url=url).check(Path())


@pytest.mark.parametrize("timeout_s", [0, -1, 1e30])
def test_a_wait_that_no_client_takes(timeout_s):
    from distillgen.teachers._http_spec import HttpSpec

    assert HttpSpec(provider="openai", model="m", timeout_s=0.001).timeout_s == 0.001
    with pytest.raises(ValueError, match="timeout_s"):
        HttpSpec(provider="openai", model="m", timeout_s=timeout_s)


def test_azure_is_given_the_key_in_its_own_header():
    from distillgen.teachers._addresses import Address, azure_headers

    assert azure_headers(Address(base_url="https://r.openai.azure.com/openai/v1", api_key="key-12345")) == {
        "api-key": "key-12345"
    }
    assert not azure_headers(Address(base_url="https://api.azure.com.example.org/v1", api_key="key-12345"))


class Proxy(Endpoint):
    """A proxy that lets nothing through."""

    def routes(self, router):
        async def refuse(request):
            self.asked[str(request.url)] += 1
            return self.behave(None, 1)

        router.add_route("*", "/{tail:.*}", refuse)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "status, text",
    [
        (503, "no route"),
        (502, ""),
        (504, ""),
        (407, "who?"),
        (403, "not this host"),
        (200, "<title>Portal</title>"),
    ],
)
def test_a_proxy_that_is_in_the_way_is_named_at_once(project, transport, status, text, monkeypatch):
    with Proxy(lambda body, times: web.Response(status=status, text=text)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:password@127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        project.ask_pipeline(
            "http://model.example/v1", 40, model=f", max_concurrency: 1, transport: {transport}"
        )
        log = run(
            project,
            expect=rf"through the proxy 127.0.0.1:{proxy.port} that HTTP_PROXY names "
            r".NO_PROXY=model.example does without it",
        )
        assert proxy.asked.total() <= 4 and "password" not in log


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_proxy_is_not_asked_for_what_is_on_this_machine(project, transport, monkeypatch, endpoint):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    project.ask_pipeline(endpoint.url, 3, model=f", transport: {transport}")
    run(project)
    assert endpoint.asked.total() == 3


def test_a_proxy_that_is_not_there_is_named(project, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    for transport in TRANSPORTS:
        project.ask_pipeline("https://model.example/v1", 4, model=f", transport: {transport}")
        run(project, transport, expect="through the proxy 127.0.0.1:9 that HTTPS_PROXY names")


@pytest.mark.parametrize("name", ["seed", "max_tokens"])
def test_a_batch_line_is_resubmitted_without_the_refused_parameter(project, name):
    with BatchEndpoint(picky(name)) as endpoint:
        project.ask_pipeline(
            endpoint.url,
            6,
            model=", mode: batch, gather_s: 0.8, poll_s: 0.05",
            stage=", seed: 3, max_tokens: 9",
        )
        log = run(project)
        assert len(endpoint.batches) == 2 and log.count("does not take") == 1
    assert len(project.read("runs/ask/corpus.jsonl")) == 6
    assert all(
        json.loads(row[0]).get("left_out") == ([name] if name == "seed" else None) for row in answers(project)
    )


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_schema_that_is_not_taken_is_said_in_words(project, transport, api):
    def answer(body):
        asked = body["prompt"] if api == "completions" else body["messages"][-1]["content"]
        assert (
            asked.startswith("What is")
            and "by this JSON Schema: {" in asked
            and asked.count("JSON Schema") == 1
        )
        text = json.dumps({"value": "x"})
        return completion(
            body,
            choices=[
                {"index": 0, "finish_reason": "stop", "text": text}
                if api == "completions"
                else {"index": 0, "finish_reason": "stop", "message": {"content": text}}
            ],
        )

    with Endpoint(picky("response_format", answer=answer)) as endpoint:
        path = project.ask_pipeline(
            endpoint.url, 4, model=f", transport: {transport}, api: {api}, max_concurrency: 1"
        )
        project.write("prompts/p.md", "---\noutput: {json: {value: string}}\n---\n@user\n{{ question }}\n")
        path.write_text(path.read_text().replace('template: "{{ question }}", output: answer', "prompt: p"))
        run(project)
        assert sum("response_format" in body for body in endpoint.bodies) == 1
    assert [row["value"] for row in project.read("runs/ask/corpus.jsonl")] == ["x"] * 4


VALUES = [
    ("temperature", 400, openai("temperature must be between 0 and 1")),
    ("temperature", 400, openai("Invalid 'temperature': decimal above maximum value.", param="temperature")),
    ("temperature", 400, openai("temperature: Input should be less than or equal to 1")),
    (
        "temperature",
        422,
        {"detail": [{"loc": ["body", "temperature"], "msg": "Input should be less than 1.5"}]},
    ),
    (
        "temperature",
        400,
        [
            {
                "error": {
                    "message": "* GenerateContentRequest.generation_config.temperature: in the range [0, 2]"
                }
            }
        ],
    ),
    ("temperature", 200, openai("temperature is 3, too high", 400)),
    ("temperature", 400, openai("temperature 3 is not supported: it is between 0 and 2")),
    ("maxTokens", 400, {"message": "The maximum tokens you requested exceeds the model limit of 4096."}),
    (
        "max_tokens",
        400,
        openai("max_tokens is too large: 99999. It supports at most 16384 completion tokens"),
    ),
    ("max_tokens", 400, openai("max_tokens: 99999 > 8192, which is the maximum allowed")),
    ("topP", 400, {"message": "Value '3' at 'inferenceConfig.topP' failed to satisfy constraint"}),
    ("thinking", 400, openai("thinking.budget_tokens: Input should be greater than or equal to 1024")),
    (
        "reasoning_effort",
        400,
        openai("Invalid value: 'vast'. Expected 'low' or 'high'", param="reasoning_effort"),
    ),
    ("stop", 400, openai("Expected at most 4 items", None, None, "stop")),
    (
        "response_format",
        400,
        openai("Invalid schema for response_format 'answer': In context=(), a is missing"),
    ),
    ("model", 400, openai("Invalid model: m")),
    # about one row, or about what is left out
    ("", 400, openai("max_tokens is too large: 3000. The maximum context length is 4096 tokens")),
    ("", 400, openai("input length and `max_tokens` exceed context limit: 199000 + 8000 > 200000")),
    ("", 400, openai("`inputs` tokens + `max_tokens` must be <= 4096")),
    ("", 422, {"detail": [{"loc": ["body", "messages", 0, "content"], "msg": "Input should be a string"}]}),
    ("", 400, openai("system: text content blocks must be non-empty")),
    ("", 400, openai("the service had to stop at the n of a seed")),
    ("", 400, openai("too bad")),
    ("", 500, openai("temperature must be between 0 and 1")),
    ("", 400, openai(REFUSING["temperature"])),
    ("", 400, openai(REFUSING["n"])),
]


@pytest.mark.parametrize("name, status, body", VALUES)
def test_a_complaint_that_names_a_parameter_is_about_its_value(name, status, body):
    sent = "messages system model temperature topP max_tokens maxTokens thinking stop n seed reasoning_effort"
    sent = sent.replace(" max_tokens" if name == "maxTokens" else " maxTokens", "")
    names, words = [*sent.split(), "response_format"], explanation_of(json.dumps(body).encode())
    assert refused_value(status, words, names, refused_parameter(status, words, names)) == name


def hot(asked, times):
    refused = asked.get("temperature", 0) > 2
    return said(400, openai("temperature must be between 0 and 2")) if refused else None


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_value_that_is_not_accepted_stops_the_run_at_the_first_request(project, transport):
    """Also after answers to another stage, which has another value."""
    model = f", max_concurrency: 1, transport: {transport}"
    second = (
        '  - generate: {name: more, model: teacher, template: "{{ answer }}", output: more, temperature: 3}\n'
    )
    with Endpoint(hot) as endpoint:
        project.ask_pipeline(endpoint.url, 30, model=model, stage=", temperature: 3")
        run(project, expect="does not accept 'temperature: 3'.*the model's entry, the stage")
        assert endpoint.asked.total() == 1
        project.ask_pipeline(endpoint.url, 30, model=model, stage=", temperature: 1", after=second)
        run(project, "b", expect="does not accept 'temperature: 3'")
        refusals = [body for body in endpoint.bodies if body["temperature"] == 3]
        assert len(refusals) == 2 and endpoint.asked.total() > 2
        project.ask_pipeline(endpoint.url, 30, model=model, stage=", temperature: 1")
        run(project, "b")
    assert len(project.read("runs/b/corpus.jsonl")) == 30


@pytest.mark.parametrize("mode", ["max_concurrency: 1", "mode: batch, gather_s: 0.8, poll_s: 0.05"])
def test_a_value_with_which_others_were_answered_is_about_the_row(project, mode):
    def behave(asked, times):
        odd = asked["messages"][0]["content"] == "What is 3?"
        return said(400, openai("temperature must be between 0 and 1")) if odd else None

    with BatchEndpoint(behave) as endpoint:
        project.ask_pipeline(endpoint.url, 6, model=f", {mode}", stage=", temperature: 1")
        run(project)
    assert [*dropped(project)] == [3]


def test_a_batch_whose_value_is_not_accepted_stops_the_run_and_can_be_run_again(project):
    with BatchEndpoint(hot) as endpoint:
        path = project.ask_pipeline(
            endpoint.url, 6, model=", mode: batch, gather_s: 0.8, poll_s: 0.05", stage=", temperature: 3"
        )
        run(project, expect="does not accept 'temperature'")
        assert len(endpoint.batches) == 1
        path.write_text(path.read_text().replace("temperature: 3", "temperature: 1"))
        run(project)
    assert len(project.read("runs/ask/corpus.jsonl")) == 6
