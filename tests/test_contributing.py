"""The walk-throughs of CONTRIBUTING.md, followed to the letter in a project outside the checkout."""

import json
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import distillgen

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FILES = {
    "A filter": "filters/shouting.py",
    "A stage": "stages/rename.py",
    "An objective": "objectives/short.py",
    "A provider": "teachers/parrot.py",
}


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def code(title: str, language: str = "python") -> str:
    return textwrap.dedent(re.search(rf"```{language}\n(.*?)   ```", section(title), re.S)[1])


RECIPE = """# riddles.yaml: riddles about everyday things
# yaml-language-server: $schema=schema.json
version: 1
models: {teacher: {provider: scripted, model: echo}}
stages:
  - source: {path: data/things.jsonl}
  - generate: {model: teacher, prompt: riddle, output: answer}
  - filter: [shouting: {field: answer, max_share: 0.3}]
"""


@pytest.fixture
def walked(project):
    project.rows("data/things.jsonl", [{"topic": "a lamp"}, {"topic": "A BIG LAMP"}])
    front = (
        "---\nabout: riddles\nfew_shot: {n: 1, examples: [{topic: a door, answer: I open.}]}\n"
        "vary: {tone: [plain, lively]}\n---\n"
    )
    project.write("prompts/riddle.md", front + "@system\nBe {{ tone }}.\n@user\n{{ topic }}\n")
    project.write("filters/shouting.py", code("A filter"))
    project.write("pipelines/riddles.yaml", RECIPE)
    return project


def test_filter_prompt_and_recipe(walked):
    assert (
        "shouting" in walked.cli("list", "filters").stdout
        and "riddle    " in walked.cli("list", "prompts").stdout
    )
    assert "riddles about everyday things" in walked.cli("list").stdout
    walked.cli("check", "riddles")
    assert "requests" in walked.cli("plan", "riddles").stdout
    assert "A BIG LAMP" in walked.cli("preview", "riddles", "-n", 5).stdout
    walked.cli("run", "riddles", "-n", 20)
    assert [row["answer"] for row in walked.read("runs/riddles/corpus.jsonl")] == ["a lamp"]
    assert walked.read("runs/riddles/dropped.jsonl")[0]["meta"]["dropped"]["reason"] == "80% capitals > 30%"
    assert (walked.path / "runs/riddles/report.html").exists()


def test_a_stage_is_one_new_file(walked):
    walked.write("stages/rename.py", code("A stage"))
    walked.write("pipelines/riddles.yaml", RECIPE + "  - rename: {fields: {answer: riddle}}\n")
    walked.cli("run", "riddles")
    assert list(walked.read("runs/riddles/corpus.jsonl")[0]) == ["topic", "riddle", "meta"]
    walked.write("pipelines/riddles.yaml", RECIPE + "  - rename: {fields: {anser: riddle}}\n")
    assert "did you mean 'answer'" in walked.cli("run", "riddles", check=2).stderr


def test_a_provider_is_one_new_file(walked):
    walked.write("teachers/parrot.py", code("A provider"))
    parrot = "provider: parrot, model: grey, times: 2"
    walked.write("pipelines/riddles.yaml", RECIPE.replace("provider: scripted, model: echo", parrot))
    walked.cli("run", "riddles")
    assert [row["answer"] for row in walked.read("runs/riddles/corpus.jsonl")] == ["a lamp a lamp"]
    assert "how often the message is repeated" in walked.cli("help", "parrot").stdout
    walked.write("pipelines/riddles.yaml", RECIPE.replace("scripted, model: echo", "parot, model: grey"))
    assert "did you mean 'parrot'" in walked.cli("check", "riddles", check=2).stderr


TRAIN = """# learn.yaml: a student
version: 1
stages:
  - source: {path: data/pairs.jsonl}
  - train: {student: tiny, objective: short, most_words: 5, max_steps: 2, held_out: 0}
"""


def test_an_objective_is_one_new_file(walked):
    walked.rows("data/pairs.jsonl", [{"prompt": "a", "completion": "b"}])
    walked.write("objectives/short.py", code("An objective"))
    walked.write("pipelines/learn.yaml", TRAIN)
    assert "words of the longest completion" in walked.cli("help", "short").stdout
    checked = walked.cli("check", "learn", check=None)
    assert checked.returncode == 0 or "objective 'short' needs the extra 'train'" in checked.stderr
    walked.write("pipelines/learn.yaml", TRAIN.replace("most_words", "most_word"))
    assert "did you mean 'most_words'" in walked.cli("check", "learn", check=2).stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_training_process_finds_the_objective(walked):
    for package in ("torch", "trl", "datasets", "accelerate"):
        pytest.importorskip(package)
    pairs = [{"prompt": f"say {i}", "completion": f"word {i}"} for i in range(20)]
    pairs.append({"prompt": "say much", "completion": "one two three four five six"})
    walked.rows("data/pairs.jsonl", pairs)
    walked.write("objectives/short.py", code("An objective"))
    walked.write("pipelines/learn.yaml", TRAIN)
    run = distillgen.run("learn")
    manifest = json.loads((run.directory / "student/manifest.json").read_text())
    assert {name: n for name, n in manifest["data"]["rows"].items() if "more than 5 words" in name} == {
        "left out: the completion has more than 5 words": 1
    }
    assert "objectives/short" in run.lock["files"]


def test_a_package_offers_them_in_every_project(walked):
    entry_points = tomllib.loads(code("A package", "toml"))["project"]["entry-points"]
    lines = [
        line
        for group, entries in entry_points.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    walked.write(
        "packages/acme_distillgen-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n"
    )
    walked.write("packages/acme_distillgen-1.0.dist-info/entry_points.txt", "\n".join(lines))
    walked.write("packages/acme_distillgen/__init__.py", "")
    walked.write("packages/acme_distillgen/rename.py", code("A stage"))
    walked.write("packages/acme_distillgen/texts.py", code("A filter"))
    (walked.path / "filters/shouting.py").unlink()
    walked.write("pipelines/riddles.yaml", RECIPE + "  - rename: {fields: {answer: riddle}}\n")
    env = {"PYTHONPATH": f"{walked.path / 'packages'}:{ROOT}"}
    walked.cli("run", "riddles", env=env)
    assert [row["riddle"] for row in walked.read("runs/riddles/corpus.jsonl")] == ["a lamp"]
    assert "Give fields other names." in walked.cli("list", "stages", env=env).stdout
    assert "shouting" in walked.cli("list", "filters", env=env).stdout


def test_its_code_is_of_the_house_style(walked):
    for title, file in FILES.items():
        walked.write(file, code(title))
        done = subprocess.run(
            [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml", file],
            cwd=walked.path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout


def test_the_public_names():
    assert sorted(distillgen.__all__) == [
        "CheckContext",
        "Chunks",
        "Completion",
        "ConfigError",
        "DistillgenError",
        "Endpoint",
        "Estimate",
        "FieldName",
        "FileName",
        "Filter",
        "Job",
        "ModelName",
        "NumberName",
        "Objective",
        "Outcome",
        "Pipeline",
        "Project",
        "Prompt",
        "PromptName",
        "Record",
        "Rejected",
        "Request",
        "Retryable",
        "Run",
        "ScriptName",
        "Spec",
        "Stage",
        "Teacher",
        "TemplateText",
        "Unusable",
        "in_order",
        "load",
        "run",
    ]
    assert all(getattr(distillgen, name) for name in distillgen.__all__)
