"""Plug-ins: stages, teachers, objectives and filters of a project and of installed packages."""

import json
import subprocess
import sys

import pytest

import distillgen
from distillgen import plugins
from distillgen.errors import ConfigError
from distillgen.project import Project
from distillgen.runs.directory import read_records

UPPER = '''"""upper: a field in capitals."""

from dataclasses import replace

from distillgen.flow.stage import Stage


class Upper(Stage):
    """Write a field in capitals."""

    kind = "upper"

    field: str

    def check(self, given):
        """Check that the field is there."""
        given.need(self.field, "'field'")
        return given.fields

    async def run(self, chunks, job):
        """Change every live record."""
        async for chunk in chunks:
            yield [r if r.dropped else replace(r,\
 fields={**r.fields, self.field: r.fields[self.field].upper()}) for r in chunk]
'''
PIPELINE = """# shout.yaml: capitals
version: 1
stages:
  - source: {path: data/rows.jsonl}
  - upper: {field: text}
"""


@pytest.fixture
def shouting(project):
    project.rows("data/rows.jsonl", [{"text": "a"}, {"text": "b"}])
    project.write("pipelines/shout.yaml", PIPELINE)
    return project


def installed(monkeypatch, folder, points, **modules):
    """A package on the path, with entry points: what `pip install` leaves."""
    for name, text in modules.items():
        folder.write(f"packages/{name}.py", text)
    folder.write("packages/acme-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    written = [f"[distillgen.{group}]\n{name} = {value}\n" for group, name, value in points]
    folder.write("packages/acme-1.0.dist-info/entry_points.txt", "\n".join(written))
    monkeypatch.syspath_prepend(str(folder.path / "packages"))


def kept(run):
    return read_records(run.directory / "corpus.jsonl")


def texts(project):
    return [row["text"] for row in project.read("runs/shout/corpus.jsonl")]


def test_a_stage_of_the_project(shouting):
    shouting.write("stages/upper.py", UPPER)
    shouting.cli("run", "shout")
    assert texts(shouting) == ["A", "B"]
    assert "Write a field in capitals." in shouting.cli("list", "stages").stdout
    assert "Write a field in capitals." in shouting.cli("help", "upper").stdout
    assert "Upper" in json.loads(shouting.cli("list", "--schema").stdout)["$defs"]
    assert (
        "did you mean 'text'?" in shouting.cli("check", "shout", "--set", "upper.field=txet", check=2).stderr
    )
    shouting.write("pipelines/shout.yaml", PIPELINE.replace("upper:", "uper:"))
    assert "there is no stage 'uper'; did you mean 'upper'?" in shouting.cli("check", "shout", check=2).stderr


def test_an_edited_plug_in_makes_the_stage_run_anew_and_so_does_what_it_imports(shouting):
    shouting.write(
        "stages/upper.py",
        UPPER.replace(".upper()", " + SIGN").replace(
            "class Upper", "from signs import SIGN\n\n\nclass Upper"
        ),
    )
    shouting.write("signs.py", "SIGN = '!'\n")
    shouting.cli("run", "shout")
    lock = distillgen.Run(shouting.path / "runs/shout").lock
    assert {"stages/upper", "module signs"} <= lock["files"].keys()
    before = (shouting.path / "runs/shout/corpus.jsonl").stat().st_mtime_ns
    shouting.cli("run", "shout")
    assert (shouting.path / "runs/shout/corpus.jsonl").stat().st_mtime_ns == before
    shouting.write("signs.py", "SIGN = '?'\n")
    shouting.cli("run", "shout")
    assert texts(shouting) == ["a?", "b?"]


def test_it_imports_modules_of_its_project_wherever_the_command_is_given(shouting, tmp_path_factory):
    text = UPPER.replace(".upper()", " + SIGN").replace(
        "class Upper", "from signs import SIGN\n\n\nclass Upper"
    )
    shouting.write("stages/upper.py", text)
    shouting.write("signs.py", "SIGN = '!'\n")
    command = [
        sys.executable,
        "-P",
        "-m",
        "distillgen",
        "run",
        shouting.path / "pipelines/shout.yaml",
        "-o",
        "here",
    ]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    subprocess.run(command, cwd=elsewhere, env=shouting.env(), check=True)
    assert "module signs" in distillgen.Run(elsewhere / "here").lock["files"]


def test_python_finds_it_too_and_an_edited_file_in_the_same_process(shouting):
    pipeline = {
        "version": 1,
        "stages": [{"source": {"path": "data/rows.jsonl"}}, {"upper": {"field": "text"}}],
    }
    shouting.write("stages/upper.py", UPPER)
    assert [r.fields["text"] for r in kept(distillgen.run(pipeline, out="one"))] == ["A", "B"]
    shouting.write("stages/upper.py", UPPER.replace(".upper()", " * 2"))
    assert [r.fields["text"] for r in kept(distillgen.run(pipeline, out="two"))] == ["aa", "bb"]


def test_a_package_offers_a_module_or_a_class(shouting, monkeypatch):
    installed(
        monkeypatch, shouting,
        [("stages", "upper", "acme_stages"), ("stages", "louder", "acme_louder:Louder")],
        acme_stages=UPPER, acme_louder=UPPER.replace('"upper"', '"louder"').replace("Upper", "Louder"),
    )  # fmt: skip
    assert {"upper", "louder"} <= set(plugins.names("stages", Project(shouting.path)))
    for kind in ("upper", "louder"):
        stages = [{"source": {"path": "data/rows.jsonl"}}, {kind: {"field": "text"}}]
        run = distillgen.run({"version": 1, "stages": stages}, out=kind)
        assert [r.fields["text"] for r in kept(run)] == ["A", "B"]
        assert f"stages/{kind}" in run.lock["files"]


def test_the_project_comes_first_then_packages_then_what_ships_and_a_note_says_what_is_hidden(
    shouting, monkeypatch
):
    text = UPPER.replace('"upper"', '"format"')
    shouting.write("pipelines/shout.yaml", PIPELINE.replace("upper:", "format:"))
    installed(monkeypatch, shouting, [("stages", "format", "acme_format")], acme_format=text)
    loaded = distillgen.load("shout")
    assert loaded.notes == ("stage 'format': the package acme hides the one of distillgen",)
    shouting.write("stages/format.py", text.replace(".upper()", " * 3"))
    loaded = distillgen.load("shout")
    assert loaded.notes == (
        "stage 'format': stages/format.py hides the package acme and the one of distillgen",
    )
    assert (
        "hides the package acme"
        in shouting.cli("run", "shout", env={"PYTHONPATH": ":".join(sys.path)}).stderr
    )
    assert texts(shouting) == ["aaa", "bbb"]


BROKEN = [
    (UPPER + "\ndef (:\n", r"stages/upper\.py:\d+: invalid syntax"),
    (
        "import nowhere_at_all\n",
        r"stages/upper\.py:1: cannot be loaded: ModuleNotFoundError: .*nowhere_at_all",
    ),
    (
        "X = 1\n",
        r"stages/upper\.py: the file of a stage defines one subclass of Stage, and this defines none",
    ),
    (UPPER + UPPER[UPPER.index("class Upper") :].replace("Upper(", "Other("), r"defines 2 \(Upper, Other\)"),
    (
        UPPER.replace('"upper"', '"uper"'),
        r"stages/upper\.py: a stage's kind is the name of its file: kind = 'upper'",
    ),
]


@pytest.mark.parametrize("text, message", BROKEN)
def test_a_broken_file_is_named_with_its_line(shouting, text, message):
    shouting.write("stages/upper.py", text)
    with pytest.raises(ConfigError, match=message):
        distillgen.load("shout")
    assert "upper" in shouting.cli("list", "stages").stdout


def test_a_class_that_stands_on_another_of_its_file_is_the_one(shouting):
    shouting.write(
        "stages/upper.py",
        UPPER.replace("class Upper", "class Any") + "\n\nclass Upper(Any):\n    '''It.'''\n",
    )
    assert distillgen.load("shout").stages[1].__doc__ == "It."


@pytest.mark.parametrize(
    "value, text, message",
    [
        (
            "nowhere_at_all",
            "",
            "the package acme names 'nowhere_at_all' for distillgen.stages, 'upper': there is no such module",
        ),
        ("acme_broken", "1 / 0\n", "acme_broken.py:1: cannot be loaded: ZeroDivisionError"),
        ("acme_broken:Other", UPPER, "acme_broken.py: cannot be loaded: AttributeError: .*Other"),
        ("acme_broken:replace", UPPER, "this defines none"),
    ],
)
def test_a_broken_package_is_named(shouting, monkeypatch, value, text, message):
    monkeypatch.delitem(sys.modules, "acme_broken", raising=False)
    installed(monkeypatch, shouting, [("stages", "upper", value)], acme_broken=text)
    with pytest.raises(ConfigError, match=message):
        distillgen.load("shout")


def test_no_link_leads_out_of_the_project(shouting, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "upper.py"
    outside.write_text(UPPER)
    (shouting.path / "stages").mkdir()
    (shouting.path / "stages/upper.py").symlink_to(outside)
    with pytest.raises(ConfigError, match="there is no stage 'upper'"):
        distillgen.load("shout")


@pytest.mark.parametrize(
    "command, broken, code", [("run", "yield [", "stage 'upper'"), ("check", "given.need(", "this line")]
)
def test_an_exception_of_its_code_is_told_with_its_line(shouting, command, broken, code):
    text = UPPER.replace(broken, f"1 / 0; {broken}")
    line = next(i for i, words in enumerate(text.splitlines(), 1) if "1 / 0" in words)
    shouting.write("stages/upper.py", text)
    said = shouting.cli(command, "shout", check=2).stderr
    assert f"stages/upper.py:{line}: {code} raised ZeroDivisionError: division by zero" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("kind", ["../upper", "../../outside/stages/upper", "_upper", "__init__"])
def test_a_pipeline_names_no_code_outside_the_folder(project, kind):
    project.write("outside/stages/upper.py", UPPER)
    project.write("mine/upper.py", UPPER)
    for name in ("_upper", "__init__"):
        project.write(f"mine/stages/{name}.py", UPPER)
    project.write("mine/pipelines/p.yaml", PIPELINE.replace("upper", kind))
    project.rows("mine/data/rows.jsonl", [{"text": "a"}])
    with pytest.raises(ConfigError, match=f"there is no stage '{kind}'"):
        distillgen.load(project.path / "mine/pipelines/p.yaml")
