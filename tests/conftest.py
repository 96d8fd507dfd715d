"""Fixtures shared by all tests: a project in a temporary folder, and the command line in a process of its
own.
"""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from distillgen.training.supervise import one_training_process
from tests.command_process import ForkedCommand, forked, new_command
from tests.endpoint import Endpoint

ROOT = Path(__file__).parent.parent


class ProjectFolder:
    """A user's project: write files into it, run the program in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, text: str) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def rows(self, name: str, rows) -> Path:
        return self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def cli(
        self, *args, check: int | None = 0, env: dict | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess:
        """Run `python -m distillgen ARGS` here; `check` is the exit code to expect, None for any. A variable
        that Python reads when it starts makes a new interpreter.
        """
        words, variables = [*map(str, args)], self.env() | (env or {})
        if any(name.startswith("PYTHON") for name in env or ()):
            done = new_command(words, self.path, variables, timeout)
        else:
            command = [sys.executable, "-m", "distillgen", *words]
            done = forked(command, self.path, variables, timeout=timeout)
        if check is not None:
            assert done.returncode == check, (
                f"exit {done.returncode}, expected {check}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def kill_at(
        self,
        counts: Sequence[int],
        command: Sequence[str],
        ledger: str,
        env: dict | None = None,
        table: str = "answers",
    ) -> None:
        """Start a command here once a count, and SIGKILL it when a table of its ledger has that many rows."""
        for count in counts:
            with ForkedCommand(command, self.path, self.env() | (env or {})) as process:
                while process.poll() is None and self._rows(ledger, table) < count:
                    time.sleep(0.005)
                assert process.poll() is None, f"the command ended before {ledger} held {count} {table}"
                process.kill()

    def kill_after(self, waits_s: Iterable[float], command: Sequence[str]) -> None:
        """Start a command here once a wait, and end it then with SIGKILL; it may have ended before."""
        for wait_s in waits_s:
            with ForkedCommand(command, self.path, self.env()) as process:
                time.sleep(wait_s)
                process.kill()

    def _rows(self, ledger: str, table: str) -> int:
        try:
            with closing(sqlite3.connect(f"file:{self.path / ledger}?mode=ro", uri=True)) as database:
                return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        except sqlite3.OperationalError:  # there is no file, or no table in it, yet
            return 0

    @staticmethod
    def env() -> dict:
        kept = {
            k: v
            for k, v in os.environ.items()
            if k in ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "XDG_CACHE_HOME", "PYTHONPATH")
        }
        return kept | {"COLUMNS": "120", "PYTHONWARNINGS": "error::RuntimeWarning"}

    def read(self, name: str) -> list[dict]:
        return [
            json.loads(line) for line in (self.path / name).read_text(encoding="utf-8").split("\n") if line
        ]

    def ask_pipeline(
        self, url: str, rows: int = 20, *, model: str = "", stage: str = "", after: str = ""
    ) -> Path:
        """A pipeline that asks an endpoint one question a row; `model` and `stage` are further options, as
        YAML.
        """
        self.rows("data/seeds.jsonl", [{"question": f"What is {i}?", "number": i} for i in range(rows)])
        return self.write(
            "pipelines/ask.yaml",
            f"""# ask.yaml: one answer a question
version: 1
models:
  teacher: {{provider: openai, model: m, base_url: "{url}", api_key: secret-key-123{model}}}
stages:
  - source: {{path: data/seeds.jsonl}}
  - generate: {{model: teacher, template: "{{{{ question }}}}", output: answer{stage}}}
{after}""",
        )


@pytest.fixture(scope="session", autouse=True)
def shared_training_process():
    """All runs of the tests' own process train in one process: loading torch takes seconds."""
    with one_training_process():
        yield


@pytest.fixture
def project(tmp_path, monkeypatch) -> ProjectFolder:
    monkeypatch.chdir(tmp_path)
    return ProjectFolder(tmp_path)


@pytest.fixture
def endpoint():
    with Endpoint() as running:
        yield running


SKIPPED = os.environ.get(
    "DISTILLGEN_SKIPPED"
)  # a file for the tests that were skipped: `pytest @FILE` runs them


def pytest_terminal_summary(terminalreporter, config):
    """Write the tests that this run has skipped, so that CI can run them once their extras are there."""
    if SKIPPED and not hasattr(config, "workerinput"):
        skipped = dict.fromkeys(report.nodeid for report in terminalreporter.stats.get("skipped", []))
        Path(SKIPPED).write_text("".join(f"{nodeid}\n" for nodeid in skipped), encoding="utf-8")
