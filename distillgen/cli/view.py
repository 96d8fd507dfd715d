"""The commands that look at runs: status, show, view and diff."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

import click

import distillgen
from distillgen.cli import completion, show, show_diff, show_records, show_seeds
from distillgen.cli.arguments import AS_JSON, COUNT, FULL, RUNS, WholeNumber, find_run, find_runs
from distillgen.errors import ConfigError, did_you_mean
from distillgen.record import GATHERED
from distillgen.text import display

if TYPE_CHECKING:
    from distillgen.runs.directory import Run
    from distillgen.runs.seeds import Seeds


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
        if dropped or filter_name is not None or record_id is not None:
            raise ConfigError(f"give the run of one seed to see its records, such as {run.place(0)}")
        show.as_json(run.summary) if as_json else show_seeds.figures(run)
        return
    if record_id is not None:
        show_records.lineage(run, record_id, as_json)
        return
    drops = [*run.state["dropped"], *([GATHERED] if display.gathered(run.state["stages"]) else [])]
    if filter_name is not None and filter_name not in drops:
        raise ConfigError(f"nothing was dropped by '{filter_name}'{did_you_mean(filter_name, drops)}")
    records = final_records(run, dropped=dropped or filter_name is not None)
    if filter_name is not None:
        records = (r for r in records if r.dropped and r.dropped.filter == filter_name)
    shown_records = islice(records, count)
    if as_json:
        show.as_json([record.row() for record in shown_records])
    else:
        show_records.records(shown_records, full=full)


def find_several(ctx: click.Context, param: click.Parameter, names: Sequence[str]) -> list[Run] | Seeds:
    """Return the runs of these names, or those of several seeds; raise ConfigError for more than two."""
    if len(names) > 2:
        raise ConfigError(f"give one run, or two to see them side by side, not {len(names)}")
    if len(names) == 1:
        run = find_runs(ctx, param, names[0])
        return [run] if isinstance(run, distillgen.Run) else run
    return [find_run(ctx, param, name) for name in names]


@click.command()
@click.argument(
    "runs", metavar="RUN…", nargs=-1, required=True, callback=find_several, shell_complete=completion.runs
)
@click.option("--port", type=WholeNumber(0, 65535), default=0, help="The page's port. Default: any free one.")
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
def view(runs: list[Run] | Seeds, port: int, open_page: bool) -> None:
    """Look at the rows of RUN on a page, for this machine only, also while it runs; of two runs side by side;
    of the runs of several seeds with their figures.

    The page has the rows with search and filters, each with the prompt as it was sent, the raw answer, its
    scores and its relatives. It changes no file of the run but its own index, in RUN/view.

    \b
    distillgen view hello
    distillgen view before after
    """
    from distillgen.viewer.server import served
    from distillgen.viewer.viewed_run import ViewedRun

    seeds, several = (None, runs) if isinstance(runs, list) else (runs, [])
    with served([ViewedRun(run) for run in several], port, seeds) as address:
        show.say(f"open {address}\nCtrl-C ends it; ? on the page shows its keys")
        if open_page:
            click.launch(address)
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)


@click.command()
@click.argument("first", metavar="RUN", callback=find_run, shell_complete=completion.runs)
@click.argument("second", metavar="RUN", callback=find_run, shell_complete=completion.runs)
@click.option(
    "-n",
    "count",
    metavar="N",
    type=WholeNumber(min=0),
    default=3,
    show_default=True,
    help="Number of rows to show of those that changed, were gained, and were lost.",
)
@AS_JSON
def diff(first: Run, second: Run, count: int, as_json: bool) -> None:
    """Compare two runs: options, rows gained, lost and changed, costs, scores and evaluations.

    Rows are compared by id, and else by the item that they are about. Scores and metrics have the paired test
    of `evaluate`, over the items of both runs.
    """
    from distillgen.viewer.comparison import Comparison, figures_of
    from distillgen.viewer.viewed_run import ViewedRun

    runs = [ViewedRun(first), ViewedRun(second)]
    comparison = Comparison(*[run.final_index() for run in runs])
    figures = figures_of(first, second, comparison)
    if as_json:
        rows = {
            kind: [
                {side: record.row() for side, record in vars(pair).items() if record}
                for pair in comparison.pairs(kind, 0, count)
            ]
            for kind in ("changed", "gained", "lost")
        }
        show.as_json({**figures, "examples": rows})
    else:
        show_diff.diff([run.name for run in runs], figures, comparison, count)
