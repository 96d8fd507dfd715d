"""The commands that check a pipeline, carry it out and look at its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice, takewhile, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import distillgen
from distillgen.cli import show
from distillgen.cli.arguments import AS_JSON, COUNT, LIMIT, OUT, PIPELINE, RUN, SETS, sampling
from distillgen.errors import ConfigError, DistillgenError, Stopped, did_you_mean
from distillgen.text.display import reasons

if TYPE_CHECKING:
    from distillgen.runs.directory import Run
    from distillgen.runs.state import Options


class Unusable(DistillgenError):
    """The run is finished; some of its answers could not be used."""

    exit_code = 3


def load_pipeline(pipeline: str | Mapping[str, Any], sets: Sequence[str], **how: Any) -> distillgen.Pipeline:
    """A checked pipeline; what is to be known about `--set` is said."""
    checked = distillgen.load(pipeline, sets, **how)
    for note in checked.notes:
        show.say(f"note: {note}", error=True)
    return checked


def carry_out(checked: distillgen.Pipeline, directory: Path, options: Options, as_json: bool) -> None:
    """Run a checked pipeline, print its result; raise Unusable when some answers could not be used."""
    from distillgen.runs.execute import execute
    from distillgen.runs.progress import watch

    carried = distillgen.Run(directory)
    try:
        execute(checked, directory, options, watch)
    except Stopped:
        show.as_json(carried.state) if as_json else show.status(carried, error=True)
        raise
    show.as_json(carried.state) if as_json else show.summary(carried)
    state = carried.state
    if failed := state["failed"]:
        raise Unusable(f"{failed} answers could not be used; to ask just those again: --retry-failed")
    if state["stages"][-1]["complete"] and not state["kept"]:
        why = (
            f"all rows were dropped ({reasons(state['dropped'])})"
            if state["dropped"]
            else "the source has no rows"
        )
        raise Unusable(f"nothing was kept: {why}; see: distillgen show {directory} --dropped")


@click.command()
@PIPELINE
@SETS
@AS_JSON
def check(pipeline: str, sets: Sequence[str], as_json: bool) -> None:
    """Check PIPELINE without asking anything: every name, option, field, prompt and file."""
    checked = load_pipeline(pipeline, sets, need_env=False)
    reached = zip(checked.stages, map(sorted, checked.fields), strict=True)
    stages = [{"name": stage.name, "kind": stage.kind, "fields": fields} for stage, fields in reached]
    if as_json:
        show.as_json(
            {"pipeline": checked.name, "ok": True, "stages": stages, "missing_env": list(checked.missing_env)}
        )
        return
    for stage in stages:
        show.say(f"{stage['name']:<12} {', '.join(stage['fields'])}")
    for variable in checked.missing_env:
        show.say(f"note: the environment variable {variable} is not set; a run needs it")
    show.say(f"{checked.path}: ok")


@click.command()
@PIPELINE
@OUT
@SETS
@LIMIT
@AS_JSON
def plan(pipeline: str, out: Path | None, sets: Sequence[str], limit: int | None, as_json: bool) -> None:
    """What PIPELINE would ask: requests, tokens and the most it can cost, for each stage. Asks nothing.

    What an earlier run in the same directory has done is taken off, for stages of which nothing has changed since.
    """
    from distillgen.runs.execute import done

    checked = load_pipeline(pipeline, sets, need_env=False)
    directory = out or checked.run_directory()
    carried_out = done(checked, directory, limit)
    stages = [
        {"stage": stage.name, "kind": stage.kind, **vars(estimate), "done": own.share if own else 0.0}
        for (stage, estimate), own in zip_longest(checked.plan(limit, carried_out), carried_out)
    ]
    totals = {}
    for name in ("requests", "input_tokens", "output_tokens", "max_cost_usd"):
        bounds = [stage[name] for stage in stages]
        totals[name] = None if None in bounds else sum(bounds)
    show.as_json({"stages": stages, "totals": totals}) if as_json else show.plan(stages, totals, directory)


@click.command()
@PIPELINE
@SETS
@OUT
@COUNT
def preview(pipeline: str, sets: Sequence[str], out: Path | None, count: int) -> None:
    """Show a few records through all stages. Its answers are kept for the run."""
    from distillgen.runs.directory import read_records, stage_file
    from distillgen.runs.execute import execute, ledger_path
    from distillgen.runs.progress import watch
    from distillgen.runs.state import Options

    checked = load_pipeline(pipeline, sets)
    directory = (out or checked.run_directory()) / "preview"
    untrained = list(
        takewhile(lambda stage: stage.kind != "train", checked.stages)
    )  # a few records teach nothing
    ledger = ledger_path(checked, directory.parent, Options())
    options = Options(limit=count, ledger=ledger, until=untrained[-1].name)
    execute(checked, directory, options, watch)
    for i, stage in enumerate(untrained):
        show.say(f"\n{stage.name}", bold=True)
        found = read_records(stage_file(directory, i, stage.name))
        show.records(islice((r for r in found if not r.dropped or r.dropped.stage == stage.name), count))


@click.command()
@PIPELINE
@OUT
@SETS
@LIMIT
@click.option("--stage", metavar="NAME", help="Only this stage, on what the stage before it left.")
@click.option("--from", "first", metavar="NAME", help="From this stage on, on what the stage before it left.")
@click.option("--until", metavar="NAME", help="Up to and with this stage.")
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Ask again what failed, was cut off, refused or malformed, and only that.",
)
@click.option(
    "--retry-with", multiple=True, metavar="OPTION=VALUE", help="Sampling for --retry-failed: max_tokens=800."
)
@click.option(
    "--max-cost-usd",
    type=click.FloatRange(min=0),
    help="Stop before the cost, resumes included, could exceed this.",
)
@click.option("--concurrency", type=click.IntRange(min=1), help="Most requests in flight, for every model.")
@click.option(
    "--ledger",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where answers are kept; default: the project's.",
)
@click.option("--salvage", is_flag=True, help="Go on with what can be read of a damaged ledger.")
@AS_JSON
def run(pipeline: str, out: Path | None, sets: Sequence[str], as_json: bool, **given: Any) -> None:
    """Carry PIPELINE out. Run the same command again to go on where it stopped: nothing is asked twice.

    \b
    Exit codes: 0 finished, 2 a mistake to mend, 3 finished with failed rows,
    4 stopped by --max-cost-usd, 130 interrupted.
    """
    from distillgen.runs.state import Options

    if stage := given.pop("stage"):
        given["first"] = given["until"] = stage
    given["retry_with"] = sampling(given["retry_with"], given["retry_failed"])
    checked = load_pipeline(pipeline, sets)
    carry_out(checked, out or checked.run_directory(), Options(**given), as_json)


@click.command()
@RUN
@AS_JSON
def status(run: Run, as_json: bool) -> None:
    """How far RUN is, also while it is going on in another terminal."""
    show.as_json(run.state) if as_json else show.status(run)


@click.command("show")
@RUN
@COUNT
@click.option("--dropped", is_flag=True, help="What did not survive, with the reasons.")
@click.option("--filter", "by", metavar="NAME", help="Only what this filter dropped.")
@click.option(
    "--id",
    "wanted",
    metavar="ID",
    help="One record, by the beginning of its id: parents, prompts, answers, scores.",
)
@AS_JSON
def show_(run: Run, count: int, dropped: bool, by: str | None, wanted: str | None, as_json: bool) -> None:
    """Print records of RUN readably."""
    from distillgen.runs.directory import ended

    if wanted:
        show.lineage(run, wanted, as_json)
        return
    if by and by not in (known := run.state["dropped"]):
        raise ConfigError(f"nothing was dropped by '{by}'{did_you_mean(by, known)}")
    found = ended(run, dropped=dropped or bool(by))
    few = islice((r for r in found if not by or (r.dropped and r.dropped.filter == by)), count)
    show.as_json([record.row() for record in few]) if as_json else show.records(few)
