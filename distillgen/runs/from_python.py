"""`distillgen.run`: a run from Python, as `distillgen run` starts it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, overload

from distillgen.errors import ConfigError, did_you_mean
from distillgen.pipeline.load import load
from distillgen.runs.directory import Run
from distillgen.runs.run import run_pipeline
from distillgen.runs.seeds import Seeds, load_seeds, run_seeds
from distillgen.runs.state import Options
from distillgen.teachers.scripted import Script

log = logging.getLogger("distillgen")


@overload
def run(
    pipeline: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    sets: Sequence[str] = (),
    teachers: Mapping[str, Script] | None = None,
    seeds: None = None,
    **options: Any,
) -> Run: ...


@overload
def run(
    pipeline: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    sets: Sequence[str] = (),
    teachers: Mapping[str, Script] | None = None,
    seeds: int,
    **options: Any,
) -> Seeds: ...


def run(
    pipeline: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    sets: Sequence[str] = (),
    teachers: Mapping[str, Script] | None = None,
    seeds: int | None = None,
    **options: Any,
) -> Run | Seeds:
    """Run a pipeline and return its run, or with `seeds` the runs with so many seeds, from 0 on.

    `pipeline` is a path, a name, or the same structure as a dict; `out` is the directory (default:
    runs/<name> in the project). `teachers` replaces models by Python functions of (Request, sample index);
    their answers are kept in that directory. The other options are those of `Options`. Raises ConfigError
    before anything is asked, BudgetStop at the cost cap.
    """
    option_names = set(Options.__dataclass_fields__) - {"cap_of", "scripts"}
    for name in options:
        if name not in option_names:
            raise ConfigError(f"run() has no option '{name}'{did_you_mean(name, option_names)}")
    if seeds is None:
        pipelines = [load(pipeline, sets, scripted=teachers or ())]
    else:
        pipelines = load_seeds(pipeline, seeds, sets, scripted=teachers or ())
    for note in pipelines[0].notes:
        log.warning("%s", note)
    directory = Path(out) if out else pipelines[0].run_directory()
    chosen = Options(**options, scripts=teachers or {})
    if seeds is None:
        _outside_event_loop(lambda: run_pipeline(pipelines[0], directory, chosen))
        return Run(directory)
    _outside_event_loop(lambda: run_seeds(pipelines, directory, chosen))
    return Seeds(directory)


def _outside_event_loop(work: Callable[[], object]) -> None:
    """Do the work; in a thread of its own where an event loop runs, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        in_loop = False  # the work waits, or each traceback in the log would begin with this exception
    else:
        in_loop = True
    if not in_loop:
        work()
        return
    with ThreadPoolExecutor(1) as thread:
        thread.submit(work).result()
