"""Runs of earlier versions are read, continued and replayed to the same bytes, and nothing is asked again."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

OLD = sorted(path.parent for path in Path(__file__).parent.glob("*/pipelines"))
FILES = ("corpus.jsonl", "dropped.jsonl")


@pytest.fixture(params=OLD, ids=lambda path: path.name)
def old(request, project):
    """The folder of an old run, in a project of its own; its endpoint is gone."""
    shutil.copytree(request.param, project.path, dirs_exist_ok=True)
    return request.param


def same(project, old):
    return all(
        (project.path / "runs/old" / name).read_bytes() == (old / "runs/old" / name).read_bytes()
        for name in FILES
    )


def asked(project):
    return json.loads((project.path / "runs/old/usage.json").read_text())["asked_now"]["requests"]


def test_an_old_run_goes_on(project, old):
    assert "finished" in project.cli("status", "old").stdout
    project.cli("run", "old")
    assert same(project, old) and asked(project) == 0


def test_an_old_ledger_replays_the_same_bytes(project, old):
    shutil.rmtree(project.path / "runs/old")
    project.cli("run", "old")
    assert same(project, old) and asked(project) == 0
    assert ", 0 faults" in project.cli("ledger", "verify", "runs/ledger.sqlite3").stdout


def test_an_old_run_is_exported_and_reported(project, old):
    project.cli("export", "old", "-o", "out", "--shape", "messages")
    kept = json.loads((old / "runs/old/usage.json").read_text())["kept"]
    assert kept and sum(len(project.read(path)) for path in (project.path / "out").rglob("*.jsonl")) == kept
    project.cli("report", "old")
    assert "What is" in (project.path / "runs/old/report.html").read_text()


def test_a_changed_answer_would_be_noticed(project, old):
    """A control: the bytes hang on the ledger."""
    shutil.rmtree(project.path / "runs/old")
    with closing(sqlite3.connect(project.path / "runs/ledger.sqlite3")) as ledger, ledger:
        changed = ledger.execute(
            "UPDATE answers SET completion = CAST(replace(completion, 'answer ', 'reply ') AS BLOB)"
        )
        assert changed.rowcount
    project.cli("run", "old", check=None)
    assert not same(project, old)
