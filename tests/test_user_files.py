"""Python files of users: loading, the hashes that measures depend on, and the messages for mistakes."""

import json
import os
import py_compile
from importlib.util import cache_from_source
from pathlib import Path

import pytest

import distillgen
from distillgen import project as project_module
from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext
from distillgen.local_models.nli import entailment, nli_model
from distillgen.project import Project, code_sha256, load_module
from distillgen.stages.filter import FilterStage
from distillgen.teachers.scripted import load_script

MEASURE = """from __future__ import annotations
from dataclasses import dataclass, field
from distillgen import FieldName, Filter

@dataclass(frozen=True)
class Limits:
    share: float = 0.5
    names: list[str] = field(default_factory=list)

def length(*, field: FieldName = "text") -> Filter:
    def measure(records):
        with open("calls.txt", "a") as file:
            file.writelines(record.fields[field] + "\\n" for record in records)
        return [Limits().share for record in records]
    return Filter(measure, lambda n: None, depends_on={"field": field})
"""


def test_user_files_may_hold_dataclasses_with_late_annotations(project):
    code = (
        MEASURE.split("def length")[0]
        + "def answer(*given):\n    return [(Limits().share, 0.0, 0.5)] if len(given) == 1 else 'x'\n"
    )
    path = project.write("user.py", code)
    project.write("filters/length.py", MEASURE)
    assert load_module(path).Limits().names == []
    assert FilterStage(name="f", filters=["length"]).bind(
        CheckContext(frozenset({"text"}), {}, Project(project.path))
    )
    assert load_script("user.py:answer", project.path)[0](None, 0) == "x"
    assert entailment([("a", "b")], model=f"{path}:answer") == [(0.5, 0.0, 0.5)]


def test_a_type_that_is_there_for_type_checkers_alone_is_told(project):
    project.write(
        "filters/typed.py",
        """from __future__ import annotations
from typing import TYPE_CHECKING
from distillgen import Filter
if TYPE_CHECKING:
    from decimal import Decimal

def typed(*, limit: Decimal = 1) -> Filter: ...
""",
    )
    given = CheckContext(frozenset({"text"}), {}, Project(project.path))
    with pytest.raises(
        ConfigError, match=r"typed.py:7: .*'Decimal' is not defined; import it outside of 'if TYPE_CHECKING'"
    ):
        FilterStage(name="f", filters=["typed"]).bind(given)


@pytest.mark.parametrize(
    "code, told",
    [
        ("a = 1\nraise SystemExit('no')\n", "bad.py:2: cannot be loaded: SystemExit: no"),
        ("import json\njson.loads('{')\n", "bad.py:2: cannot be loaded: JSONDecodeError"),
        ("a = 1\nb = = 2\n", "bad.py:2: invalid syntax"),
        ("exec('b = = 2')\n", "bad.py:1: cannot be loaded: SyntaxError"),
        ("from .other import x\n", "bad.py:1: cannot be loaded: ImportError"),
    ],
)
def test_a_broken_file_names_its_line_and_is_tried_again(project, code, told):
    path = project.write("bad.py", code)
    for _ in range(2):
        with pytest.raises(ConfigError) as error:
            load_module(path)
        assert told in str(error.value)
    project.write("bad.py", "a = 2\n")
    assert load_module(path).a == 2


def run(project, out="out"):
    """Filter three rows; the texts that were measured for it."""
    project.rows("a.jsonl", [{"text": text} for text in ("a", "b", "c")])
    calls = project.write("calls.txt", "")
    run = distillgen.run(
        {"version": 1, "stages": [{"source": {"path": "a.jsonl"}}, {"filter": ["length"]}]}, out=out
    )
    return [
        r.scores["length"] for r in distillgen.runs.directory.read_records(run.directory / "corpus.jsonl")
    ], len(calls.read_text().split())


def test_an_edited_measure_measures_anew(project):
    file = project.write("filters/length.py", MEASURE)
    assert run(project) == ([0.5] * 3, 3)
    assert run(project) == ([0.5] * 3, 0)
    os.utime(file, (0, 0))
    project.write("filters/_beside.py", "")
    project.rows("b.jsonl", [])
    assert run(project, "again") == ([0.5] * 3, 0)  # of the one ledger of the project
    assert run(project) == ([0.5] * 3, 0)
    project.write("filters/length.py", MEASURE.replace("share: float = 0.5", "share: float = 0.7"))
    assert run(project) == ([0.7] * 3, 3)
    project.write("filters/length.py", MEASURE)
    assert run(project) == ([0.5] * 3, 0), "the numbers of the file as it was are lost"


def test_an_edited_project_file_that_a_measure_imports_measures_anew(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project.path))
    imported = MEASURE.replace(
        "return [Limits", "from my_helpers.shares import share\n        return [share or Limits"
    )
    project.write("filters/length.py", imported)
    project.write("my_helpers/__init__.py", "")
    project.write("my_helpers/shares.py", "from .numbers import HALF\nshare = HALF\n")
    project.write("my_helpers/numbers.py", "HALF = 0.5\n")
    project.write("my_helpers/unrelated.py", "")
    assert run(project) == ([0.5] * 3, 3) and run(project) == ([0.5] * 3, 0)
    project.write("my_helpers/unrelated.py", "# edited\n")
    assert run(project) == ([0.5] * 3, 0)
    project.write("my_helpers/numbers.py", "HALF = 0.25\n")
    assert run(project) == ([0.25] * 3, 3)
    files = distillgen.Run(project.path / "out").lock["files"]
    assert {name for name in files if name.startswith("module ")} == {
        f"module my_helpers{x}" for x in ("", ".numbers", ".shares")
    }


def test_installed_packages_are_no_files_of_the_project(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project.path))
    project.write("own.py", "import json, os.path\n")
    path = project.write(
        "user.py",
        "import numpy, yaml, json.decoder, distillgen.flow.stage, own, nowhere\nfrom distillgen import *\n",
    )
    assert project_module.imported(path) == {"own": project.path / "own.py"}
    alone = project.write("alone.py", "import numpy\n")
    assert code_sha256(alone) == project_module.file_sha256(alone)


def test_an_edited_script_is_another_model_also_by_what_it_imports(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project.path))
    project.write("words.py", "WORD = 'one'\n")
    project.write("script.py", "from words import WORD\ndef say(request, sample):\n    return WORD\n")
    (say, identity), (_, number) = (
        load_script("script.py:say", project.path),
        nli_model("script.py:say", Project(project.path)),
    )
    assert say(None, 0) == "one"
    project.write("words.py", "WORD = 'three'\n")
    again, other = load_script("script.py:say", project.path)
    assert (
        again(None, 0) == "three"
        and other != identity
        and nli_model("script.py:say", Project(project.path))[1] != number
    )


def test_a_file_is_carried_out_once_while_it_stays_as_it_is(project):
    code = MEASURE + "\nwith open('loaded.txt', 'a') as loaded:\n    loaded.write('x')\n"
    for name in ("length", "wide", "deep"):
        project.write(f"filters/{name}.py", code.replace("def length", f"def {name}"))
    project.rows("a.jsonl", [{"text": "a"}])
    pipeline = {
        "version": 1,
        "stages": [{"source": {"path": "a.jsonl"}}, {"filter": ["length", "wide", "deep"]}],
    }
    distillgen.run(pipeline, out="out")
    assert (project.path / "loaded.txt").read_text() == "xxx"
    project.write("filters/wide.py", code.replace("def length", "def wide") + "# edited\n")
    distillgen.run(pipeline, out="out")
    assert (project.path / "loaded.txt").read_text() == "xxxx"
    assert (
        json.loads((project.path / "out/usage.json").read_text())["stages"][1]["costs"]["wide"]["measured"]
        == 1
    )


BROKEN = """from distillgen import Filter, ModelName, Request

def clumsy(*, {options}):
    def first(records):
        return [count(record) for record in records]

    def count(record):
        return len(record.fields["text"]) {measure}

    def asks(record):
        return [Request(model, [{{"role": "user", "content": record.fields["text"]}}])] if {asks} else None

    def asked(records, answers):
        return first(records)

    def over_run(numbers):
        return {{"mean": sum(numbers) {over_run}}}

    def decide(number):
        return None {decide}

    {factory}
    return Filter({function}, decide, over_run=over_run{more})
"""
ALONE = {
    "options": "n: int = 1",
    "function": "first",
    "more": "",
    "measure": "",
    "asks": "1",
    "over_run": "",
    "decide": "",
    "factory": "",
}
ASKING = ALONE | {"options": "model: ModelName = 'm'", "function": "asked", "more": ", asks=asks"}
FAILS = "/ (record.fields['text'] != 'ccc')"


def broken(project, code, *, key="sk-secret-1234"):
    """Run a filter with this code over five rows, with a secret in the environment; what is told, and
    `run.log`.
    """
    project.write("filters/clumsy.py", BROKEN.format(**code))
    project.rows("data/a.jsonl", [{"text": text * 3} for text in "abcde"])
    project.write(
        "pipelines/p.yaml",
        """# p.yaml: a filter of the user's
version: 1
models:
  m: {provider: scripted, model: echo}
  paid: {provider: openai, model: x, base_url: "http://127.0.0.1:9/v1", api_key: "${KEY}"}
stages:
  - source: {path: data/a.jsonl}
  - filter: {name: mine, filters: [clumsy]}
""",
    )
    done = project.cli("run", "p", env={"KEY": key}, check=2)
    assert "Traceback" not in done.stderr and key not in done.stderr + done.stdout
    (log,) = [path.read_text() for path in project.path.glob("runs/p/run.log")] or [""]
    assert key not in log
    return done.stderr.strip().splitlines()[-1], log


@pytest.mark.parametrize(
    "code, line, told, row",
    [
        (ALONE | {"measure": FAILS}, 8, "ZeroDivisionError: division by zero", 3),
        (ASKING | {"measure": FAILS}, 8, "ZeroDivisionError: division by zero", 3),
        (ALONE | {"measure": FAILS, "more": ", depends_on={}"}, 8, "ZeroDivisionError: division by zero", 3),
        (ALONE | {"measure": FAILS, "more": ", whole_set=True"}, 8, "ZeroDivisionError: division by zero", 3),
        (
            ALONE | {"measure": FAILS, "more": ", together=lambda r: 1"},
            8,
            "ZeroDivisionError: division by zero",
            3,
        ),
        (
            ALONE | {"measure": "if record.fields['text'] != 'ccc' else open('none.txt')"},
            8,
            "FileNotFoundError: [Errno 2]",
            3,
        ),
        (ALONE | {"more": ", together=lambda r: r.fields['none']"}, 23, "KeyError: 'none'", 1),
        (
            ALONE | {"more": ", whole_set=True, waits=lambda rs, folder: any(r.fields['none'] for r in rs)"},
            23,
            "KeyError: 'none'",
            1,
        ),
        (
            ALONE | {"decide": ".x", "more": ", depends_on={}"},
            20,
            "AttributeError: 'NoneType' object has no attribute 'x'",
            1,
        ),
        (
            ALONE
            | {"measure": "if record.fields['text'] != 'ccc' else int(__import__('os').environ['KEY'])"},
            8,
            "with base 10: '${KEY}'",
            3,
        ),
        (ALONE | {"over_run": "/ 0"}, 17, "ZeroDivisionError: division by zero", None),
    ],
)
def test_a_users_exception_names_file_line_record_and_stage(project, code, line, told, row):
    message, log = broken(project, code)
    assert (
        message.startswith(f"filters/clumsy.py:{line}: filter 'clumsy' of stage 'mine' raised ")
        and told in message
    )
    assert (
        (" at the record " in message and f"(data/a.jsonl:{row})" in message)
        if row
        else "record" not in message
    )
    assert message.endswith(
        "Answers that were paid for are safe: mend it and run again to go on. The traceback is "
        "in runs/p/run.log"
    )
    assert f'filters/clumsy.py", line {line}, in' in log and "Traceback (most recent call last)" in log


@pytest.mark.parametrize(
    "code, line, told",
    [
        (
            ASKING | {"asks": "record.nothing"},
            11,
            "filter 'clumsy' of stage 'mine' raised AttributeError: 'Record' object has no",
        ),
        (ALONE | {"factory": "{}['x']"}, 22, "filter 'clumsy' raised KeyError: 'x'"),
        (
            ALONE | {"decide": ".x"},
            20,
            "has no attribute 'x' at the record 85d2361ecd0aa4eefe25 (data/a.jsonl:1)",
        ),
    ],
)
def test_an_exception_in_a_check_is_reported_before_asking(project, code, line, told):
    message, _ = broken(project, code)
    assert f"filters/clumsy.py:{line}: " in message and told in message
    assert message.endswith("Answers that were paid for are safe: mend it and give the same command again")


def test_a_model_that_no_option_names_is_told(project):
    message, _ = broken(project, ASKING | {"options": "model: str = 'n'"})
    assert "filter 'clumsy' asks 'n', which is not in an option of type ModelName" in message


def test_an_exception_names_its_record_or_records(project):
    """A measure that holds no record of its own when it raises."""
    project.write(
        "filters/sums.py",
        """from distillgen import Filter
def sums():
    return Filter(lambda records: [1 / len(text) for text in [r.fields["text"] for r in records]],\
 lambda n: None)
""",
    )
    project.rows("a.jsonl", [{"text": text} for text in ("a", "", "c")])
    with pytest.raises(
        distillgen.DistillgenError,
        match=r"sums.py:3: .* at one of 3 records, from a.jsonl:1 to a.jsonl:3\. Answers",
    ):
        distillgen.run(
            {"version": 1, "stages": [{"source": {"path": "a.jsonl"}}, {"filter": ["sums"]}]}, out="out"
        )


def test_a_script_that_raises_costs_its_rows_and_says_where(project):
    project.write(
        "script.py",
        "def say(request, sample):\n    return None if request.messages[-1]['content'] == 'b' "
        "else 'x'[9:] or 1 / 0\n",
    )
    project.rows("a.jsonl", [{"text": text} for text in "ab"])
    ask = {"generate": {"model": "m", "template": "{{ text }}", "output": "answer"}}
    models = {"m": {"provider": "scripted", "model": "script.py:say"}}
    run = distillgen.run(
        {"version": 1, "models": models, "stages": [{"source": {"path": "a.jsonl"}}, ask]}, out="out"
    )
    assert [record.dropped.reason for record in run.dropped] == [
        "the script raised ZeroDivisionError: division by zero (script.py:2)",
        "the script raised TypeError: a script gives a text or a Completion, not None",
    ]
    log = (project.path / "out/run.log").read_text()
    assert 'script.py", line 2, in say' in log and log.count("Traceback") == 2


def test_a_file_that_was_compiled_before_an_edit_of_the_same_second_is_read(tmp_path, monkeypatch):
    """Python takes what it compiled if the file has the second and the length of then."""
    monkeypatch.syspath_prepend(str(tmp_path))
    file, script = tmp_path / "mark_of_a_second.py", tmp_path / "script.py"
    file.write_text("MARK = '!'\n")
    script.write_text("from mark_of_a_second import MARK\n")
    stat = file.stat()
    for mark in "?", "#":
        py_compile.compile(str(file), doraise=True)
        file.write_text(f"MARK = '{mark}'\n")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert load_module(script).MARK == mark


def test_what_python_compiled_and_nobody_can_remove_is_no_error(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    file, script = tmp_path / "mark_that_stays.py", tmp_path / "script.py"
    file.write_text("MARK = '!'\n")
    script.write_text("from mark_that_stays import MARK\n")
    Path(cache_from_source(file)).mkdir(parents=True)
    assert load_module(script).MARK == "!"
