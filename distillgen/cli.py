"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import distillgen
from distillgen import show
from distillgen.errors import ConfigError, DistillgenError, Stopped, did_you_mean

if TYPE_CHECKING:
    from distillgen.execution import Options
    from distillgen.runs import Run

HELLO = {"pipelines": "hello.yaml", "prompts": "hello.md", "filters": "word_count.py", "data": "hello.jsonl"}


class Unusable(DistillgenError):
    """The run is finished; some of its answers could not be used."""

    exit_code = 3


class Program(click.Group):
    """Errors become one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Carry a command out."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(Stopped.exit_code)
        except DistillgenError as error:
            show.say("\n".join([str(error), *getattr(error, "__notes__", ())]), error=True)
            ctx.exit(error.exit_code)


def _run_at(name: str) -> Run | None:
    """A run by its directory, or by its name under runs/."""
    for directory in (Path(name), Path("runs") / name):
        if (directory / "usage.json").exists():
            return distillgen.Run(directory)
    return None


def _find_run(ctx: click.Context, param: click.Parameter, name: str) -> Run:
    """The run of that name. Raises ConfigError."""
    if run := _run_at(name):
        return run
    known = [path.parent.name for path in Path("runs").glob("*/usage.json")]
    raise ConfigError(f"'{name}' is not a run directory{did_you_mean(name, known)}")


PIPELINE = click.argument("pipeline")
RUN = click.argument("run", metavar="RUN", callback=_find_run)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
SETS = click.option("--set", "sets", multiple=True, metavar="NAME.OPTION=VALUE", help="Override an option of a model or stage.")
LIMIT = click.option("-n", "--limit", type=click.IntRange(min=1), help="Only the first so many source rows.")
COUNT = click.option("-n", "count", type=click.IntRange(min=1), default=5, show_default=True, help="How many rows.")
OUT = click.option("-o", "--out", type=click.Path(path_type=Path), help="The run directory; default: runs/<pipeline>.")


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(distillgen.__version__, prog_name="distillgen")
def main() -> None:
    """Synthetic data for black-box LLM distillation.

    A teacher is asked, every paid answer is kept, everything else is derived from those answers, and every record that
    is dropped says why.

    \b
    distillgen run quickstart            a curated corpus from a small embedded model
    distillgen list                      the pipelines that there are
    distillgen run my.yaml -o runs/mine  your own; run it again to go on
    """


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Make a project of your own in FOLDER, with a small pipeline that runs at once."""
    from distillgen.project import home

    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"'{folder}' is not empty; choose a new folder")
    try:
        for kind, name in HELLO.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(home(kind) / name, folder / kind / name)
        (folder / ".gitignore").write_text("runs/\n")
    except OSError as error:
        raise ConfigError(f"cannot write to '{folder}': {error.strerror}; choose a new folder") from error
    click.echo(f"{folder} is ready. Now:\n  cd {folder}\n  distillgen run hello")
    click.echo("then edit pipelines/hello.yaml; its comments say how to use a real teacher.")


@main.command("list")
@click.argument("kind", type=click.Choice(["pipelines", "prompts", "filters"]), default="pipelines")
@AS_JSON
@click.option("--schema", is_flag=True, help="Print the JSON Schema of pipeline files, the project's own filters included.")
@click.option("--markdown", is_flag=True, help="Print the filters as a Markdown table: what each does, its cost and source.")
def list_(kind: str, as_json: bool, schema: bool, markdown: bool) -> None:
    """The pipelines (or prompts, or filters) of this project and those that ship with distillgen."""
    from distillgen import catalog
    from distillgen.project import Project

    if markdown:
        show.say(catalog.filter_table(Project(Path.cwd())))
        return
    found = getattr(catalog, "json_schema" if schema else kind)(Project(Path.cwd()))
    if schema or as_json:
        show.as_json(found)
        return
    for entry in found:
        show.say(f"{entry['name']:<24} {entry['about']}")


@main.command()
@PIPELINE
@SETS
@AS_JSON
def check(pipeline: str, sets: Sequence[str], as_json: bool) -> None:
    """Check PIPELINE without asking anything: every name, option, field, prompt and file."""
    checked = distillgen.load(pipeline, sets, need_env=False)
    reached = zip(checked.stages, map(sorted, checked.fields), strict=True)
    stages = [{"name": stage.name, "kind": stage.kind, "fields": fields} for stage, fields in reached]
    if as_json:
        show.as_json({"pipeline": checked.name, "ok": True, "stages": stages, "missing_env": list(checked.missing_env)})
        return
    for stage in stages:
        show.say(f"{stage['name']:<12} {', '.join(stage['fields'])}")
    for variable in checked.missing_env:
        show.say(f"note: the environment variable {variable} is not set; a run needs it")
    show.say(f"{checked.path}: ok")


@main.command()
@PIPELINE
@SETS
@LIMIT
@AS_JSON
def plan(pipeline: str, sets: Sequence[str], limit: int | None, as_json: bool) -> None:
    """What PIPELINE would ask: requests, tokens and the most it can cost, for each stage. Asks nothing."""
    estimates = distillgen.load(pipeline, sets, need_env=False).plan(limit)
    stages = [{"stage": stage.name, "kind": stage.kind, **vars(estimate)} for stage, estimate in estimates]
    totals = {}
    for name in ("requests", "input_tokens", "output_tokens", "max_cost_usd"):
        bounds = [stage[name] for stage in stages]
        totals[name] = None if None in bounds else sum(bounds)
    show.as_json({"stages": stages, "totals": totals}) if as_json else show.plan(stages, totals)


@main.command()
@PIPELINE
@SETS
@OUT
@COUNT
def preview(pipeline: str, sets: Sequence[str], out: Path | None, count: int) -> None:
    """Show a few records through all stages. Its answers are kept for the run."""
    from distillgen.execution import Options, execute
    from distillgen.progress import watch
    from distillgen.runs import read_records, stage_file

    checked = distillgen.load(pipeline, sets)
    directory = (out or Path("runs") / checked.name) / "preview"
    untrained = list(takewhile(lambda stage: stage.kind != "train", checked.stages))  # a few records teach nothing
    options = Options(limit=count, ledger=directory.parent / "ledger.sqlite3", until=untrained[-1].name)
    execute(checked, directory, options, watch)
    for i, stage in enumerate(untrained):
        show.say(f"\n{stage.name}", bold=True)
        found = read_records(stage_file(directory, checked.stages, i))
        show.records(islice((r for r in found if not r.dropped or r.dropped.stage == stage.name), count))


@main.command()
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
    """Carry PIPELINE out. Run the same command again to go on where it stopped: nothing is asked twice.

    \b
    Exit codes: 0 finished, 2 a mistake to mend, 3 finished with failed rows,
    4 stopped by --max-cost-usd, 130 interrupted.
    """
    from distillgen.execution import Options

    if stage := given.pop("stage"):
        given["first"] = given["until"] = stage
    given["retry_with"] = _sampling(given["retry_with"], given["retry_failed"])
    checked = distillgen.load(pipeline, sets)
    _carry_out(checked, out or Path("runs") / checked.name, Options(**given), as_json)


@main.command("filter")
@click.argument("data")
@click.option("--with", "chosen", multiple=True, required=True, metavar="NAME[:OPTION=VALUE,…]", help="A filter, or more")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The run directory; default: runs/<data>-filtered.")
@SETS
@LIMIT
@AS_JSON
def filter_(data: str, chosen: Sequence[str], out: Path | None, sets: Sequence[str], limit: int | None, as_json: bool) -> None:
    """Filter DATA (a file, a folder of texts, or a Hugging Face data set) without a pipeline.

    \b
    distillgen filter answers.jsonl --with word_count:field=answer,min_words=3 --with unique:by=[answer]
    A filter that asks a model finds it by --set 'models.judge={provider: openai, model: gpt-4.1-mini}'.
    """
    from distillgen.execution import Options
    from distillgen.stages.source import origin

    stages = [{"source": origin(data)}, {"filter": [_filter(text) for text in chosen]}]
    checked = distillgen.load({"version": 1, "models": {}, "stages": stages}, sets, trusted=frozenset({data}))
    _carry_out(checked, out or Path("runs") / f"{Path(data).stem}-filtered", Options(limit=limit), as_json)


def _filter(text: str) -> dict[str, Any]:
    """`name:option=value,option=value`, as a pipeline says it."""
    from distillgen.marked import read_yaml

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


@main.command()
@click.argument("data", metavar="RUN|DATA")
@click.option("--objective", default="sft", show_default=True, help="How the student learns.")
@click.option("--student", required=True, help="A model's folder, a .gguf file, owner/name on the Hub, or tiny.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The run directory; default: in RUN, or runs/<data>-student.")
@SETS
@LIMIT
@AS_JSON
def train(
    data: str, objective: str, student: str, out: Path | None, sets: Sequence[str], limit: int | None, as_json: bool
) -> None:
    """Train a student on RUN's corpus, or on DATA (a file, a folder of texts, or a Hugging Face data set).

    \b
    distillgen train quickstart --student Qwen/Qwen2.5-0.5B-Instruct --set train.lora.r=16
    Give the same command again to go on where it stopped.
    """
    from distillgen.execution import Options
    from distillgen.report import write_report
    from distillgen.stages.source import origin

    run = _run_at(data)
    corpus = str((run.directory / "corpus.jsonl").resolve()) if run else data
    source = {"path": corpus, "lineage": True} if run else origin(data)
    stages = [{"source": source}, {"train": {"objective": objective, "student": student}}]
    trusted = frozenset({corpus, student})
    checked = distillgen.load({"version": 1, "models": {}, "stages": stages}, sets, trusted=trusted)
    directory = out or (run.directory / "training" if run else Path("runs") / f"{Path(data).stem}-student")
    link = run.directory / "student" if run and not out else None
    if link and link.exists() and not link.is_symlink():
        raise ConfigError(f"the pipeline of '{data}' trains a student itself, {link}; give another directory with --out")
    _carry_out(checked, directory, Options(limit=limit, ledger=run.ledger if run else None), as_json)
    if link and run:
        link.unlink(missing_ok=True)
        link.symlink_to(Path(directory.name, "student"))
        write_report(run.directory)
    show.say(f"student {link or directory / 'student'}", error=as_json)


def _carry_out(checked: distillgen.Pipeline, directory: Path, options: Options, as_json: bool) -> None:
    from distillgen.execution import execute
    from distillgen.progress import watch

    carried = distillgen.Run(directory)
    try:
        execute(checked, directory, options, watch)
    except Stopped:
        show.as_json(carried.state) if as_json else show.status(carried, error=True)
        raise
    show.as_json(carried.state) if as_json else show.summary(carried)
    if failed := carried.state["failed"]:
        raise Unusable(f"{failed} answers could not be used; to ask just those again: --retry-failed")


@main.command()
@RUN
@AS_JSON
def status(run: Run, as_json: bool) -> None:
    """How far RUN is, also while it is going on in another terminal."""
    show.as_json(run.state) if as_json else show.status(run)


@main.command("show")
@RUN
@COUNT
@click.option("--dropped", is_flag=True, help="What did not survive, with the reasons.")
@click.option("--filter", "by", metavar="NAME", help="Only what this filter dropped.")
@click.option("--id", "wanted", metavar="ID", help="One record with its lineage: parents, prompts, requests, answers, scores.")
@AS_JSON
def show_(run: Run, count: int, dropped: bool, by: str | None, wanted: str | None, as_json: bool) -> None:
    """Print records of RUN readably."""
    from distillgen.runs import read_records

    if wanted:
        show.lineage(run, wanted, as_json)
        return
    if by and by not in (known := run.state["dropped"]):
        raise ConfigError(f"nothing was dropped by '{by}'{did_you_mean(by, known)}")
    found = read_records(run.directory / ("dropped.jsonl" if dropped or by else "corpus.jsonl"))
    few = islice((r for r in found if not by or (r.dropped and r.dropped.filter == by)), count)
    show.as_json([record.row() for record in few]) if as_json else show.records(few)


@main.command()
@RUN
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The file; default: signals.parquet in the run directory.")
@click.option("--signals", is_flag=True, required=True, help="Log-probabilities and embeddings, as Parquet.")
def export(run: Run, out: Path | None, signals: bool) -> None:
    """Write what RUN made in another format."""
    from distillgen.export import export_signals

    path = out or run.directory / "signals.parquet"
    click.echo(f"{export_signals(run, path):,} rows in {path}")


@main.command()
@RUN
@click.option("-n", "count", type=click.IntRange(min=1), default=200, show_default=True, help="How many records.")
@click.option("--fields", metavar="NAME,NAME", default="", help="The fields to show; default: all.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("data/labels.jsonl"), show_default=True,
    help="The file that labels are appended to.",
)  # fmt: skip
@click.option("--label", default="label", show_default=True, help="What the label's field is called.")
@click.option("--graded", is_flag=True, help="Grades from 1 to 5, instead of valid or not.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of records.")
@click.option("--web", is_flag=True, help="On a web page, for this machine only.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the web page; default: any that is free.")
def label(run: Run, count: int, fields: str, out: Path, label: str, graded: bool, seed: int, web: bool, port: int) -> None:
    """Label records of RUN, kept and dropped, for a critic to learn from. Give the same command again to go on."""
    from distillgen.labelling import Labelling, in_terminal, on_page, sample

    shown = [name.strip() for name in fields.split(",") if name.strip()]
    if not web and not sys.stdin.isatty():
        raise ConfigError("labelling asks on a terminal, and this is none; give --web for a page")
    labelling = Labelling(sample(run, count, fields=shown, seed=seed), out, label, graded, shown)
    try:
        if web:
            on_page(labelling, port, lambda address: show.say(f"open {address}\nit ends by itself; Ctrl-C ends it sooner"))
        else:
            in_terminal(labelling)
    finally:
        show.say(f"{labelling.progress()}; in {out}")
        reads = ", ".join(shown) or "…"
        show.say(f"for a critic to learn from: - critic: {{labels: {out}, fields: [{reads}], target_recall: 0.8}}")


@main.command()
@RUN
def report(run: Run) -> None:
    """Write RUN's report.html anew, and say where it is."""
    from distillgen.report import write_report

    write_report(run.directory)
    click.echo(run.directory / "report.html")


def _sampling(given: Sequence[str], retry_failed: bool) -> dict[str, Any]:
    """What `--retry-with` changes."""
    from distillgen.marked import Places, read_yaml, validate
    from distillgen.prompt import Sampling

    if given and not retry_failed:
        raise ConfigError("--retry-with changes what --retry-failed asks; give both")
    if not all("=" in item for item in given):
        raise ConfigError(f"--retry-with takes option=value, not '{' '.join(given)}'")
    values, _ = read_yaml("\n".join(item.replace("=", ": ", 1) for item in given), "--retry-with")
    return validate(Sampling, values, what="--retry-with", places=Places()).given()
