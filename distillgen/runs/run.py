"""Run a pipeline in a directory and write its pages. A second run in the same directory continues."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distillgen.errors import ConfigError, DistillgenError, did_you_mean
from distillgen.flow.bounds import check_cap
from distillgen.pipeline.load import Pipeline
from distillgen.runs.card import write_card
from distillgen.runs.execute import Watch, execute
from distillgen.runs.interpreter import run_loop
from distillgen.runs.lock import directory_lock, ledger_in_use
from distillgen.runs.log import run_log, without_secrets
from distillgen.runs.report import write_report
from distillgen.runs.resume import made_place
from distillgen.runs.shards import row_wise
from distillgen.runs.state import Live, Options
from distillgen.runs.streams import hold_open
from distillgen.runs.tracking import tracking
from distillgen.state_files import SEEDS, Damaged, is_whole
from distillgen.training.supervise import one_training_process

log = logging.getLogger("distillgen")


def run_pipeline(pipeline: Pipeline, directory: Path, options: Options, watch: Watch | None = None) -> Live:
    """Run a checked pipeline and write its report and card. `watch` runs beside it and is cancelled at the
    end. A file of an earlier run that turns out to be damaged is made again.

    Raises ConfigError before anything is asked; afterwards, the error that stopped the run.
    """
    try:
        return _run(pipeline, directory, options, watch)
    except Damaged as error:
        if not (error.path.is_relative_to(directory) and error.path.is_file()):
            raise
        log.warning("%s is damaged, and is made again from the ledger", error.path)
        error.path.unlink()
    return run_pipeline(pipeline, directory, options, watch)


def _run(pipeline: Pipeline, directory: Path, options: Options, watch: Watch | None) -> Live:
    hold_open()
    if (directory / SEEDS).exists():
        raise ConfigError(
            f"'{directory}' holds the runs of several seeds: go on with --seeds, or choose another --out"
        )
    first, last = stage_range([stage.name for stage in pipeline.stages], options)
    if pipeline.source.stage.shard:
        last = min(last, row_wise(pipeline) - 1)
        if last < first:
            raise ConfigError(
                f"stage '{pipeline.stages[first].name}' needs all records, and a shard has a part of them: "
                "run it with distillgen gather"
            )
    if options.concurrency:
        limit = {"max_concurrency": options.concurrency}
        models = {name: spec.model_copy(update=limit) for name, spec in pipeline.models.items()}
        pipeline = replace(pipeline, models=models)
    plan = [estimate for _, estimate in pipeline.plan(options.limit)]
    if options.max_cost_usd is not None:
        check_cap("--max-cost-usd", zip(pipeline.bound_stages, plan, strict=True))
    secrets = set[str]().union(*(spec.secrets() for spec in pipeline.models.values()))
    hidden = dict.fromkeys(secrets, "[withheld]") | pipeline.environment
    with (
        directory_lock(directory),
        run_log(directory / "run.log", hidden, verbose=options.verbose) as warnings,
        without_secrets(hidden),
        tracking(options.report_to, pipeline, directory) as reporting,
    ):
        watch = reporting(watch)
        place = made_place(pipeline, directory, options)
        with ledger_in_use(place, options), one_training_process():
            live = run_loop(
                execute(pipeline, plan, directory, options, place, (first, last), warnings, watch)
            )
        try:
            write_pages(live)
        except (OSError, DistillgenError):
            if live.error is None:
                raise
        if live.error is not None:
            raise live.error
    return live


def write_pages(live: Live) -> None:
    """Write report and card if the run reached the last stage, unless they are of this corpus already."""
    if live.last == len(live.stages) - 1 and (
        live.first <= live.last or not _pages_are_current(live.directory)
    ):
        write_report(live.directory)
        write_card(live.directory)


def _pages_are_current(directory: Path) -> bool:
    """Return whether report and card are of this corpus and this lock file.

    The card is written last, and a run may have been killed before. The pipeline's statements for the card
    may also have changed alone.
    """
    sources = [directory / "corpus.jsonl", directory / "pipeline.lock.yaml"]
    card = directory / "README.md"
    pages = [card, directory / "report.html"]
    if not all(page.exists() and is_whole(page) for page in pages):
        return False
    return all(card.stat().st_mtime >= path.stat().st_mtime for path in sources)


def stage_range(names: Sequence[str], options: Options) -> tuple[int, int]:
    """Return the indices of the first and the last stage to run. Raise ConfigError for an unknown name."""
    for name in (options.first, options.until):
        if name is not None and name not in names:
            raise ConfigError(f"there is no stage '{name}'{did_you_mean(name, names)}")
    first = names.index(options.first) if options.first else 0
    last = names.index(options.until) if options.until else len(names) - 1
    if last < first:
        raise ConfigError(f"stage '{options.until}' comes before '{options.first}'")
    return first, last
