"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import errno
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import islice, takewhile, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import distillgen
from distillgen.cli import show
from distillgen.errors import ConfigError, DistillgenError, Stopped, did_you_mean
from distillgen.runs.streams import escape_unknown, hold_open
from distillgen.state_files import load_state
from distillgen.text.display import reasons

if TYPE_CHECKING:
    from distillgen.runs.directory import Run
    from distillgen.runs.state import Options

HELLO = (
    "pipelines/hello.yaml",
    "prompts/hello.md",
    "filters/word_count.py",
    "data/hello.jsonl",
    "data/hello.py",
)


ENVIRONMENT = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.ENXIO,
        errno.ENOMEM,
    }
)
"""What a disk, a folder or the machine refuses: its owner can mend it, and no traceback helps with that."""


class Unusable(DistillgenError):
    """The run is finished; some of its answers could not be used."""

    exit_code = 3


class Program(click.Group):
    """Errors become one line and an exit code."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Carry a command line out, whatever the standard streams are."""
        hold_open()
        escape_unknown()
        return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Carry a command out."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(Stopped.exit_code)
        except DistillgenError as error:
            show.say("\n".join([str(error), *getattr(error, "__notes__", ())]), error=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            if error.errno not in ENVIRONMENT:
                raise
            where = f" '{error.filename}'" if error.filename else ""
            safe = "The answers that were paid for are safe; mend it and give the same command again"
            show.say(
                f"cannot read or write{where}: {(error.strerror or str(error)).lower()}. {safe}", error=True
            )
            ctx.exit(ConfigError.exit_code)


def _find_data(ctx: click.Context, param: click.Parameter, name: str) -> Run | str:
    """A run, or the name of a file, folder or data set."""
    path = Path(name)
    elsewhere = "/" in name and not path.parent.is_dir()  # owner/name of a data set
    if (path.exists() or path.suffix or elsewhere) and not (path / "usage.json").exists():
        return name
    return _find_run(ctx, param, name)


def _find_run(ctx: click.Context, param: click.Parameter, name: str) -> Run:
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


def _load(pipeline: str | Mapping[str, Any], sets: Sequence[str], **how: Any) -> distillgen.Pipeline:
    """A checked pipeline; what is to be known about `--set` is said."""
    checked = distillgen.load(pipeline, sets, **how)
    for note in checked.notes:
        show.say(f"note: {note}", error=True)
    return checked


PIPELINE = click.argument("pipeline")
RUN = click.argument("run", metavar="RUN", callback=_find_run)
DATA = click.argument("data", metavar="RUN|DATA", callback=_find_data)
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
    from distillgen.pipeline.catalog import json_schema
    from distillgen.project import Project, home

    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(f"'{folder}' is not empty; choose a new folder")
        for name in HELLO:
            kind, _, file = name.partition("/")
            (folder / kind).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(home(kind) / file, folder / name)
        (folder / "pipelines/schema.json").write_text(
            json.dumps(json_schema(Project(folder)), indent=2) + "\n"
        )
        (folder / ".gitignore").write_text("runs/\n")
    except OSError as error:
        raise ConfigError(f"cannot write to '{folder}': {error.strerror}; choose a new folder") from error
    click.echo(f"{folder} is ready. Now:\n  cd {folder}\n  distillgen run hello")
    click.echo("then edit pipelines/hello.yaml; its comments say how to use a real teacher.")


@main.command("list")
@click.argument(
    "kind",
    type=click.Choice(["pipelines", "prompts", "filters", "stages", "providers", "objectives"]),
    default="pipelines",
)
@AS_JSON
@click.option(
    "--schema",
    is_flag=True,
    help="Print the JSON Schema of pipeline files, the project's own filters included.",
)
@click.option(
    "--markdown",
    is_flag=True,
    help="Print the filters as a Markdown table: what each does, its cost and source.",
)
def list_(kind: str, as_json: bool, schema: bool, markdown: bool) -> None:
    """The pipelines (or prompts, filters, stages, providers, objectives) of this project and those that ship."""
    from distillgen.pipeline import catalog
    from distillgen.project import Project, project_around

    project = Project(project_around(Path.cwd()))
    if markdown:
        show.say(catalog.filter_table(project))
        return
    found = getattr(catalog, "json_schema" if schema else kind)(project)
    if schema or as_json:
        show.as_json(found)
        return
    for entry in found:
        show.say(f"{entry['name']:<24} {entry['about']}")


@main.command("help")
@click.argument("topic", required=False)
@AS_JSON
@click.pass_context
def help_(ctx: click.Context, topic: str | None, as_json: bool) -> None:
    """The manual of a stage, provider, objective, filter or prompt, with every option; or of a command.

    \b
    distillgen help generate        a stage
    distillgen help openai          what an entry of `models` takes
    distillgen help grounded        a filter, also one of your own
    """
    from distillgen.pipeline import catalog
    from distillgen.project import Project, project_around

    if topic is None:
        click.echo(ctx.find_root().get_help())
        return
    manual, command = catalog.manual(Project(project_around(Path.cwd()))), main.get_command(ctx, topic)
    entries = [entry for entry in manual if entry["name"] == topic]
    if not entries and command is None:
        near = get_close_matches(topic, [*(entry["name"] for entry in manual), *main.list_commands(ctx)], n=1)
        remedy = (
            f"did you mean '{near[0]}'?"
            if near
            else "distillgen list stages, or filters, providers, objectives, prompts"
        )
        raise ConfigError(f"there is no manual of '{topic}'; {remedy}")
    if as_json:
        show.as_json(entries)
        return
    for entry in entries:
        show.manual(entry)
    if command:
        with click.Context(command, info_name=topic, parent=ctx.find_root()) as own:
            click.echo(command.get_help(own))


@main.command()
@PIPELINE
@SETS
@AS_JSON
def check(pipeline: str, sets: Sequence[str], as_json: bool) -> None:
    """Check PIPELINE without asking anything: every name, option, field, prompt and file."""
    checked = _load(pipeline, sets, need_env=False)
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


@main.command()
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

    checked = _load(pipeline, sets, need_env=False)
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


@main.command()
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

    checked = _load(pipeline, sets)
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


@main.command()
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
    given["retry_with"] = _sampling(given["retry_with"], given["retry_failed"])
    checked = _load(pipeline, sets)
    _carry_out(checked, out or checked.run_directory(), Options(**given), as_json)


@main.command("filter")
@click.argument("data")
@click.option(
    "--with",
    "chosen",
    multiple=True,
    required=True,
    metavar="NAME[:OPTION=VALUE,…]",
    help="A filter, or more",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="The run directory; default: runs/<data>-filtered."
)
@SETS
@LIMIT
@AS_JSON
def filter_(
    data: str, chosen: Sequence[str], out: Path | None, sets: Sequence[str], limit: int | None, as_json: bool
) -> None:
    """Filter DATA (a file, a folder of texts, or a Hugging Face data set) without a pipeline.

    \b
    distillgen filter answers.jsonl --with word_count:field=answer,min_words=3 --with unique:by=[answer]
    A filter that asks a model finds it by --set 'models.judge={provider: openai, model: gpt-4.1-mini}'.
    """
    from distillgen.rows.readers import origin
    from distillgen.runs.state import Options

    stages = [{"source": origin(data)}, {"filter": [_filter(text) for text in chosen]}]
    checked = _load({"version": 1, "models": {}, "stages": stages}, sets, trusted=frozenset({data}))
    _carry_out(
        checked, out or checked.run_directory(f"{Path(data).stem}-filtered"), Options(limit=limit), as_json
    )


@main.command()
@DATA
@click.option(
    "--model",
    "given",
    multiple=True,
    metavar="NAME=MODEL",
    help="Who answers: a folder, a Hub name, {provider: …}.",
)
@click.option("--template", help="The question, such as '{{ question }}'; or --prompt.")
@click.option("--prompt", help="A file in prompts/ with the question, without its ending.")
@click.option("--gold", help="The field with the right answer.")
@click.option(
    "--with",
    "chosen",
    multiple=True,
    metavar="NAME[:OPTION=VALUE,…]",
    help="A metric: any filter; may be repeated",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="The run directory; default: runs/<data>-evaluated."
)
@SETS
@LIMIT
@AS_JSON
def evaluate(
    data: Run | str,
    given: Sequence[str],
    chosen: Sequence[str],
    out: Path | None,
    sets: Sequence[str],
    limit: int | None,
    as_json: bool,
    **question: str | None,
) -> None:
    """Ask models about DATA (a run, a file or a data set) and measure their answers; of a run, what it holds out.

    \b
    distillgen evaluate runs/mine --template '{{ question }}' --gold answer --with exact --with numeric
    distillgen evaluate test.jsonl --model a=./student --model b='{provider: openai, model: gpt-4.1-mini}' …
    Without --model: the run's student and the model that it was made from. Further options of the stage:
    --set evaluate.n=8, evaluate.vote=number, evaluate.options=choices, evaluate.perplexity=true.
    """
    from distillgen.rows.readers import origin
    from distillgen.runs.state import Options

    path = data if isinstance(data, str) else _in_project(data.directory / "corpus.jsonl")
    models = dict(map(_model, given)) or ({} if isinstance(data, str) else _students(data.directory))
    if not models:
        raise ConfigError("say who is to answer: --model NAME=MODEL")
    asked = {name: value for name, value in question.items() if value is not None}
    stage = {"models": list(models), "metrics": [_filter(text) for text in chosen], **asked}
    pipeline = {"version": 1, "models": models, "stages": [{"source": origin(path)}, {"evaluate": stage}]}
    checked = _load(pipeline, sets, trusted=frozenset({path}))
    _carry_out(
        checked, out or checked.run_directory(f"{_stem(data)}-evaluated"), Options(limit=limit), as_json
    )


def _stem(data: Run | str) -> str:
    """What a run of something done with `data` is named after."""
    return Path(data).stem if isinstance(data, str) else data.directory.resolve().name


def _model(text: str) -> tuple[str, Any]:
    """`name=folder`, or `name={provider: …}`, as an entry of a pipeline's models."""
    from distillgen.located_yaml import read_yaml

    name, equals, value = text.partition("=")
    if not equals or not value:
        raise ConfigError(f"--model takes NAME=MODEL, not '{text}'")
    entry = read_yaml(value, f"--model {name}")[0] if value.lstrip().startswith("{") else value
    return name, entry if isinstance(entry, dict) else {
        "provider": "transformers",
        "model": _in_project(value),
    }


def _in_project(path: str | Path) -> str:
    """A path that was typed, as a pipeline of the project says it; what lies elsewhere, or is no path, stays as it is."""
    from distillgen.project import project_around

    root, whole = project_around(Path.cwd()), Path(path).resolve()
    return str(whole.relative_to(root)) if whole.exists() and whole.is_relative_to(root) else str(path)


def _students(run: Path) -> dict[str, Any]:
    """The student of a run, and what it was made from."""
    manifest = run / "student" / "manifest.json"
    if not manifest.is_file():
        return {}
    base = load_state(manifest, "base")["base"]
    base = _in_project(manifest.parent / "base") if base == "base" else base
    found = {"student": _in_project(manifest.parent), "base": base}
    return {name: {"provider": "transformers", "model": model} for name, model in found.items()}


def _filter(text: str) -> dict[str, Any]:
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


@main.command()
@DATA
@click.option("--objective", default="sft", show_default=True, help="How the student learns.")
@click.option(
    "--student", required=True, help="A model's folder, a .gguf file, owner/name on the Hub, or tiny."
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="The run directory; default: in RUN, or runs/<data>-student.",
)
@SETS
@LIMIT
@AS_JSON
def train(
    data: Run | str,
    objective: str,
    student: str,
    out: Path | None,
    sets: Sequence[str],
    limit: int | None,
    as_json: bool,
) -> None:
    """Train a student on RUN's corpus, or on DATA (a file, a folder of texts, or a Hugging Face data set).

    \b
    distillgen train quickstart --student Qwen/Qwen2.5-0.5B-Instruct --set train.lora.r=16
    Give the same command again to go on where it stopped.
    """
    from distillgen.rows.readers import origin
    from distillgen.runs.report import write_report
    from distillgen.runs.state import Options

    run = None if isinstance(data, str) else data
    corpus = data if isinstance(data, str) else _in_project(data.directory / "corpus.jsonl")
    source = {"path": corpus, "lineage": True} if run else origin(corpus)
    stages = [{"source": source}, {"train": {"objective": objective, "student": student}}]
    trusted = frozenset({corpus, student})
    checked = _load({"version": 1, "models": {}, "stages": stages}, sets, trusted=trusted)
    directory = out or (
        run.directory / "training" if run else checked.run_directory(f"{_stem(data)}-student")
    )
    link = run.directory / "student" if run and not out else None
    if link and link.exists() and not link.is_symlink():
        raise ConfigError(
            f"the pipeline of '{_stem(data)}' trains a student itself, {link}; give another directory with --out"
        )
    _carry_out(checked, directory, Options(limit=limit, ledger=run.ledger if run else None), as_json)
    if link and run:
        link.unlink(missing_ok=True)
        link.symlink_to(Path(directory.name, "student"))
        write_report(run.directory)
    show.say(f"student {link or directory / 'student'}", error=as_json)


def _carry_out(checked: distillgen.Pipeline, directory: Path, options: Options, as_json: bool) -> None:
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


@main.command()
@DATA
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="A new folder, or a file by its ending; default: RUN/export.",
)
@click.option(
    "--format",
    "format_",
    metavar="NAME",
    help="jsonl (default), parquet, arrow, csv, ntriples, turtle, graphml.",
)
@click.option(
    "--shape",
    metavar="NAME[:PART=FIELD,…]",
    help="messages, prompt_completion, alpaca, sharegpt, preference, labelled or triples; a part is a field, or a template.",
)
@click.option(
    "--keep",
    metavar="FIELD,…",
    default="",
    help="Fields to keep, besides the shape's; default without a shape: all.",
)
@click.option(
    "--split", "splits", metavar="NAME=SHARE,…", default="", help="train=0.9,test=0.1, by source item."
)
@click.option("--by", metavar="FIELD", help="With --split: rows with the same value here stay together.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the splits.")
@click.option("--shard-rows", type=click.IntRange(min=1), help="Most rows in one file.")
@click.option("--dropped", is_flag=True, help="What did not survive, with the reasons, instead of what did.")
@click.option(
    "--no-id", is_flag=True, help="Without the column by which `show --id` finds where a row came from."
)
@click.option("--signals", is_flag=True, help="Log-probabilities and embeddings instead, as Parquet.")
@AS_JSON
def export(
    data: Run | str,
    out: Path | None,
    format_: str | None,
    shape: str | None,
    keep: str,
    splits: str,
    no_id: bool,
    signals: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Write what RUN made, or any data set, in the format and shape that a trainer or tool reads.

    \b
    distillgen export quickstart --shape alpaca -o alpaca.jsonl
    distillgen export quickstart --format parquet --shape messages --split train=0.9,test=0.1 -o data/qa
    distillgen export answers.csv --shape messages:user=question,assistant='{{ answer }} ({{ unit }})' -o answers
    """
    from distillgen.rows.formats import FORMATS
    from distillgen.runs.export import Wanted, export, export_signals

    if out is None and isinstance(data, str):
        raise ConfigError("give --out: a folder, or a file by its ending, to export to")
    if signals:
        if isinstance(data, str):
            raise ConfigError("--signals are in a run's ledger; give a run")
        path = out or data.directory / "signals.parquet"
        click.echo(f"{export_signals(data, path):,} rows in {path}")
        return
    path = out or data.directory / "export"  # type: ignore[union-attr]
    endings = {writer.suffix: name for name, writer in FORMATS.items()}
    name, parts = _assignments(shape, "--shape") if shape else (None, {})
    wanted = Wanted(
        format_ or endings.get(path.suffix, "jsonl"),
        name,
        parts,
        _names(keep),
        _shares(splits),
        identify=not no_id,
        **given,
    )
    exported = export(data, path, wanted)
    if as_json:
        show.as_json({"out": str(path), **vars(exported)})
    else:
        made = "".join(f"; {part} from {source}" for part, source in exported.taken.items())
        rows = ", ".join(f"{split} {count:,}" for split, count in exported.rows.items())
        show.say(f"{path}: {rows} rows ({wanted.format}{made})")
    for what, count in exported.private.items():
        show.say(f"note: in {count:,} rows stands {what}, which push refuses to publish", error=True)
    if exported.left_out:
        reasons = "; ".join(f"{count:,}: {why}" for why, count in Counter(exported.left_out).most_common(5))
        raise Unusable(
            f"{sum(exported.left_out.values()):,} rows have no place in the shape and were left out ({reasons})"
        )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _assignments(text: str, option: str) -> tuple[str, dict[str, str]]:
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


def _shares(text: str) -> dict[str, float]:
    """`train=0.9,test=0.1`."""
    shares = {}
    for item in _names(text):
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


@main.command()
@click.argument("data", metavar="RUN|FOLDER", callback=_find_data)
@click.argument("repository", metavar="REPO")
@click.option(
    "--student", is_flag=True, help="RUN's student, an adapter or a whole model, instead of its data set."
)
@click.option("--public", is_flag=True, help="For everybody to see; default: private.")
@click.option(
    "--dry-run", is_flag=True, help="Only show the files, their sizes and the repository; no network."
)
@click.option(
    "--as-it-is", is_flag=True, help="Also where a path, an address or the name of this machine stands in it."
)
@AS_JSON
def push(
    data: Run | str,
    repository: str,
    student: bool,
    public: bool,
    dry_run: bool,
    as_it_is: bool,
    as_json: bool,
) -> None:
    """Upload the data set of RUN, a FOLDER that export wrote, or RUN's student to REPO (owner/name) on the Hugging Face Hub.

    The token comes from HF_TOKEN or from `hf auth login`. Give the same command again after a kill or to bring a repository up
    to date: what is there already is not uploaded again.
    """
    from distillgen.runs import hub as hub

    if student and isinstance(data, str):
        raise ConfigError(f"--student is of a run, and '{data}' is none")
    files = hub.data_files(data) if not student or isinstance(data, str) else hub.student_files(data)
    hub.check(files, Path(data) if isinstance(data, str) else data.directory, as_it_is=as_it_is)
    kind = "model" if student else "dataset"
    told = hub.listing(files, repository, kind, public)
    if not dry_run:
        pushed = hub.push(files, repository, kind, public=public)
        told |= {"address": pushed.address, "private": pushed.private, "others": list(pushed.others)}
    if as_json:
        show.as_json(told)
        return
    for file in files if dry_run else ():
        show.say(f"{file.size:>15,}  {file.name}")
    where = f"the {'private' if told['private'] else 'public'} {kind} repository {repository}"
    show.say(f"{told['bytes']:,} bytes in {len(files)} files {'for' if dry_run else 'are in'} {where}")
    if told.get("others"):
        show.say(f"note: it also holds {', '.join(told['others'])}, which this push did not touch")
    if public and told["private"]:
        show.say("note: the repository was private before and still is; its settings on the Hub change that")
    if not dry_run:
        show.say(told["address"])


@main.command()
@RUN
@click.option(
    "-n", "count", type=click.IntRange(min=1), default=200, show_default=True, help="How many records."
)
@click.option("--fields", metavar="NAME,NAME", default="", help="The fields to show; default: all.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("data/labels.jsonl"),
    show_default=True,
    help="The file that labels are appended to.",
)
@click.option("--label", default="label", show_default=True, help="What the label's field is called.")
@click.option("--graded", is_flag=True, help="Grades from 1 to 5, instead of valid or not.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of records.")
@click.option("--web", is_flag=True, help="On a web page, for this machine only.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Of the web page; default: any that is free."
)
def label(
    run: Run, count: int, fields: str, out: Path, label: str, graded: bool, seed: int, web: bool, port: int
) -> None:
    """Label records of RUN, kept and dropped, for a critic to learn from. Give the same command again to go on."""
    from distillgen.cli.labelling import Labelling, in_terminal, on_page, sample

    shown = [name.strip() for name in fields.split(",") if name.strip()]
    if not web and not sys.stdin.isatty():
        raise ConfigError("labelling asks on a terminal, and this is none; give --web for a page")
    labelling = Labelling(sample(run, count, fields=shown, seed=seed), out, label, graded, shown)
    try:
        if web:
            on_page(
                labelling,
                port,
                lambda address: show.say(f"open {address}\nit ends by itself; Ctrl-C ends it sooner"),
            )
        else:
            in_terminal(labelling)
    finally:
        show.say(f"{labelling.progress()}; in {out}")
        reads = ", ".join(shown) or "…"
        show.say(
            f"for a critic to learn from: - critic: {{labels: {out}, fields: [{reads}], target_recall: 0.8}}"
        )


@main.command()
@RUN
def report(run: Run) -> None:
    """Write RUN's report.html anew, and say where it is."""
    from distillgen.runs.report import write_report

    write_report(run.directory)
    click.echo(run.directory / "report.html")


@main.group()
def ledger() -> None:
    """The answers that were paid for, as they are kept."""


@ledger.command()
@click.argument("into", metavar="INTO")
@click.argument("others", metavar="OTHER…", nargs=-1, required=True)
@AS_JSON
def merge(into: str, others: Sequence[str], as_json: bool) -> None:
    """Bring the answers of OTHER ledgers, and what filters measured, to the ledger INTO, which is made where there is none.

    Each is a ledger's file, or a run, whose ledger is meant. What INTO has is not taken twice.

    \b
    distillgen ledger merge runs/ledger.sqlite3 from-another-machine/ledger.sqlite3
    """
    from distillgen.inference.ledger import merge

    path = _ledger_file(into)
    count = merge(path, [_ledger_file(other) for other in others])
    show.as_json({"ledger": str(path), "answers": count}) if as_json else show.say(
        f"{count:,} answers came to {path}"
    )


def _ledger_file(name: str) -> Path:
    """A ledger by its file, or by a run that uses it."""
    from distillgen.project import project_around

    runs = project_around(Path.cwd()) / "runs"
    ran = [run for run in (Path(name), runs / name) if (run / "usage.json").exists()]
    if not ran and Path(name).is_dir():
        raise ConfigError(f"'{name}' is no ledger: it is a folder that holds no run; name the ledger's file")
    return distillgen.Run(ran[0]).ledger if ran else Path(name)


def _sampling(given: Sequence[str], retry_failed: bool) -> dict[str, Any]:
    """What `--retry-with` changes."""
    from distillgen.located_yaml import Places, read_yaml, validate
    from distillgen.prompting.prompt import Sampling

    if given and not retry_failed:
        raise ConfigError("--retry-with changes what --retry-failed asks; give both")
    if not all("=" in item for item in given):
        raise ConfigError(f"--retry-with takes option=value, not '{' '.join(given)}'")
    values, _ = read_yaml("\n".join(item.replace("=", ": ", 1) for item in given), "--retry-with")
    return validate(Sampling, values, what="--retry-with", places=Places()).given()
