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
    "A loss": "losses/brier.py",
    "A weight": "losses/sureness.py",
    "A student body": "bodies/waves.py",
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


NETWORK = """# rays.yaml: a network that learns which ray a point is on
version: 1
stages:
  - source: {path: data/rays.jsonl, held_out: 0.25}
  - train:
      objective: distil
      student: {waves: 48}
      inputs: [x]
      weights: {sure: {sureness: {teacher: says}}}
      losses: [brier: {teacher: says, weight: 2 * sure}]
      max_steps: 80
      learning_rate: 0.01
      arms: {shuffled: {on: shuffled}}
  - evaluate:
      models: [student, student-shuffled]
      template: "{{ x | json }}"
      gold: gold
      metrics: [exact]
"""


@pytest.fixture
def of_networks(walked):
    rays = [
        {"x": [float(i % 3 == ray) * (1 + i % 7) for ray in range(3)], "gold": "abc"[i % 3]}
        for i in range(120)
    ]
    shares = {False: 0.1, True: 0.8}
    rows = [r | {"says": {name: shares[name == r["gold"]] for name in "abc"}} for r in rays]
    walked.rows("data/rays.jsonl", rows)
    for title in ("A loss", "A weight", "A student body"):
        walked.write(FILES[title], code(title))
    walked.write("pipelines/rays.yaml", NETWORK)
    return walked


def test_a_loss_a_weight_and_a_body_are_one_new_file_each(of_networks):
    assert "both logits are divided by it" in of_networks.cli("help", "brier").stdout
    assert "the number of waves" in of_networks.cli("help", "waves").stdout
    assert "sureness" in of_networks.cli("list", "losses").stdout
    checked = of_networks.cli("check", "rays", check=None)
    assert checked.returncode == 0 or "needs the extra 'train'" in checked.stderr
    for right, wrong, message in (
        ("waves: 48", "waves: 0", "student body 'waves'"),
        ("sureness: {teacher", "sureness: {techer", "did you mean 'teacher'"),
        ("brier: {", "brier: {temperature: 0, ", "temperature"),
    ):
        of_networks.write("pipelines/rays.yaml", NETWORK.replace(right, wrong))
        assert message in of_networks.cli("check", "rays", check=2).stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_training_process_finds_loss_weight_and_body(of_networks):
    """The student learns the rays; where the teacher's words are exchanged, it does not."""
    for package in ("torch", "transformers", "datasets", "accelerate"):
        pytest.importorskip(package)
    run = distillgen.run("rays")
    models = json.loads((run.directory / "evaluation.json").read_text())["models"]
    right = {name: entry["metrics"]["exact"]["mean"] for name, entry in models.items()}
    assert right["student"] > 0.9 and right["student-shuffled"] < 0.7
    weights = (run.directory / "student/weights.jsonl").read_text().splitlines()
    assert {round(json.loads(line)["sure"], 6) for line in weights} == {0.8}
    assert {"losses/brier", "losses/sureness", "bodies/waves"} <= run.lock["files"].keys()


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
        "Body",
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
        "Loss",
        "Media",
        "ModelName",
        "NumberName",
        "Objective",
        "Outcome",
        "Pipeline",
        "Progress",
        "Project",
        "Prompt",
        "PromptName",
        "Record",
        "Rejected",
        "Request",
        "Retryable",
        "Run",
        "ScriptName",
        "Seeds",
        "Spec",
        "Stage",
        "Teacher",
        "TemplateText",
        "Unusable",
        "Weight",
        "in_order",
        "load",
        "run",
    ]
    assert all(getattr(distillgen, name) for name in distillgen.__all__)
