"""The commands that check a pipeline, run it and show its run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import distillgen
from distillgen.cli import completion, show, show_plan, show_records, show_seeds
from distillgen.cli.arguments import (
    AS_JSON,
    COUNT,
    FULL,
    LEDGER,
    LIMIT,
    MAX_COST_USD,
    OPEN,
    OUT,
    PIPELINE,
    QUIET,
    REPORT_TO,
    RUNS,
    SETS,
    VERBOSE,
    WholeNumber,
    find_run,
    retry_argument,
)
from distillgen.errors import ConfigError, DistillgenError, Stopped, did_you_mean
from distillgen.inference.places import Place
from distillgen.record import GATHERED
from distillgen.text import display
from distillgen.text.display import reasons

if TYPE_CHECKING:
    from distillgen.runs.directory import Run
    from distillgen.runs.seeds import Seeds
    from distillgen.runs.state import Options


class Unusable(DistillgenError):
    """The run is finished, but some of its answers could not be used."""

    exit_code = 3


@dataclass(frozen=True)
class Printing:
    """What a command prints of a run."""

    as_json: bool = False
    quiet: bool = False
    open_page: bool = False
    """Whether a browser shows the report at the end."""

    def show(self, content: Any, text: Callable[[], None]) -> None:
        """Print the content as JSON, or the text, or nothing."""
        if self.as_json:
            show.as_json(content)
        elif not self.quiet:
            text()

    def open(self, directory: Path) -> None:
        """Open the report of a run in a browser, if that is wanted and there is a report."""
        if self.open_page:
            show.open_page(directory / "report.html")


def load_pipeline(
    pipeline: str | Mapping[str, Any], sets: Sequence[str], *, quiet: bool = False, **options: Any
) -> distillgen.Pipeline:
    """Return the checked pipeline; print its notes on `--set`."""
    checked_pipeline = distillgen.load(pipeline, sets, **options)
    _tell_notes(checked_pipeline, quiet=quiet)
    return checked_pipeline


def _tell_notes(pipeline: distillgen.Pipeline, *, quiet: bool = False) -> None:
    for note in () if quiet else pipeline.notes:
        show.say(f"note: {note}", error=True)


def stage_option(*names: str, help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return an option that takes the name of a stage."""
    return click.option(*names, metavar="NAME", shell_complete=completion.stages, help=help)


def carry_out(
    checked_pipeline: distillgen.Pipeline, directory: Path, options: Options, printing: Printing
) -> None:
    """Run a checked pipeline and print its result; raise Unusable if rows failed or if nothing was kept."""
    from distillgen.runs.interpreter import interpreter_tuned
    from distillgen.runs.progress_lines import watch
    from distillgen.runs.run import run_pipeline

    run = distillgen.Run(directory)
    try:
        with interpreter_tuned():
            run_pipeline(checked_pipeline, directory, options, None if printing.quiet else watch)
    except Stopped:
        printing.show(run.state, lambda: show.status(run, error=True))
        raise
    printing.show(run.state, lambda: show.summary(run))
    printing.open(directory)
    state = run.state
    if failed := state["failed"]:
        raise Unusable(f"{failed} answers could not be used; to ask for these again, add --retry-failed")
    if state["stages"][-1]["complete"] and not state["kept"]:
        dropped = state["dropped"]
        why = f"all rows were dropped ({reasons(dropped)})" if dropped else "the source has no rows"
        raise Unusable(f"nothing was kept: {why}; see: distillgen show {directory} --dropped")


EXECUTOR = click.option(
    "--executor",
    type=click.Choice(["ray"]),
    help="What carries the stages that work row by row: `ray`, many processes or machines through Ray Data. "
    "Default: this process.",
)


@click.command()
@PIPELINE
@SETS
@EXECUTOR
@AS_JSON
def check(pipeline: str, sets: Sequence[str], executor: str | None, as_json: bool) -> None:
    """Check every name, option, field, prompt and file of PIPELINE. No model is asked.

    Prints the fields that a record has after each stage, and the most that a run can cost if a model has a
    price.
    """
    checked_pipeline = load_pipeline(pipeline, sets, need_env=False)
    if executor:
        from distillgen.runs.ray_executor import check_ray

        check_ray(checked_pipeline)
    priced = any(spec.price for spec in checked_pipeline.models.values())
    cost = _total([bound.max_cost_usd for _, bound in checked_pipeline.plan()]) if priced else 0.0
    if as_json:
        stages = [
            {"name": bound.name, "kind": bound.stage.kind, "fields": sorted(bound.fields)}
            for bound in checked_pipeline.bound_stages
        ]
        show.as_json(
            {
                "pipeline": checked_pipeline.name,
                "ok": True,
                "stages": stages,
                "missing_env": list(checked_pipeline.missing_env),
                "max_cost_usd": cost,
            }
        )
        return
    for bound in checked_pipeline.bound_stages:
        show.say(show.broken(f"{show.stage_name(bound):<12} {', '.join(sorted(bound.fields))}", 13))
    for variable in checked_pipeline.missing_env:
        show.say(f"note: the environment variable {variable} is not set; a run needs it")
    if priced:
        show.say("cost: no bound" if cost is None else f"cost: at most {display.money(cost)}")
    show.say(f"{checked_pipeline.path}: ok")


@click.command()
@PIPELINE
@OUT
@SETS
@LIMIT
@LEDGER
@AS_JSON
def plan(
    pipeline: str,
    out: Path | None,
    sets: Sequence[str],
    limit: int | None,
    ledger: Place | None,
    as_json: bool,
) -> None:
    """Estimate the requests, the tokens, the cost and the time of each stage of PIPELINE. No model is asked.

    What is finished in the same directory is subtracted, and what the ledger answers. The likely figures are
    those of the answers so far, of a run or of `distillgen preview`.
    """
    from dataclasses import asdict

    from distillgen.runs.foresight import foresee

    checked_pipeline = load_pipeline(pipeline, sets, need_env=False)
    directory = out or checked_pipeline.run_directory()
    foresight = foresee(checked_pipeline, directory, limit, ledger)
    stages = [
        {"stage": stage.name, "kind": stage.kind, **asdict(part)}
        for stage, part in zip(checked_pipeline.stages, foresight.stages, strict=True)
    ]
    titles = [show.stage_name(bound) for bound in checked_pipeline.bound_stages]
    stages = [{**stage, **stage.pop("bound")} for stage in stages]
    totals = {
        name: _total([stage[name] for stage in stages])
        for name in ("requests", "input_tokens", "output_tokens", "max_cost_usd")
    }
    likely = {
        name: _total([stage["likely"] and stage["likely"][name] for stage in stages])
        for name in ("requests", "input_tokens", "output_tokens", "cost_usd")
    }
    likely["seconds"] = foresight.seconds
    if as_json:
        show.as_json({"stages": stages, "totals": totals, "likely": likely})
    else:
        show_plan.plan(stages, titles, totals, likely)
        if likely["requests"] is None:
            show.say(f"no likely figure yet: distillgen preview {pipeline} asks about a few rows")


def _total(values: Sequence[Any]) -> Any:
    """Return the sum, None if a value is None."""
    return None if None in values else sum(values)


@click.command()
@PIPELINE
@SETS
@OUT
@COUNT
@LEDGER
@FULL
def preview(
    pipeline: str, sets: Sequence[str], out: Path | None, count: int, ledger: Place | None, full: bool
) -> None:
    """Run the first rows of PIPELINE and show the records that leave each stage, with the prompts sent.

    The answers are kept: a run does not ask for them again. The stage `train` and later stages are not run.
    """
    from distillgen.inference.ledger import Ledger
    from distillgen.runs.directory import read_records, stage_file
    from distillgen.runs.interpreter import interpreter_tuned
    from distillgen.runs.progress_lines import watch
    from distillgen.runs.resume import made_place
    from distillgen.runs.run import run_pipeline
    from distillgen.runs.state import Options

    checked_pipeline = load_pipeline(pipeline, sets)
    directory = (out or checked_pipeline.run_directory()) / "preview"
    before_training = list(takewhile(lambda stage: stage.kind != "train", checked_pipeline.stages))
    ledger = made_place(checked_pipeline, directory.parent, Options(ledger=ledger))
    options = Options(limit=count, ledger=ledger, until=before_training[-1].name)
    with interpreter_tuned():
        run_pipeline(checked_pipeline, directory, options, watch)
    answers = Ledger(ledger, read_only=True)
    for i, stage in enumerate(before_training):
        show.say(f"\n{stage.name}", bold=True)
        records = read_records(stage_file(directory, i, stage.name))
        arrived = (r for r in records if not r.dropped or r.dropped.stage == stage.name)
        prompt = partial(show_records.prompt_of, stage=stage.name, ledger=answers)
        show_records.records(islice(arrived, count), full=full, prompt=prompt)
    answers.close_now()


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
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Ask again for answers that failed or were cut off, refused or malformed.",
)
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

    if stage := options.pop("stage"):
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
    """Run the pipeline of each seed, and print the figures over seeds; raise Unusable if rows failed."""
    from distillgen.runs.interpreter import interpreter_tuned
    from distillgen.runs.progress_lines import watch
    from distillgen.runs.seeds import load_seeds, run_seeds

    pipelines = load_seeds(pipeline, seeds, sets)
    _tell_notes(pipelines[0], quiet=printing.quiet)
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
    if failed := state["failed"]:
        raise Unusable(f"{failed} answers could not be used; to ask for these again, add --retry-failed")
    for seed, run in state["runs"].items():
        if run["stages"][-1]["complete"] and not run["kept"]:
            raise Unusable(
                f"seed {seed}: nothing was kept; see: distillgen show {runs.place(seed)} --dropped"
            )


@click.command()
@RUNS
@AS_JSON
def status(run: Run | Seeds, as_json: bool) -> None:
    """Show the progress of RUN, also while it runs in another terminal."""
    if as_json:
        show.as_json(run.state)
    elif isinstance(run, distillgen.Run):
        show.status(run)
    else:
        show_seeds.status(run)


@click.command("show")
@RUNS
@COUNT
@click.option("--dropped", is_flag=True, help="Show dropped records, with the reasons.")
@click.option("--filter", "filter_name", metavar="NAME", help="Show only records that this filter dropped.")
@click.option(
    "--id",
    "record_id",
    metavar="ID",
    help="Show one record, by its id or the beginning of it, with its parents, requests and answers.",
)
@FULL
@AS_JSON
def show_(
    run: Run | Seeds,
    count: int,
    dropped: bool,
    filter_name: str | None,
    record_id: str | None,
    full: bool,
    as_json: bool,
) -> None:
    """Print records of RUN in a readable form; of a RUN with --seeds, the figures over seeds."""
    from distillgen.runs.directory import final_records

    if not isinstance(run, distillgen.Run):
        if dropped or filter_name or record_id:
            raise ConfigError(f"give the run of one seed to see its records, such as {run.place(0)}")
        show.as_json(run.summary) if as_json else show_seeds.figures(run)
        return
    if record_id:
        show_records.lineage(run, record_id, as_json)
        return
    drops = [*run.state["dropped"], *([GATHERED] if display.gathered(run.state["stages"]) else [])]
    if filter_name and filter_name not in drops:
        raise ConfigError(f"nothing was dropped by '{filter_name}'{did_you_mean(filter_name, drops)}")
    records = final_records(run, dropped=dropped or bool(filter_name))
    if filter_name:
        records = (r for r in records if r.dropped and r.dropped.filter == filter_name)
    shown_records = islice(records, count)
    if as_json:
        show.as_json([record.row() for record in shown_records])
    else:
        show_records.records(shown_records, full=full)
