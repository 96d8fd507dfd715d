"""Requests of text keep their bytes, and so their ledger keys: a ledger of last year is never asked again."""

import json
from pathlib import Path

import pytest

from distillgen.inference.request import Request
from distillgen.project import Project
from distillgen.prompting.prompt import Prompt

HERE = Path(__file__).parent
FROZEN = json.loads((HERE / "frozen_keys.json").read_text())
"""SHA-256 of requests. A change of a key here means that every user's ledger is paid for again."""

TURNS = [{"role": "system", "content": "s"}, {"role": "user", "content": 'q: é\n"x"'}]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
URL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
CLAUSES = {"clauses": [{"any": ["a"]}], "ordered": False, "search": {"beam": 2}}
SHAPES = {
    "chat": Request("m", TURNS),
    "sampling": Request("m", TURNS, sampling={"temperature": 0.5, "seed": 3, "stop": ["\n"]}),
    "schema": Request("m", TURNS, schema={"type": "object", "properties": {"b": {}, "a": {}}}),
    "tools": Request("m", TURNS, tools=[{"type": "function", "function": {"name": "f"}}]),
    "calls": Request(
        "m",
        [
            *TURNS,
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "7"},
        ],
    ),
    "text parts": Request("m", [{"role": "user", "content": [{"type": "text", "text": "q"}]}]),
    "data URL": Request(
        "m",
        [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}],
            }
        ],
    ),
    "completion": Request("m", prompt="Once"),
    "score": Request("m", TURNS, target=" yes"),
    "embedding": Request("m", embed="text"),
    "user turn": Request("m", TURNS[:1], write="user"),
    "search": Request(
        "m", TURNS, constraints={"clauses": [{"any": ["a"]}], "ordered": False, "search": {"beam": 2}}
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_request_without_pictures_keeps_its_keys(name):
    assert SHAPES[name].keys("https://api.example/v1", 2)[1].hex() == FROZEN["shapes"][name]


@pytest.mark.parametrize("name", FROZEN["prompts"])
def test_the_requests_of_a_shipped_prompt_keep_their_keys(name):
    """An edited prompt changes them on purpose: then write the new key here."""
    assert key_of(name) == FROZEN["prompts"][name]


def key_of(name):
    """Return the key of the request of a shipped prompt about a record of short texts."""
    prompt = Prompt.load(name, Project(HERE), continues=True)
    fields = {field: "x" for field in prompt.inputs}
    request = Request("m", prompt.render(fields, prompt.typical(fields)), schema=prompt.form.schema)
    return request.keys("https://api.example/v1", 1)[0].hex()
