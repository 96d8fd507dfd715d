"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distillgen import __version__
from distillgen.errors import ConfigError, DistillgenError, Stopped, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from distillgen.pipeline import Pipeline
    from distillgen.record import Record
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
    """Synthetic data for black-box LLM distillation.

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
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except DistillgenError as error:
        _say(str(error), error=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
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
    except OSError as error:
        raise ConfigError(f"cannot write to '{folder}': {error.strerror}; choose a new folder") from error
    for file in ("pipelines/hello.yaml", "prompts/hello.md", "filters/word_count.py", "data/hello.jsonl"):
        kind, _, name = file.partition("/")
        shutil.copyfile(home(kind) / name, folder / file)
    (folder / ".gitignore").write_text("runs/\n")
    _say(f"{folder} is ready. Now:\n  cd {folder}\n  distillgen run hello\nthen edit pipelines/hello.yaml; its comments say how to use a real teacher.")


@cli.command("list")
@click.argument("kind", type=click.Choice(["pipelines", "prompts", "filters"]), default="pipelines")
@AS_JSON
@click.option("--schema", is_flag=True, help="Print the JSON Schema of pipeline files, the project's own filters included.")
def list_(kind: str, as_json: bool, schema: bool) -> None:
    """The pipelines (or prompts, or filters) of this project and those that ship with distillgen."""
    from distillgen.catalog import filters, json_schema, pipelines, prompts
    from distillgen.project import Project

    project = Project(Path.cwd())
    if schema:
        _print_json(json_schema(project))
        return
    entries = {"pipelines": pipelines, "prompts": prompts, "filters": filters}[kind](project)
    if as_json:
        _print_json(entries)
        return
    width = max((len(entry["name"]) for entry in entries), default=0) + 2
    for entry in entries:
        _say(f"{entry['name']:<{width}}{entry['about']}")


@cli.command()
@PIPELINE
@SETS
@AS_JSON
def check(pipeline: str, sets: Sequence[str], as_json: bool) -> None:
    """Check PIPELINE without asking anything: every name, option, field, prompt and file."""
    from distillgen.pipeline import load

    checked = load(pipeline, sets, need_env=False)
    if as_json:
        stages = [{"name": s.name, "kind": s.kind, "fields": sorted(f)} for s, f in zip(checked.stages, checked.fields, strict=True)]
        _print_json({"pipeline": checked.name, "ok": True, "stages": stages, "missing_env": list(checked.missing_env)})
        return
    for stage, fields in zip(checked.stages, checked.fields, strict=True):
        _say(f"{stage.name:<12} {', '.join(sorted(fields))}")
    for variable in checked.missing_env:
        _say(f"note: the environment variable {variable} is not set; a run needs it")
    _say(f"{checked.path}: ok")


@cli.command()
@PIPELINE
@SETS
@LIMIT
@AS_JSON
def plan(pipeline: str, sets: Sequence[str], limit: int | None, as_json: bool) -> None:
    """What PIPELINE would ask: requests, tokens and the most it can cost, for each stage. Asks nothing."""
    from distillgen.pipeline import load

    rows = load(pipeline, sets, need_env=False).plan(limit)
    names = ("requests", "input_tokens", "output_tokens", "max_cost_usd")
    totals = {n: None if any(getattr(e, n) is None for _, e in rows) else sum(getattr(e, n) for _, e in rows) for n in names}
    if as_json:
        stages = [{"stage": s.name, "kind": s.kind, "rows": e.rows} | {n: getattr(e, n) for n in names} for s, e in rows]
        _print_json({"stages": stages, "totals": totals})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("stage", "rows at most", "requests at most", "input tokens about", "output tokens at most", "cost at most"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage, e in rows:
        cells = [_count(e.rows), _count(e.requests), _count(e.input_tokens), _count(e.output_tokens), _cost(e.max_cost_usd)]
        table.add_row(stage.name, *(cell if stage.kind == "generate" or i == 0 else "" for i, cell in enumerate(cells)))
    table.add_row("total", "", *(_count(totals[n]) for n in names[:3]), _cost(totals["max_cost_usd"]), style="bold")
    _console(stderr=False).print(table)
    if totals["output_tokens"] is None:
        _say("no bound: set max_tokens in the prompt's sampling, the model or the stage")


@cli.command()
@PIPELINE
@SETS
@OUT
@click.option("-n", "count", type=click.IntRange(min=1), default=5, show_default=True, help="Source rows.")
def preview(pipeline: str, sets: Sequence[str], out: Path | None, count: int) -> None:
    """Show a few records through all stages. Its answers are kept for the run."""
    from distillgen.pipeline import load
    from distillgen.runs import Options, execute, stage_file

    checked = load(pipeline, sets)
    directory = (out or Path("runs") / checked.name) / "preview"
    asyncio.run(execute(checked, directory, Options(limit=count, ledger=directory.parent / "ledger.sqlite3"), _watch(_console())))
    for i, stage in enumerate(checked.stages):
        _say(f"\n{stage.name}", bold=True)
        _show_records(stage_file(directory, checked.stages, i), count, lambda r, n=stage.name: not r.dropped or r.dropped.stage == n)  # type: ignore[misc]


@cli.command()
@PIPELINE
@OUT
@SETS
@LIMIT
@click.option("--stage", metavar="NAME", help="Only this stage, on what the stage before it left.")
@click.option("--from", "first", metavar="NAME", help="From this stage on, on what the stage before it left.")
@click.option("--until", metavar="NAME", help="Up to and with this stage.")
@click.option("--retry-failed", is_flag=True, help="Ask again what failed, was cut off, refused or malformed, and only that.")
@click.option("--retry-with", multiple=True, metavar="OPTION=VALUE", help="Sampling options for --retry-failed, such as max_tokens=800.")
@click.option("--max-cost-usd", type=click.FloatRange(min=0), help="Stop before the run's cost, resumes included, could exceed this.")
@click.option("--concurrency", type=click.IntRange(min=1), help="Most requests in flight, for every model.")
@click.option("--ledger", type=click.Path(path_type=Path, dir_okay=False), help="A ledger that several runs share; default: one in the run directory.")
@click.option("--salvage", is_flag=True, help="Go on with what can be read of a damaged ledger.")
@AS_JSON
def run(
    pipeline: str, out: Path | None, sets: Sequence[str], as_json: bool, stage: str | None, retry_with: Sequence[str], **given: Any
) -> None:
    """Carry PIPELINE out. Run the same command again to go on where it stopped: nothing is asked twice.

    \b
    Exit codes: 0 finished, 2 a mistake to mend, 3 finished with failed rows,
    4 stopped by --max-cost-usd, 130 interrupted.
    """
    from distillgen.pipeline import load
    from distillgen.runs import Options, Run, execute

    if stage:
        given["first"] = given["until"] = stage
    options = Options(retry_with=_sampling(retry_with, given["retry_failed"]), **given)
    checked = load(pipeline, sets)
    directory = out or Path("runs") / checked.name
    console = _console()
    try:
        live = asyncio.run(execute(checked, directory, options, _watch(console)))
    except Stopped as stop:
        if as_json:
            _print_json(Run(directory).state)
        _say(_stopped(stop, Run(directory), checked), error=True)
        sys.exit(stop.exit_code)
    state = Run(directory).state
    if as_json:
        _print_json(state)
    elif live.last == len(checked.stages) - 1:
        _summary(Run(directory))
    else:
        _say(f"stages up to '{checked.stages[live.last].name}' are in {directory / 'stages'}")
    if state["failed"]:
        _say(f"{state['failed']} answers could not be used; to ask just those again: --retry-failed", error=True)
        sys.exit(FINISHED_WITH_FAILURES)


@cli.command()
@RUN
@AS_JSON
def status(run: str, as_json: bool) -> None:
    """How far RUN is, also while it is going on in another terminal."""
    from distillgen.progress import drops, duration, money

    state = _run(run).state
    if as_json:
        _print_json(state)
        return
    hint = {"killed": " (the process is gone; run the same command to go on)", "interrupted": " (run the same command to go on)"}
    _say(f"{state['pipeline']}: {state['state']}{hint.get(state['state'], '')}, {duration(state['seconds'])}, as of {state['updated_at']}")
    total = f"/{state['source_rows']:,}" if state["source_rows"] is not None else ""
    for s in state["stages"]:
        lost = f"  dropped {drops(s['dropped'])}" if s["dropped"] else ""
        _say(f"{s['name']:<12} {str(s['sources']) + total:>13}  kept {s['kept']:,}{lost}")
    for name, m in state["models"].items():
        tokens = m["input_tokens"] + m["output_tokens"]
        _say(f"{name:<12} {m['requests']:,} requests, {m['retries']:,} retries, {tokens:,} tokens, {money(m['cost_usd'])}")


@cli.command()
@RUN
@click.option("-n", "count", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--dropped", is_flag=True, help="What did not survive, with the reasons.")
@click.option("--filter", "by", metavar="NAME", help="Only what this filter dropped.")
@click.option("--id", "wanted", metavar="ID", help="One record with its lineage: parents, prompts, requests, answers, scores.")
@AS_JSON
def show(run: str, count: int, dropped: bool, by: str | None, wanted: str | None, as_json: bool) -> None:
    """Print records of RUN readably."""
    from distillgen.runs import read_records

    found = _run(run)
    if wanted:
        _lineage(found, wanted, as_json)
        return
    path = found.directory / ("dropped.jsonl" if dropped or by else "corpus.jsonl")
    if by is not None and by not in (known := {r.dropped.filter for r in read_records(path) if r.dropped}):
        raise ConfigError(f"nothing was dropped by '{by}'{did_you_mean(by, known)}")

    def chosen(record: Record) -> bool:
        return by is None or (record.dropped is not None and record.dropped.filter == by)

    if as_json:
        rows = (record.row() for record in read_records(path) if chosen(record))
        _print_json([row for row, _ in zip(rows, range(count), strict=False)])
        return
    _show_records(path, count, chosen)


@cli.command()
@RUN
def report(run: str) -> None:
    """Write RUN's report.html anew, and say where it is."""
    from distillgen.report import write_report

    directory = _run(run).directory
    write_report(directory)
    _say(str(directory / "report.html"))


def _console(stderr: bool = True) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False)


def _say(text: str, *, error: bool = False, bold: bool = False) -> None:
    from distillgen.progress import printable

    click.secho(printable(text), err=error, bold=bold or None)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2).replace("\x7f", "\\u007f"))  # ASCII: JSON escapes whatever else a terminal would obey


def _watch(console: Console) -> Callable[[Any], Any]:
    from distillgen.progress import watch

    return lambda live: watch(live, console)


def _count(number: int | None) -> str:
    return "no bound" if number is None else f"{number:,}"


def _cost(usd: float | None) -> str:
    from distillgen.progress import money

    return "no bound" if usd is None else money(usd) if usd else "-"


def _run(name: str) -> Run:
    """A run by its directory, or by its name under runs/."""
    from distillgen.runs import Run

    for directory in (Path(name), Path("runs") / name):
        if (directory / "usage.json").exists():
            return Run(directory)
    known = [p.parent.name for p in Path("runs").glob("*/usage.json")]
    raise ConfigError(f"'{name}' is not a run directory{did_you_mean(name, known)}")


def _sampling(given: Iterable[str], retry_failed: bool) -> dict[str, Any]:
    from distillgen.marked import read_yaml, validate
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
    return validate(Sampling, values, what="--retry-with", path="", lines={}).given()


def _show_records(path: Path, count: int, chosen: Callable[[Record], bool] = lambda record: True) -> None:
    from distillgen.progress import fields_text
    from distillgen.runs import read_records

    width = min(shutil.get_terminal_size((120, 24)).columns, 160)
    shown = 0
    for record in read_records(path):
        if not chosen(record):
            continue
        if shown == count:
            return
        shown += 1
        head = f"{record.id}  {record.source}"
        if record.dropped:
            head += f"  dropped by {record.dropped.stage}/{record.dropped.filter}: {record.dropped.reason}"
        _say(head, bold=True)
        for line in fields_text(record, width):
            _say("  " + line)
        if record.scores:
            _say("  scores: " + ", ".join(f"{name} {value:.3g}" for name, value in record.scores.items()))
    if not shown:
        _say("no records")


def _lineage(run: Run, wanted: str, as_json: bool) -> None:
    """A record, the records that it came from, and each request and answer on the way."""
    from distillgen.ledger import Ledger
    from distillgen.runs import read_records

    files = [*(run.directory / "stages").glob("*.jsonl"), run.directory / "corpus.jsonl", run.directory / "dropped.jsonl"]
    chain: list[Record] = []
    ids = [wanted]
    while ids:  # the file nearest to the end holds the record as it ended
        record = next((r for path in reversed(files) for r in read_records(path) if r.id == ids[0]), None)
        if record is None and not chain:
            raise ConfigError(f"there is no record '{wanted}' in {run.directory}")
        ids = [*ids[1:], *(record.parents if record else ())]
        chain += [record] if record else []
    path = run.directory / "ledger.sqlite3"
    ledger = Ledger(path, read_only=True) if path.exists() else None
    answers = {m["key"]: ledger.requested(bytes.fromhex(m["key"])) for m in chain[0].made} if ledger else {}
    known = {key: {"request": json.loads(found[0]), "completion": json.loads(found[1])} for key, found in answers.items() if found}
    if as_json:
        _print_json({"record": chain[0].row(), "parents": [r.row() for r in chain[1:]], "answers": known})
        return
    for i, record in enumerate(chain):
        _say(f"{'record' if i == 0 else 'parent'} {record.id}  {record.source}", bold=True)
        if record.dropped:
            _say(f"  dropped by {record.dropped.stage}/{record.dropped.filter}: {record.dropped.reason}")
        for name, value in record.fields.items():
            _say(f"  {name}: {value}")
        if record.scores:
            _say("  scores: " + ", ".join(f"{name} {value:.4g}" for name, value in record.scores.items()))
    for made in chain[0].made:
        _say(f"made by stage {made['stage']}, model {made['model']}, prompt {made['prompt']}, sample {made['sample']}", bold=True)
        if made["draw"]:
            _say(f"  drawn: {made['draw']}")
        for part in ("request", "completion"):
            if made["key"] in known:
                _say(f"  {part}: " + json.dumps(known[made["key"]][part], indent=2, ensure_ascii=False).replace("\n", "\n  "))


def _stopped(stop: Stopped, run: Run, pipeline: Pipeline) -> str:
    from distillgen.progress import money

    state = run.state
    done = state["stages"][-1]["sources"]
    left = f", {state['source_rows'] - done:,} source rows left" if state["source_rows"] is not None else ""
    most = sum(e.max_cost_usd or 0.0 for _, e in pipeline.plan())
    cost = f", {money(state['totals']['cost_usd'])} of at most {money(most)} spent" if most else ""
    return f"{stop}: {state['totals']['answers']:,} answers are safe in {run.directory}; run the same command to go on{left}{cost}"


def _summary(run: Run) -> None:
    from distillgen.progress import clipped, drops, duration, fields_text, money

    state, totals = run.state, run.state["totals"]
    for title, path in (("kept", "corpus.jsonl"), ("dropped", "dropped.jsonl")):
        sample = _sample(run.directory / path, 3)
        if sample:
            _say(f"\n{title}, {len(sample)} of {state['kept'] if title == 'kept' else sum(state['dropped'].values())}", bold=True)
        for record in sample:
            if record.dropped:
                _say(f"  {record.dropped.filter}: {clipped(record.dropped.reason)}")
            made = {name: value for name, value in record.fields.items() if name not in _source_fields(run)}
            for line in fields_text(record if not made else _with(record, made), 150):
                _say("    " + line)
            _say("")
    tokens = totals["input_tokens"] + totals["output_tokens"]
    lost = f", dropped {drops(state['dropped'])}" if state["dropped"] else ""
    _say(f"{state['kept']:,} kept{lost}", bold=True)
    cost = f", {money(totals['cost_usd'])}" if totals["cost_usd"] else ""
    _say(f"{totals['requests']:,} requests, {tokens:,} tokens{cost}, {duration(state['seconds'])}")
    _say(f"corpus  {run.directory / 'corpus.jsonl'}\nreport  {run.directory / 'report.html'}")


def _sample(path: Path, count: int) -> list[Record]:
    """The first records, at most one of each reason while reasons last."""
    from distillgen.runs import read_records

    first: list[Record] = []
    seen: set[str] = set()
    for i, record in enumerate(read_records(path)):
        name = record.dropped.filter if record.dropped else str(i)
        if name not in seen:
            seen.add(name)
            first.append(record)
        if len(first) == count or i > 10_000:
            break
    return first


def _source_fields(run: Run) -> set[str]:
    from distillgen.runs import read_records

    first = next(iter(read_records(next((run.directory / "stages").glob("01-*.jsonl")))), None)
    return set(first.fields) if first else set()


def _with(record: Record, fields: dict[str, Any]) -> Record:
    from dataclasses import replace

    return replace(record, fields=fields)
