"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distillgen import __version__
from distillgen.errors import ConfigError, DistillgenError, Stopped, did_you_mean

if TYPE_CHECKING:
    from distillgen.execution import Live, Options
    from distillgen.pipeline import Pipeline
    from distillgen.runs import Run

FINISHED_WITH_FAILURES = 3

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
SETS = click.option("--set", "sets", multiple=True, metavar="NAME.OPTION=VALUE", help="Override an option of a model or stage.")
LIMIT = click.option("-n", "--limit", type=click.IntRange(min=1), help="Only the first so many source rows.")
OUT = click.option("-o", "--out", type=click.Path(path_type=Path), help="The run directory; default: runs/<pipeline>.")
RUN = click.argument("run", metavar="RUN")
PIPELINE = click.argument("pipeline")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="distillgen")
def cli() -> None:
    r"""Synthetic data for black-box LLM distillation.

    A teacher is asked, every paid answer is kept, everything else is derived from those answers, and every record that
    is dropped says why.

    \b
    distillgen run quickstart            a curated corpus from a small embedded model
    distillgen list                      the pipelines that there are
    distillgen run my.yaml -o runs/mine  your own; run it again to go on
    """


def main() -> None:
    """The program's entry: errors become one line and an exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except DistillgenError as error:
        from distillgen.progress import printable

        click.echo(printable(error), err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has left; nothing more to say
        sys.exit(0)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Make a project of your own in FOLDER, with a small pipeline that runs at once."""
    from distillgen.project import KINDS, home

    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"'{folder}' is not empty; choose a new folder")
    try:
        for kind in KINDS:
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for file in ("pipelines/hello.yaml", "prompts/hello.md", "filters/word_count.py", "data/hello.jsonl"):
            kind, _, name = file.partition("/")
            shutil.copyfile(home(kind) / name, folder / file)
        (folder / ".gitignore").write_text("runs/\n")
    except OSError as error:
        raise ConfigError(f"cannot write to '{folder}': {error.strerror}; choose a new folder") from error
    click.echo(f"{folder} is ready. Now:\n  cd {folder}\n  distillgen run hello")
    click.echo("then edit pipelines/hello.yaml; its comments say how to use a real teacher.")


@cli.command("list")
@click.argument("kind", type=click.Choice(["pipelines", "prompts", "filters"]), default="pipelines")
@AS_JSON
@click.option("--schema", is_flag=True, help="Print the JSON Schema of pipeline files, the project's own filters included.")
def list_(kind: str, as_json: bool, schema: bool) -> None:
    """The pipelines (or prompts, or filters) of this project and those that ship with distillgen."""
    from distillgen import catalog, show
    from distillgen.project import Project

    project = Project(Path.cwd())
    if schema:
        show.as_json(catalog.json_schema(project))
        return
    entries = getattr(catalog, kind)(project)
    if as_json:
        show.as_json(entries)
        return
    width = max((len(entry["name"]) for entry in entries), default=0) + 2
    for entry in entries:
        show.say(f"{entry['name']:<{width}}{entry['about']}")


@cli.command()
@PIPELINE
@SETS
@AS_JSON
def check(pipeline: str, sets: Sequence[str], as_json: bool) -> None:
    """Check PIPELINE without asking anything: every name, option, field, prompt and file."""
    from distillgen import show
    from distillgen.pipeline import load

    checked = load(pipeline, sets, need_env=False)
    reached = list(zip(checked.stages, checked.fields, strict=True))
    if as_json:
        stages = [{"name": stage.name, "kind": stage.kind, "fields": sorted(fields)} for stage, fields in reached]
        show.as_json({"pipeline": checked.name, "ok": True, "stages": stages, "missing_env": list(checked.missing_env)})
        return
    for stage, fields in reached:
        show.say(f"{stage.name:<12} {', '.join(sorted(fields))}")
    for variable in checked.missing_env:
        show.say(f"note: the environment variable {variable} is not set; a run needs it")
    show.say(f"{checked.path}: ok")


@cli.command()
@PIPELINE
@SETS
@LIMIT
@AS_JSON
def plan(pipeline: str, sets: Sequence[str], limit: int | None, as_json: bool) -> None:
    """What PIPELINE would ask: requests, tokens and the most it can cost, for each stage. Asks nothing."""
    from distillgen import show
    from distillgen.pipeline import load
    from distillgen.progress import money

    rows = load(pipeline, sets, need_env=False).plan(limit)
    names = ("requests", "input_tokens", "output_tokens", "max_cost_usd")
    totals = {n: None if any(getattr(e, n) is None for _, e in rows) else sum(getattr(e, n) for _, e in rows) for n in names}
    if as_json:
        stages = [{"stage": s.name, "kind": s.kind, "rows": e.rows} | {n: getattr(e, n) for n in names} for s, e in rows]
        show.as_json({"stages": stages, "totals": totals})
        return

    def cell(number: float | None, form: str = "{:,}") -> str:
        return "no bound" if number is None else form.format(number) if number else "-"

    def line(name: str, *cells: str) -> None:
        show.say(f"{name:<14}" + "".join(f"{text:>{width}}" for text, width in zip(cells, (10, 10, 14, 15, 10), strict=True)))

    line("at most", "rows", "requests", "input tokens", "output tokens", "cost")
    for stage, e in rows:
        cost = cell(e.max_cost_usd, "{}") if e.max_cost_usd is None else money(e.max_cost_usd) if e.max_cost_usd else "-"
        line(stage.name, cell(e.rows), cell(e.requests), cell(e.input_tokens), cell(e.output_tokens), cost)
    total = totals["max_cost_usd"]
    cost = "no bound" if total is None else money(total) if total else "-"
    line("total", "", *(cell(totals[n]) for n in names[:3]), cost)
    show.say("input tokens are estimated from the first 200 rows; the cost takes the longest of them for every row")
    if totals["output_tokens"] is None:
        show.say("no bound: set max_tokens in the prompt's sampling, the model or the stage")


@cli.command()
@PIPELINE
@SETS
@OUT
@click.option("-n", "count", type=click.IntRange(min=1), default=5, show_default=True, help="Source rows.")
def preview(pipeline: str, sets: Sequence[str], out: Path | None, count: int) -> None:
    """Show a few records through all stages. Its answers are kept for the run."""
    from distillgen import show
    from distillgen.execution import Options
    from distillgen.pipeline import load
    from distillgen.runs import read_records, stage_file

    checked = load(pipeline, sets)
    directory = (out or Path("runs") / checked.name) / "preview"
    _execute(checked, directory, Options(limit=count, ledger=directory.parent / "ledger.sqlite3"))
    for i, stage in enumerate(checked.stages):
        show.say(f"\n{stage.name}", bold=True)
        found = read_records(stage_file(directory, checked.stages, i))
        show.records((r for r in found if not r.dropped or r.dropped.stage == stage.name), count)


@cli.command()
@PIPELINE
@OUT
@SETS
@LIMIT
@click.option("--stage", metavar="NAME", help="Only this stage, on what the stage before it left.")
@click.option("--from", "first", metavar="NAME", help="From this stage on, on what the stage before it left.")
@click.option("--until", metavar="NAME", help="Up to and with this stage.")
@click.option("--retry-failed", is_flag=True, help="Ask again what failed, was cut off, refused or malformed, and only that.")
@click.option("--retry-with", multiple=True, metavar="OPTION=VALUE", help="Sampling for --retry-failed: max_tokens=800.")
@click.option("--max-cost-usd", type=click.FloatRange(min=0), help="Stop before the cost, resumes included, could exceed this.")
@click.option("--concurrency", type=click.IntRange(min=1), help="Most requests in flight, for every model.")
@click.option("--ledger", type=click.Path(path_type=Path, dir_okay=False), help="A ledger that several runs share.")
@click.option("--salvage", is_flag=True, help="Go on with what can be read of a damaged ledger.")
@AS_JSON
def run(pipeline: str, out: Path | None, sets: Sequence[str], as_json: bool, **given: Any) -> None:
    r"""Carry PIPELINE out. Run the same command again to go on where it stopped: nothing is asked twice.

    \b
    Exit codes: 0 finished, 2 a mistake to mend, 3 finished with failed rows,
    4 stopped by --max-cost-usd, 130 interrupted.
    """
    from distillgen import show
    from distillgen.execution import Options
    from distillgen.pipeline import load
    from distillgen.runs import Run

    if stage := given.pop("stage"):
        given["first"] = given["until"] = stage
    given["retry_with"] = _sampling(given["retry_with"], given["retry_failed"])
    options = Options(**given)
    checked = load(pipeline, sets)
    directory = out or Path("runs") / checked.name
    try:
        live = _execute(checked, directory, options)
    except Stopped as stop:
        if as_json:
            show.as_json(Run(directory).state)
        show.say(show.stopped(stop, Run(directory), checked), error=True)
        sys.exit(stop.exit_code)
    state = Run(directory).state
    if as_json:
        show.as_json(state)
    elif live.last == len(checked.stages) - 1:
        show.summary(Run(directory))
    else:
        show.say(f"stages up to '{checked.stages[live.last].name}' are in {directory / 'stages'}")
    if state["failed"]:
        show.say(f"{state['failed']} answers could not be used; to ask just those again: --retry-failed", error=True)
        sys.exit(FINISHED_WITH_FAILURES)


@cli.command()
@RUN
@AS_JSON
def status(run: str, as_json: bool) -> None:
    """How far RUN is, also while it is going on in another terminal."""
    from distillgen import show

    found = _run(run)
    show.as_json(found.state) if as_json else show.status(found)


@cli.command("show")
@RUN
@click.option("-n", "count", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--dropped", is_flag=True, help="What did not survive, with the reasons.")
@click.option("--filter", "by", metavar="NAME", help="Only what this filter dropped.")
@click.option("--id", "wanted", metavar="ID", help="One record with its lineage: parents, prompts, requests, answers, scores.")
@AS_JSON
def show_(run: str, count: int, dropped: bool, by: str | None, wanted: str | None, as_json: bool) -> None:
    """Print records of RUN readably."""
    from distillgen import show
    from distillgen.runs import read_records

    found = _run(run)
    if wanted:
        show.lineage(found, wanted, as_json)
        return
    path = found.directory / ("dropped.jsonl" if dropped or by else "corpus.jsonl")
    records = filter(show.chosen(path, by), read_records(path))
    show.as_json([r.row() for r in islice(records, count)]) if as_json else show.records(records, count)


@cli.command()
@RUN
def report(run: str) -> None:
    """Write RUN's report.html anew, and say where it is."""
    from distillgen.report import write_report

    directory = _run(run).directory
    write_report(directory)
    click.echo(directory / "report.html")


def _execute(pipeline: Pipeline, directory: Path, options: Options) -> Live:
    from rich.console import Console

    from distillgen.execution import execute
    from distillgen.progress import watch

    console = Console(stderr=True, highlight=False, markup=False)
    return execute(pipeline, directory, options, lambda live: watch(live, console))


def _run(name: str) -> Run:
    """A run by its directory, or by its name under runs/."""
    from distillgen.runs import Run

    for directory in (Path(name), Path("runs") / name):
        if (directory / "usage.json").exists():
            return Run(directory)
    known = [p.parent.name for p in Path("runs").glob("*/usage.json")]
    raise ConfigError(f"'{name}' is not a run directory{did_you_mean(name, known)}")


def _sampling(given: Iterable[str], retry_failed: bool) -> dict[str, Any]:
    from distillgen.marked import Places, read_yaml, validate
    from distillgen.prompt import Sampling

    values: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"--retry-with takes option=value, not '{item}'")
        try:
            values[name] = read_yaml(text, "--retry-with")[0]
        except ConfigError as error:
            raise ConfigError(f"--retry-with {item}: {error.message}") from error
    if values and not retry_failed:
        raise ConfigError("--retry-with changes what --retry-failed asks; give both")
    return validate(Sampling, values, what="--retry-with", places=Places()).given()
