"""The command line: the group of commands, and the commands init, list and help.

Start-up stays fast because no command imports a heavy module before it needs it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

import distillgen
from distillgen.cli import check, completion, data, ledger, run, show, student, view
from distillgen.cli.arguments import AS_JSON, PathName
from distillgen.errors import ConfigError, DistillgenError, Stopped
from distillgen.runs.streams import escape_unknown, hold_open

HELLO = (
    "pipelines/hello.yaml",
    "prompts/hello.md",
    "filters/word_count.py",
    "data/hello.jsonl",
    "data/hello.py",
)
"""The files of a new project."""

ENVIRONMENT_ERRORS = frozenset(
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "EIO", "EMFILE"),
        *("ENFILE", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP", "ENXIO", "ENOMEM"),
    )
    if hasattr(errno, name)  # Windows lacks some
)
"""Errors of a disk, a folder or the machine: the user can mend them, and a traceback would not help."""


class Program(click.Group):
    """A group of commands that turns errors into one line and an exit code."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Carry out a command line with any state of the standard streams."""
        hold_open()
        escape_unknown()
        options.setdefault("complete_var", completion.VARIABLE)
        if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            options["color"] = False  # such a terminal gets no escape sequences
        return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Carry out a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            show.say("\ninterrupted", error=True)
            ctx.exit(Stopped.exit_code)
        except DistillgenError as error:
            show.say("\n".join([str(error), *getattr(error, "__notes__", ())]), error=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            if error.errno not in ENVIRONMENT_ERRORS:
                raise
            file = f" '{error.filename}'" if error.filename else ""
            reason = (error.strerror or str(error)).lower()
            remedy = "The answers that were paid for are safe; mend it and give the same command again"
            show.say(f"cannot read or write{file}: {reason}. {remedy}", error=True)
            ctx.exit(ConfigError.exit_code)
        except Exception as error:
            from distillgen.project import user_error

            mistake = user_error(error, "this line")
            if mistake.path is None:  # no code of the user's was running
                raise
            show.say(str(mistake), error=True)
            ctx.exit(mistake.exit_code)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(distillgen.__version__, prog_name="distillgen")
def main() -> None:
    """Synthetic data for black-box LLM distillation.

    A pipeline asks a teacher model, keeps every answer that was paid for, filters the answers, and says why
    each dropped record was dropped.

    \b
    distillgen run quickstart            make a curated corpus with a small local model
    distillgen list                      list the pipelines
    distillgen init my-project           make a project of your own
    distillgen run my.yaml -o runs/mine  run your pipeline; run it again to continue
    """


@main.command()
@click.argument("folder", type=PathName(path_type=Path))
def init(folder: Path) -> None:
    """Make a new project in FOLDER, with a small pipeline that runs at once."""
    from distillgen.pipeline.catalog import json_schema
    from distillgen.project import Project, home

    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(f"'{folder}' is not empty; choose a new folder")
        for name in HELLO:
            kind, _, file = name.partition("/")
            (folder / kind).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(home(kind) / file, folder / name)
        schema = json.dumps(json_schema(Project(folder)), indent=2)
        (folder / "pipelines/schema.json").write_text(schema + "\n", encoding="utf-8")
        (folder / ".gitignore").write_text("runs/\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write to '{folder}': {error.strerror}; choose a new folder") from error
    here = folder.resolve() == Path.cwd()
    lines = ["The project is ready. Now:"] if here else [f"{folder} is ready. Now:", f"  cd {folder}"]
    click.echo("\n".join([*lines, "  distillgen run hello"]))
    click.echo("then edit pipelines/hello.yaml; its comments say how to use a real teacher.")


@main.command("list")
@click.argument(
    "kind",
    type=click.Choice(
        ["pipelines", "prompts", "filters", "stages", "providers", "objectives", "losses", "bodies", "scores"]
    ),
    default="pipelines",
)
@AS_JSON
@click.option(
    "--schema", is_flag=True, help="Print the JSON Schema of pipeline files, with this project's plug-ins."
)
@click.option(
    "--markdown",
    is_flag=True,
    help="Print the filters as a Markdown table, with what each does, its cost and its source.",
)
def list_(kind: str, as_json: bool, schema: bool, markdown: bool) -> None:
    """List pipelines, prompts, filters, stages, providers, objectives, losses, student bodies or scores.

    Lists those of this project and those that distillgen ships. The place of a pipeline in the surveys
    follows in brackets: how the teacher is made to give what it knows, and the kind of dataset distillation.
    """
    from distillgen.pipeline import catalog
    from distillgen.project import Project, project_around

    project = Project(project_around(Path.cwd()))
    if markdown:
        show.say(catalog.filter_table(project))
        return
    entries = getattr(catalog, "json_schema" if schema else kind)(project)
    if schema or as_json:
        show.as_json(entries)
        return
    for entry in entries:
        place = ", ".join(filter(None, (entry.get("elicitation"), entry.get("distillation"))))
        show.say(show.broken(f"{entry['name']:<24} {entry['about']}" + (f" [{place}]" if place else ""), 25))


@main.command("help")
@click.argument("topic", required=False, shell_complete=completion.topics)
@AS_JSON
@click.pass_context
def help_(ctx: click.Context, topic: str | None, as_json: bool) -> None:
    """Show the manual of a stage, provider, objective, loss, student body, filter, prompt or command.

    \b
    distillgen help generate        a stage
    distillgen help openai          a provider: the options of an entry of `models`
    distillgen help grounded        a filter, also a filter of your project
    """
    from distillgen.pipeline import catalog
    from distillgen.project import Project, project_around

    if topic is None:
        click.echo(ctx.find_root().get_help())
        return
    manual, command = catalog.manual(Project(project_around(Path.cwd()))), main.get_command(ctx, topic)
    entries = [entry for entry in manual if entry["name"] == topic]
    if not entries and command is None:
        topics = [*(entry["name"] for entry in manual), *main.list_commands(ctx)]
        near = get_close_matches(topic, topics, n=1)
        lists = "distillgen list stages, or filters, providers, objectives, losses, bodies, scores, prompts"
        remedy = f"did you mean '{near[0]}'?" if near else lists
        raise ConfigError(f"there is no manual of '{topic}'; {remedy}")
    if as_json:
        show.as_json(entries)
        return
    for entry in entries:
        show.manual(entry)
    if command:
        with click.Context(command, info_name=topic, parent=ctx.find_root()) as command_context:
            click.echo(command.get_help(command_context))


for command in (
    *(check.check, check.plan, check.preview, run.run, run.gather),
    *(view.status, view.show_, view.view, view.diff),
    *(data.filter_, data.export, data.push, data.label, data.report, ledger.ledger),
    *(student.train, student.evaluate, completion.completion),
):
    main.add_command(command)
