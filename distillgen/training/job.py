"""The declaration of a training, which the stage `train` writes and the process that trains reads."""

from __future__ import annotations

from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from distillgen.errors import ConfigError
from distillgen.project import Project
from distillgen.state_files import Damaged, load_state
from distillgen.training.objective import Objective, objective_class
from distillgen.training.options import TrainingOptions

NEEDED = ("torch", "transformers", "datasets", "accelerate")
"""Packages that every training needs."""
VERSIONED = ("distillgen", *NEEDED, "trl", "peft", "tokenizers", "sentence-transformers")


class NothingToLearn(ConfigError):
    """No record is left to train on."""


class RowData(BaseModel):
    """The rows that were written for a training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    rows: dict[str, int]
    """How many rows each part has, and how many records were left out, by the reason."""


class TrainingJob(BaseModel):
    """Everything that the process needs to train, besides the rows in the same folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fingerprint: str
    """A hash of the rows, options, files and versions: trainings with the same fingerprint are the same."""
    options: TrainingOptions
    objective: dict[str, Any]
    """The options of the objective that `options` names."""
    stage: dict[str, Any]
    """All options of the stage, for the manifest."""
    root: Path
    """The project's folder."""
    start: str
    """The model that the training begins with, as `students.ready` takes it."""
    models: dict[str, Path] = {}
    """The folders of the earlier students that it needs besides, by name."""
    to: Path
    """The folder in which the student will stand when the training has ended."""
    data: RowData
    files: dict[str, str]
    """SHA-256 of the files that the options name, by name."""
    versions: dict[str, str]

    def learning(self, project: Project) -> Objective:
        """Return the objective with its options."""
        return objective_class(self.options.objective, project).model_validate(self.objective)


def fingerprint_of(file: Path) -> str | None:
    """Return the fingerprint in a `job.json` or `manifest.json`; None if the file is missing or damaged."""
    with suppress(FileNotFoundError, Damaged):
        return str(load_state(file, "fingerprint")["fingerprint"])
    return None


def installed_versions() -> dict[str, str]:
    """Return the versions of the installed packages that can change what a training computes."""
    versions = {}
    for name in VERSIONED:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
