"""generate offers tools: the same for all records, or those of each record."""

import json

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.inference.request import Completion
from distillgen.pipeline.load import load

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("today", "now")
]


PARROT = """
from distillgen import Completion, Endpoint, Spec


class Parrot(Endpoint):
    spec_type = Spec
    identity = "parrot"

    async def answer(self, request, samples, attempt):
        return [Completion(text="a") for _ in samples]
"""


class Caller:
    """A teacher that calls each tool that it is offered, and keeps the requests."""

    __qualname__ = "caller"

    def __init__(self):
        self.requests = []

    def __call__(self, request, sample):
        self.requests.append(request)
        names = [tool["function"]["name"] for tool in request.tools or ()]
        calls = [
            {"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in names
        ]
        return Completion(tool_calls=calls) if calls else Completion(text="no tool")


def pipeline(project, rows, tools="tools", **model):
    project.rows("rows.jsonl", rows)
    stages = [
        {"source": {"path": "rows.jsonl"}},
        {"generate": {"model": "t", "template": "{{ ask }}", "output": "said", "tools": tools}},
    ]
    model = {"provider": "scripted", "model": "echo", **model}
    return {"version": 1, "models": {"t": model}, "stages": stages}


def rows_of(run, name="corpus"):
    return [json.loads(line) for line in (run.directory / f"{name}.jsonl").read_text().splitlines()]


def test_each_record_offers_its_own_tools(project):
    near = {**TOOLS[1], "cosine": 0.5}
    rows = [
        {"ask": str(i), "tools": tools} for i, tools in enumerate([TOOLS, [near], [], json.dumps(TOOLS[:1])])
    ]
    teacher = Caller()
    run = distillgen.run(pipeline(project, rows), out="run", teachers={"t": teacher})
    called = {row["ask"]: [call["id"] for call in row["tool_calls"]] for row in rows_of(run)}
    assert called == {"0": ["today", "now"], "1": ["now"], "2": [], "3": ["today"]}
    requests = {request.messages[-1]["content"]: request.tools for request in teacher.requests}
    assert requests == {"0": TOOLS, "1": TOOLS[1:], "2": None, "3": TOOLS[:1]}
    assert rows_of(run)[1]["tools"] == [near], "the row itself stays as it is"


def test_a_malformed_list_is_a_dropped_record_and_asks_nobody(project):
    bad = [None, "today", {"name": "today"}, [TOOLS[0]["function"]], [TOOLS[0], TOOLS[0]]]
    rows = [{"ask": str(i), "tools": tools} for i, tools in enumerate([*bad, TOOLS])] + [{"ask": "6"}]
    teacher = Caller()
    run = distillgen.run(pipeline(project, rows), out="run", teachers={"t": teacher})
    reasons = [row["meta"]["dropped"]["reason"] for row in rows_of(run, "dropped")]
    whys = [
        "null",
        "a text that is not JSON",
        "not a list",
        "tool 1 does not have the form",
        "two tools",
        "null",
    ]
    assert all(f"the tools in 'tools' are {why}" in reason for reason, why in zip(reasons, whys, strict=True))
    assert len(rows_of(run)) == len(teacher.requests) == 1


def test_a_field_and_a_list_in_the_pipeline_are_the_same_request(project):
    first, second = Caller(), Caller()
    rows = [{"ask": "a", "tools": TOOLS}]
    distillgen.run(pipeline(project, rows, TOOLS), out="run", teachers={"t": first})
    distillgen.run(pipeline(project, rows), out="run", teachers={"t": second})
    assert len(first.requests) == 1 and not second.requests
    rows[0]["tools"] = TOOLS[:1]
    distillgen.run(pipeline(project, rows), out="run", teachers={"t": second})
    assert len(second.requests) == 1, "other tools are another request"


def test_check_needs_the_field_and_a_model_that_can(project):
    with pytest.raises(ConfigError, match="'tools' needs the field 'tool'.*did you mean 'tools'"):
        load(pipeline(project, [{"ask": "a", "tools": TOOLS}], "tool")).check()
    project.write("teachers/parrot.py", PARROT)
    plain = pipeline(project, [{"ask": "a", "tools": TOOLS}], provider="parrot")
    with pytest.raises(ConfigError, match="cannot do tools; providers that can: openai, anthropic"):
        load(plain).check()


def test_the_plan_counts_the_tools(project):
    wide = [{**tool, "function": {**tool["function"], "description": "x" * 5000}} for tool in TOOLS]

    def input_tokens(tools, field="tools"):
        return load(pipeline(project, [{"ask": "a", "tools": tools}], field)).plan()[1][1].input_tokens

    assert input_tokens(wide) - input_tokens(TOOLS) > 2 * 5000 / 4
    assert input_tokens(TOOLS) == input_tokens([], TOOLS)
