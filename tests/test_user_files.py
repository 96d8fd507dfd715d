"""Python files of the user's: how they are loaded, what their numbers depend on, and what a mistake in one ends in."""

import json
import os

import pytest

import distillgen
from distillgen import project as project_module
from distillgen.errors import ConfigError
from distillgen.nli import entailment, nli_model
from distillgen.project import Project, code_sha256, load_module
from distillgen.stages import Checking
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


def test_every_kind_of_file_may_hold_dataclasses_whose_annotations_are_read_later(project):
    code = MEASURE.split("def length")[0] + "def answer(*given):\n    return [(Limits().share, 0.0, 0.5)] if len(given) == 1 else 'x'\n"
    path = project.write("user.py", code)
    project.write("filters/length.py", MEASURE)
    assert load_module(path).Limits().names == []
    assert FilterStage(name="f", filters=["length"]).build(Project(project.path))[0][1].measure
    assert load_script("user.py:answer", project.path)[0](None, 0) == "x"
    assert entailment([("a", "b")], model=f"{path}:answer") == [(0.5, 0.0, 0.5)]


def test_a_type_that_is_there_for_type_checkers_alone_is_told(project):
    project.write("filters/typed.py", """from __future__ import annotations
from typing import TYPE_CHECKING
from distillgen import Filter
if TYPE_CHECKING:
    from decimal import Decimal

def typed(*, limit: Decimal = 1) -> Filter: ...
""")  # fmt: skip
    given = Checking(frozenset({"text"}), {}, Project(project.path))
    with pytest.raises(ConfigError, match=r"typed.py:7: .*'Decimal' is not defined; import it outside of 'if TYPE_CHECKING'"):
        FilterStage(name="f", filters=["typed"]).check(given)


@pytest.mark.parametrize("code, told", [
    ("a = 1\nraise SystemExit('no')\n", "bad.py:2: cannot be loaded: SystemExit: no"),
    ("import json\njson.loads('{')\n", "bad.py:2: cannot be loaded: JSONDecodeError"),
    ("a = 1\nb = = 2\n", "bad.py:2: invalid syntax"),
    ("exec('b = = 2')\n", "bad.py:1: cannot be loaded: SyntaxError"),
    ("from .other import x\n", "bad.py:1: cannot be loaded: ImportError"),
])  # fmt: skip
def test_a_file_that_cannot_be_loaded_is_told_with_its_line_and_is_tried_again(project, code, told):
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
    run = distillgen.run({"version": 1, "stages": [{"source": {"path": "a.jsonl"}}, {"filter": ["length"]}]}, out=out)
    return [r.scores["length"] for r in distillgen.runs.read_records(run.directory / "corpus.jsonl")], len(calls.read_text().split())


def test_an_edited_measure_measures_anew_and_one_that_is_left_alone_does_not(project):
    file = project.write("filters/length.py", MEASURE)
    assert run(project) == ([0.5] * 3, 3)
    assert run(project) == ([0.5] * 3, 0)
    os.utime(file, (0, 0))
    project.write("filters/_beside.py", "")
    project.rows("b.jsonl", [])
    assert run(project, "again") == ([0.5] * 3, 3)  # (another run has a ledger of its own)
    assert run(project) == ([0.5] * 3, 0)
    project.write("filters/length.py", MEASURE.replace("share: float = 0.5", "share: float = 0.7"))
    assert run(project) == ([0.7] * 3, 3)
    project.write("filters/length.py", MEASURE)
    assert run(project) == ([0.5] * 3, 0), "the numbers of the file as it was are lost"


def test_an_edited_project_file_that_a_measure_imports_measures_anew(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project.path))
    imported = MEASURE.replace("return [Limits", "from my_helpers.shares import share\n        return [share or Limits")
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
    assert {name for name in files if name.startswith("module ")} == {f"module my_helpers{x}" for x in ("", ".numbers", ".shares")}


def test_what_is_installed_or_of_python_itself_is_no_file_of_the_project(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project.path))
    project.write("own.py", "import json, os.path\n")
    path = project.write("user.py", "import numpy, yaml, json.decoder, distillgen.stages, own, nowhere\nfrom distillgen import *\n")
    assert project_module.imported(path) == {"own": project.path / "own.py"}
    alone = project.write("alone.py", "import numpy\n")
    assert code_sha256(alone) == project_module.file_sha256(alone)


def test_an_edited_script_is_another_model_also_by_what_it_imports(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project.path))
    project.write("words.py", "WORD = 'one'\n")
    project.write("script.py", "from words import WORD\ndef say(request, sample):\n    return WORD\n")
    (say, identity), (_, number) = load_script("script.py:say", project.path), nli_model("script.py:say", Project(project.path))
    assert say(None, 0) == "one"
    project.write("words.py", "WORD = 'three'\n")
    again, other = load_script("script.py:say", project.path)
    assert again(None, 0) == "three" and other != identity and nli_model("script.py:say", Project(project.path))[1] != number


def test_a_file_is_carried_out_once_while_it_stays_as_it_is(project):
    code = MEASURE + "\nwith open('loaded.txt', 'a') as loaded:\n    loaded.write('x')\n"
    for name in ("length", "wide", "deep"):
        project.write(f"filters/{name}.py", code.replace("def length", f"def {name}"))
    project.rows("a.jsonl", [{"text": "a"}])
    pipeline = {"version": 1, "stages": [{"source": {"path": "a.jsonl"}}, {"filter": ["length", "wide", "deep"]}]}
    distillgen.run(pipeline, out="out")
    assert (project.path / "loaded.txt").read_text() == "xxx"
    project.write("filters/wide.py", code.replace("def length", "def wide") + "# edited\n")
    distillgen.run(pipeline, out="out")
    assert (project.path / "loaded.txt").read_text() == "xxxx"
    assert json.loads((project.path / "out/usage.json").read_text())["stages"][1]["costs"]["wide"]["measured"] == 1
