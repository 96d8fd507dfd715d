"""Write docs/reference/ and docs/llms.txt from the program's declarations: `python docs/write.py`.

tests/docs/test_reference.py fails where a file differs from what this writes. The pages run-directory.md and metrics.md are
written by hand; tests compare them with real runs.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import click
import yaml

import distillgen
from distillgen.cli.main import main
from distillgen.flow.stage import ABLE, Stage, stage_class
from distillgen.inference.sampling import Sampling
from distillgen.inference.spec import Spec
from distillgen.pipeline import catalog
from distillgen.pipeline.load import Top
from distillgen.project import Project
from distillgen.prompting.prompt import Front
from distillgen.runs.execute import Options

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SHIPPED = Project(Path("/nowhere"))
"""A project without content of its own: only what ships."""

Entry = Mapping[str, Any]


def plain(text: str) -> str:
    """Return text in which `<` and `*` outside code spans are no markup."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if i % 2 else re.sub(r"([<*])", r"\\\1", part) for i, part in enumerate(parts))


def paragraphs(docstring: str) -> str:
    """Return a docstring's paragraphs, each as one line, as forges show line breaks of some pages."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(docstring))
    return "\n\n".join(
        block if block.startswith("    ") else plain(" ".join(block.split())) for block in blocks
    )


def anchor(heading: str) -> str:
    """Return the anchor that forges and MyST give to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def contents(entries: Iterable[Entry]) -> str:
    """Return a list of links to the headings of entries, each with the entry's first sentence."""
    return "\n".join(
        f"- [{entry['name']}](#{anchor(entry['name'])}): {plain(entry['about'])}" for entry in entries
    )


def option_list(options: Mapping[str, Entry], margin: str = "") -> str:
    """Return a list of options with type, default and description, the keys of a mapping below it."""
    lines = []
    for name, option in options.items():
        about = [option["type"]]
        if option["required"]:
            about.append("required")
        elif option["default"] not in (None, "", [], {}):
            default = option["default"]
            shown = default if isinstance(default, str) else json.dumps(default, ensure_ascii=False)
            about.append(f"default: `{shown}`")
        described = f": {option['description']}" if option["description"] else ""
        lines.append(plain(f"{margin}- `{name}` ({', '.join(about)}){described}"))
        if inner := option.get("options"):
            lines.append(option_list(inner, margin + "    "))
    return "\n".join(lines)


def without(options: Mapping[str, Entry], declaration: Any) -> dict[str, Entry]:
    """Return the options that the class does not declare, or declares otherwise."""
    shared = catalog.options(declaration)
    return {name: option for name, option in options.items() if shared.get(name) != option}


def fence(language: str, text: str) -> str:
    """Return a fenced block."""
    return f"```{language}\n{text.rstrip()}\n```"


def stages() -> Iterator[str]:
    """The pipeline file and every stage."""
    entries = catalog.stages(SHIPPED)
    yield "# Stages"
    yield (
        "A pipeline is a list of stages. Each stage takes the records of the stage before it and passes records on. "
        "A stage that drops a record says why. `distillgen help STAGE` prints the same on a terminal."
    )
    yield contents(entries)
    yield "## The pipeline file"
    yield "The keys at the top of a pipeline file."
    yield option_list(catalog.options(Top))
    yield "## Sampling options"
    yield (
        "Stages that ask a model take these options, as do the entries of [`models`](models.md) and the front matter of "
        "[prompts](prompts.md). An option of the stage wins over the model's, and the model's over the prompt's. "
        "An option that is not given anywhere is not sent, and the endpoint's own default holds."
    )
    yield option_list(catalog.options(Sampling))
    yield "## The option name"
    yield "Every stage takes this option."
    yield option_list({"name": entries[0]["options"]["name"]})
    for entry in entries:
        yield from stage(entry)


def stage(entry: Entry) -> Iterator[str]:
    """One stage: what it does, reads and writes, its options, and an example."""
    declaration = stage_class(entry["name"], SHIPPED)
    yield f"## {entry['name']}"
    yield paragraphs(entry["text"])
    about = [f"- Reads: {plain(entry['reads'])}.", f"- Writes: {plain(entry['writes'])}."]
    if scope := SCOPES.get(getattr(declaration, "scope", "")):
        about.append(f"- Scope: {scope}.")
    yield "\n".join(about)
    own = without(entry["options"], Stage)
    samples = issubclass(declaration, Sampling)
    own = without(own, Sampling) if samples else own
    if own:
        yield "Options, besides the [sampling options](#sampling-options):" if samples else "Options:"
        yield option_list(own)
    example = (DOCS / f"examples/pipelines/{entry['name']}.yaml").read_text(encoding="utf-8")
    comment, _, pipeline = example.partition("\n")
    yield f"Example: {comment.lstrip('# ')}"
    yield fence("yaml", pipeline)


SCOPES = {
    "row": "row; it sees one record at a time",
    "group": "group; it sees the records that belong together",
    "set": "set; it sees all records before the first one goes on",
}


def models() -> Iterator[str]:
    """The providers of models."""
    entries = catalog.providers(SHIPPED)
    yield "# Models"
    yield (
        "`models` in a pipeline names the models that its stages ask. The option `provider` of an entry says which of "
        "these kinds of teacher it is. `distillgen help PROVIDER` prints the same on a terminal."
    )
    yield fence("yaml", MODELS)
    yield contents(entries)
    yield "## Capabilities"
    yield "Every model answers. Some stages and options need more, and `check` says so before anything is asked:"
    yield "\n".join(f"- `{capability}`: {providers}" for capability, providers in ABLE.items())
    yield "## Options of every provider"
    yield "Besides these, every provider takes the [sampling options](stages.md#sampling-options)."
    yield option_list(without(catalog.options(Spec), Sampling))
    for entry in entries:
        yield f"## {entry['name']}"
        yield paragraphs(entry["text"])
        own = without(entry["options"], Spec)
        yield option_list(own) if own else "It has no options of its own."


MODELS = """\
models:
  teacher: {provider: openai, model: gpt-4.1-mini, api_key: "${OPENAI_API_KEY}", temperature: 0.7}
  small: {provider: embedded, model: qwen2.5-coder-1.5b-instruct}
  served: {provider: openai, server: vllm, model: Qwen/Qwen2.5-7B-Instruct, base_url: "http://localhost:8000/v1"}
"""


def filters() -> Iterator[str]:
    """The filters that ship."""
    entries = catalog.filters(SHIPPED)
    yield "# Filters"
    yield (
        "A filter measures something about a record and decides whether to keep it. The stage "
        "[`filter`](stages.md#filter) takes a list of filters; the stage [`evaluate`](stages.md#evaluate) takes them as "
        "metrics. `distillgen help FILTER` prints the same on a terminal."
    )
    yield contents(entries)
    for entry in entries:
        yield f"## {entry['name']}"
        yield paragraphs(entry["text"])
        if entry["source"]:
            yield f"Source: {plain(entry['source'])}."
        yield option_list(entry["options"]) if entry["options"] else "It has no options."


def objectives() -> Iterator[str]:
    """The objectives of the stage train."""
    entries = catalog.objectives(SHIPPED)
    yield "# Objectives"
    yield (
        "An objective says how a student learns. The stage [`train`](stages.md#train) names it as `objective`, and takes "
        "its options beside its own. `distillgen help OBJECTIVE` prints the same on a terminal."
    )
    yield contents(entries)
    for entry in entries:
        yield f"## {entry['name']}"
        yield paragraphs(entry["text"])
        yield option_list(entry["options"])


def prompts() -> Iterator[str]:
    """The prompts that ship, and what the front matter of a prompt file takes."""
    yield "# Prompts"
    yield (
        "A prompt file holds front matter in YAML and a Jinja template. [Prompts](../concepts/prompts.md) explains them. "
        "`distillgen help PROMPT` prints what a prompt reads and gives."
    )
    yield "## Front matter"
    front = catalog.options(Front)
    front["sampling"] = {name: value for name, value in front["sampling"].items() if name != "options"}
    yield "`sampling` takes the [sampling options](stages.md#sampling-options)."
    yield option_list(front)
    yield "## Prompts that ship"
    yield "The stage [`generate`](stages.md#generate) takes a prompt by its name."
    for entry in catalog.prompts(SHIPPED):
        yield f"### {entry['name']}"
        reads = ", ".join(f"`{name}`" for name in entry["inputs"]) or "no field"
        about = entry["about"]
        yield f"{plain(about[0].upper() + about[1:])}."
        yield f"- Reads: {reads}.\n- Form of the answer: {entry['output']}."


def command_line() -> Iterator[str]:
    """Every command, as click declares it."""
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
    "PIPELINE": "a pipeline by its name (`pipelines/NAME.yaml` of the project, or one that ships) or its file",
    "RUN": "a run directory, or its name under `runs/`",
    "RUN|DATA": "a run directory, or its name under `runs/`; or a file, a folder, or a data set on the Hugging Face Hub",
    "RUN|FOLDER": "a run directory, or its name under `runs/`; or a folder that `export` wrote",
    "DATA": "a file, a folder of texts, or a data set on the Hugging Face Hub",
    "FOLDER": "a folder that does not exist yet or is empty",
    "REPO": "a repository on the Hugging Face Hub, as `owner/name`",
    "TOPIC": "the name of a stage, provider, objective, filter, prompt or command",
    "INTO": "the ledger that receives the answers: its file, or a run",
    "OTHER…": "the ledgers that give the answers",
    "pipelines|prompts|filters|stages|providers|objectives": "what to list; default: pipelines",
}
EXIT_CODES = {
    0: "the command did what it says.",
    1: "a fault of the program itself, with a traceback.",
    2: "a mistake that you can correct; the message says where and how.",
    3: "the run is finished, but some answers could not be used, or nothing was kept.",
    4: "the run stopped because the next request could exceed `--max-cost-usd`.",
    130: "the run was interrupted; the same command continues it.",
}


def command_help(name: str, command: click.Command, level: str) -> Iterator[str]:
    """A command's usage, text, arguments and options, and the same of its subcommands."""
    yield f"{level} {name}"
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    needed = [metavar(each) if each.required else f"[{metavar(each)}]" for each in arguments]
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
    """Return what stands for a parameter's value."""
    if parameter.metavar:
        return parameter.metavar
    if isinstance(parameter.type, click.Choice):
        return "|".join(parameter.type.choices)
    kinds = {"integer range": "N", "integer": "N", "float range": "NUMBER", "float": "NUMBER"}
    kind = kinds.get(parameter.type.name, parameter.type.name.upper())
    return kind if isinstance(parameter, click.Option) else str(parameter.name).upper()


def python() -> Iterator[str]:
    """The public names of the package."""
    yield "# Python"
    yield "The names that `import distillgen` offers. They are imported when they are first used."
    yield fence("python", PYTHON)
    for name in sorted(distillgen.__all__, key=str.lower):
        value = getattr(distillgen, name)
        yield f"## {name}"
        if inspect.isclass(value):
            yield from python_class(name, value)
        elif callable(value) and inspect.isfunction(value):
            yield fence("python", signature(name, value))
            yield paragraphs(value.__doc__ or "")
            if name == "run":
                yield "The further options:"
                yield "\n".join(f"- `{field.name}`: `{field.type}`" for field in fields(Options))
        elif name == "Chunks":
            yield "What a stage receives and yields: an asynchronous generator of lists of records."
        else:
            yield f"The type of a filter's option that holds a {catalog.NAMED[value.__metadata__[0]]}."


PYTHON = """\
import distillgen

run = distillgen.run("hello", out="runs/from-python")
print(run)
for record in run.dropped:
    print(record.dropped.reason)
"""


def signature(name: str, function: Any) -> str:
    """Return a function's declaration, one parameter a line where it is long."""
    declared = inspect.signature(function)
    parameters, keyword_only = [], False
    for parameter in declared.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            parameters.append("*")
        if parameter.name not in ("self", "cls"):
            parameters.append(parameter_text(parameter))
    returned = "" if declared.return_annotation is declared.empty else f" -> {declared.return_annotation}"
    line = f"def {name}({', '.join(parameters)}){returned}: ..."
    if len(line) <= 88:
        return line
    return f"def {name}(\n" + "".join(f"    {parameter},\n" for parameter in parameters) + f"){returned}: ..."


def parameter_text(parameter: inspect.Parameter) -> str:
    """Return a parameter with its type and, where it is a plain value, its default."""
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = f"{stars}{parameter.name}: {parameter.annotation}"
    return text if parameter.default is parameter.empty else f"{text} = {default_text(parameter.default)}"


def default_text(default: Any) -> str:
    """Return a default as Python writes it; ... for an object that has no short form."""
    if isinstance(default, Path):
        return "Path()"
    return repr(default) if isinstance(default, str | int | float | tuple | frozenset | None) else "..."


def python_class(name: str, value: type) -> Iterator[str]:
    """A class: its docstring, its attributes, and its public methods."""
    yield paragraphs(value.__doc__ or "")
    attributes = dict(attributes_of(value))
    if attributes:
        lines = [f"- `{attribute}`: `{kind}`" for attribute, kind in attributes.items()]
        yield "\n".join(["Attributes:", "", *lines])
    for member, function in sorted(vars(value).items()):
        if member.startswith("_") or member in attributes:
            continue
        function = getattr(function, "__func__", function)  # of a class method
        if isinstance(function, property) or hasattr(function, "attrname"):
            text = inspect.getdoc(function.fget if isinstance(function, property) else function) or ""
            yield f"### {name}.{member}"
            yield paragraphs(text)
        elif inspect.isfunction(function):
            yield f"### {name}.{member}()"
            yield fence("python", signature(member, function))
            yield paragraphs(function.__doc__ or "")


def attributes_of(value: type) -> list[tuple[str, Any]]:
    """Return the names and types of what an instance is made of."""
    if is_dataclass(value):
        return [(field.name, field.type) for field in fields(value) if not field.name.startswith("_")]
    annotations = getattr(value, "__annotations__", {})
    return [
        (name, getattr(annotations[name], "__forward_arg__", annotations[name]))
        for name in getattr(value, "_fields", ())
    ]


PAGES = {
    "stages": stages,
    "models": models,
    "filters": filters,
    "objectives": objectives,
    "prompts": prompts,
    "command-line": command_line,
    "python": python,
}
MARK = "<!-- Written by `python docs/write.py` from the program's declarations. Change those, and run it again. -->"


def navigation() -> list[tuple[str, list[str]]]:
    """Return each part of the navigation with its pages in order."""
    toc = yaml.safe_load((DOCS / "_toc.yml").read_text(encoding="utf-8"))
    parts = [("", [toc["root"]])]
    for part in toc["subtrees"]:
        pages: list[str] = []
        for entry in part["entries"]:
            pattern = entry.get("file") or entry["glob"]
            found = sorted(
                path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.glob(f"{pattern}.md")
            )
            pages += [page for page in found or [pattern] if page not in pages]
        parts.append((part["caption"], pages))
    return parts


def title_and_summary(markdown: str) -> tuple[str, str]:
    """Return a page's title, and the first sentence below it."""
    title = re.search(r"^# (.+)$", markdown, re.M)
    body = markdown[title.end() :] if title else markdown
    blocks = re.split(r"\n\s*\n", re.sub(r"^```.*?^```", "", body, flags=re.DOTALL | re.MULTILINE))
    text = next((" ".join(block.split()) for block in blocks if re.match(r"\s*[\w`*\[\"(]", block)), "")
    sentence = re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0].removesuffix(":")
    return (title[1] if title else "").strip(), re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", sentence)


def llms(pages: Mapping[Path, str]) -> str:
    """Return llms.txt (https://llmstxt.org): the navigation with a line about each page."""
    lines = ["# distillgen", "", f"> {distillgen.__doc__}", ""]
    for caption, names in navigation():
        lines += [f"## {caption}", ""] if caption else []
        for name in names:
            path = DOCS / f"{name}.md"
            title, summary = title_and_summary(pages.get(path) or path.read_text(encoding="utf-8"))
            lines.append(f"- [{title}]({name}.md): {summary.removesuffix('.')}")
        lines.append("")
    return "\n".join(lines)


def written() -> dict[Path, str]:
    """Return what each generated file holds."""
    pages = {
        DOCS / f"reference/{name}.md": "\n\n".join([MARK, *blocks()]) + "\n" for name, blocks in PAGES.items()
    }
    return {**pages, DOCS / "llms.txt": llms(pages)}


def write(files: Mapping[Path, str]) -> Sequence[Path]:
    """Write the files that differ, and return them."""
    changed = [
        path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in changed:
        path.parent.mkdir(exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
    return changed


if __name__ == "__main__":
    for path in write(written()):
        click.echo(f"written: {path.relative_to(ROOT)}")
