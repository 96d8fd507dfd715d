"""The commands that run a pipeline: run and gather."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import distillgen
from distillgen.cli import completion, show, show_seeds
from distillgen.cli.arguments import (
    AS_JSON,
    EXECUTOR,
    LEDGER,
    LIMIT,
    MAX_COST_USD,
    OPEN,
    OUT,
    PIPELINE,
    QUIET,
    REPORT_TO,
    RETRY_FAILED,
    SETS,
    VERBOSE,
    WholeNumber,
    find_run,
    retry_argument,
)
from distillgen.cli.carry_out import FailedRows, Printing, carry_out, load_pipeline, refuse_failed, tell_notes
from distillgen.errors import ConfigError, Stopped
from distillgen.inference.places import Place

if TYPE_CHECKING:
    from distillgen.runs.state import Options


def stage_option(*names: str, help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return an option that takes the name of a stage."""
    return click.option(*names, metavar="NAME", shell_complete=completion.stages, help=help)


@click.command()
@PIPELINE
@OUT
@SETS
@LIMIT
@stage_option("--stage", help="Run only this stage, on the stored records before it. Default: all.")
@stage_option(
    "--from", "first", help="Start at this stage, on the stored records before it. Default: the first."
)
@stage_option("--until", help="Stop after this stage. Default: the last.")
@RETRY_FAILED
@click.option(
    "--retry-with",
    multiple=True,
    metavar="OPTION=VALUE",
    help="A sampling option for --retry-failed, such as max_tokens=800. Repeatable.",
)
@MAX_COST_USD
@click.option(
    "--concurrency",
    metavar="N",
    type=WholeNumber(min=1),
    help="Send at most N requests to each model at once. Default: max_concurrency of the model, or as many "
    "as the endpoint takes.",
)
@LEDGER
@click.option(
    "--seeds",
    metavar="N",
    type=WholeNumber(min=2),
    help="Run the whole pipeline with each of the seeds 0 to N-1, and compare the models over seeds. "
    "Default: one run, with the pipeline's seed.",
)
@click.option(
    "--shard",
    metavar="I/N",
    help="Take the share of the source rows of worker I of N, with I from 0 to N-1, and stop before the "
    "first stage that needs all records. Default: all rows.",
)
@EXECUTOR
@click.option(
    "--workers",
    metavar="N",
    type=WholeNumber(min=1),
    help="The number of processes of --executor ray. Default: one for each GPU where a model is vLLM's, "
    "otherwise one for each core.",
)
@click.option(
    "--shards",
    metavar="M",
    type=WholeNumber(min=1),
    help="The number of parts of the rows that the workers take one after the other. Default: 8 for each "
    "worker.",
)
@REPORT_TO
@click.option("--salvage", is_flag=True, help="Go on with the readable answers of a damaged ledger.")
@QUIET
@VERBOSE
@OPEN
@AS_JSON
def run(
    pipeline: str,
    out: Path | None,
    sets: Sequence[str],
    seeds: int | None,
    shard: str | None,
    executor: str | None,
    workers: int | None,
    shards: int | None,
    quiet: bool,
    open_page: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run PIPELINE. To continue a run that stopped, give the same command again: no answer is paid for twice.

    With --seeds, each seed has a run in a folder of the run directory, seed-0 and so on. They share one
    ledger there, and --max-cost-usd limits them together. seeds.json and report.html have the figures over
    seeds.

    With --shard, each of several machines runs a part of the rows, in a folder shard-0-of-4 of the run
    directory and so on. Then `distillgen gather` makes one run of them.

    With --executor ray, workers on this machine, or in the cluster of RAY_ADDRESS, ask for the answers; then
    this process makes the run of them.

    \b
    Exit codes: 0 finished, 2 a usage or configuration error, 3 finished with
    failed rows or with none kept, 4 stopped by --max-cost-usd, 130 interrupted.
    """
    from distillgen.runs.ray_executor import Crew, ask_by_ray
    from distillgen.runs.shards import folder, override
    from distillgen.runs.state import Options

    if (stage := options.pop("stage")) is not None:
        options["first"] = options["until"] = stage
    options["retry_with"] = retry_argument(options["retry_with"], options["retry_failed"])
    printing = Printing(as_json, quiet, open_page)
    if seeds is not None and shard is not None:
        raise ConfigError(
            "--shard and --seeds exclude each other: shard the run of one seed with --set seed=N"
        )
    crew = Crew(workers, shards)
    crew.check(executor, alone=seeds is None and shard is None)
    if seeds is not None:
        _carry_out_seeds(pipeline, out, sets, seeds, Options(**options), printing)
        return
    checked_pipeline = load_pipeline(pipeline, sets, quiet=quiet)
    directory = out or checked_pipeline.run_directory()
    if shard is not None:
        directory = out or directory / folder(shard)
        sets = [*sets, override(checked_pipeline, shard)]
        checked_pipeline = load_pipeline(pipeline, sets, quiet=True)
    run_options = Options(**options)
    if executor:
        from distillgen.runs.progress_lines import shard_line

        with nullcontext() if quiet else shard_line() as show_progress:
            run_options = ask_by_ray(
                checked_pipeline, pipeline, sets, directory, run_options, crew, show_progress
            )
    carry_out(checked_pipeline, directory, run_options, printing)


@click.command()
@click.argument("runs", metavar="SHARD…", nargs=-1, required=True, shell_complete=completion.runs)
@SETS
@OUT
@LIMIT
@MAX_COST_USD
@LEDGER
@REPORT_TO
@QUIET
@OPEN
@AS_JSON
def gather(
    runs: Sequence[str],
    sets: Sequence[str],
    out: Path | None,
    limit: int | None,
    max_cost_usd: float | None,
    ledger: Place | None,
    report_to: Sequence[str],
    quiet: bool,
    open_page: bool,
    as_json: bool,
) -> None:
    """Make one run of SHARDs, each of which was run with --shard.

    Copies their answers into one ledger and runs the pipeline on it. Rows that the shards have asked about
    cost nothing; the stages that need all records follow. The corpus is that of a run on one machine.

    \b
    distillgen gather runs/mine/shard-*
    """
    from distillgen.runs.resume import made_place
    from distillgen.runs.shards import bring_together, pipeline_of
    from distillgen.runs.state import Options

    brought = [find_run(click.get_current_context(), None, name) for name in runs]
    pipeline, shard_sets = pipeline_of(brought)
    checked_pipeline = load_pipeline(pipeline, [*shard_sets, *sets], quiet=quiet)
    directory = out or checked_pipeline.run_directory()
    options = Options(limit=limit, max_cost_usd=max_cost_usd, ledger=ledger, report_to=report_to)
    path = made_place(checked_pipeline, directory, options)
    count = bring_together(brought, path, directory)
    printing = Printing(as_json, quiet, open_page)
    if not (quiet or as_json):
        show.say(f"{count:,} answers of {len(brought)} shards were copied to {path}", error=True)
    carry_out(checked_pipeline, directory, replace(options, ledger=path), printing)


def _carry_out_seeds(
    pipeline: str, out: Path | None, sets: Sequence[str], seeds: int, options: Options, printing: Printing
) -> None:
    """Run the pipeline of each seed, and print the figures over seeds; raise FailedRows if rows failed."""
    from distillgen.runs.interpreter import interpreter_tuned
    from distillgen.runs.progress_lines import watch
    from distillgen.runs.seeds import load_seeds, run_seeds

    pipelines = load_seeds(pipeline, seeds, sets)
    tell_notes(pipelines[0], quiet=printing.quiet)
    directory = out or pipelines[0].run_directory()
    runs = distillgen.Seeds(directory)

    def announce(seed: int) -> None:
        if not printing.quiet:
            show.say(f"seed {seed}, of {seeds} seeds", error=True, bold=True)

    try:
        with interpreter_tuned():
            run_seeds(pipelines, directory, options, None if printing.quiet else watch, announce=announce)
    except Stopped:
        printing.show(runs.state, lambda: show_seeds.status(runs, error=True))
        raise
    printing.show(runs.summary, lambda: show_seeds.figures(runs))
    printing.open(directory)
    state = runs.state
    refuse_failed(state["failed"])
    for seed, run in state["runs"].items():
        if run["stages"][-1]["complete"] and not run["kept"]:
            raise FailedRows(
                f"seed {seed}: nothing was kept; see: distillgen show {runs.place(seed)} --dropped"
            )
