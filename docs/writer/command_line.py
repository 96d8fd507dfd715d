"""The page of the command line, from the declarations of click."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from distillgen.cli.main import main
from writer.markdown import anchor, fence, plain


def command_line() -> Iterator[str]:
    """Yield the page of all commands."""
    yield "# Command line"
    yield "Every command takes `--help`, or `-h`, and prints the same on a terminal."
    commands = sorted(main.commands.items())
    yield "\n".join(
        f"- [distillgen {name}](#{anchor(f'distillgen {name}')}): {plain(command.get_short_help_str(200))}"
        for name, command in commands
    )
    yield "## Exit codes"
    yield "\n".join(f"- `{code}`: {meaning}" for code, meaning in EXIT_CODES.items())
    for name, command in commands:
        yield from command_help(f"distillgen {name}", command, "##")


ARGUMENTS = {
    "RUN…": "one run or two: run directories, or the names of runs in the project's `runs`",
    "SHARD…": "the runs of all shards: their directories, or the names of runs in the project's `runs`",
    "PIPELINE": "the name of a pipeline in `pipelines/` or of one that ships, or its file",
    "RUN": "a run, by directory or by name under `runs/`",
    "RUN|DATA": "a run, by directory or by name under `runs/`; or a file, a folder or a data set on the Hub",
    "RUN|FOLDER": "a run, by directory or by name under `runs/`; or a folder that `export` wrote",
    "DATA": "a file, a folder of texts, or a data set on the Hub",
    "FOLDER": "a folder that does not exist yet or is empty",
    "REPO": "a repository on the Hugging Face Hub, as `owner/name`",
    "TOPIC": "the name of a stage, provider, objective, filter, prompt or command",
    "LEDGER": "a ledger: its file, or a run that uses it",
    "LEDGER…": "ledgers: their files, or runs that use them",
    "INTO": "the ledger that receives the answers: its file, or a run",
    "bash|zsh|fish": "the shell",
    "OTHER…": "the ledgers that give the answers",
    "pipelines|prompts|filters|stages|providers|objectives|losses|bodies|scores": "what to list; default: "
    "pipelines",
}
EXIT_CODES = {
    0: "the command has finished.",
    1: "a fault of the program itself, with a traceback.",
    2: "a mistake that you can correct; the message says where and how.",
    3: "the run is finished, but some answers could not be used, or nothing was kept.",
    4: "the run stopped because the next request could exceed `--max-cost-usd`.",
    130: "the run was interrupted; the same command continues it.",
}


def command_help(name: str, command: click.Command, level: str) -> Iterator[str]:
    """Yield the section of a command, and those of its subcommands."""
    yield f"{level} {name}"
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    needed = [metavar(argument) if argument.required else f"[{metavar(argument)}]" for argument in arguments]
    inner = command.commands if isinstance(command, click.Group) else {}
    if not inner:
        yield fence("text", " ".join([name, "[OPTIONS]", *needed]))
    for block in re.split(r"\n\s*\n", inspect.cleandoc(command.help or "")):
        kept = block.startswith("\b")
        yield fence("text", block.lstrip("\b\n")) if kept else plain(" ".join(block.split()))
    if command.params:
        yield "\n".join(map(parameter_line, command.params))
    for inner_name, inner_command in sorted(inner.items()):
        yield from command_help(f"{name} {inner_name}", inner_command, level + "#")


def parameter_line(parameter: click.Parameter) -> str:
    """Return the line of a list that describes an argument or option."""
    if not isinstance(parameter, click.Option):
        return f"- `{metavar(parameter)}`: {ARGUMENTS[metavar(parameter)]}"
    names = ", ".join(parameter.opts) + ("" if parameter.is_flag else f" {metavar(parameter)}")
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (
            ("at least", getattr(parameter.type, "min", None)),
            ("at most", getattr(parameter.type, "max", None)),
        )
        if bound is not None
    ]
    about = [
        *bounds,
        *(["required"] if parameter.required else []),
        *(["may be repeated"] if parameter.multiple else []),
        *([f"default: `{parameter.default}`"] if parameter.show_default else []),
    ]
    notes = f" ({', '.join(about)})" if about else ""
    return f"- `{names}`{notes}: {plain(parameter.help or '')}"


def metavar(parameter: click.Parameter) -> str:
    """Return the word for the value of a parameter, such as PATH."""
    if parameter.metavar:
        return parameter.metavar
    if isinstance(parameter.type, click.Choice):
        return "|".join(parameter.type.choices)
    kinds = {"integer range": "N", "integer": "N", "float range": "NUMBER", "float": "NUMBER"}
    kind = kinds.get(parameter.type.name, parameter.type.name.upper())
    return kind if isinstance(parameter, click.Option) else str(parameter.name).upper()
