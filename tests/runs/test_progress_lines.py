"""What a terminal shows of a run, at every width, in every encoding, with and without colour."""

import io
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from distillgen.record import Record
from distillgen.runs.progress import ModelProgress, Progress, StageProgress
from distillgen.runs.progress_lines import Drawing, plain_line
from distillgen.text.display import fitting, shortened
from tests.command_process import forked


def stage(name, done, kept, **changes):
    known = {"kind": name, "rows_in": done, "gathered": 0, "measured": {}, "note": "", "complete": False}
    counts = {"sources": done, "rows_out": kept, "dropped": {}, "share": done / 1_000_000}
    return StageProgress(name=name, **{**known, **counts, **changes})


def model(name, **changes):
    counts = {"in_flight": 64, "answered": 412_000, "from_ledger": 0, "input_tokens": 31_204_000}
    rates = {"answers_per_s": 38.21, "tokens_per_s": 5000.0, "output_tokens": 1, "cost_usd": 41.5}
    trouble = {"retries": 0, "trouble": "", "failed": 0, "note": ""}
    return ModelProgress(name=name, **{**counts, **rates, **trouble, **changes})


PROGRESS = Progress(
    pipeline="p",
    total_rows=1_000_000,
    stages=(
        stage("source", 1_000_000, 1_000_000, complete=True),
        stage("generate-the-long-answers", 412_000, 412_000),
        stage("filter", 412_000, 371_000, dropped={"grounded": 29_000, "brevity": 11_500, "finished": 500}),
    ),
    models=(
        model("teacher", retries=17, trouble="429 Too Many Requests: the endpoint asks for a pause of 20 s"),
        model("日本語のモデル", cost_usd=0.0123, failed=3, from_ledger=9),
    ),
    elapsed_s=3725.2,
    left_s=5321.0,
    share=0.41,
    cost_usd=41.51,
    of_all_seeds=False,
    most_usd=120.0,
    first_kept=Record(id="i", source="s:1", fields={"answer": "several words " * 30}),
    warnings=("the first warning",),
    stopping="",
    to_finish=64,
    waits="",
)


def drawn(width, encoding="utf-8", progress=PROGRESS, **options):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    screen = Console(file=file, width=width, highlight=False, markup=False, **options)
    drawing = Drawing(screen)
    for text in (*drawing.news(progress), drawing.table(progress)):
        screen.print(text, soft_wrap=True)
    file.flush()
    return file.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_fit_and_no_word_is_broken(width):
    text = drawn(width)
    assert max(map(cell_len, text.splitlines())) < width
    whole = set(re.findall(r"[\w,.$]+", drawn(400)))
    assert {word for word in re.findall(r"[\w,.$]+", text) if word not in whole} <= {"1", "2", "more"}


def test_what_the_lines_say():
    text = drawn(100)
    assert re.search(r"stage +rows of 1,000,000 +kept +dropped\n", text) and re.search(
        r"model +answers +a second", text
    )
    assert re.search(r"filter +\S+ +412,000 +371,000 +41,000\n", text)
    assert "\n  grounded 29,000, brevity 11,500, finished 500\n" in text
    assert re.search(r"teacher +412,000 +38\.2 +31,204,001 +\$41\.50 +64\n +17 retries \(429 Too Many", text)
    assert "1:02:05 elapsed; about 1:29:00 left; $41.51 of at most $120.00\n" in text
    assert "9 from the ledger, 3 failed" in text and "note: the first warning" in text
    stopping = replace(PROGRESS, stopping="interrupted", waits="nothing has moved for 31 s")
    assert (
        "waiting for 64 paid answers" in (text := drawn(100, progress=stopping))
        and "nothing has moved" in text
    )
    free = replace(PROGRESS, cost_usd=None, most_usd=None, left_s=None)
    assert "1:02:05 elapsed\n" in drawn(100, progress=free), "what is unknown is not shown"
    seeds = replace(PROGRESS, of_all_seeds=True, most_usd=None)
    assert "$41.51 of all seeds\n" in drawn(100, progress=seeds)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_bars_in_any_encoding(encoding):
    latin = replace(PROGRESS, models=(), first_kept=None, stages=PROGRESS.stages[::2])
    assert "####------" in drawn(80, encoding, latin) and "━━━━──────" in drawn(80, "utf-8", latin)


def test_colour_is_for_those_who_want_it(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    assert "\x1b" not in drawn(80) and "\x1b[36m" in drawn(80, force_terminal=True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[36m" in drawn(80)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[36m" not in drawn(80, force_terminal=True)


def test_a_plain_line_for_a_log():
    line = plain_line(PROGRESS)
    assert "\n" not in line and line.startswith("1:02:05 elapsed  |  about 1:29:00 left  |  ")
    assert "filter 412,000/1,000,000, kept 371,000" in line and "source" not in line
    assert "teacher 412,000 answers, 38.2 a second, 17 retries (429" in line


def test_models_that_have_not_been_asked_are_left_out():
    silent = {"in_flight": 0, "answered": 0, "input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0}
    models = [
        *(model(f"late-{i}", **silent) for i in range(18)),
        model("waiting", **{**silent, "in_flight": 1}),
        model("stored", **{**silent, "from_ledger": 5}),
    ]
    progress = replace(PROGRESS, models=(*PROGRESS.models, *models))
    for text in (plain_line(progress), drawn(100, progress=progress)):
        assert "late" not in text and "waiting" in text and "stored" in text
    assert "answers" not in drawn(100, progress=replace(PROGRESS, models=tuple(models[:18])))


def test_texts_are_cut_between_words():
    assert shortened("one two three", 9) == "one two…" and shortened("one two", 7) == "one two"
    assert shortened("onetwothree", 5) == "onet…" and shortened("a onetwothree", 8) == "a onetw…"
    assert fitting(["one 1", "two 2", "three 3"], 14) == "one 1, 2 more" and fitting([], 9) == ""
    assert fitting(["one 1", "two 2"], 12) == "one 1, two 2"


PIPELINE = """# small.yaml: an answer a row
version: 1
models: {t: {provider: scripted, model: echo}}
stages:
  - source: {path: rows.jsonl}
  - generate: {model: t, template: "{{ question }}", output: answer}
"""


NAMES = ("words-of-the-questions-that-are-asked", "words-of-the-questions-again-please")


@pytest.fixture
def small(project):
    project.rows("rows.jsonl", [{"question": f"Was heißt „→ {i}“?"} for i in range(3)])
    project.write("pipelines/small.yaml", PIPELINE)
    return project


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "ascii:strict"])
def test_no_encoding_ends_a_command(small, encoding):
    for command in ("run", "status", "show", "plan", "check"):
        words = [sys.executable, "-m", "distillgen", command, "small"]
        done = forked(words, small.path, small.env() | {"PYTHONIOENCODING": encoding}, text=False)
        assert done.returncode == 0 and b"Error" not in done.stderr, done
        done.stdout.decode(encoding.partition(":")[0])


@pytest.mark.parametrize("wants", [{}, {"NO_COLOR": "1"}])
def test_in_a_terminal(small, wants):
    """A real terminal gets tables that are drawn over; without colour, only bold and dim are left."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "distillgen", "run", "small"],
        cwd=small.path,
        env=small.env() | {"TERM": "xterm-256color", "COLUMNS": "80", **wants},
        stderr=child,
        stdout=subprocess.DEVNULL,
    )
    os.close(child)
    shown = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # the end of a terminal
            break
        if not part:
            break
        shown += part
    os.close(parent)
    assert process.wait(60) == 0
    text = shown.decode()
    assert "━━━━━━━━━━" in text and "elapsed" in text and "\x1b[2K" in text
    assert ("\x1b[32m" in text) == (not wants)


def test_a_log_ends_with_how_the_run_ended(small):
    """Also the log of a run that is shorter than the time between two lines."""
    last = small.cli("run", "small").stderr.splitlines()[-1]
    assert "elapsed  |  generate 3/3, kept 3  |  t 3 answers" in last


def test_a_run_in_the_directory_of_another_pipeline_says_so(small):
    small.cli("run", "small")
    assert "replaces" not in small.cli("run", "small").stderr
    small.write("pipelines/next.yaml", PIPELINE)
    note = "note: runs/small held the run of 'small', which this one replaces"
    assert note in " ".join(small.cli("run", "next", "-o", "runs/small").stderr.split())


def test_a_ledger_that_does_not_exist_is_named(small):
    line = small.cli("ledger", "merge", "all.sqlite3", "smal", check=2).stderr
    assert "there is no ledger and no run 'smal'" in line and not (small.path / "all.sqlite3").exists()


def test_lines_of_status_and_plan_fit_and_a_pipe_gets_them_whole(small):
    word_counts = (
        f"word_count: {{name: {name}, field: question, min_words: {n}}}"
        for name, n in (("a-long-name-of-a-filter", 1), ("another-long-name-of-a-filter", 99))
    )
    more = "".join(
        f"  - filter: {{name: {name}, filters: [{w}]}}\n" for name, w in zip(NAMES, word_counts, strict=True)
    )
    small.write("pipelines/small.yaml", PIPELINE + more)
    small.cli("run", "small", check=3)
    for command, width in (("status", 70), ("plan", 70), ("check", 50), ("list", 70)):
        line = (command,) if command == "list" else (command, "small")
        whole, narrow = (
            [text for text in small.cli(*line, env=env).stdout.splitlines() if not text.endswith(": ok")]
            for env in ({}, {"COLUMNS": str(width)})
        )
        assert max(map(len, whole)) > width >= max(map(len, narrow)), command
        if command != "plan":
            assert " ".join(whole).split() == " ".join(narrow).split(), "no word is broken or lost"


def test_quiet_and_verbose(small):
    small.cli("run", "small", "-q")
    done = small.cli("run", "small", "-q")
    assert done.stdout == done.stderr == "" and len(small.read("runs/small/corpus.jsonl")) == 3
    assert "run: small in runs/small" in small.cli("run", "small", "-v").stderr
    assert "run: small in" not in small.cli("run", "small").stderr
    small.write("pipelines/small.yaml", PIPELINE.replace("model: t", "model: u"))
    assert "no model 'u'" in small.cli("run", "small", "-q", check=2).stderr, "errors are no chatter"


def test_open_shows_the_report_in_the_browser_of_the_user(small):
    browser = small.write("browser", '#!/bin/sh\necho "$1" > opened\n')
    browser.chmod(0o755)
    small.cli("run", "small", "--open", env={"BROWSER": f"{browser} %s"})
    page = (small.path / "runs/small/report.html").resolve().as_uri()
    assert (small.path / "opened").read_text().strip() == page
    (small.path / "opened").unlink()
    small.cli("report", "small", "--open", env={"BROWSER": f"{browser} %s"})
    assert (small.path / "opened").read_text().strip() == page
    small.cli("run", "small", env={"BROWSER": f"{browser} %s"})
