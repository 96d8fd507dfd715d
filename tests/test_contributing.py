"""The walk-throughs of CONTRIBUTING.md, followed to the letter."""

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def code(title: str) -> str:
    return textwrap.dedent(re.search(r"```python\n(.*?)   ```", section(title), re.S)[1])


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
    front = "---\nabout: riddles\nfew_shot: {n: 1, examples: [{topic: a door, answer: I open.}]}\nvary: {tone: [plain, lively]}\n---\n"
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
    shutil.copytree(
        ROOT / "distillgen", walked.path / "distillgen", ignore=shutil.ignore_patterns("__pycache__")
    )
    walked.write("distillgen/stages/rename.py", code("A stage"))
    walked.write("pipelines/riddles.yaml", RECIPE + "  - rename: {fields: {answer: riddle}}\n")
    walked.cli("run", "riddles")  # `python -m` finds the copy in the working directory first
    assert list(walked.read("runs/riddles/corpus.jsonl")[0]) == ["topic", "riddle", "meta"]
    walked.write("pipelines/riddles.yaml", RECIPE + "  - rename: {fields: {anser: riddle}}\n")
    assert "did you mean 'answer'" in walked.cli("run", "riddles", check=2).stderr


def test_its_code_is_of_the_house_style(walked):
    for title, file in (("A filter", "filters/shouting.py"), ("A stage", "distillgen/stages/rename.py")):
        walked.write(file, code(title))
        done = subprocess.run(
            [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml", file],
            cwd=walked.path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout
