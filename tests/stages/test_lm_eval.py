"""lm-eval over a tiny random Llama and a task of our own (slow: needs torch and lm-eval), and the checks
without it.
"""

import importlib.util
import json
import subprocess
import sys

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.stages.lm_eval import HARNESS
from tests.tiny_llama import make_adapter, make_model

PACKAGES = ("torch", "transformers", "peft", "lm_eval")
TASK = """task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["two", "four"]
doc_to_target: right
metric_list: [{metric: acc}]
"""


def pipeline(models, **stage):
    stages = [
        {"source": {"path": "rows.jsonl"}},
        {"lm_eval": {"models": list(models), "tasks": ["sums"], **stage}},
    ]
    return {"version": 1, "models": models, "stages": stages}


def test_the_harness_ends_with_the_run_that_was_killed(tmp_path):
    (tmp_path / "lm_eval").mkdir()
    (tmp_path / "lm_eval/__init__.py").touch()
    (tmp_path / "lm_eval/__main__.py").write_text(
        "import sys, time\nprint(sys.argv[1:], flush=True)\ntime.sleep(600)"
    )
    command = [sys.executable, "-c", HARNESS, "run", "--model", "hf"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as process:
        assert process.stdout.readline() == b"['run', '--model', 'hf']\n" and process.poll() is None
        process.stdin.close()
        assert process.wait(60) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in PACKAGES),
    reason="needs pip install 'distillgen[train]' lm-eval",
)
def test_a_model_and_an_adapter_of_it_are_put_to_a_task_once(project):
    project.rows("rows.jsonl", [{"question": f"{i}"} for i in range(3)])
    project.rows("items.jsonl", [{"question": f"What is {i}?", "right": i % 2} for i in range(20)])
    project.write("tasks/sums.yaml", TASK.replace("DATA", str(project.path / "items.jsonl")))
    make_model(project.path / "model")
    make_adapter(project.path / "adapter", project.path / "model", 1)
    models = {
        name: {"provider": "transformers", "model": str(project.path / name)} for name in ("model", "adapter")
    }
    run = distillgen.run(pipeline(models, include_path="tasks"), out="out")
    told = json.loads((run.directory / "evaluation-lm_eval.json").read_text())
    for name in models:
        acc = told["models"][name]["metrics"]["sums acc"]
        assert 0 <= acc["low"] <= acc["mean"] <= acc["high"] and acc["n"] == 20
    assert [each["metric"] for each in told["comparisons"]] == ["sums acc"] and told["items"] == 20
    assert "sums acc" in (run.directory / "report.html").read_text()
    kept = {path.name: path.stat().st_mtime_ns for path in (run.directory / "lm-eval").glob("*.json")}
    (run.directory / "evaluation-lm_eval.json").unlink()
    project.rows("rows.jsonl", [{"question": f"{i}"} for i in range(4)])
    distillgen.run(pipeline(models, include_path="tasks"), out="out")
    assert {
        path.name: path.stat().st_mtime_ns for path in (run.directory / "lm-eval").glob("*.json")
    } == kept and len(kept) == 2
    assert json.loads((run.directory / "evaluation-lm_eval.json").read_text()) == told


def test_a_model_that_is_not_on_this_machine_is_refused(project):
    project.rows("rows.jsonl", [{"question": "a"}])
    with pytest.raises(ConfigError, match="model 'm' is not on this machine"):
        distillgen.load(pipeline({"m": {"provider": "scripted", "model": "echo"}}))
