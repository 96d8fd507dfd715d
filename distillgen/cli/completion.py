"""Completion of command lines by the shell: verbs, options, pipelines, runs, models, stages.

The shell asks the program at every press of the key: nothing heavy is imported, and nothing is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distillgen.errors import ConfigError
from distillgen.state_files import SEEDS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

VARIABLE = "_DISTILLGEN_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the code that makes SHELL complete verbs, options, pipelines, stages, models and runs.

    \b
    bash, in ~/.bashrc:               eval "$(distillgen completion bash)"
    zsh, in ~/.zshrc, after compinit: eval "$(distillgen completion zsh)"
    fish, once: distillgen completion fish > ~/.config/fish/completions/distillgen.fish
    """
    from click.shell_completion import get_completion_class

    shell_class = get_completion_class(shell)
    assert shell_class is not None
    click.echo(shell_class(ctx.find_root().command, {}, "distillgen", VARIABLE).source())


def pipelines(ctx: click.Context, param: click.Parameter, beginning: str) -> list[CompletionItem]:
    """Return the pipelines of the project and those that ship; files, if no name begins so."""
    from distillgen.project import Project, project_around

    return _matches(Project(project_around(Path.cwd())).names("pipelines", ".yaml"), beginning) or _files()


def runs(ctx: click.Context, param: click.Parameter, beginning: str) -> list[CompletionItem]:
    """Return the runs of the project; files, if no name begins so."""
    from distillgen.project import project_around

    folder = project_around(Path.cwd()) / "runs"
    names = {path.parent.name for file in ("usage.json", SEEDS) for path in folder.glob(f"*/{file}")}
    return _matches(sorted(names), beginning) or _files()


def overrides(ctx: click.Context, param: click.Parameter, beginning: str) -> list[CompletionItem]:
    """Return `NAME.` of each model and stage of the pipeline, then `NAME.OPTION=`."""
    entries, name, dot = _entries(ctx), *beginning.partition(".")[:2]
    if not dot:
        items = _matches([f"{entry}." for entry in entries], beginning)
        return items if len(items) != 1 else overrides(ctx, param, items[0].value)
    if name not in entries:
        return []
    return _matches([f"{name}.{option}=" for option in _options(*entries[name])], beginning)


def stages(ctx: click.Context, param: click.Parameter, beginning: str) -> list[CompletionItem]:
    """Return the names of the pipeline's stages."""
    return _matches([name for name, (kind, _) in _entries(ctx).items() if kind == "stages"], beginning)


def topics(ctx: click.Context, param: click.Parameter, beginning: str) -> list[CompletionItem]:
    """Return the topics of `distillgen help`: plug-ins, prompts and commands."""
    from distillgen import plugins
    from distillgen.project import Project, project_around

    project, root = Project(project_around(Path.cwd())), ctx.find_root().command
    names = {name for kind in plugins.NOUNS for name in plugins.names(kind, project)}
    names |= {*project.names("prompts", ".md")}
    names |= set(root.list_commands(ctx)) if isinstance(root, click.Group) else set()
    return _matches(sorted(names), beginning)


def filters(ctx: click.Context, param: click.Parameter, beginning: str) -> list[CompletionItem]:
    """Return the filters of the project and those that ship."""
    from distillgen.project import Project, project_around

    return _matches(Project(project_around(Path.cwd())).names("filters", ".py"), beginning)


def _matches(names: Iterable[str], beginning: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in names if name.startswith(beginning)]


def _files() -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem("", type="file")]


def _entries(ctx: click.Context) -> dict[str, tuple[str, str]]:
    """Return the models and stages of the pipeline on the command line by name: `models` and the provider, or
    `stages` and the kind. A pipeline that cannot be read has none.
    """
    from distillgen.located_yaml import read_yaml
    from distillgen.project import Project, project_around

    words = (word for word in ctx.args if not word.startswith("-"))  # after an option without its value
    pipeline = str(ctx.params.get("pipeline") or next(words, ""))
    try:
        path = Path(pipeline)
        if path.suffix not in (".yaml", ".yml"):
            path = Project(project_around(Path.cwd())).find("pipelines", pipeline, ".yaml")
        content, _ = read_yaml(path.read_text(encoding="utf-8"), path)
        entries = {name: ("models", str(model["provider"])) for name, model in content["models"].items()}
        for stage in content["stages"]:
            kind, options = next(iter(stage.items()))
            name = options.get("name", kind) if isinstance(options, Mapping) else kind
            entries[name] = ("stages", kind)
    except (ConfigError, OSError, KeyError, TypeError, AttributeError, StopIteration):
        return {}  # a shell has no place for a message; `check` gives it
    return entries


def _options(kind: str, name: str) -> list[str]:
    """Return the options of a provider or of a stage."""
    from distillgen.pipeline import catalog
    from distillgen.project import Project, project_around

    listing: Any = catalog.providers if kind == "models" else catalog.stages
    entries = listing(Project(project_around(Path.cwd())))
    return next((list(entry.get("options", ())) for entry in entries if entry["name"] == name), [])
