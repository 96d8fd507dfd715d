"""The arguments and options that several commands take, and the small languages in which they are given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import distillgen
from distillgen.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from distillgen.runs.directory import Run


def find_data(ctx: click.Context, param: click.Parameter, name: str) -> Run | str:
    """A run, or the name of a file, folder or data set."""
    path = Path(name)
    elsewhere = "/" in name and not path.parent.is_dir()  # owner/name of a data set
    if (path.exists() or path.suffix or elsewhere) and not (path / "usage.json").exists():
        return name
    return find_run(ctx, param, name)


def find_run(ctx: click.Context, param: click.Parameter, name: str) -> Run:
    """A run by its directory, or by its name under the project's runs/. Raises ConfigError."""
    from distillgen.project import from_here, project_around

    runs = from_here(project_around(Path.cwd()) / "runs")
    for directory in (Path(name), runs / name):
        if (directory / "usage.json").exists():
            run = distillgen.Run(directory)
            if ctx.command.name != "status":  # which is asked often, and reads no rows
                run.check()
            return run
    known = [path.parent.name for path in runs.glob("*/usage.json")]
    raise ConfigError(f"'{name}' is not a run directory{did_you_mean(name, known)}")


def in_project(path: str | Path) -> str:
    """A path that was typed, as a pipeline of the project says it; what lies elsewhere, or is no path, stays as it is."""
    from distillgen.project import project_around

    root, whole = project_around(Path.cwd()), Path(path).resolve()
    return str(whole.relative_to(root)) if whole.exists() and whole.is_relative_to(root) else str(path)


PIPELINE = click.argument("pipeline")


RUN = click.argument("run", metavar="RUN", callback=find_run)


DATA = click.argument("data", metavar="RUN|DATA", callback=find_data)


AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")


SETS = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME.OPTION=VALUE",
    help="Override an option of a model or stage.",
)


LIMIT = click.option("-n", "--limit", type=click.IntRange(min=1), help="Only the first so many source rows.")


COUNT = click.option(
    "-n", "count", type=click.IntRange(min=1), default=5, show_default=True, help="How many rows."
)


OUT = click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="The run directory; default: runs/PIPELINE in its project.",
)


def names_of(text: str) -> list[str]:
    """Return the names in `a, b`."""
    return [name.strip() for name in text.split(",") if name.strip()]


def assignments(text: str, option: str) -> tuple[str, dict[str, str]]:
    """`name:part=value,part=value`."""
    name, _, rest = text.partition(":")
    parts = {}
    for assignment in re.split(r",(?=\w+=)", rest) if rest else ():
        part, equals, value = assignment.partition("=")
        if not equals or not value:
            raise ConfigError(
                f"{option} {text}: a part is given as part=field or part='template', not '{assignment}'"
            )
        parts[part.strip()] = value
    return name, parts


def shares(text: str) -> dict[str, float]:
    """`train=0.9,test=0.1`."""
    shares = {}
    for item in names_of(text):
        split, _, share = item.partition("=")
        try:
            shares[split] = float(share)
        except ValueError:
            raise ConfigError(f"--split takes name=share, such as train=0.9,test=0.1, not '{item}'") from None
        if not re.fullmatch(r"\w+", split) or not 0 < shares[split] <= 1:
            raise ConfigError(
                f"--split: '{item}' is no name (letters, digits, '_') with a share between 0 and 1"
            )
    if shares and abs(sum(shares.values()) - 1) > 1e-6:
        raise ConfigError(f"--split: the shares add up to {sum(shares.values()):g}; they must add up to 1")
    return shares


def filter_argument(text: str) -> dict[str, Any]:
    """`name:option=value,option=value`, as a pipeline says it."""
    from distillgen.located_yaml import read_yaml

    name, _, rest = text.partition(":")
    options = {}
    for part in re.split(r",(?=\w+=)", rest) if rest else ():
        option, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"--with {text}: an option is given as option=value, not '{part}'")
        try:
            options[option] = read_yaml(value, "--with")[0]
        except ConfigError as error:
            raise ConfigError(f"--with {text}: {error.message}") from error
    return {name: options}


def model_argument(text: str) -> tuple[str, Any]:
    """`name=folder`, or `name={provider: …}`, as an entry of a pipeline's models."""
    from distillgen.located_yaml import read_yaml

    name, equals, value = text.partition("=")
    if not equals or not value:
        raise ConfigError(f"--model takes NAME=MODEL, not '{text}'")
    entry = read_yaml(value, f"--model {name}")[0] if value.lstrip().startswith("{") else value
    return name, entry if isinstance(entry, dict) else {
        "provider": "transformers",
        "model": in_project(value),
    }


def sampling(given: Sequence[str], retry_failed: bool) -> dict[str, Any]:
    """What `--retry-with` changes."""
    from distillgen.located_yaml import Places, read_yaml, validate
    from distillgen.prompting.prompt import Sampling

    if given and not retry_failed:
        raise ConfigError("--retry-with changes what --retry-failed asks; give both")
    if not all("=" in item for item in given):
        raise ConfigError(f"--retry-with takes option=value, not '{' '.join(given)}'")
    values, _ = read_yaml("\n".join(item.replace("=", ": ", 1) for item in given), "--retry-with")
    return validate(Sampling, values, what="--retry-with", places=Places()).given()
