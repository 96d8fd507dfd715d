"""Experiment trackers: what of a run reaches them, in slow tests the real ones."""

import importlib.util
import logging
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import distillgen
from distillgen.errors import ConfigError, UserCodeError
from distillgen.runs import trackers, tracking
from tests.conftest import ROOT

MODELS = {"t": {"provider": "scripted", "model": "echo"}}
STAGES = [
    {"source": {"path": "data/seeds.jsonl"}},
    {"generate": {"model": "t", "template": "{{ question }}", "output": "answer"}},
    {"filter": [{"word_count": {"field": "answer", "min_words": 2}}]},
]
KEY = "sk-secret-of-the-tracked-run"


def carry_out(project, *names, stages=STAGES, **options):
    project.rows("data/seeds.jsonl", [{"question": f"What is {i}?", "secret": KEY} for i in range(8)])
    return distillgen.run(
        {"version": 1, "models": MODELS, "stages": stages},
        out="runs/r",
        teachers={"t": lambda request, sample: "one" if "3" in str(request.messages) else "two words"},
        report_to=names,
        **options,
    )


@pytest.fixture
def notebook(monkeypatch):
    """A tracker that writes down what it gets, and fails as often as `faults` say."""
    lines, faults = [], {}

    class Notebook:
        key = "n1"

        def __init__(self, run):
            lines.append(("open", run))

        def log(self, figures):
            if faults.pop("log", None):
                raise RuntimeError("no room")
            lines.append(("log", figures))

        def end(self, *, finished):
            lines.append(("end", finished))

    Notebook.lines, Notebook.faults = lines, faults
    monkeypatch.setitem(trackers.TRACKERS, "trackio", (Notebook, ()))
    return Notebook


def test_a_tracker_gets_the_figures_of_the_whole_run_and_its_end(project, notebook, capfd):
    carry_out(project, "trackio")
    (_, run), *logs, end = notebook.lines
    assert (run.project, run.name, run.key) == ("pipeline", "r", "")
    assert run.facts["stages"] == "source, generate, filter" and end == ("end", True)
    figures = logs[-1][1]
    assert figures["filter/kept"] == 7 and figures["filter/dropped"] == 1 and figures["t/answered"] == 8
    assert all(isinstance(number, float) for number in figures.values()) and "cost_usd" not in figures
    assert capfd.readouterr().out == ""
    carry_out(project, "trackio", retry_failed=True)
    assert notebook.lines[-3 if len(logs) == 1 else -2][0] != "end"
    assert [run.key for kind, run in notebook.lines if kind == "open"] == ["", "n1"]


def test_a_run_goes_on_without_a_tracker_that_fails(project, notebook, caplog):
    notebook.faults["log"] = True
    with caplog.at_level(logging.WARNING):
        run = carry_out(project, "trackio")
    assert run.state["kept"] == 7 and "end" not in dict(notebook.lines)
    assert "--report-to trackio: RuntimeError: no room; the run goes on without it" in caplog.text


def test_a_tracker_learns_that_a_run_has_stopped(project, notebook):
    stages = [*STAGES[:2], {"filter": ["broken"]}]
    with pytest.raises(UserCodeError):
        carry_out(project, "trackio", stages=stages, filters={"broken": lambda record: record.absent})
    assert notebook.lines[-1] == ("end", False)


def test_a_training_that_goes_on_is_reported(project):
    class Nothing:
        stages = models = ()
        elapsed_s, cost_usd = 1.0, float("nan")

    project.write("runs/r/student-a.partial/progress.json", '{"step": 3, "loss": 0.5, "doing": ""}')
    project.write("runs/r/rounds/1/student.partial/progress.json", '{"step": 1, "loss": null}')
    project.write("runs/r/broken/progress.json", "{")
    assert tracking.figures_of(Nothing(), Path("runs/r")) == {
        "elapsed_s": 1,
        "student-a/step": 3,
        "student-a/loss": 0.5,
        "student/step": 1,
    }


@pytest.mark.parametrize(
    "names, says",
    [
        (["trackoi"], "no tracker 'trackoi'; did you mean 'trackio'?"),
        (["mlflow"], "--report-to mlflow needs the extra 'mlflow'"),
        (["trackio"], "--report-to trackio: it cannot be opened (OSError: no disk)"),
    ],
)
def test_a_mistake_is_found_before_anything_is_asked(project, monkeypatch, names, says):
    def refuse(run):
        raise OSError("no disk")

    monkeypatch.setitem(trackers.TRACKERS, "trackio", (refuse, ()))
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", (refuse, ("no_such_module", "mlflow")))
    monkeypatch.setattr("distillgen.runs.trackers.need", _need)
    with pytest.raises(ConfigError) as mistake:
        carry_out(project, *names)
    assert says in str(mistake.value) and not (project.path / "runs/r/corpus.jsonl").exists()


def _need(user, *modules):
    if modules:
        raise ConfigError(f"{user} needs the extra 'mlflow'")


ONE_RUN = """
import socket, sys
from pathlib import Path
from tests.conftest import ProjectFolder
from tests.runs.test_tracking import carry_out

_, name = sys.argv
socket.gethostname = lambda: "host-of-the-test"
sys.argv = ["/home/user-of-the-test/script"]
carry_out(ProjectFolder(Path.cwd()), name)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trackio", "wandb", "mlflow"])
def test_the_real_tracker_keeps_the_figures_and_no_secret_and_no_path(project, name):
    if not importlib.util.find_spec(name):
        pytest.skip(f"{name} is not installed")
    store = project.path / "store"
    store.mkdir()
    settings = {
        "TRACKIO_DIR": str(store),  # read when trackio is imported, so each run has a process of its own
        "WANDB_MODE": "offline",
        "WANDB_API_KEY": KEY,
        "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db",
        "HF_HUB_OFFLINE": "1",
        "LOGNAME": "user-of-the-test",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-W", "ignore", "-c", ONE_RUN, name]
    for _ in range(2):
        subprocess.run(command, cwd=project.path, env=project.env() | settings, check=True)
    files = [*store.rglob("*"), *(project.path / "runs/r/wandb").rglob("*.wandb")]
    content = b"".join(path.read_bytes() for path in files if path.is_file())
    assert b"filter/kept" in content and b"source, generate, filter" in content
    for private in (KEY, "host-of-the-test", "user-of-the-test", str(project.path / "data"), "/python"):
        assert private.encode() not in content, private
    if name == "mlflow":
        with sqlite3.connect(store / "mlflow.db") as database:
            assert database.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)]
            tags = {key for (key,) in database.execute("SELECT key FROM tags")}
            assert tags <= {"mlflow.runName"}
        database.close()
