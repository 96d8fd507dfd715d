"""tool-calling: every planted fault is dropped where it shows, and no valid call is."""

import json
import re

import pytest

from distillgen.confinement import lacking
from distillgen.inference.request import Completion
from distillgen.runs.directory import read_records
from tests.conftest import ROOT
from tests.recipes.harness import draw, teach, text_of

pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"lacks {lacking()}")
TOOLS = [json.loads(line) for line in (ROOT / "data/tools.jsonl").read_text(encoding="utf-8").splitlines()]
NAMES = {tool["function"]["description"]: tool["function"]["name"] for tool in TOOLS}
GOOD = {
    "convert_length": {"value": 2, "unit": "mile", "to": "km"},
    "convert_temperature": {"value": 20, "unit": "celsius", "to": "kelvin"},
    "days_between": {"start": "2024-02-28", "end": "2024-03-01"},
    "add_days": {"start": "2024-02-28", "days": 2},
    "weekday": {"day": "2024-02-28"},
    "count_words": {"text": "one two"},
    "replace_text": {"text": "one", "old": "one", "new": "two"},
    "sort_words": {"words": ["b", "a"]},
    "describe_numbers": {"numbers": [1, 2]},
    "loan_payment": {"amount": 100, "yearly_rate_percent": 3, "months": 12},
    "look_up_planet": {"name": "Mars"},
    "sum_by": {"rows": [{"a": "x", "b": 1}], "group": "a", "amount": "b"},
}
FAILING = {  # arguments that fit the schema and that the function refuses
    "convert_temperature": {"value": -900},
    "days_between": {"end": "soon"},
    "add_days": {"start": "soon"},
    "weekday": {"day": "someday"},
    "replace_text": {"old": ""},
    "describe_numbers": {"numbers": []},
    "loan_payment": {"months": 0},
    "look_up_planet": {"name": "Vulcan"},
    "sum_by": {"amount": "c"},
}
REASONS = {  # by planted fault: the filter and its reason
    "name": ("tool_calls", "names a tool that is not offered"),
    "type": ("tool_calls", "has an argument of the wrong type"),
    "missing": ("tool_calls", "lacks a required argument"),
    "text": ("tool_calls", "has arguments that are not a JSON object"),
    "run": ("error", "Error: "),
    "count": ("tool_calls", "calls "),
    "meaning": ("judge", "3"),
}
FAULTS = ["", "", *REASONS]
KINDS = ("simple", "one", "parallel", "steps", "none")
WORDS = [
    f"{a}{b}" for a in ("ba", "ko", "mi", "tu", "re") for b in ("lan", "dor", "nis", "pek", "vum", "sat")
]


def call(name, arguments, number=0):
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": f"call{number}", "type": "function", "function": {"name": name, "arguments": text}}


def faulty(name, fault):
    arguments = dict(GOOD[name])
    first = next(iter(arguments))
    if fault == "name":
        return call(f"{name}_now", arguments)
    if fault == "type":
        return call(name, arguments | {first: {"value": 1}})
    if fault == "missing":
        return call(name, {key: value for key, value in arguments.items() if key != first})
    if fault == "text":
        return call(name, f"{first}=1")
    return call(name, arguments | FAILING[name] if fault == "run" else arguments)


def request_of(text):
    """A request that carries what later answers need: the kind, a tool and the fault to plant."""
    marks = {"same sort": "parallel", "two steps": "steps", "nothing in the list": "none", "by itself": "one"}
    kind = next(kind for phrase, kind in marks.items() if phrase in text)
    name = next(name for about, name in NAMES.items() if f"- {about}" in text)
    fault = draw(text).choice([fault for fault in FAULTS if fault != "run" or name in FAILING])
    if kind == "none":
        fault = fault if fault in ("count", "meaning") else ""
    words = " ".join(draw(text, "words").sample(WORDS, 8))
    return f"[{kind} {name} {fault or 'valid'}] {words}"


def teacher(request, sample):
    text = text_of(request)
    if "You write what people ask" in text:
        return request_of(text)
    if "You grade" in text:
        return json.dumps({"reason": "planted", "score": 3 if "meaning]" in text else 9})
    results = sum(turn["role"] == "tool" for turn in request.messages)
    kind, name, fault = re.search(r"\[(\w+) (\w+) (\w+)\]", text).groups()
    if kind == "none":
        return Completion(tool_calls=[call(name, GOOD[name])]) if fault == "count" else "I would say so."
    if fault == "count" and not results:
        return (
            "No tool."
            if kind != "one"
            else Completion(tool_calls=[call(name, GOOD[name], i) for i in (1, 2)])
        )
    if kind == "parallel" and not results:
        return Completion(tool_calls=[call(name, GOOD[name], 1), faulty(name, fault)])
    if results < (2 if kind == "steps" else 1):
        last = kind != "steps" or results == 1
        return Completion(tool_calls=[faulty(name, fault if last else "")])
    return f"It is {request.messages[-1]['content']}."


def planted(record):
    return re.search(r"\[(\w+) (\w+) (\w+)\]", str(record.fields)).groups()


def test_every_planted_fault_is_dropped_with_its_reason_and_no_valid_call(project):
    run = teach("tool-calling", {"teacher": teacher}, ["source.draw.n=40"])
    kept, dropped = list(read_records(run.directory / "corpus.jsonl")), list(run.dropped)
    assert len(kept) + len(dropped) == 40 and {planted(record)[2] for record in kept} == {"valid"}
    faults = [planted(record)[2] for record in dropped]
    assert set(faults) == set(REASONS), "each fault is planted, and nothing valid is dropped"
    for record, fault in zip(dropped, faults, strict=True):
        filter, reason = REASONS[fault]
        name = record.dropped.filter.replace("more_calls", "tool_calls")
        assert name == filter and reason in record.dropped.reason, record.dropped
    assert {planted(record)[0] for record in kept} == {"one", "parallel", "steps", "none"}


def test_a_kept_dialogue_has_a_result_for_each_call_and_ends_with_a_reply(project):
    run = teach("tool-calling", {"teacher": teacher}, ["source.draw.n=20"])
    calls_of_kind = {"one": [1], "parallel": [2], "steps": [1, 1], "none": []}
    for record in read_records(run.directory / "corpus.jsonl"):
        turns = record.fields["messages"]
        calls = [turn["tool_calls"] for turn in turns if turn.get("tool_calls")]
        assert list(map(len, calls)) == calls_of_kind[planted(record)[0]]
        ids = [turn["tool_call_id"] for turn in turns if turn["role"] == "tool"]
        assert ids == [call["id"] for turn in calls for call in turn]
        assert turns[-1]["role"] == "assistant" and turns[-1]["content"] and not turns[-1].get("tool_calls")
        offered = len(json.loads(record.fields["tools"]))
        assert offered == (1 if record.fields["kind"] == "simple" else 4)


def test_without_the_checks_the_faults_would_be_in_the_corpus(project):
    sets = ["source.draw.n=20", "form=null", "form-again=null", "act.errors=keep", "act-again.errors=keep"]
    run = teach("tool-calling", {"teacher": teacher}, [*sets, "meaning=null"])
    assert {planted(record)[2] for record in read_records(run.directory / "corpus.jsonl")} > {
        "valid",
        "name",
        "missing",
    }
