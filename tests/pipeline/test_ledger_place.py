"""A pipeline may name the place of its answers."""

import pytest

import distillgen
from distillgen.errors import ConfigError
from tests.endpoint import Endpoint


def test_a_pipeline_names_its_ledger(project, monkeypatch):
    with Endpoint() as endpoint:
        path = project.ask_pipeline(endpoint.url, 2)
        text = path.read_text()
        for written, made in (
            ("answers/all.sqlite3", "answers/all.sqlite3"),
            ("${PLACE}", "other/x.sqlite3"),
        ):
            path.write_text(f"{text}ledger: {written}\n")
            project.cli("run", "ask", "-q", env={"PLACE": "other/x.sqlite3"})
            assert (project.path / made).is_file() and not (project.path / "runs/ledger.sqlite3").exists()
        project.cli("run", "ask", "-q", "--ledger", "given.sqlite3", env={"PLACE": "unused/x"})
        assert (project.path / "given.sqlite3").is_file() and not (project.path / "unused").exists()
        assert "PLACE is not set" in project.cli("run", "ask", check=2).stderr
        path.write_text(f"{text}ledger: postgresql://me@nowhere/x\n")
        monkeypatch.setattr("distillgen.extras.find_spec", lambda module: None)
        with pytest.raises(ConfigError, match="a ledger in PostgreSQL needs the extra 'postgres'"):
            distillgen.load("pipelines/ask.yaml")
