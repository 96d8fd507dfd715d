"""An incomplete or unexpected answer is recorded as such, and never counts as success, by every route."""

import json

import pytest
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st

import distillgen
from distillgen.inference.request import Completion, Request
from tests.batch_endpoint import BatchEndpoint
from tests.endpoint import Endpoint, completion

BATCH = ", mode: batch, gather_s: 0.05, poll_s: 0.05"


def chat(content="half", finish="stop", **message):
    return {"finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}


def answered(choice, **more):
    """An endpoint whose every answer has these choices."""
    choices = choice if isinstance(choice, list) else [choice]
    return Endpoint(lambda body, times: completion(body, choices=choices, **more))


def dropped(project):
    return [
        (row["meta"]["dropped"]["filter"], row["meta"]["dropped"]["reason"])
        for row in project.read("runs/ask/dropped.jsonl")
    ]


def run(project, failed=0, sets=()):
    """Carry it out; so many answers cannot be used."""
    state = distillgen.run("ask", sets=sets).state
    assert state["failed"] == failed, state["dropped"]


WHOLE = [
    "stop",
    "STOP",
    "end_turn",
    "stop_sequence",
    "eos",
    "eos_token",
    "COMPLETE",
    "FINISH_REASON_STOP",
    "Stop",
]
NOT_WHOLE = {
    "truncated": [
        "length",
        "max_tokens",
        "MAX_TOKENS",
        "model_length",
        "model_context_window_exceeded",
        "max_output_tokens",
        "LENGTH",
    ],
    "refused": [
        "content_filter",
        "SAFETY",
        "RECITATION",
        "content_filtered",
        "PROHIBITED_CONTENT",
        "BLOCKLIST",
        "SPII",
        "sensitive",
        "refusal",
    ],
    "failed": [
        "error",
        "abort",
        "network_error",
        "insufficient_system_resource",
        "OTHER",
        "no_word_that_is_known",
        "",
        None,
        7,
        {"a": 1},
        "tool_calls",
    ],
}


def test_each_finish_reason_says_whether_the_answer_is_whole(project):
    words = [
        *((word, "kept") for word in WHOLE),
        *((word, kind) for kind, some in NOT_WHOLE.items() for word in some),
    ]

    def behave(body, times):
        number = int(body["messages"][0]["content"][8:-1])
        return completion(body, choices=[chat("half", words[number][0])])

    with Endpoint(behave) as endpoint:
        project.ask_pipeline(endpoint.url, len(words))
        for _ in range(2):  # what is recorded is not asked for again
            run(project, len(words) - len(WHOLE))
        assert len(endpoint.bodies) == len(words)
    found = {row["number"]: "kept" for row in project.read("runs/ask/corpus.jsonl")}
    found |= {
        row["number"]: row["meta"]["dropped"]["filter"] for row in project.read("runs/ask/dropped.jsonl")
    }
    assert [found[i] for i in range(len(words))] == [kind for _, kind in words]
    reasons = " ".join(reason for _, reason in dropped(project))
    for word in (
        "model_length",
        "SAFETY",
        "network_error",
        "no_word_that_is_known",
        "finish_reasons: [missing]",
    ):
        assert word in reasons


@pytest.mark.parametrize("how", ["completions", "batch", "package"])
def test_on_every_way_in(project, how):
    choice = (
        {"text": "half", "finish_reason": "MAX_TOKENS"}
        if how == "completions"
        else chat("half", "MAX_TOKENS")
    )
    with BatchEndpoint(lambda body, times: completion(body, choices=[choice])) as endpoint:
        more = {"completions": ", api: completions", "batch": BATCH, "package": ", transport: openai"}[how]
        project.ask_pipeline(endpoint.url, 2, model=more)
        run(project, 2)
    assert [kind for kind, _ in dropped(project)] == ["truncated"] * 2


def test_an_unknown_word_is_allowed_later_and_nothing_is_asked_again(project):
    with answered(chat("whole", "all_said")) as endpoint:
        path = project.ask_pipeline(endpoint.url, 2)
        run(project, 2)
        assert "finish_reasons: [all_said]" in dropped(project)[0][1]
        path.write_text(path.read_text().replace("model: m", "model: m, finish_reasons: [all_said]"))
        run(project)
        assert (
            len(endpoint.bodies) == 2
            and [row["answer"] for row in project.read("runs/ask/corpus.jsonl")] == ["whole"] * 2
        )
        run(project)
        run(project, 2, ["teacher.finish_reasons=[missing]"])
        assert len(endpoint.bodies) == 2


def test_answers_of_earlier_versions_keep_their_status(project, endpoint):
    import sqlite3

    project.ask_pipeline(endpoint.url, 1)
    run(project)
    ledger = sqlite3.connect(distillgen.Run(project.path / "runs/ask").ledger)
    old = json.dumps({"text": "<think>old</think> kept", "model": "m"}).encode()
    with ledger:
        ledger.execute("UPDATE answers SET completion = ?", (old,))
    ledger.close()
    (project.path / "runs/ask/usage.json").unlink()
    run(project)
    assert (
        len(endpoint.bodies) == 1
        and project.read("runs/ask/corpus.jsonl")[0]["answer"] == "<think>old</think> kept"
    )


@pytest.mark.parametrize("how", ["", ", api: completions", BATCH])
def test_reasoning_is_split_off_and_unclosed_reasoning_is_no_answer(project, how):
    def behave(body, times):
        asked = body["prompt"] if "prompt" in body else body["messages"][0]["content"]
        text = ["hm</think>\nyes", "\n<think>hm</think>yes", "<thinking>hm", "yes"][int(asked[8])]
        return completion(
            body, choices=[{"text": text, "finish_reason": "stop"} if "prompt" in body else chat(text)]
        )

    with BatchEndpoint(behave) as endpoint:
        project.ask_pipeline(endpoint.url, 4, model=how, stage=", reasoning: thoughts")
        run(project, 1)
    rows = [(row["answer"], row["thoughts"]) for row in project.read("runs/ask/corpus.jsonl")]
    assert rows == [("yes", "hm"), ("yes", "hm"), ("yes", "")]
    assert dropped(project) == [("failed", "the answer is a thought that does not end")]


def test_a_form_that_asks_for_a_tag_gets_it(project):
    with answered(chat("<reasoning>hm</reasoning> <answer>yes</answer>")) as endpoint:
        project.write(
            "prompts/p.md",
            "---\noutput: {sections: [reasoning, answer]}\n---\n"
            "{{ question }} As <reasoning>…</reasoning><answer>…</answer>.\n",
        )
        path = project.ask_pipeline(endpoint.url, 1)
        path.write_text(path.read_text().replace('template: "{{ question }}", output: answer', "prompt: p"))
        run(project)
    assert project.read("runs/ask/corpus.jsonl")[0]["reasoning"] == "hm"


CALLS = [{"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]


@pytest.mark.parametrize(
    "choice, why",
    [
        (chat(None, "tool_calls", tool_calls=CALLS), "calls a tool, 'look', and was offered none"),
        (chat("I look.", "tool_calls", tool_calls=CALLS), "'look'"),
        (chat("I look.", "stop", tool_calls=CALLS), "'look'"),
        (chat("", "tool_calls"), "calls no tool"),
        (chat(None, "function_call", function_call={"name": "look", "arguments": "{}"}), "'look'"),
        (chat(""), "the answer is empty"),
        (chat(None), "the answer is empty"),
        (chat([]), "the answer is empty"),
        (chat([{"type": "image_url", "image_url": {"url": "x"}}]), "'image_url'"),
        (chat([{"type": "text", "text": "so"}, {"type": "audio"}]), "'audio'"),
        (chat({"type": "weather"}), "'weather'"),
        (chat(7), "'int'"),
        (chat([7]), "'int'"),
        (chat([None]), "'NoneType'"),
        (chat([{"type": "refusal", "refusal": "No."}]), "the teacher refused: No."),
        (chat(None, refusal="No."), "the teacher refused: No."),
        (chat(None, "content_filter"), "the teacher refused: it, or a content filter, gave no text"),
        ({"finish_reason": "stop", "message": "text"}, "no message"),
        ({"finish_reason": "stop"}, "no message"),
    ],
)
def test_what_is_no_answer_is_kept_as_what_it_is_and_not_bought_again(project, choice, why):
    with answered(choice) as endpoint:
        project.ask_pipeline(endpoint.url, 2)
        run(project, 2)
        run(project, 2)
        assert len(endpoint.bodies) == 2
    assert len(dropped(project)) == 2 and all(why in reason for _, reason in dropped(project))


def test_text_in_parts_is_text_and_thought_in_parts_is_thought(project):
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "ye"},
        "s",
    ]
    with answered(chat(parts)) as endpoint:
        project.ask_pipeline(endpoint.url, 1, stage=", reasoning: thoughts")
        run(project)
    row = project.read("runs/ask/corpus.jsonl")[0]
    assert (row["answer"], row["thoughts"]) == ("yes", "hm")


def test_an_unusable_sample_does_not_affect_the_others(project):
    with answered([chat("one"), {"message": 7}, chat("three")]) as endpoint:
        project.ask_pipeline(endpoint.url, 1, stage=", n: 3")
        run(project, 1)
        assert len(endpoint.bodies) == 1
    assert [row["answer"] for row in project.read("runs/ask/corpus.jsonl")] == ["one", "three"]


TOKENS = [
    {"token": "ye", "logprob": -0.5, "top_logprobs": [{"token": "no", "logprob": -1.0}]},
    {"token": "s", "logprob": -0.25, "top_logprobs": []},
]


def with_first(**changes):
    return {"content": [TOKENS[0] | changes, TOKENS[1]]}


@pytest.mark.parametrize(
    "logprobs, why",
    [
        (None, "none that are numbers"),
        ({}, "none that are numbers"),
        ({"content": None}, "none that are numbers"),
        ("none", "none that are numbers"),
        (with_first(logprob="-0.5"), "none that are numbers"),
        (with_first(logprob=None), "none that are numbers"),
        (with_first(token=7), "none that"),
        (with_first(logprob=float("nan")), "none that are numbers"),
        (with_first(logprob=float("-inf")), "none that are numbers"),
        ([1, 2], "none that"),
        ({"content": TOKENS[:1]}, "of 1 tokens only"),
        (with_first(top_logprobs=[]), "1 alternatives of each token"),
        (with_first(top_logprobs=None), "1 alt"),
    ],
)
def test_signals_that_were_asked_for_and_did_not_come_are_missed(project, logprobs, why):
    with answered(chat("yes") | {"logprobs": logprobs}) as endpoint:
        project.ask_pipeline(endpoint.url, 2, stage=", logprobs: 1")
        run(project, 2)
        run(project, 2)
        assert len(endpoint.bodies) == 2
    assert [kind for kind, _ in dropped(project)] == ["failed"] * 2 and all(
        why in reason for _, reason in dropped(project)
    )


@pytest.mark.parametrize(
    "alternatives",
    [
        [
            {"token": "no", "logprob": -1.0},
            {"token": "x", "logprob": float("nan")},
            7,
            {"token": None, "logprob": -1},
        ]
    ],
)
def test_an_alternative_that_is_no_number_is_left_out(project, alternatives):
    with answered(chat("yes") | {"logprobs": with_first(top_logprobs=alternatives)}) as endpoint:
        project.ask_pipeline(endpoint.url, 1, stage=", logprobs: 1")
        run(project)
    assert project.read("runs/ask/corpus.jsonl")[0]["meta"]["scores"]["generate.logprob"] == -0.75


def test_signals_of_every_spelling_of_a_text_count_as_all_of_it(project):
    """Bytes of a character in tokens of their own, blanks as other characters, tokens that end the answer."""
    tokens = [{"token": token, "logprob": -0.5} for token in ("Ġyes", ",", "▁", "", "<|im_end|>")]
    with answered(chat("yes, \N{GRINNING FACE}") | {"logprobs": {"content": tokens}}) as endpoint:
        project.ask_pipeline(endpoint.url, 1, stage=", logprobs: 0")
        run(project)


def test_an_endpoint_without_signals_stops_the_run_early(project):
    with answered(chat("yes")) as endpoint:
        project.ask_pipeline(endpoint.url, 300, stage=", logprobs: 1", model=", max_concurrency: 4")
        with pytest.raises(
            distillgen.DistillgenError, match="log-probabilities that were asked for; leave 'logprobs' out"
        ):
            run(project)
        assert 20 <= len(endpoint.bodies) < 40


USAGES = [
    None,
    [],
    "many",
    7,
    {"prompt_tokens": "12", "completion_tokens": None},
    {"prompt_tokens": float("nan"), "completion_tokens": -3},
    {"prompt_tokens": 1e300, "completion_tokens": {}},
    {"prompt_tokens": 3.0, "prompt_tokens_details": 7},
]


@pytest.mark.parametrize("usage", USAGES)
def test_a_usage_that_is_no_count_costs_no_answer(project, usage):
    with answered(chat("yes"), usage=usage, model={"a": 1}) as endpoint:
        project.ask_pipeline(endpoint.url, 1, model=", price: {input: 1, output: 1}")
        run(project)
        assert len(endpoint.bodies) == 1


@pytest.mark.parametrize("index", [["b", "a"], [None, 1], [1, "0"], [1.0, 0.0]])
def test_a_choice_is_numbered_with_anything(project, index):
    with answered([chat(f"text {i}") | {"index": number} for i, number in enumerate(index)]) as endpoint:
        project.ask_pipeline(endpoint.url, 1, stage=", n: 2")
        run(project)
    assert {row["answer"] for row in project.read("runs/ask/corpus.jsonl")} == {"text 0", "text 1"}


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf%s", b" \n%s\n"])
def test_a_body_that_python_reads_otherwise_is_read(project, content):
    def behave(body, times):
        return web.Response(
            body=content % json.dumps(completion(body)).encode(), content_type="application/json"
        )

    with Endpoint(behave) as endpoint:
        project.ask_pipeline(endpoint.url, 1)
        run(project)
        assert len(endpoint.bodies) == 1


@pytest.mark.parametrize(
    "embedding, asked",
    [([1.0, float("nan")], 1), (["a"], 1), ([], 1), ("c29tZQ==", 1), (None, 1), ([True], 1)],
)
def test_a_malformed_embedding_is_refused_and_not_bought_again(project, embedding, asked):
    with Endpoint(lambda body, times: {"data": [{"embedding": embedding}], "usage": None}) as endpoint:
        path = project.ask_pipeline(endpoint.url, 1)
        path.write_text(
            path.read_text().partition("  - generate")[0]
            + "  - embed: {model: teacher, template: '{{ question }}'}\n"
        )
        run(project, 1)
        assert len(endpoint.bodies) == asked
    assert "the embedding is not a list of finite numbers" in dropped(project)[0][1]


@pytest.mark.parametrize("temperature, same", [("0.7", 4), ("0", None)])
def test_identical_requests_get_one_answer_and_the_run_says_so(project, endpoint, capsys, temperature, same):
    from distillgen.cli import show

    project.ask_pipeline(endpoint.url, 1, stage=f", temperature: {temperature}")
    project.rows("data/seeds.jsonl", [{"question": question} for question in "aababa"])
    for _ in range(2):  # replayed, it says the same
        state = distillgen.run("ask", out="runs/ask").state
        assert state["stages"][1]["measured"].get("identical requests") == same
        (project.path / "runs/ask/usage.json").unlink()
    assert len(endpoint.bodies) == 2
    show.summary(distillgen.run("ask", out="runs/ask"))
    assert ("4 requests were identical to earlier ones" in capsys.readouterr().out) is bool(same)


VALUES = st.sampled_from(
    [None, "", "a text", 0, 3, 8, 11, -1, True, 2.0, [], ["x"], {}, {"content": []}, {"cached_tokens": 2}]
)


@given(
    message=st.dictionaries(
        st.sampled_from(["role", "content", "refusal", "tool_calls", "reasoning_content", "annotations"]),
        VALUES,
    ),
    choice=st.dictionaries(st.sampled_from(["index", "logprobs", "finish_reason", "text"]), VALUES),
    usage=st.one_of(
        VALUES,
        st.dictionaries(
            st.sampled_from(
                ["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "cost"]
            ),
            VALUES,
        ),
    ),
    model=VALUES,
)
@example(
    message={"role": "assistant", "content": "a"},
    choice={"finish_reason": "stop"},
    model="m",
    usage={"prompt_tokens": 8, "completion_tokens": 3, "total_tokens": 11},
)
def test_the_short_way_of_usual_bodies_gives_what_the_long_way_gives(message, choice, usage, model):
    from distillgen.teachers import _openai_wire as wire

    body = {"choices": [{**choice, "message": message}], "usage": usage, "model": model}

    def read():
        try:
            made = wire.completions_of(body)
            return [repr(c._replace(tool_calls=[*c.tool_calls], logprobs=[*c.logprobs])) for c in made]
        except Exception as error:
            return type(error)

    short, usual = read(), wire._usual
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "_usual", lambda payload: None)
        assert read() == short
    if usual(body) is not None:
        assert message["content"] == usual(body).text


@pytest.mark.parametrize("text", ["Forty two.", "", "analysis of it", " <b>", "[x]", "a ◁ b"])
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_the_short_way_of_usual_answers_gives_what_the_long_way_gives(text, role):
    from distillgen.teachers import _settling

    asked, answer = (
        Request("m", [{"role": role, "content": "Why? <think>"}]),
        Completion(text=text, finish="stop"),
    )
    short = _settling.settled(asked, answer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_settling, "SIGNS", text[:1] or "x")  # every text holds a sign: none is usual
        long = _settling.settled(asked, answer)
    assert short == long
