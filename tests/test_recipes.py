"""Every shipped pipeline declares its paper, runs on scripted teachers, and gives the same result after
kills.
"""

import sys
import time
from typing import get_args

import pytest
import yaml

import distillgen
from distillgen.errors import ConfigError
from distillgen.pipeline.catalog import pipelines
from distillgen.pipeline.load import System
from distillgen.project import Project, home
from tests.command_process import forked

NAMES = sorted(path.stem for path in home("pipelines").glob("*.yaml"))
PLAIN = ("hello", "quickstart", "student", "text-search")  # of no published system
KILLED_EACH_TIME = ("hello", "quickstart", "self-instruct", "tool-calling", "ultrafeedback")
"""Recipes of different words; the slow part has the others."""

CARRY_OUT = """
import sys
import distillgen
from distillgen.inference.request import Completion
from distillgen.teachers.scripted import instance

def scripted(request, sample):
    text = request.target if request.target is not None else instance(request, sample)
    signals = [[word, -len(word) / 10, []] for word in text.split()]\
 if "logprobs" in request.sampling or request.target else []
    return Completion(text=text, logprobs=signals)

name, out, until, *models = sys.argv[1:]
distillgen.run(name, out=out, teachers=dict.fromkeys(models, scripted), until=until or None, limit=12)
"""


def before_training(pipeline):
    """The last stage before one that needs torch."""
    names = []
    for stage in pipeline.stages:
        if stage.kind == "search" or stage.makes(home("pipelines"), pipeline.project):
            break
        names.append(stage.name)
    return names[-1]


@pytest.mark.parametrize("name", NAMES)
def test_it_says_where_it_stands_and_is_short(name):
    text = (home("pipelines") / f"{name}.yaml").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert text.startswith(f"# {name}.yaml: ") and len(lines) <= 60
    if name not in PLAIN:
        system = yaml.safe_load(text)["system"]
        assert all(
            system[key] for key in ("paper", "elicitation", "algorithm", "skill", "vertical", "access")
        )


def classes_without(entries):
    """The classes of both surveys that no recipe has."""
    classes = {
        (survey, name)
        for survey in ("elicitation", "distillation")
        for name in get_args(System.model_fields[survey].annotation)
        if name
    }
    return classes - {
        (survey, entry[survey]) for entry in entries for survey in ("elicitation", "distillation")
    }


def test_every_class_of_both_surveys_has_a_recipe_and_the_list_shows_it(project):
    entries = pipelines(Project(project.path))
    assert not classes_without(entries)
    (multi_teacher,) = (entry for entry in entries if entry["name"] == "multi-teacher")
    others = [entry for entry in entries if entry["distillation"] != multi_teacher["distillation"]]
    assert classes_without(others) == {("distillation", "multi-teacher")}  # a lack would be seen
    wide = project.cli("list", env={"COLUMNS": "200"}).stdout.splitlines()
    shown = {line.split()[0]: line for line in wide}
    assert shown["multi-teacher"].endswith(" [labeling, multi-teacher]") and "[" not in shown["hello"]
    assert all(entry["elicitation"] in shown[entry["name"]] for entry in entries)


@pytest.mark.parametrize(
    "name",
    [name if name in KILLED_EACH_TIME else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
)
def test_it_runs_on_scripted_teachers_and_resumes_after_kills(project, name):
    models = yaml.safe_load((home("pipelines") / f"{name}.yaml").read_text()).get("models", {})
    try:
        pipeline = distillgen.load(name, need_env=False, scripted=models)
    except ConfigError as error:
        if "pip install" in str(error):
            pytest.skip(str(error))
        raise
    until = before_training(pipeline)
    if until == pipeline.stages[0].name:
        pytest.skip("all of it needs torch; its own tests carry it out")
    until = "" if until == pipeline.stages[-1].name else until
    command = [sys.executable, "-c", CARRY_OUT, name]
    begin = time.monotonic()
    whole = forked([*command, "whole", until, *models], project.path, project.env())
    assert whole.returncode == 0, whole.stderr
    run_s = time.monotonic() - begin
    project.kill_after((run_s * 0.7,), [*command, "killed", until, *models])
    again = forked([*command, "killed", until, *models], project.path, project.env())
    assert again.returncode == 0, again.stderr
    files = sorted(path.name for path in (project.path / "whole/stages").iterdir())
    assert len(files) >= 2
    for file in files:
        assert (project.path / "killed/stages" / file).read_bytes() == (
            project.path / "whole/stages" / file
        ).read_bytes(), file
