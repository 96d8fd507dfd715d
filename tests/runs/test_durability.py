"""Killed at any moment, a run loses nothing, repeats only requests in flight, and gives the same corpus."""

import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.command_process import ForkedCommand
from tests.endpoint import Endpoint, completion, reply

ROWS, CONCURRENCY = 400, 12

FILTER = '''
from collections.abc import Sequence
from distillgen import FieldName, Filter, Record


def last_digit(*, field: FieldName = "answer", keep: str = "0123456789abcdef") -> Filter:
    """Keep answers that end in one of `keep`."""

    def measure(records: Sequence[Record]) -> list[float]:
        return [float(int(str(r.fields[field])[-1], 16)) for r in records]

    return Filter(measure, lambda n: None if f"{int(n):x}" in keep else f"digit {int(n)}")
'''


def judged(body, times):
    """A second stage's answers depend on the first's, so that a mixed-up answer shows in the corpus."""
    text = reply(body)
    if text[-1] in "01":
        return completion(
            body, choices=[{"index": 0, "finish_reason": "length", "message": {"content": text}}]
        )
    return None


def pipeline(project, url, rows=ROWS):
    path = project.ask_pipeline(
        url,
        rows,
        model=f", max_concurrency: {CONCURRENCY}",
        after='  - generate: {name: again, model: teacher, template: "Judge {{ answer }}", output: verdict}\n'
        "  - filter: [last_digit: {field: verdict, keep: 23456789abcdef}]\n",
    )
    project.write("filters/last_digit.py", FILTER)
    return path


def hang_up():
    """A closed terminal counts, also where the tests themselves run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(project, *args, **options):
    command = [sys.executable, "-m", "distillgen", "run", "ask", *args]
    return ForkedCommand(command, project.path, project.env(), start_new_session=True, **options)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_sigkill_loses_nothing_and_asks_only_what_was_in_flight(project, seed):
    rng = random.Random(seed)
    with Endpoint(judged) as endpoint:
        pipeline(project, endpoint.url)
        project.cli("run", "ask", "-o", "runs/whole", "--ledger", "whole.sqlite3", check=3)
        whole = {f: (project.path / "runs/whole" / f).read_bytes() for f in ("corpus.jsonl", "dropped.jsonl")}
        endpoint.asked.clear()
        endpoint.latency_s = 0.02
        kills = repeats_allowed = 0
        while True:
            process = start(project, "-o", "runs/killed", "--ledger", "killed.sqlite3")
            seen = endpoint.asked.total()
            limit = time.monotonic() + 30
            while process.poll() is None and endpoint.asked.total() == seen and time.monotonic() < limit:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.25))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
                repeats_allowed += CONCURRENCY
            _, errors = process.communicate(timeout=60)
            if process.returncode in (0, 3):
                break
            assert process.returncode == -signal.SIGKILL, errors.decode()
        repeats = sum(n - 1 for n in endpoint.asked.values())
        assert kills >= 7, "the machine is too fast for this test: raise ROWS"
        assert repeats <= repeats_allowed
        assert {f: (project.path / "runs/killed" / f).read_bytes() for f in whole} == whole
        usage = json.loads((project.path / "runs/killed/usage.json").read_text())["totals"]
        answered = len(endpoint.asked)
        assert usage["answers"] == usage["requests"] == answered and usage["output_tokens"] == 5 * answered


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_waits_for_what_is_paid_for_and_says_how_to_go_on(project, number):
    with Endpoint(latency_s=0.3) as endpoint:
        pipeline(project, endpoint.url)
        process = start(project)
        while endpoint.asked.total() < 3 * CONCURRENCY:
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "run the same command to go on" in errors.decode()
        state = json.loads((project.path / "runs/ask/usage.json").read_text())
        assert state["state"] == "interrupted"
        assert state["totals"]["answers"] == endpoint.asked.total(), (
            "an answer that was paid for was thrown away"
        )
        endpoint.latency_s = 0
        project.cli("run", "ask")
        assert max(endpoint.asked.values()) == 1


COMPARED = """
import time
from pathlib import Path
from distillgen import FieldName, Filter


def compared(*, field: FieldName = "answer", seconds: float = 100.0) -> Filter:
    \"\"\"Compare all texts with one another, for a long time.\"\"\"

    def measure(records):
        Path("begun").touch()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            sum(range(100))
        return [0.0 for _ in records]

    return Filter(measure, lambda number: None, whole_set=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_long_calculation_and_loses_nothing(project, number):
    with Endpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 20, after="  - filter: [compared: {field: answer}]\n")
        project.write("filters/compared.py", COMPARED)
        process = start(project)
        while not (project.path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=80)  # of the 100 that the calculation would take
        assert process.returncode == 130
        assert "run the same command to go on" in errors.decode() and "Traceback" not in errors.decode()
        state = json.loads((project.path / "runs/ask/usage.json").read_text())
        assert state["state"] == "interrupted" and state["totals"]["answers"] == endpoint.asked.total()
        project.cli("run", "ask", "--set", "compared.seconds=0")
        assert len(endpoint.asked) == 20 and max(endpoint.asked.values()) == 1


def test_a_terminal_that_is_closed_throws_no_answer_away(project):
    """The program loses its terminal, gets SIGHUP from the kernel, and once more from the shell."""
    with Endpoint(latency_s=0.3) as endpoint:
        pipeline(project, endpoint.url)
        ours, theirs = pty.openpty()
        command = [
            sys.executable,
            "-c",
            "import fcntl, os, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
            f"os.execv({sys.executable!r}, [{sys.executable!r}, '-m', 'distillgen', 'run', 'ask'])",
        ]
        process = subprocess.Popen(
            command,
            cwd=project.path,
            env=project.env() | {"TERM": "xterm"},
            start_new_session=True,
            preexec_fn=hang_up,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        while endpoint.asked.total() < 3 * CONCURRENCY:
            os.read(ours, 1 << 16)
        os.close(ours)
        time.sleep(0.05)
        process.send_signal(signal.SIGHUP)
        process.wait(60)
        state = json.loads((project.path / "runs/ask/usage.json").read_text())
        assert state["state"] == "interrupted" and state["totals"]["answers"] == endpoint.asked.total()
        endpoint.latency_s = 0
        project.cli("run", "ask")
        assert max(endpoint.asked.values()) == 1


def test_nohup_is_respected(project):
    with Endpoint(latency_s=0.1) as endpoint:
        pipeline(project, endpoint.url)
        process = start(project, hang_up=signal.SIG_IGN)
        while endpoint.asked.total() < CONCURRENCY:
            time.sleep(0.01)
        process.send_signal(signal.SIGHUP)
        while endpoint.asked.total() <= 2 * CONCURRENCY and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130 and endpoint.asked.total() > 2 * CONCURRENCY


def test_the_corpus_does_not_depend_on_concurrency(project):
    with Endpoint(judged) as endpoint:
        pipeline(project, endpoint.url)
        found = Counter()
        for concurrency in (1, 7, 256):
            endpoint.asked.clear()
            own = ("-o", f"runs/{concurrency}", "--ledger", f"{concurrency}.sqlite3")
            project.cli("run", "ask", "--concurrency", concurrency, *own, check=3)
            assert len(endpoint.asked) > ROWS, "another run's answers were taken"
            assert endpoint.most_in_flight <= concurrency
            names = ("corpus.jsonl", "dropped.jsonl", "stages/02-generate.jsonl", "stages/03-again.jsonl")
            found[b"".join((project.path / f"runs/{concurrency}" / f).read_bytes() for f in names)] += 1
        assert len(found) == 1


def test_two_runs_in_one_directory_at_once(project):
    with Endpoint(latency_s=0.5) as endpoint:
        pipeline(project, endpoint.url)
        first = start(project)
        while not endpoint.asked:
            time.sleep(0.01)
        second = project.cli("run", "ask", check=2)
        assert f"process {first.pid}" in second.stderr and "distillgen status" in second.stderr
        status = project.cli("status", "ask", "--json")
        assert json.loads(status.stdout)["state"] == "running"
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
        assert json.loads(project.cli("status", "ask", "--json").stdout)["state"] == "killed"


def test_a_run_without_files_left_to_open_says_so_and_goes_on_later(project):
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50));"
        "sys.argv[0] = 'distillgen'; runpy.run_module('distillgen', run_name='__main__')"
    )
    with Endpoint(latency_s=0.3) as endpoint:
        project.ask_pipeline(endpoint.url, 150, model=", max_concurrency: 128")
        command = [sys.executable, "-c", limited, "run", "ask", "-q"]
        done = subprocess.run(command, cwd=project.path, env=project.env(), capture_output=True, timeout=120)
        assert done.returncode == 2 and b"ulimit -n, or lower --concurrency" in done.stderr
        assert 0 < len(endpoint.asked) < 150
        project.cli("run", "ask", "-q")
        assert endpoint.asked.total() == len(endpoint.asked) == 150
    assert len(project.read("runs/ask/corpus.jsonl")) == 150
