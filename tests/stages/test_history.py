"""generate with a dialogue: `history` and `write: user`."""

import json

import pytest

import distillgen
from distillgen.inference.request import Completion
from distillgen.runs.directory import final_records
from distillgen.teachers.scripted import Scripted
from tests.recipes.harness import drops, teach

TALK = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]


def pipeline(*stages, **models):
    models = models or {"teacher": {"provider": "scripted", "model": "echo"}}
    return {"version": 1, "models": models, "stages": [{"source": {"path": "rows.jsonl"}}, *stages]}


def generate(**options):
    return {"generate": {"model": "teacher", **options}}


def rows_of(run):
    return list(final_records(run, dropped=False))


class Script:
    """Answers with the roles of the turns, and keeps the requests."""

    def __init__(self, reply=None):
        self.requests, self.reply, self.__qualname__ = [], reply, "script"

    def __call__(self, request, sample):
        self.requests.append(request)
        if self.reply:
            return self.reply(request)
        return f"{request.write or 'assistant'} after {' '.join(turn['role'] for turn in request.messages)}"


def test_a_dialogue_grows_by_what_is_sent_and_by_the_answer(project):
    project.rows("rows.jsonl", [{"question": "Why?"}])
    template = "@system\nBe brief.\n@user\n{{ question }}"
    script = Script()
    stages = pipeline(
        generate(name="first", template=template, history="talk"),
        generate(name="more", history="talk", write="user", output="said"),
        generate(name="reply", history="talk", output="reply"),
        generate(name="last", template="@system\nBe long.\n@user\nAnd {{ said }}?", history="talk"),
    )
    run = teach(stages, {"teacher": script})
    (row,) = rows_of(run)
    assert row.fields["said"] == "user after system user assistant"
    assert row.fields["reply"] == "assistant after system user assistant user"
    assert row.fields["talk"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "assistant after system user"},
        {"role": "user", "content": row.fields["said"]},
        {"role": "assistant", "content": row.fields["reply"]},
        {"role": "user", "content": f"And {row.fields['said']}?"},
        {"role": "assistant", "content": row.fields["response"]},
    ]
    assert [request.write for request in script.requests] == [None, "user", None, None]
    assert [list(request.messages) for request in script.requests] == [
        row.fields["talk"][:n] for n in (2, 3, 4, 6)
    ]
    asked = len(script.requests)
    assert [r.row() for r in rows_of(teach(stages, {"teacher": script}))] == [row.row()]
    assert len(script.requests) == asked


def test_samples_branch_from_the_same_dialogue(project):
    project.rows("rows.jsonl", [{"talk": TALK}])
    replies = iter("abc")
    run = teach(
        pipeline(generate(template="Go on", history="talk", n=3)),
        {"teacher": Script(lambda request: next(replies))},
    )
    ends = [record.fields["talk"][-1]["content"] for record in rows_of(run)]
    assert sorted(ends) == ["a", "b", "c"] and all(len(r.fields["talk"]) == 4 for r in rows_of(run))


def test_what_is_no_dialogue_or_cannot_go_on_is_dropped_with_the_reason(project):
    unanswered = [*TALK, {"role": "user", "content": "Well?"}]
    rows = [TALK, "Hello", [1], [{"role": "user"}], unanswered, [{"role": "narrator", "content": "x"}], None]
    project.rows("rows.jsonl", [{"talk": talk, "n": n} for n, talk in enumerate(rows)])
    run = teach(pipeline(generate(template="Go on", history="talk")), {"teacher": Script()})
    assert {r.fields["n"] for r in rows_of(run)} == {0, 6}  # null is a dialogue that has not begun
    reasons = {r.fields["n"]: r.dropped.reason for r in run.dropped}
    assert all("no chat turns" in reasons[n] for n in (1, 2)) and "has no text" in reasons[3]
    assert "a turn of the user cannot stand after the user's" in reasons[4]
    assert "no role 'narrator'" in reasons[5]
    assert set(drops(run)) == {("generate", "unrenderable")}


def test_an_answer_that_cannot_be_used_leaves_the_dialogue_as_it_was(project):
    project.rows("rows.jsonl", [{"talk": TALK, "bad": bad} for bad in (True, False)])

    def reply(request):
        return Completion(status="refused", text="no") if "true" in request.messages[-1]["content"] else "yes"

    stage = generate(template="{{ bad }}", history="talk", mark="good")
    run = teach(pipeline(stage), {"teacher": Script(reply)})
    by_good = {r.fields["good"]: r.fields["talk"] for r in rows_of(run)}
    assert by_good[False] == TALK and by_good[True][-1] == {"role": "assistant", "content": "yes"}


def test_a_users_text_has_a_field_of_its_own_by_default(project):
    project.rows("rows.jsonl", [{"n": 1}])
    (row,) = rows_of(teach(pipeline(generate(write="user")), {"teacher": Script()}))
    assert row.fields == {"n": 1, "instruction": "user after"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either 'prompt'"),
        ({"template": "x", "prompt": "y", "history": "talk"}, "give either 'prompt'"),
        ({"history": "new"}, "'history' without a prompt needs the field 'new'"),
        ({"history": "talk", "template": "@user\nx\n@assistant\ny"}, "cannot stand after the assistant's"),
        ({"write": "user", "template": "x"}, "a turn of the user cannot stand after the user's"),
        ({"write": "user", "tools": [{"type": "function"}]}, "leave out 'write' or 'tools'"),
        ({"history": "talk", "template": "x", "output": "talk"}, "have the same field 'talk'"),
        ({"history": "talk", "prompt": "list"}, "a list of records"),
        ({"history": "talk", "prompt": "shots"}, "lay them out"),
    ],
)
def test_a_dialogue_that_cannot_be_is_refused_at_check(project, options, message):
    project.rows("rows.jsonl", [{"talk": TALK}])
    project.write("prompts/list.md", "---\noutput: lines\n---\nName some")
    project.write(
        "prompts/shots.md", "---\nfew_shot: {examples: [{talk: x, answer: y}]}\n---\nSay {{ talk }}"
    )
    with pytest.raises(distillgen.ConfigError, match=message):
        distillgen.load(pipeline(generate(**options)))


def test_turns_that_an_earlier_stage_makes_are_checked_before_anything_is_asked(project):
    project.rows("rows.jsonl", [{"question": "Why?"}])
    begin = {"format": {"messages": {"talk": [{"user": "{{ question }}"}]}}}
    distillgen.load(pipeline(begin, generate(history="talk")))
    distillgen.load(
        pipeline(begin, generate(history="talk"), generate(name="b", write="user", history="talk"))
    )
    for stages in (
        [begin, generate(history="talk", write="user")],
        [begin, generate(history="talk"), generate(name="again", history="talk")],
    ):
        with pytest.raises(distillgen.ConfigError, match="cannot stand after"):
            distillgen.load(pipeline(*stages))


def test_the_plan_bounds_a_dialogue_that_grows_in_every_round(project):
    project.rows("rows.jsonl", [{"topic": topic} for topic in ("tea", "ink", "oak")])
    price = {"input": 1e6, "output": 1e6}  # a dollar a token
    models = {"teacher": {"provider": "scripted", "model": "echo", "price": price}}
    loop = [
        generate(
            name="say",
            write="user",
            template="@system\n{{ topic }}",
            history="talk",
            output="said",
            max_tokens=50,
        ),
        generate(name="reply", history="talk", output="reply", max_tokens=50),
    ]
    stages = pipeline({"rounds": {"n": 4, "repeat": True, "carry": ["talk"], "stages": loop}}, **models)

    def reply(request):
        tokens = sum(len(turn["content"].encode()) for turn in request.messages)
        return Completion(text="x" * 200, input_tokens=tokens, output_tokens=50)

    plan = [estimate for _, estimate in distillgen.load(stages).plan()]
    teach(stages, {"teacher": Script(reply)})
    totals = json.loads((project.path / "run/usage.json").read_text())["totals"]
    assert totals["requests"] == 24 <= sum(estimate.requests for estimate in plan)
    bound = sum(estimate.max_cost_usd for estimate in plan)
    assert bound / 4 < totals["cost_usd"] <= bound


def test_a_dialogue_that_may_have_passed_a_stage_by_is_not_refused_after_it(project):
    project.rows("rows.jsonl", [{"question": "Why?", "more": more} for more in ("yes", "")])
    begin = {"format": {"messages": {"talk": [{"user": "{{ question }}"}]}}}
    stages = pipeline(
        begin,
        generate(name="first", history="talk", when="{{ more }}", output="first"),
        generate(name="second", history="talk", when="{{ not more }}", output="second"),
    )
    run = teach(stages, {"teacher": Script()})
    assert [[turn["role"] for turn in r.fields["talk"]] for r in rows_of(run)] == [["user", "assistant"]] * 2


CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}


def test_a_dialogue_that_has_not_begun_cannot_be_answered_without_a_prompt(project):
    project.rows("rows.jsonl", [{"talk": talk} for talk in (TALK[:1], None)])
    run = teach(pipeline(generate(history="talk")), {"teacher": Script(lambda request: " Hi! \n")})
    assert [record.fields["talk"] for record in rows_of(run)] == [TALK]
    assert ["nothing can be answered" in record.dropped.reason for record in run.dropped] == [True]


def test_an_answer_that_fails_at_the_start_leaves_an_empty_dialogue(project):
    project.rows("rows.jsonl", [{"n": 1}])
    refused = Script(lambda request: Completion(status="refused", text="no"))
    stage = generate(template="x", history="talk", mark="good")
    (record,) = rows_of(teach(pipeline(stage), {"teacher": refused}))
    assert record.fields["talk"] == [] and record.fields["good"] is False


def test_calls_of_tools_are_part_of_the_turn(project):
    project.rows("rows.jsonl", [{"n": 1}])
    stage = generate(template="x", history="talk", tools=[{"type": "function", "function": {"name": "add"}}])
    run = teach(pipeline(stage), {"teacher": Script(lambda request: Completion(tool_calls=[CALL]))})
    (record,) = rows_of(run)
    assert record.fields["talk"][-1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}


def test_a_model_that_takes_texts_gets_the_texts_of_the_dialogue_and_writes_no_users_turn(
    project, monkeypatch
):
    monkeypatch.setattr(Scripted, "api", "completions")
    calls = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    project.rows("rows.jsonl", [{"talk": [TALK[0], calls, {"role": "tool", "content": "3"}]}])
    script = Script(lambda request: "three")
    teach(pipeline(generate(history="talk")), {"teacher": script})
    assert [request.prompt for request in script.requests] == ["Hello\n\n\n\n3"]
    run = teach(pipeline(generate(write="user")), {"teacher": script}, out="user")
    assert ["no user's turn to write" in record.dropped.reason for record in run.dropped] == [True]
