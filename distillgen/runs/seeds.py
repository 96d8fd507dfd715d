"""Run a pipeline once for each of several seeds, in one directory and with one ledger.

The run of seed 3 is in `seed-3/`, and is what `--set seed=3` gives. `seeds.json` and `report.html` hold the
figures over seeds: a pure function of these runs. So running again continues, and gives the same files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError, DistillgenError
from distillgen.inference.places import Place, place_beside, written_beside
from distillgen.pipeline.load import Pipeline, load
from distillgen.runs.directory import Run, is_running
from distillgen.runs.execute import Watch
from distillgen.runs.lock import directory_lock
from distillgen.runs.run import run_pipeline
from distillgen.runs.seed_figures import Figure, apart, figures_of, summary
from distillgen.runs.state import Options
from distillgen.runs.templates import template
from distillgen.state_files import SEEDS, Damaged, load_state, replace_text
from distillgen.text import display
from distillgen.training.supervise import one_training_process


@dataclass(frozen=True)
class Seeds:
    """The directory of the runs of a pipeline with the seeds from 0 on."""

    directory: Path

    def __post_init__(self) -> None:
        """Take a path that is written as a text, too."""
        object.__setattr__(self, "directory", Path(self.directory))

    @property
    def summary(self) -> dict[str, Any]:
        """Return the content of `seeds.json`: pipeline, seeds, finished, figures, comparisons."""
        try:
            return load_state(self.directory / SEEDS, "pipeline", "seeds", "figures", "comparisons")
        except FileNotFoundError:
            raise ConfigError(f"'{self.directory}' holds no runs of several seeds (no {SEEDS})") from None

    def place(self, seed: int) -> Path:
        """Return the directory of the run of a seed."""
        return self.directory / f"seed-{seed}"

    def run(self, seed: int) -> Run | None:
        """Return the run of a seed; None if it has not begun."""
        return Run(self.place(seed)) if (self.place(seed) / "usage.json").is_file() else None

    @property
    def state(self) -> dict[str, Any]:
        """Return the state of all runs together, and what is in the `usage.json` of each, by seed."""
        content = self.summary
        runs = {seed: run.state for seed in range(content["seeds"]) if (run := self.run(seed))}
        unfinished = next((run["state"] for run in runs.values() if run["state"] != "finished"), "")
        between = "running" if is_running(self.directory) else "interrupted"
        complete = len(runs) == content["seeds"] and between != "running"
        return {
            "pipeline": content["pipeline"],
            "seeds": content["seeds"],
            "state": unfinished or ("finished" if complete else between),
            "failed": sum(run["failed"] for run in runs.values()),
            "runs": runs,
        }

    def __repr__(self) -> str:
        """Return the directory with the state of the runs, or why it cannot be read."""
        try:
            return f"Seeds('{self.directory}'): {self}"
        except DistillgenError as error:
            return f"Seeds('{self.directory}'): {error}"

    def __str__(self) -> str:
        state = self.state
        finished = sum(run["state"] == "finished" for run in state["runs"].values())
        return f"{state['pipeline']}: {finished} of {state['seeds']} seeds are finished"


def load_seeds(
    pipeline: str | Path | Mapping[str, Any], seeds: int, sets: Sequence[str] = (), **options: Any
) -> list[Pipeline]:
    """Return the checked pipeline of each seed. Raise ConfigError as `load` does, and if no seed changes
    anything.
    """
    if seeds < 2:
        raise ConfigError(f"--seeds takes 2 seeds or more, not {seeds}")
    if any(assignment.partition("=")[0] == "seed" for assignment in sets):
        raise ConfigError("--seeds sets the pipeline's seed itself: leave out --set seed=…")
    pipelines = [load(pipeline, sets, seed=seed, **options) for seed in range(seeds)]
    if not any(bound.uses_seed() for bound in pipelines[0].bound_stages):
        remedy = "train a student, draw rows, or give a model or a stage a sampling seed (seed: 0)"
        raise ConfigError(
            f"--seeds {seeds}: all runs would be equal: no stage draws by the pipeline's seed; {remedy}",
            path=pipelines[0].file,
        )
    return pipelines


def run_seeds(
    pipelines: Sequence[Pipeline],
    directory: Path,
    options: Options,
    watch: Watch | None = None,
    announce: Callable[[int], None] = lambda seed: None,
) -> Seeds:
    """Run the pipeline of each seed that is not finished, and write the figures over seeds.

    `announce` is called with each seed before its run. `max_cost_usd` is the cap of all runs together.
    Raises what `run_pipeline` raises; the figures of the seeds before are written then.
    """
    if (directory / "usage.json").exists():
        raise ConfigError(f"'{directory}' holds a run without --seeds; choose another directory with --out")
    seeds = Seeds(directory)
    measured: list[Mapping[Figure, float] | None] = [None] * len(pipelines)
    with directory_lock(directory), one_training_process():
        ledger = _ledger(directory, options, pipelines[0])
        _write(seeds, pipelines[0], ledger, measured)
        for number, pipeline in enumerate(pipelines):
            announce(number)
            of_seed = replace(
                options, ledger=ledger, cap_of=directory, salvage=options.salvage and not number
            )
            run_pipeline(pipeline, seeds.place(number), of_seed, watch)
            measured[number] = figures_of(Run(seeds.place(number)))
            _write(seeds, pipelines[0], ledger, measured)
    return seeds


def _ledger(directory: Path, options: Options, pipeline: Pipeline) -> Place:
    """Return the ledger of all seeds: that of the options or the pipeline, the one used before, or one in the
    directory.
    """
    if options.ledger:
        return options.ledger
    if place := pipeline.ledger_place():
        return place
    try:
        before = str(load_state(directory / SEEDS, "ledger")["ledger"])
    except (FileNotFoundError, Damaged):
        before = "ledger.sqlite3"
    return place_beside(directory, before)


def _write(
    seeds: Seeds, pipeline: Pipeline, ledger: Place, measured: Sequence[Mapping[Figure, float] | None]
) -> None:
    """Write `seeds.json` and the report from the figures of the runs that have come to their end so far.

    A run that an earlier session finished counts when this session reaches it: the pipeline may have changed.
    """
    content: dict[str, Any] = {
        "pipeline": pipeline.name,
        "about": pipeline.about,
        "seeds": len(measured),
        "finished": [seed for seed, figures in enumerate(measured) if figures is not None],
        "ledger": written_beside(seeds.directory, ledger),
        **summary(measured),
    }
    replace_text(seeds.directory / SEEDS, json.dumps(content, indent=2) + "\n")
    states = [Run(seeds.place(seed)).state for seed in content["finished"]]
    page = template(Path(__file__).with_name("seeds.html.jinja"), display.visible, autoescape=True)
    replace_text(seeds.directory / "report.html", page.render(**content, states=states, apart=apart))
