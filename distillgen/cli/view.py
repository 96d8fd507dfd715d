"""The commands that look at runs on a page, and compare two of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

import distillgen
from distillgen.cli import completion, show, show_diff
from distillgen.cli.arguments import AS_JSON, WholeNumber, find_run, find_runs
from distillgen.errors import ConfigError

if TYPE_CHECKING:
    from distillgen.runs.directory import Run
    from distillgen.runs.seeds import Seeds


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
