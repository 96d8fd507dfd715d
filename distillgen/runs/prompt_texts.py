"""The texts of the prompts of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.project import Project, file_sha256
from distillgen.runs.directory import project_root


def prompt_texts(directory: Path, lock: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the text of each prompt that the lock file of the run in `directory` names.

    The text is None if the prompt's file is not on this machine any more, or has changed since the run.
    """
    prompts = {
        name.removeprefix("prompts/"): sha256
        for name, sha256 in lock["files"].items()
        if name.startswith("prompts/")
    }
    project = Project(project_root(directory))
    return {name: _text(project, name, sha256) for name, sha256 in prompts.items()}


def _text(project: Project, name: str, sha256: str) -> str | None:
    """Return the text of a prompt's file with this SHA-256."""
    try:
        path = project.find("prompts", name, ".md")
    except ConfigError:
        return None
    return path.read_text(encoding="utf-8") if file_sha256(path) == sha256 else None
