"""The stage act: calls run once, their results are turns of the dialogue."""

import json
import sys
from collections import Counter

import pytest

import distillgen
from distillgen.confinement import lacking
from distillgen.errors import ConfigError
from distillgen.pipeline.load import load
from tests.command_process import forked
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"lacks {lacking()}")

CODE = '''
import random

def double(number: int) -> int:
    """Double a number."""
    return 2 * number

def drawn() -> float:
    """Draw a number."""
    return random.random()

def shout(text: str) -> str:
    """Write a text in capitals."""
    return text.upper()

def stop() -> None:
    """Never end."""
    while True:
        pass
'''


def call(name, arguments, call_id="a"):
    function = {"name": name, "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)}
    return {"type": "function", "function": function} | ({"id": call_id} if call_id else {})


def talk(*calls):
    turns = [
        {"role": "user", "content": "do it"},
        {"role": "assistant", "content": "", "tool_calls": list(calls)},
    ]
    return {"talk": turns}


def act(project, rows, out="run", **options):
    project.write("tools.py", CODE)
    project.rows("rows.jsonl", rows)
    stages = [
        {"source": {"path": "rows.jsonl"}},
        {"act": {"functions": "tools.py", "history": "talk", **options}},
    ]
    return distillgen.run({"version": 1, "models": {}, "stages": stages}, out=out)


def rows_of(run, name="corpus"):
    return [json.loads(line) for line in (run.directory / f"{name}.jsonl").read_text().splitlines()]


def test_each_call_gets_a_turn_with_its_id_and_result(project):
    calls = [
        call("double", {"number": 4}, "x"),
        call("shout", {"text": "né"}, "y"),
        call("double", '{"number": 1}', ""),
    ]
    (row,) = rows_of(act(project, [talk(*calls)]))
    assistant, *results = row["talk"][1:]
    assert [c["id"] for c in assistant["tool_calls"]] == ["x", "y", "call_2_3"]
    assert results == [
        {"role": "tool", "tool_call_id": "x", "content": "8"},
        {"role": "tool", "tool_call_id": "y", "content": "NÉ"},
        {"role": "tool", "tool_call_id": "call_2_3", "content": "2"},
    ]


def test_a_dialogue_without_calls_at_its_end_passes_unchanged(project):
    answered = talk(call("double", {"number": 4}))["talk"] + [
        {"role": "tool", "tool_call_id": "a", "content": "8"}
    ]
    rows = [{"talk": []}, {"talk": None}, {"talk": [{"role": "user", "content": "hi"}]}, {"talk": answered}]
    assert [row["talk"] for row in rows_of(act(project, rows))] == [row["talk"] for row in rows]


BAD = {
    "call 1 of 1 (double): TypeError: double() got an unexpected keyword argument 'n'": [
        call("double", {"n": 1})
    ],
    "call 1 of 1 (doubel): there is no function 'doubel'; did you mean 'double'?": [
        call("doubel", {"number": 1})
    ],
    "call 2 of 2 (double): its arguments are no JSON object": [
        call("double", {"number": 1}),
        call("double", "[1"),
    ],
    "call 1 of 1: it names no function": [{"name": "double"}],
    "call 1 of 1 (stop): it ran out of time": [call("stop", {})],
    "call 1 of 1 (_inner): there is no function '_inner'": [call("_inner", {})],
    "call 1 of 1 (open): there is no function 'open'": [call("open", {"file": "/etc/passwd"})],
}


def test_a_call_that_fails_drops_the_record_with_the_reason(project):
    rows = [talk(*calls) for calls in BAD.values()] + [talk(call("double", {"number": 2}))]
    run = act(project, rows, cpu_s=1)
    dropped = [row["meta"]["dropped"] for row in rows_of(run, "dropped")]
    for drop, reason in zip(dropped, BAD, strict=True):
        assert (drop["stage"], drop["filter"]) == ("act", "error") and drop["reason"].startswith(reason)
    assert len(rows_of(run)) == 1


def test_errors_keep_makes_a_failure_the_tools_answer(project):
    rows = [talk(*calls) for calls in BAD.values()]
    run = act(project, rows, errors="keep", cpu_s=1)
    results = [row["talk"][-1]["content"] for row in rows_of(run)]
    reasons = [reason.partition("): ")[2] for reason in BAD if "names no function" not in reason]
    assert len(results) == len(reasons)
    for result, reason in zip(results, reasons, strict=True):
        assert json.loads(result)["error"].startswith(reason)
    assert [row["meta"]["dropped"]["reason"] for row in rows_of(run, "dropped")] == [
        "call 1 of 1: it names no function"
    ]


def test_what_is_no_dialogue_or_too_long_is_dropped(project):
    run = act(project, [{"talk": "hello"}, talk(call("shout", {"text": "a" * 300}))], max_bytes=300)
    assert [row["meta"]["dropped"]["filter"] for row in rows_of(run, "dropped")] == ["malformed", "max_bytes"]


def test_results_are_kept_so_that_a_second_run_calls_nothing(project, monkeypatch):
    rows = [talk(call("drawn", {}), call("double", {"number": i})) for i in range(40)]
    first = (act(project, rows).directory / "corpus.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("distillgen.stages.act.run_calls", None)
        assert (act(project, rows, errors="keep").directory / "corpus.jsonl").read_bytes() == first
    changed = act(project, rows, cpu_s=4)
    assert (changed.directory / "corpus.jsonl").read_bytes() != first, "other limits may give other results"


COUNTED = """
import json
from distillgen.stages import act
run_calls = act.run_calls

def counted(code, calls, **options):
    with open("calls", "a") as file:
        print(json.dumps(calls), file=file)
    return run_calls(code, calls, **options)

act.run_calls, act.PIECE = counted, 4
"""


def test_killed_anywhere_it_calls_again_only_what_was_in_flight(project):
    """Four pieces of work with four calls each; the ledger keeps the results of a piece together."""
    rows = [talk(call("double", {"number": i})) for i in range(16)]
    project.rows("rows.jsonl", rows)
    script = f"""{COUNTED}
from pathlib import Path
import distillgen
stages = [{{"source": {{"path": "rows.jsonl"}}}}, {{"act": {{"functions": "tools.py", "history": "talk"}}}}]
pipeline = {{"version": 1, "models": {{}}, "stages": stages}}
distillgen.run(pipeline, out="killed", ledger=Path("killed.sqlite3"))
"""
    whole = act(project, rows, out="whole")
    command = [sys.executable, "-c", script]
    env = {"PYTHONPATH": str(ROOT)}
    project.kill_at([1, 8], command, "killed.sqlite3", env, table="scores")
    before = Counter((project.path / "calls").read_text().splitlines())
    assert forked(command, project.path, project.env() | env).returncode == 0
    calls = Counter((project.path / "calls").read_text().splitlines())
    assert len(calls) == 16 > len(before), "the kills came before the last calls"
    assert calls.total() - len(calls) <= 2 * 4, "more was called again than was in flight at the kills"
    for name in ("corpus.jsonl", "dropped.jsonl"):
        assert (project.path / "killed" / name).read_bytes() == (whole.directory / name).read_bytes()


@pytest.mark.parametrize(
    "code, options, why",
    [
        (CODE, {"functions": "tolls.py"}, "there is no file 'tolls.py'; did you mean 'tools.py'"),
        ("def double(:", {}, "tools.py:1: not Python code"),
        ("x = 1", {}, "there is no function in it"),
        ("import words\ndef f(): pass", {}, "it imports 'words' of the project"),
        ("import json\nfrom .words import a\ndef f(): pass", {}, "it imports '.words' of the project"),
        (CODE, {"history": "talks"}, "'history' needs the field 'talks'.*did you mean 'talk'"),
    ],
)
def test_check_refuses_what_could_not_run(project, code, options, why):
    project.write("tools.py", code)
    project.write("words.py", "")
    project.rows("rows.jsonl", [talk()])
    stage = {"functions": "tools.py", "history": "talk", **options}
    stages = [{"source": {"path": "rows.jsonl"}}, {"act": stage}]
    with pytest.raises(ConfigError, match=why):
        load({"version": 1, "models": {}, "stages": stages}).check()


def test_a_machine_that_cannot_confine_needs_consent(project, monkeypatch):
    monkeypatch.setattr("distillgen.stages.act.lacking", lambda: ["Linux"])
    with pytest.raises(ConfigError, match="cannot confine calls, for lack of Linux; .*unconfined: true"):
        act(project, [talk()])
    assert rows_of(act(project, [talk(call("double", {"number": 1}))], out="open", unconfined=True))
