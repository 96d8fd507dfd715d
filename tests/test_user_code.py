"""Exceptions of a user's code name file, line, record and stage, and the answers so far are safe."""

import pytest

import distillgen

ROWS = [{"question": "one", "n": 1}, {"question": "two", "n": 0}, {"question": "three", "n": 2}]
STAGE = """from dataclasses import replace
from distillgen import Stage

class Ratio(Stage):
    kind = "ratio"
    def check(self, context):
        return context.fields | {"ratio"}
    async def run(self, chunks, job):
        async for chunk in chunks:
            yield [replace(r, fields={**r.fields, "ratio": 1 / r.fields["n"]}) for r in chunk]
"""
PASSING = STAGE.replace('1 / r.fields["n"]', "1").replace("ratio", "one").replace("Ratio", "One")
PROVIDER = """from distillgen import Completion, Endpoint, Spec

class BrokenSpec(Spec):
    pass

class Broken(Endpoint):
    spec_type = BrokenSpec
    identity = "broken"
    async def answer(self, request, samples, attempt):
        return [Completion(text=str(1 / len(request.messages[-1]["content"].replace("two", ""))))]
"""
FILTER = """from distillgen import Filter

def mine(*, field: str = "n"):
    return Filter(lambda records: [1 / r.fields[field] for r in records], lambda number: None)
"""


@pytest.fixture
def broken(project):
    project.rows("data/rows.jsonl", ROWS)
    project.write("stages/ratio.py", STAGE)
    project.write("stages/one.py", PASSING)
    project.write("teachers/broken.py", PROVIDER)
    project.write("filters/mine.py", FILTER)
    return project


def message(project, *stages, command="run", model="provider: scripted, model: echo"):
    lines = "".join(f"  - {stage}\n" for stage in ("source: {path: data/rows.jsonl}", *stages))
    project.write(
        "pipelines/p.yaml", f"# p.yaml: x\nversion: 1\nmodels: {{t: {{{model}}}}}\nstages:\n{lines}"
    )
    stderr = project.cli(command, "p", check=2).stderr
    assert "Traceback" not in stderr and len(stderr.splitlines()[-1]) < 400
    return stderr.splitlines()[-1]


ASK = "generate: {model: t, template: '{{ question }}', output: answer}"
SAFE = (
    "Answers that were paid for are safe: mend it and run again to go on. The traceback is in runs/p/run.log"
)


def test_a_stage(broken):
    """Also where a stage of the project stands before it, and one behind it, which are right."""
    line = message(broken, ASK, "one: {}", "ratio: {}", "one: {name: last}")
    assert line.startswith(
        "stages/ratio.py:10: stage 'ratio' raised ZeroDivisionError: division by zero at the record "
    )
    assert line.endswith(f"(data/rows.jsonl:2). {SAFE}")
    assert "1 / r.fields" in (broken.path / "runs/p/run.log").read_text()


def test_a_provider(broken):
    line = message(broken, ASK, model="provider: broken, model: b")
    assert line.startswith(
        "teachers/broken.py:10: provider 'broken' (model 't', stage 'generate', request 'two')"
    )
    assert "raised ZeroDivisionError: division by zero at the record " in line
    assert line.endswith(f" (data/rows.jsonl:2). {SAFE}")


def test_a_provider_of_texts_without_turns(broken):
    of_texts = PROVIDER.replace("(Endpoint):", '(Endpoint):\n    api = "completions"')
    broken.write("teachers/broken.py", of_texts.replace('request.messages[-1]["content"]', "request.prompt"))
    line = message(broken, ASK, model="provider: broken, model: b")
    assert line.startswith(
        "teachers/broken.py:11: provider 'broken' (model 't', stage 'generate', request 'two')"
    )


def test_a_provider_that_is_evaluated(broken):
    evaluate = "evaluate: {models: [t], template: '{{ question }}', gold: question, metrics: [exact]}"
    line = message(broken, evaluate, model="provider: broken, model: b")
    assert "raised ZeroDivisionError: division by zero at the record " in line
    assert line.endswith(f" (data/rows.jsonl:2). {SAFE}")


def test_a_filter(broken):
    line = message(broken, ASK, "filter: [mine]")
    assert line.startswith("filters/mine.py:4: filter 'mine' of stage 'filter' raised ZeroDivisionError")
    assert "at the record " in line and line.endswith(f"(data/rows.jsonl:2). {SAFE}")


def test_an_error_of_an_earlier_stage_is_not_one_of_the_stage_behind_it(broken, monkeypatch):
    """A fault of distillgen's code that passes through a stage of the project keeps its own name."""
    from distillgen.stages.format import BoundFormat

    async def faulty(self, chunks, job):
        async for _ in chunks:
            raise LookupError("a fault of ours")
            yield

    monkeypatch.setattr(BoundFormat, "run", faulty)
    stages = [
        {"source": {"path": "data/rows.jsonl"}},
        {"format": {"fields": {"text": "{{ question }}"}}},
        {"one": {}},
    ]
    with pytest.raises(LookupError, match="a fault of ours"):
        distillgen.run({"version": 1, "stages": stages})


def test_check_tries_a_filter_on_the_first_row_where_it_is_known(broken):
    broken.rows("data/rows.jsonl", ROWS[1:])
    line = message(broken, "filter: [mine]", command="check")
    assert line.startswith("filters/mine.py:4: filter 'mine' of stage 'filter' raised ZeroDivisionError")
    assert "(data/rows.jsonl:1)" in line
    line = message(broken, "filter: [mine: {field: m}]", command="check")
    assert "KeyError: 'm'" in line


@pytest.mark.parametrize(
    "stages",
    [
        [ASK, "filter: [mine: {field: answer}]"],  # the answer is not known
        ["format: {fields: {n: '1'}}", "filter: [mine]"],  # another stage stands between
        ["filter: [word_count: {field: question, min_words: 1}, mine]"],  # it may drop the row
        ["filter: {when: '{{ n }}', filters: [mine]}"],
    ],
)
def test_check_does_not_try_what_it_does_not_know(broken, stages):
    broken.rows("data/rows.jsonl", ROWS[1:])
    pipeline = "".join(f"  - {stage}\n" for stage in ("source: {path: data/rows.jsonl}", *stages))
    broken.write(
        "pipelines/p.yaml",
        f"version: 1\nmodels: {{t: {{provider: scripted, model: echo}}}}\nstages:\n{pipeline}",
    )
    broken.cli("check", "p")


OBJECTIVE = """from distillgen.objectives.sft import Sft

class Odd(Sft):
    def prepare(self, inputs):
        return {}["nothing"]
"""


@pytest.mark.slow
def test_an_objective(broken):
    for package in ("torch", "trl", "datasets", "accelerate"):
        pytest.importorskip(package)
    pairs = [{"prompt": f"say {i}", "completion": f"word {i}"} for i in range(20)]
    broken.rows("data/rows.jsonl", pairs)
    broken.write("objectives/odd.py", OBJECTIVE)
    line = message(broken, "train: {student: tiny, objective: odd, max_steps: 2, held_out: 0}")
    assert line.startswith("objectives/odd.py:5: stage 'train' raised KeyError: 'nothing' (more in ")
    assert line.endswith(SAFE)
