"""Arguments and options that several commands share, and the parsers of their values.

A value in one of these forms is split by `assignments`: `--with NAME:OPTION=VALUE,…`, `--shape
NAME:PART=FIELD,…`, `--split NAME=SHARE,…`, `--model NAME=MODEL`, `--retry-with OPTION=VALUE`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

import distillgen
from distillgen.cli import completion
from distillgen.errors import ConfigError, did_you_mean
from distillgen.inference.places import Place, read_place
from distillgen.state_files import SEEDS, load_state

if TYPE_CHECKING:
    from distillgen.runs.directory import Run
    from distillgen.runs.seeds import Seeds


class Number(click.FloatRange):
    """A finite number."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; reject what is none."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class WholeNumber(click.IntRange):
    """A whole number."""

    name = "whole number"


class PathName(click.Path):
    """A path, which an empty text is not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; reject an empty text, such as that of a shell variable that is not set."""
        if value == "":
            self.fail("it is empty; give a path.", param, ctx)
        return super().convert(value, param, ctx)


class LedgerPlace(click.ParamType):  # type: ignore[type-arg]
    """A SQLite file, or the address of a PostgreSQL database."""

    name = "ledger"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Place:
        """Return the place; reject a folder."""
        place = read_place(str(value))
        if isinstance(place, Path) and place.is_dir():
            self.fail(f"'{value}' is a folder; give a file in it.", param, ctx)
        return place

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Let the shell complete the name of a file."""
        return [CompletionItem(incomplete, type="file")]


def find_data(ctx: click.Context, param: click.Parameter, name: str) -> Run | str:
    """Return the run of this name; return the name itself for a file, a folder or a data set."""
    path = Path(name)
    is_hub_name = "/" in name and not path.parent.is_dir()  # owner/name
    is_run = any((path / file).exists() for file in ("usage.json", SEEDS))
    if (path.exists() or path.suffix or is_hub_name) and not is_run:
        return name
    return find_run(ctx, param, name)


def find_run(ctx: click.Context, param: click.Parameter | None, name: str) -> Run:
    """Return the run in a directory, or the run of this name in the project's `runs`; raise ConfigError if
    there is none, or if the directory holds the runs of several seeds.
    """
    run = find_runs(ctx, param, name)
    if isinstance(run, distillgen.Run):
        return run
    seeds = run.summary["seeds"]
    raise ConfigError(
        f"'{name}' holds the runs of {seeds} seeds: give one of them, such as {Path(name) / 'seed-0'}; "
        f"or look at all: distillgen show {name}"
    )


def find_runs(ctx: click.Context, param: click.Parameter | None, name: str) -> Run | Seeds:
    """Return a run as `find_run` does, or the runs of several seeds."""
    from distillgen.project import from_here, project_around

    runs = from_here(project_around(Path.cwd()) / "runs")
    for directory in (Path(name), runs / name):
        if (directory / "usage.json").exists():
            run = distillgen.Run(directory)
            if ctx.command.name not in ("status", "view"):  # one reads no rows, and the other few of them
                run.check()
            return run
        if (directory / SEEDS).exists():
            return distillgen.Seeds(directory)
    run_names = [path.parent.name for file in ("usage.json", SEEDS) for path in runs.glob(f"*/{file}")]
    raise ConfigError(f"'{name}' is not a run directory{did_you_mean(name, run_names)}")


def in_project(path: str | Path) -> str:
    """Return a typed path relative to the project's folder; return a path outside it, or a text that is no
    path, unchanged.
    """
    from distillgen.project import project_around

    root, absolute = project_around(Path.cwd()), Path(path).resolve()
    inside = absolute.exists() and absolute.is_relative_to(root)
    return str(absolute.relative_to(root)) if inside else str(path)


PIPELINE = click.argument("pipeline", shell_complete=completion.pipelines)
RUN = click.argument("run", metavar="RUN", callback=find_run, shell_complete=completion.runs)
RUNS = click.argument("run", metavar="RUN", callback=find_runs, shell_complete=completion.runs)
DATA = click.argument("data", metavar="RUN|DATA", callback=find_data, shell_complete=completion.runs)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
SETS = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME.OPTION=VALUE",
    shell_complete=completion.overrides,
    help="Override an option of a model or a stage. Repeatable.",
)
REPORT_TO = click.option(
    "--report-to",
    multiple=True,
    metavar="TRACKER",
    help="Report the figures of the run and its trainings to trackio, wandb or mlflow. Repeatable.",
)
RETRY_FAILED = click.option(
    "--retry-failed",
    is_flag=True,
    help="Ask again for answers that failed or were cut off, refused or malformed.",
)
LIMIT = click.option(
    "-n",
    "--limit",
    metavar="N",
    type=WholeNumber(min=1),
    help="Read only the first N source rows. Default: all.",
)
LEDGER = click.option(
    "--ledger",
    metavar="FILE|URL",
    type=LedgerPlace(),
    help="The SQLite file or the PostgreSQL database (postgresql://USER@HOST/NAME) that answers are kept in. "
    "Default: that of the pipeline, of the run, or the project's runs/ledger.sqlite3.",
)
MAX_COST_USD = click.option(
    "--max-cost-usd",
    metavar="USD",
    type=Number(min=0),
    help="Stop before the run, earlier commands included, could cost more. Default: no limit.",
)
QUIET = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
VERBOSE = click.option(
    "-v", "--verbose", is_flag=True, help="Print the lines of run.log, too, as they are written."
)
OPEN = click.option("--open", "open_page", is_flag=True, help="Open report.html in a browser at the end.")
FULL = click.option("--full", is_flag=True, help="Print whole texts with their line breaks.")
COUNT = click.option(
    "-n", "count", metavar="N", type=WholeNumber(min=1), default=5, show_default=True, help="Show N records."
)
OUT = click.option(
    "-o",
    "--out",
    type=PathName(path_type=Path),
    help="The run directory. Default: runs/PIPELINE in the pipeline's project.",
)
EXECUTOR = click.option(
    "--executor",
    type=click.Choice(["ray"]),
    help="What carries the stages that work row by row: `ray`, many processes or machines through Ray Data. "
    "Default: this process.",
)


def names_in(text: str) -> list[str]:
    """Return the names in `a, b`."""
    return [name.strip() for name in text.split(",") if name.strip()]


def assignments(text: str, option: str, form: str) -> dict[str, str]:
    """Return the values in `name=value,name=value` by name; raise ConfigError, with the right form, for any
    other text.

    A value may contain commas: a comma ends it only where the next name and its `=` follow.
    """
    values = {}
    for item in re.split(r",(?=\s*\w+=)", text) if text.strip() else ():
        name, equals, value = item.partition("=")
        if not (equals and name.strip()):
            raise ConfigError(f"{option} takes {form}, not '{item.strip()}'")
        values[name.strip()] = value
    return values


def filter_argument(text: str) -> dict[str, Any]:
    """Return the entry of a pipeline's filters for `name:option=value,option=value`."""
    from distillgen.located_yaml import read_yaml

    name, _, rest = text.partition(":")
    options = {}
    for option, value in assignments(rest, f"--with {name}", "NAME:OPTION=VALUE,…").items():
        try:
            options[option] = read_yaml(value, "--with")[0]
        except ConfigError as error:
            raise ConfigError(f"--with {text}: {error.message}") from error
    return {name: options}


def shape_argument(text: str) -> tuple[str, dict[str, str]]:
    """Return the shape and its parts for `name:part=field,part='template'`."""
    name, _, rest = text.partition(":")
    return name, assignments(
        rest, f"--shape {name}", "NAME:PART=FIELD,…, or a template in the place of a field"
    )


def split_argument(text: str) -> dict[str, float]:
    """Return the share of each split for `train=0.9,test=0.1`; raise ConfigError if the sum is not 1."""
    shares = {}
    for name, value in assignments(text, "--split", "NAME=SHARE,…, such as train=0.9,test=0.1").items():
        try:
            shares[name] = float(value)
        except ValueError:
            shares[name] = 0.0
        if not re.fullmatch(r"\w+", name) or not 0 < shares[name] <= 1:
            remedy = "a split has a name of letters, digits and '_', and a share between 0 and 1"
            raise ConfigError(f"--split: {remedy}, not '{name}={value}'")
    if shares and abs(sum(shares.values()) - 1) > 1e-6:
        raise ConfigError(f"--split: the shares add up to {sum(shares.values()):g}; they must add up to 1")
    return shares


def model_argument(text: str) -> tuple[str, Any]:
    """Return the name and the entry of a pipeline's models for `name=folder` or `name={provider: …}`."""
    from distillgen.located_yaml import read_yaml

    name, equals, value = text.partition("=")
    if not equals or not value:
        raise ConfigError(f"--model takes NAME=MODEL, not '{text}'")
    entry = read_yaml(value, f"--model {name}")[0] if value.lstrip().startswith("{") else value
    if isinstance(entry, dict):
        return name, entry
    return name, student_entry(value)


def student_entry(folder: str | Path) -> dict[str, Any]:
    """Return the entry of a pipeline's models for a student's folder, or for any model of transformers."""
    manifest = Path(folder) / "manifest.json"
    gives = str(load_state(manifest).get("gives", "text")) if manifest.is_file() else "text"
    entry: dict[str, Any] = {"provider": "network", "gives": gives}
    if gives in ("text", "demonstrated"):
        entry = {"provider": "transformers"} | ({} if gives == "text" else {"demonstrations": True})
    return {**entry, "model": in_project(folder)}


def retry_argument(texts: Sequence[str], retry_failed: bool) -> dict[str, Any]:
    """Return the sampling options in `--retry-with option=value`, which needs `--retry-failed`."""
    from distillgen.inference.sampling import Sampling
    from distillgen.located_yaml import Places, read_yaml, validate

    if texts and not retry_failed:
        raise ConfigError("--retry-with changes what --retry-failed asks; give both")
    lines = []
    for text in texts:
        if "=" not in text:
            raise ConfigError(f"--retry-with takes OPTION=VALUE, not '{text}'")
        lines.append(text.replace("=", ": ", 1))
    values, _ = read_yaml("\n".join(lines), "--retry-with")
    return validate(Sampling, values, owner="--retry-with", places=Places()).sampling_options()
