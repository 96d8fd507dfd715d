"""Experiment trackers: trackio, wandb and mlflow, which get the figures of a run and nothing else.

Each is opened without what it collects by itself: the machine, the command line, code, git and packages. The
tracker's own settings say where the figures go, and with which key: WANDB_MODE=offline, MLFLOW_TRACKING_URI,
TRACKIO_DIR and others.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from distillgen.errors import ConfigError, did_you_mean
from distillgen.extras import need
from distillgen.state_files import load_state, replace_text

KEYS = ".trackers.json"
"""The file of a run directory with the run's keys in the trackers: a run that goes on is the same there."""


class Tracker(Protocol):
    """A run in a tracker."""

    def log(self, figures: Mapping[str, float]) -> None:
        """Add the figures of this moment."""

    def end(self, *, finished: bool) -> None:
        """Close the run, which is finished or has stopped."""


@dataclass(frozen=True)
class Description:
    """What a tracker learns of a run at its start."""

    project: str
    name: str
    facts: Mapping[str, str]
    key: str
    """The run's key in the tracker at an earlier start, or ""."""
    folder: Path


class Trackio:
    """A run in trackio."""

    def __init__(self, run: Description) -> None:
        import trackio

        self.key = run.name
        options: dict[str, Any] = {"auto_log_gpu": False, "auto_log_cpu": False, "embed": False}
        trackio.init(project=run.project, name=run.name, config=dict(run.facts), resume="allow", **options)

    def log(self, figures: Mapping[str, float]) -> None:
        """Add the figures of this moment."""
        import trackio

        trackio.log(dict(figures))

    def end(self, *, finished: bool) -> None:
        """Close the run."""
        import trackio

        trackio.finish()


class Wandb:
    """A run in Weights & Biases."""

    def __init__(self, run: Description) -> None:
        import wandb

        self.key = run.key or uuid.uuid4().hex[:12]
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            save_code=False,
            host="",
            username="",
            email="",
            program="distillgen",
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=self.key,
            resume="allow",
            config=dict(run.facts),
            dir=str(run.folder),
            settings=settings,
        )

    def log(self, figures: Mapping[str, float]) -> None:
        """Add the figures of this moment."""
        self._run.log(dict(figures))

    def end(self, *, finished: bool) -> None:
        """Close the run."""
        self._run.finish(exit_code=0 if finished else 1)


class Mlflow:
    """A run in MLflow, by the client that adds no tags of the machine."""

    def __init__(self, run: Description) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        self.key = run.key
        if not self.key:
            experiment = self._client.get_experiment_by_name(run.project)
            place = experiment.experiment_id if experiment else self._client.create_experiment(run.project)
            self.key = self._client.create_run(place, run_name=run.name).info.run_id
            for name, fact in run.facts.items():
                self._client.log_param(self.key, name, fact)
        self._client.update_run(self.key, status="RUNNING")

    def log(self, figures: Mapping[str, float]) -> None:
        """Add the figures of this moment; the step is the second."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, value, now_ms, now_ms // 1000) for name, value in figures.items()]
        self._client.log_batch(self.key, metrics=metrics)

    def end(self, *, finished: bool) -> None:
        """Close the run."""
        self._client.set_terminated(self.key, "FINISHED" if finished else "KILLED")


TRACKERS: Mapping[str, tuple[Callable[[Description], Any], Sequence[str]]] = {
    "trackio": (Trackio, ("trackio",)),
    "wandb": (Wandb, ("wandb",)),
    "mlflow": (Mlflow, ("mlflow", "sqlalchemy", "alembic")),
}
"""Each tracker, and the modules that it needs."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for an unknown tracker, or for one that is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"--report-to: there is no tracker '{name}'{did_you_mean(name, TRACKERS)}")
        need(f"--report-to {name}", *TRACKERS[name][1])


def open_trackers(
    names: Sequence[str], project: str, directory: Path, facts: Mapping[str, str]
) -> dict[str, Tracker]:
    """Return the run in each tracker; raise ConfigError if one cannot be opened."""
    path = directory / KEYS
    keys = load_state(path) if path.exists() else {}
    trackers: dict[str, Tracker] = {}
    for name in names:
        run = Description(project, directory.resolve().name, facts, keys.get(name, ""), directory)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                tracker = TRACKERS[name][0](run)
        except Exception as error:  # whatever a foreign library raises: nothing was asked yet
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"--report-to {name}: it cannot be opened ({reason})") from error
        trackers[name], keys[name] = tracker, tracker.key
    replace_text(path, json.dumps(keys))
    return trackers
