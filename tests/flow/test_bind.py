"""A stage is bound once: what it needs is read and built once a run, and again when a file changes."""

from collections import Counter

import pytest

import distillgen
from distillgen.inference.request import Completion
from distillgen.pipeline.load import Pipeline
from distillgen.prompting.prompt import Prompt
from distillgen.stages.source import Source

FILTER = """
from distillgen import Filter

with open("executed", "a") as stream:
    stream.write("once ")

def short(*, field="answer", words: int = 9) -> Filter:
    return Filter(lambda records: [len(r.fields[field].split()) for r in records],
                  lambda n: None if n <= words else f"{n} words", depends_on={})
"""


@pytest.fixture
def counts(monkeypatch):
    counts = Counter()

    def count(owner, name):
        method = getattr(owner, name)

        def counted(*args, **options):
            counts[name] += 1
            return method(*args, **options)

        monkeypatch.setattr(owner, name, counted)

    count(Prompt, "parse")
    count(Pipeline, "plan")
    count(Source, "count")
    count(Source, "_records")
    return counts


def pipeline(project):
    project.rows("rows.jsonl", [{"q": f"question {i}"} for i in range(6)])
    project.write("prompts/ask.md", "{{ q }}?")
    project.write("filters/short.py", FILTER)
    return {
        "version": 1,
        "models": {"t": {"provider": "scripted", "model": "echo", "price": {"input": 1, "output": 1}}},
        "stages": [
            {"source": {"path": "rows.jsonl"}},
            {"generate": {"model": "t", "prompt": "ask", "output": "answer", "max_tokens": 9}},
            {"filter": ["short", {"short": {"words": 3, "name": "shorter"}}]},
        ],
    }


def answer(request, sample):
    return Completion(text="one two three four")


def test_a_run_reads_and_builds_everything_once(project, counts):
    run = distillgen.run(pipeline(project), out="out", teachers={"t": answer}, max_cost_usd=1)
    assert run.state["dropped"] == {"shorter": 6}
    assert (project.path / "executed").read_text() == "once "
    assert (counts["parse"], counts["plan"], counts["count"]) == (1, 1, 1)
    assert counts["_records"] == 2, "the first rows for check and plan, and all rows for the run"


def test_a_plan_uses_what_the_check_has_built(project, counts):
    checked = distillgen.load(pipeline(project))
    before = dict(counts)
    checked.plan()
    checked.fingerprints(None)
    assert {name: counts[name] - before.get(name, 0) for name in ("parse", "_records")} == {
        "parse": 0,
        "_records": 0,
    }
    assert (project.path / "executed").read_text() == "once "


def test_an_edited_filter_measures_anew(project):
    written = pipeline(project)
    distillgen.run(written, out="out", teachers={"t": answer})
    edited = FILTER.replace("len(r.fields[field].split())", "1")
    project.write("filters/short.py", edited)
    run = distillgen.run(written, out="out", teachers={"t": answer})
    assert run.state["dropped"] == {} and run.state["kept"] == 6
    costs = run.state["stages"][2]["costs"]
    assert {name: cost["measured"] for name, cost in costs.items()} == {"short": 6, "shorter": 0}


def test_a_run_leaves_the_interpreter_of_its_process_alone(project, monkeypatch):
    import gc
    import sys

    seen = []

    def watched(request, sample):
        seen.append((gc.get_freeze_count(), gc.get_threshold(), sys.getswitchinterval()))
        return answer(request, sample)

    before = (gc.get_freeze_count(), gc.get_threshold(), sys.getswitchinterval())
    distillgen.run(pipeline(project), out="out", teachers={"t": watched})
    assert set(seen) == {before}


def test_check_and_plan_mark_the_stage_that_distillgen_adds(project):
    project.rows("rows.jsonl", [{"q": f"question {i}", "a": "x"} for i in range(20)])
    project.write(
        "pipelines/p.yaml",
        """
# p.yaml: a pipeline that evaluates.
version: 1
models: {t: {provider: scripted, model: echo}}
stages:
  - source: {path: rows.jsonl, held_out: 0.3}
  - evaluate: {models: [t], template: "{{ q }}", gold: a, metrics: [exact]}
""",
    )
    checked = project.cli("check", "p").stdout
    assert "decontaminate (added)" in checked and "evaluate (added)" not in checked
    assert "decontaminate (added)" in project.cli("plan", "p").stdout
