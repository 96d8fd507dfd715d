"""Dialogues with tool calls in the shapes that trainers read."""

import json

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.record import Unrenderable
from distillgen.rows.shapes import shaper
from tests.conftest import ROOT

TOOLS = [json.loads(line) for line in (ROOT / "data/tools.jsonl").read_text(encoding="utf-8").splitlines()][
    :2
]


def call(call_id, name, arguments):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def answer(call_id, content):
    return {"role": "tool", "tool_call_id": call_id, "content": content}


ASK = {"role": "user", "content": "How far is a mile, and how warm is 0 F?"}
CALLS = [call("a", "convert_length", '{"value": 1}'), call("b", "convert_temperature", '{"value": 0}')]
END = {"role": "assistant", "content": "1609 m and -17.8 C."}
TALK = [
    ASK,
    {"role": "assistant", "content": "", "tool_calls": CALLS},
    answer("a", "1609.34"),
    answer("b", "-17.78"),
    END,
]
TRAINED = [
    ASK,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {**CALLS[0], "function": {"name": "convert_length", "arguments": {"value": 1}}},
            {**CALLS[1], "function": {"name": "convert_temperature", "arguments": {"value": 0}}},
        ],
    },
    {**TALK[2], "name": "convert_length"},
    {**TALK[3], "name": "convert_temperature"},
    END,
]


def shaped(name, fields, assignments=None):
    made = shaper(name, assignments or {}, list(fields))
    row = made.row(fields)
    assert list(made.columns) == list(row)
    return row


@pytest.mark.parametrize("name", ["messages", "prompt_completion"])
def test_a_chat_template_gets_arguments_as_objects_and_the_tools(name):
    row = shaped(name, {"messages": TALK, "tools": [{**tool, "cosine": 0.1} for tool in TOOLS]})
    turns = row["messages"] if name == "messages" else row["prompt"] + row["completion"]
    assert turns == TRAINED and json.loads(row["tools"]) == TOOLS
    assert TALK[1]["tool_calls"][0]["function"]["arguments"] == '{"value": 1}', "the record itself stays"


def test_sharegpt_has_the_roles_of_llama_factory():
    row = shaped("sharegpt", {"messages": TALK, "tools": TOOLS})
    assert [turn["from"] for turn in row["conversations"]] == ["human", "function_call", "observation", "gpt"]
    calls, results = (turn["value"] for turn in row["conversations"][1:3])
    assert json.loads(calls) == [
        {"name": "convert_length", "arguments": {"value": 1}},
        {"name": "convert_temperature", "arguments": {"value": 0}},
    ]
    assert results == "1609.34\n</tool_response>\n<tool_response>\n-17.78"
    assert json.loads(row["tools"]) == TOOLS


def test_what_has_no_calls_stays_as_it_was():
    talk = [ASK, {"role": "tool", "content": "1"}, END]
    assert shaped("messages", {"messages": talk}) == {"messages": talk}
    assert [turn["from"] for turn in shaped("sharegpt", {"messages": talk})["conversations"]] == [
        "human",
        "tool",
        "gpt",
    ]


@pytest.mark.parametrize(
    "value, column",
    [
        (TOOLS, TOOLS),
        (json.dumps(TOOLS), TOOLS),
        ([], None),
        (None, None),
        ("hammer, saw", None),
        (["hammer"], None),
        ([TOOLS[0]["function"]], None),
    ],
)
def test_the_column_tools_is_json_text_or_null(value, column):
    text = shaped("messages", {"messages": TALK, "tools": value})["tools"]
    assert text is None if column is None else json.loads(text) == column


def test_tools_can_be_another_field():
    assert (
        json.loads(shaped("messages", {"messages": TALK, "offer": TOOLS}, {"tools": "offer"})["tools"])
        == TOOLS
    )
    with pytest.raises(ConfigError, match="'tools' needs the field 'ofer'.*did you mean 'offer'"):
        shaper("messages", {"tools": "ofer"}, ["messages", "offer"])
    assert "tools" not in shaped("labelled", {"text": "a", "label": 1, "tools": TOOLS})


def test_the_shape_tools_needs_tools():
    row = shaped("tools", {"messages": TALK, "offer": TOOLS}, {"tools": "offer"})
    assert row["messages"] == TRAINED and json.loads(row["tools"]) == TOOLS
    with pytest.raises(ConfigError, match="tools: 'tools' needs the field 'tools', and there is none"):
        shaper("tools", {}, ["messages"])
    with pytest.raises(Unrenderable, match="its 'tools' are no tools"):
        shaped("tools", {"messages": TALK, "tools": []})


@pytest.mark.parametrize("label", ["yes", None, 2, 0.5])
def test_a_label_of_kto_is_true_or_false(label):
    fields = {"prompt": "q", "completion": "a", "label": label}
    with pytest.raises(Unrenderable, match="label' is (neither true nor false|null)"):
        shaped("kto", fields)


def test_pairs_of_dpo_have_a_prompt():
    with pytest.raises(ConfigError, match="the shape 'dpo' needs 'prompt'"):
        shaper("dpo", {}, ["chosen", "rejected"])


@pytest.mark.parametrize(
    "name, turn, why",
    [
        (
            "messages",
            {"tool_calls": [call("a", "f", "{1}")]},
            "the arguments of the call of 'f' are not JSON",
        ),
        (
            "messages",
            {"tool_calls": [call("a", "f", "[1]")]},
            "arguments of the call of 'f' are no JSON object",
        ),
        ("messages", {"tool_calls": [{"name": "f"}]}, "a tool call names no function"),
        ("messages", {"tool_calls": {"name": "f"}}, "are no list"),
        ("sharegpt", {"tool_calls": CALLS, "content": "I look."}, "both a text and tool calls"),
        ("alpaca", {"tool_calls": CALLS}, "Alpaca has no form for tool calls"),
    ],
)
def test_a_turn_that_has_no_form_leaves_the_row_out(name, turn, why):
    with pytest.raises(Unrenderable, match=why):
        shaped(name, {"messages": [ASK, {"role": "assistant", "content": "", **turn}]})


def test_the_stage_format_and_export_make_these_rows(project):
    project.rows("rows.jsonl", [{"messages": TALK, "tools": TOOLS}, {"messages": [ASK, END], "tools": []}])
    stages = [{"source": {"path": "rows.jsonl"}}]
    distillgen.run({"version": 1, "models": {}, "stages": stages}, out="raw")
    project.cli("export", "raw", "--shape", "sharegpt", "--no-id", "--out", "chats.jsonl")
    chats = project.read("chats.jsonl")
    assert [list(row) for row in chats] == [["conversations", "tools"]] * 2 and chats[1]["tools"] is None
    stages.append({"format": {"shape": "messages", "keep": []}})
    run = distillgen.run({"version": 1, "models": {}, "stages": stages}, out="shaped")
    rows = [json.loads(line) for line in (run.directory / "corpus.jsonl").read_text().splitlines()]
    assert [row["messages"] for row in rows] == [TRAINED, [ASK, END]]
    assert json.loads(rows[0]["tools"]) == TOOLS
    project.cli("export", "shaped", "--shape", "messages", "--format", "parquet", "--out", "table")
