"""`distillgen.run`: a run from Python, as `distillgen run` starts it."""

from __future__ import annotations

import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, Unpack, overload

from pydantic import BaseModel, ConfigDict, Field

from distillgen.errors import ConfigError, Stopped, did_you_mean
from distillgen.flow.filter import Filter
from distillgen.inference.places import read_place
from distillgen.inference.sampling import Sampling
from distillgen.located_yaml import Places, validate
from distillgen.pipeline.load import load, located
from distillgen.project import from_here, user_error
from distillgen.record import Record
from distillgen.rows.from_python import ROWS, write_rows
from distillgen.runs import notebook, progress_lines
from distillgen.runs.directory import Run
from distillgen.runs.event_loop import outside_event_loop
from distillgen.runs.execute import Watch
from distillgen.runs.lock import directory_lock
from distillgen.runs.notebook import in_notebook
from distillgen.runs.progress import Progress, follow
from distillgen.runs.ray_executor import Crew, ask_by_ray
from distillgen.runs.run import run_pipeline
from distillgen.runs.seeds import Seeds, load_seeds, run_seeds
from distillgen.runs.shards import folder, override
from distillgen.runs.state import Options
from distillgen.teachers.scripted import Script, check_script

log = logging.getLogger("distillgen")


class Frame(Protocol):
    """A pandas or polars frame, or an Arrow table."""

    @property
    def columns(self) -> Any:
        """The columns or their names."""
        ...


RowSource: TypeAlias = Iterable[Mapping[str, Any]] | Iterable[Record] | Frame


class _Numbers(BaseModel):
    """The options that are numbers, and their bounds, which the command line has too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int | None = Field(ge=1)
    concurrency: int | None = Field(ge=1)
    max_cost_usd: float | None = Field(ge=0, allow_inf_nan=False)
    workers: int | None = Field(ge=1)
    shards: int | None = Field(ge=1)


class RunOptions(TypedDict, total=False):
    """The options of `run` for type checkers, besides `seeds`."""

    out: str | Path | None
    sets: Sequence[str]
    limit: int | None
    stage: str | None
    from_: str | None
    until: str | None
    retry_failed: bool
    retry_with: Mapping[str, Any] | None
    max_cost_usd: float | None
    concurrency: int | None
    ledger: str | Path | None
    shard: str | None
    executor: Literal["ray"] | None
    workers: int | None
    shards: int | None
    report_to: Sequence[str]
    salvage: bool
    rows: RowSource | None
    filters: Mapping[str, Filter | Callable[..., Any]] | None
    teachers: Mapping[str, Script] | None
    progress: bool | Callable[[Progress], None] | None


@overload
def run(
    pipeline: str | Path | Mapping[str, Any], *, seeds: None = None, **options: Unpack[RunOptions]
) -> Run: ...


@overload
def run(pipeline: str | Path | Mapping[str, Any], *, seeds: int, **options: Unpack[RunOptions]) -> Seeds: ...


def run(
    pipeline: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    sets: Sequence[str] = (),
    limit: int | None = None,
    stage: str | None = None,
    from_: str | None = None,
    until: str | None = None,
    retry_failed: bool = False,
    retry_with: Mapping[str, Any] | None = None,
    max_cost_usd: float | None = None,
    concurrency: int | None = None,
    ledger: str | Path | None = None,
    seeds: int | None = None,
    shard: str | None = None,
    executor: Literal["ray"] | None = None,
    workers: int | None = None,
    shards: int | None = None,
    report_to: Sequence[str] = (),
    salvage: bool = False,
    rows: RowSource | None = None,
    filters: Mapping[str, Filter | Callable[..., Any]] | None = None,
    teachers: Mapping[str, Script] | None = None,
    progress: bool | Callable[[Progress], None] | None = None,
    **unknown: Any,
) -> Run | Seeds:
    """Run a pipeline and return its run, or with `seeds` the runs with so many seeds, from 0 on.

    The options have the names of the command line. Called again with the same `out`, it continues, and asks
    nothing twice. It also works where an event loop runs, as in a notebook; an interrupt stops it cleanly.

    Raises ConfigError before anything is asked, BudgetStop at the cost cap, Stopped for an interrupt.

    Options:
        pipeline: a path, a name, or the same structure as a dict
        out: the directory of the run; default: runs/<name> in the project
        sets: overrides, such as `["teacher.temperature=0.3"]`
        limit: read only so many source rows
        stage: run only this stage, on the stored records before it
        from_: start at this stage, on the stored records before it
        until: stop after this stage
        retry_failed: ask again for answers that failed or were cut off, refused or malformed
        retry_with: sampling options for `retry_failed`, such as `{"max_tokens": 800}`
        max_cost_usd: stop before the run, earlier calls included, could cost more
        concurrency: most requests in flight per model
        ledger: the file, or the PostgreSQL database (postgresql://USER@HOST/NAME), that answers are kept in;
            default: runs/ledger.sqlite3 in the project
        seeds: run the whole pipeline with each of so many seeds
        shard: take the share of the source rows of worker I of N, as in "0/4"; `distillgen gather` makes one
            run of the shards
        executor: "ray": workers in many processes or machines ask for the answers, through Ray Data. In a
            notebook, an interrupt then stops the run once they are done
        workers: the number of workers; default: one for each GPU where a model is vLLM's, else for each core
        shards: the number of parts of the rows that the workers take one after the other; default: 8 for
            each worker
        report_to: trackers that get the figures of the run and its trainings: trackio, wandb, mlflow
        salvage: go on with the readable answers of a damaged ledger
        rows: rows in the place of the source's: a list of dicts or records, a pandas or polars frame, an
            Arrow table, a `datasets.Dataset` or a generator. They are written to `rows.jsonl` in the
            directory of the run, as many as `limit`, before anything is asked. Pictures of Pillow, and the
            bytes or arrays of pictures, become files in runs/media. The ledger answers equal rows,
            so that a generator that is made anew goes on where the run stopped
        filters: filters by the names under which the pipeline uses them: a `Filter`; a function of a record
            that gives True or None to keep it, False or the reason to drop it; or a function with
            keyword-only options that returns a `Filter`. They are applied anew in each call
        teachers: Python functions of (Request, sample index) that answer in the place of models, by the
            model's name; their answers are kept in the directory of the run
        progress: whether to draw the progress; default: in a terminal and in a notebook. Or a function that
            gets a `Progress` twice a second, and once at the end
    """
    for name in unknown:
        names = {*inspect.signature(run).parameters} - {"pipeline", "unknown"}
        raise ConfigError(f"run() has no option '{name}'{did_you_mean(name, names)}")
    for name, texts in (("sets", sets), ("report_to", report_to)):
        if isinstance(texts, str | Mapping):
            raise ConfigError(f"run(): '{name}' is a list of texts, not {type(texts).__name__}")
    numbers = {"limit": limit, "concurrency": concurrency, "max_cost_usd": max_cost_usd}
    numbers |= {"workers": workers, "shards": shards}
    bounded = dict(validate(_Numbers, numbers, owner="run()", places=Places()))
    crew = Crew(bounded.pop("workers"), bounded.pop("shards"))
    options = Options(
        **bounded,
        first=from_ if stage is None else stage,
        until=until if stage is None else stage,
        retry_failed=retry_failed,
        retry_with=_sampling(retry_with or {}, retry_failed),
        ledger=read_place(ledger) if ledger else None,
        report_to=report_to,
        salvage=salvage,
        scripts=teachers or {},
    )
    path, root = located(pipeline)
    if shard is not None and seeds is not None:
        raise ConfigError("give either 'shard' or 'seeds'")
    crew.check(executor, alone=shard is None and seeds is None)
    usual = from_here(root / "runs" / path.stem / (folder(shard) if shard else ""))
    directory = Path(out) if out else usual
    parts: dict[str, Any] = {"scripted": options.scripts, "filters": filters}
    if rows is not None:
        parts["rows"] = (directory / ROWS).resolve()
        with directory_lock(directory):
            write_rows(rows, parts["rows"], options.limit, root)
    pipelines = (
        [load(pipeline, sets, **parts)] if seeds is None else load_seeds(pipeline, seeds, sets, **parts)
    )
    if shard is not None:
        pipelines = [load(pipeline, [*sets, override(pipelines[0], shard)], **parts)]
    models = {*pipelines[0].models, *pipelines[0].made_models()}
    for name in sorted(options.scripts.keys() - models):
        raise ConfigError(f"teachers: the pipeline has no model '{name}'{did_you_mean(name, models)}")
    for name, script in options.scripts.items():
        check_script(script, f"teachers: '{name}'")
    for note in pipelines[0].notes:
        log.warning("%s", note)
    runs = Run(directory) if seeds is None else Seeds(directory)
    watch = _watch(progress)

    def by_ray(watch: Watch | None) -> None:
        with progress_lines.shard_line() if watch else nullcontext() as show:
            rest = ask_by_ray(
                pipelines[0], pipeline, sets, directory, options, crew, show, rows=parts.get("rows")
            )
        run_pipeline(pipelines[0], directory, rest, watch)

    try:
        if executor:
            outside_event_loop(by_ray, watch)
        elif seeds is None:
            outside_event_loop(partial(run_pipeline, pipelines[0], directory, options), watch)
        else:
            outside_event_loop(partial(run_seeds, pipelines, directory, options), watch)
    except Stopped as stop:
        stop.add_note(f"{runs}. The answers are safe in '{directory}': the same call goes on")
        raise
    return runs


def _watch(progress: bool | Callable[[Progress], None] | None) -> Watch | None:
    """Return what shows the progress: in a notebook, a terminal, the caller's function, or nothing."""
    if callable(progress):
        return partial(follow, show=_reporting(progress))
    if progress is False or progress is None and not (in_notebook() or sys.stderr.isatty()):
        return None
    return notebook.watch if in_notebook() else progress_lines.watch


def _reporting(show: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Return the caller's function; its first exception is a warning, and the run goes on without it."""
    faults = list[Exception]()

    def reporting(progress: Progress) -> None:
        try:
            if not faults:
                show(progress)
        except Exception as fault:
            faults.append(fault)
            warnings.warn(f"progress: {user_error(fault, 'the function')}; the run goes on", stacklevel=1)

    return reporting


def _sampling(retry_with: Mapping[str, Any], retry_failed: bool) -> dict[str, Any]:
    """Return checked sampling options. Raise ConfigError."""
    if retry_with and not retry_failed:
        raise ConfigError("retry_with changes what retry_failed asks; give both")
    return validate(Sampling, dict(retry_with), owner="retry_with", places=Places()).sampling_options()
