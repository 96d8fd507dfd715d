"""Whatever the state of terminal, disk or folder, a command ends with a message and an exit code, without a
traceback.
"""

import io
import json
import os
import resource
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.runs.progress import Meter
from tests.command_process import forked

ROWS = [{"question": f"What is {i}?"} for i in range(4)]
PIPELINE = """# small.yaml: an answer a row
version: 1
models: {t: {provider: scripted, model: echo}}
stages:
  - source: {path: rows.jsonl}
  - generate: {model: t, template: "{{ question }}", output: answer}
  - filter: [word_count: {field: answer, min_words: 1}]
"""


@pytest.fixture
def small(project):
    project.rows("rows.jsonl", ROWS)
    project.write("pipelines/small.yaml", PIPELINE)
    return project


@pytest.mark.parametrize("streams", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(small, streams):
    command = f"exec {shlex.quote(sys.executable)} -m distillgen run small {streams}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=small.path, env=small.env(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert len(small.read("runs/small/corpus.jsonl")) == 4
    if "<&-" == streams:
        assert "4 kept" in done.stdout


def test_a_terminal_of_another_encoding(small):
    small.rows("rows.jsonl", [{"question": "Was heißt →?"}])
    latin = {"PYTHONIOENCODING": "iso8859-1"}
    command = [sys.executable, "-m", "distillgen", "run", "small"]
    done = forked(command, small.path, small.env() | latin, text=False)
    assert done.returncode == 0 and "Was heißt \\u2192?".encode("iso8859-1") in done.stdout, done
    assert small.read("runs/small/corpus.jsonl")[0]["answer"] == "Was heißt →?"


@pytest.mark.parametrize("most", [1, 2_000, 70_000])
def test_a_full_disk(small, most):
    """A limit on the size of files refuses writes as a full disk does, wherever they happen to be."""

    def run(*args, limit):
        limits = (limit, resource.RLIM_INFINITY)
        return subprocess.run(
            [sys.executable, "-m", "distillgen", *args],
            cwd=small.path,
            env=small.env(),
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
            timeout=60,
        )

    done = run("run", "small", limit=most)
    assert done.returncode == 2 and "Traceback" not in done.stderr + done.stdout, done.stderr
    assert run("run", "small", limit=resource.RLIM_INFINITY).returncode == 0
    done = run("report", "small", limit=most)
    assert "Traceback" not in done.stderr and done.returncode == (2 if most < 70_000 else 0)
    if done.returncode:
        assert "file too large. The answers that were paid for are safe" in done.stderr
    if most == 1:
        done = run("export", "small", "-o", "out", limit=most)
        assert done.returncode == 2 and "cannot write 'out': file too large" in done.stderr


@pytest.mark.parametrize(
    "args",
    [("init", "/sys/mine"), ("run", "small", "-o", "/sys/mine"), ("export", "small", "-o", "/sys/mine")],
)
def test_a_folder_that_is_not_ones_own(small, args):
    small.cli("run", "small")
    done = small.cli(*args, check=2)
    assert "/sys" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "option, value, says",
    [
        ("--max-cost-usd", "abc", "'abc' is not a valid number"),
        ("--max-cost-usd", "nan", "'nan' is not a finite number"),
        ("--max-cost-usd", "inf", "'inf' is not a finite number"),
        ("-n", "1.5", "'1.5' is not a valid whole number"),
    ],
)
def test_a_value_that_is_no_number(small, option, value, says):
    assert says in small.cli("run", "small", option, value, check=2).stderr
    if value in ("nan", "inf"):
        with pytest.raises(ConfigError, match="finite"):
            distillgen.run("pipelines/small.yaml", max_cost_usd=float(value))


def test_a_folder_that_cannot_even_be_looked_into(small, monkeypatch, capsys):
    from distillgen.cli.main import main

    looked = Path.is_dir, Path.exists

    def refuse(path, look):
        if "theirs" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr("pathlib.Path.is_dir", lambda path: refuse(path, looked[0]))
    with pytest.raises(SystemExit) as ended:
        main(["init", "theirs"])
    assert ended.value.code == 2
    assert "cannot write to 'theirs'" in capsys.readouterr().err
    monkeypatch.setattr("pathlib.Path.exists", lambda path: refuse(path, looked[1]))
    with pytest.raises(SystemExit) as ended:
        main(["status", "theirs"])
    assert ended.value.code == 2
    assert "theirs/usage.json': permission denied. The answers" in capsys.readouterr().err


def test_an_error_that_is_no_ones_disk_is_not_hidden(small, monkeypatch):
    from distillgen.cli.main import main

    def broken(*args, **options):
        raise OSError("a bug")

    monkeypatch.setattr("distillgen.load", broken)
    with pytest.raises(OSError, match="a bug"):
        main(["check", "small"])


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    "setting, escapes", [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_a_terminal_that_takes_no_escape_sequences(small, monkeypatch, setting, escapes):
    from distillgen.cli.main import main

    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal())
    with pytest.raises(SystemExit):
        main(["help", "word_count"])
    assert "filter word_count" in sys.stdout.getvalue() and ("\x1b" in sys.stdout.getvalue()) is escapes


@pytest.mark.parametrize("where", ["distillgen.load", "distillgen.cli.main.main"])
def test_ctrl_c_at_any_moment_ends_without_a_traceback(small, monkeypatch, capsys, where):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    monkeypatch.setattr(sys, "argv", ["distillgen", "check", "small"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("distillgen", run_name="__main__")
    assert ended.value.code == 130
    assert ("interrupted" in capsys.readouterr().err) is (where == "distillgen.load")


def test_a_run_that_keeps_nothing_says_so(small):
    small.write("pipelines/small.yaml", PIPELINE.replace("min_words: 1", "min_words: 9"))
    done = small.cli("run", "small", check=3)
    assert (
        "nothing was kept: all rows were dropped (word_count 4)" in done.stderr
        and "show runs/small --dropped" in done.stderr
    )
    small.cli("run", "small", "--until", "generate")  # not its end: nothing can be missing
    small.write("pipelines/small.yaml", PIPELINE)
    assert "nothing was kept" not in small.cli("run", "small").stderr


def test_what_is_asked_now_is_told_apart_from_all_that_was_asked(small):
    first, again = small.cli("run", "small").stdout, small.cli("run", "small").stdout
    assert "\nasked now        4 requests, 24 tokens, 0:0" in first
    assert "in all" not in first and "from the ledger" not in first
    assert "\nasked now        nothing, " in again and "\nin all           4 requests, 24 tokens\n" in again
    small.rows("rows.jsonl", [*ROWS, {"question": "And five?"}])
    more = small.cli("run", "small").stdout
    assert "\nasked now        1 request, 4 tokens, " in more and "in all           5 requests" in more
    assert "\nfrom the ledger  4 answers, paid for before\n" in more
    state = json.loads((small.path / "runs/small/usage.json").read_text())
    assert state["asked_now"]["requests"] == 1 and state["totals"]["requests"] == 5


def test_each_model_is_shown_with_its_own_answers_and_money(small):
    price = "price: {input: 1e6, output: 0}"  # a dollar a word
    models = (
        f"models: {{t: {{provider: scripted, model: echo, {price}}}, u: {{provider: scripted, "
        f"model: echo, {price}}}}}"
    )
    small.write(
        "pipelines/small.yaml",
        PIPELINE.replace("models: {t: {provider: scripted, model: echo}}", models)
        + '  - generate: {name: again, model: u, template: "{{ answer }} Really?", output: doubt}\n'
        + '  - generate: {name: third, model: u, template: "Why?", output: reason}\n',
    )
    shown = []

    async def watch(live):
        import asyncio

        try:
            await asyncio.Event().wait()
        finally:
            shown.append(Meter(live).read())

    from distillgen.runs.run import run_pipeline
    from distillgen.runs.state import Options

    run_pipeline(distillgen.load("pipelines/small.yaml"), small.path / "r", Options(), watch)
    t, u = shown[0].models
    assert (t.cost_usd, t.answered, t.input_tokens) == (12, 4, 12)
    assert (u.cost_usd, u.answered, u.input_tokens) == (17, 5, 17)
    assert shown[0].cost_usd == 29 and shown[0].most_usd is None, "an answer without max_tokens has no bound"


@pytest.mark.parametrize("end", ["interrupted", "stages", "empty"])
def test_what_is_not_whole_is_not_pushed(small, end):
    small.cli("run", "small")
    small.cli("push", "small", "me/small", "--dry-run")
    usage = small.path / "runs/small/usage.json"
    state = json.loads(usage.read_text())
    if end == "interrupted":
        usage.write_text(json.dumps(state | {"state": "interrupted"}))
    elif end == "stages":
        state["stages"][-1]["complete"] = False
        usage.write_text(json.dumps(state))
    else:
        small.write("pipelines/small.yaml", PIPELINE.replace("min_words: 1", "min_words: 9"))
        small.cli("run", "small", check=3)
    message = {
        "interrupted": "is not finished (interrupted); run it to its end first",
        "stages": "has stages that were not run; run it to its end first",
        "empty": "has no rows to push; see: distillgen show",
    }[end]
    assert message in small.cli("push", "small", "me/small", "--dry-run", check=2).stderr


def test_an_export_without_rows_is_not_pushed(small):
    folder = small.path / "out"
    folder.mkdir()
    (folder / "README.md").write_text("# A card\n")
    (folder / "train.jsonl").write_text("")
    assert "has no rows to push" in small.cli("push", "out", "me/small", "--dry-run", check=2).stderr
    (folder / "train.jsonl").write_text('{"a": 1}\n')
    small.cli("push", "out", "me/small", "--dry-run")


def test_streams_of_the_test_itself_are_left_alone():
    before = os.fstat(1)
    from distillgen.runs.streams import hold_open

    hold_open()
    assert os.fstat(1) == before


def test_warnings_reach_the_terminal_once_each(small):
    small.write(
        "filters/careful.py",
        '"""A filter that warns."""\n\nimport logging\n\nfrom distillgen import Filter\n\n\n'
        "def careful() -> Filter:\n"
        '    """Drop nothing."""\n\n    def measure(records):\n        for _ in records:\n'
        '            logging.getLogger("distillgen").warning("rows are odd")\n'
        "        return [0.0 for _ in records]\n\n    return Filter(measure, lambda number: None)\n",
    )
    small.write("pipelines/small.yaml", PIPELINE.replace("[word_count", "[careful, word_count"))
    done = small.cli("run", "small")
    assert done.stderr.count("note: rows are odd") == 1
    assert (small.path / "runs/small/run.log").read_text().count("WARNING rows are odd") >= 1
