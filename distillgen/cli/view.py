"""The commands that look at runs on a page, and compare two of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from distillgen.cli import show
from distillgen.cli.arguments import find_run
from distillgen.errors import ConfigError

if TYPE_CHECKING:
    from distillgen.runs.directory import Run


def find_several(ctx: click.Context, param: click.Parameter, names: Sequence[str]) -> list[Run]:
    """Return the runs of these names; raise ConfigError if there are more than two."""
    if len(names) > 2:
        raise ConfigError(f"give one run, or two to see them side by side, not {len(names)}")
    return [find_run(ctx, param, name) for name in names]


@click.command()
@click.argument("runs", metavar="RUN…", nargs=-1, required=True, callback=find_several)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="The page's port. Default: any free one."
)
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
def view(runs: list[Run], port: int, open_page: bool) -> None:
    """Look at the rows of RUN on a page, for this machine only, also while it runs; of two runs side by side.

    The page has the rows with search and filters, each with the prompt as it was sent, the raw answer, its
    scores and its relatives. It changes no file of the run but its own index, in RUN/view.

    \b
    distillgen view hello
    distillgen view before after
    """
    from distillgen.viewer.server import served
    from distillgen.viewer.viewed_run import ViewedRun

    with served([ViewedRun(run) for run in runs], port) as address:
        show.say(f"open {address}\nCtrl-C ends it; ? on the page shows its keys")
        if open_page:
            click.launch(address)
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)
