"""Every command line that stands anywhere in the project is one that the program takes.

The lines of pages, recipes, docstrings and messages are parsed by the program's own parser; their shapes,
formats, splits and filters must exist, and a recipe's name with its --set must pass the check. Files that
pages name in a run exist in one.
"""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import click
import pytest

import distillgen
from distillgen import ConfigError
from distillgen.cli import arguments, main
from distillgen.project import Project
from distillgen.rows.formats import FORMATS
from distillgen.rows.shapes import SHAPES

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / "data").glob("*.md"),
]
CONTENT = [
    path
    for kind in ("pipelines", "prompts", "filters")
    for path in sorted((ROOT / kind).rglob("*"))
    if path.suffix in (".yaml", ".md", ".py")
]
CODE = sorted(path for path in (ROOT / "distillgen").rglob("*") if path.suffix in (".py", ".jinja"))
VERB = "|".join(sorted(main.main.commands, key=len, reverse=True))
COMMAND = re.compile(rf"(?:^|[\s'\"`(/])(?:python -m )?distillgen ((?:{VERB})\b(?![-.\w<])[^`\n]*)")
NAMED = re.compile(r"distillgen[\s'\"]")  # where a string ends here, another one may go on with the command
SHIPPED = {path.stem for path in (ROOT / "pipelines").glob("*.yaml")}
OF_A_WALK_THROUGH = {"shouting"}


def strings(path: Path) -> list[str]:
    """The text constants of a Python file, what is filled in as X."""
    texts, code = [], path.read_text()
    for node in ast.walk(ast.parse(code)) if NAMED.search(code) else ():
        if isinstance(node, ast.JoinedStr):
            texts.append(
                "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    return texts


def found() -> list[tuple[str, str, bool]]:
    """(file, command line without the program's name, whether it is a line by itself)."""
    lines = []
    for path in [*PAGES, *CONTENT, *CODE]:
        texts = strings(path) if path.suffix == ".py" else [re.sub(r"\\\n\s*", "", path.read_text())]
        for line in (line for text in texts for line in text.split("\n")):
            for match in COMMAND.finditer(line):
                alone = bool(re.match(r"\s*([#$]\s*)?([\w./]*/)?distillgen ", line)) and "`" not in line
                lines.append((path.relative_to(ROOT).as_posix(), match[1], alone))
    return lines


LINES = found()


def words(text: str, alone: bool) -> list[str]:
    """The arguments: up to a comment, or in running text up to where the sentence goes on."""
    if not alone:
        text = re.split(r"[;)…]|, (?!\w+=)|\.(?=\s|$)|: |(?<=\w)'(?=[\s,.;:)]|$)|\"$", text)[0]
    text = text.split("  #")[0].split("   ")[0].split(" && ")[0].rstrip()
    text = re.sub(r" \| (?=[^']*('[^']*'[^']*)*$).*", "", text)  # what a pipe gets, outside of quotes
    if text.count("'") % 2:
        text = text.replace("'", "")
    split = shlex.split(text, comments=True)
    return [
        "X" if word == "…" else word
        for i, word in enumerate(split)
        if word != "…" or split[i - 1].startswith("--")
    ]


def parsed(text: str, alone: bool) -> tuple[click.Command, dict, list[str]]:
    verb, *args = words(text, alone)
    command = main.main.commands[verb]
    if isinstance(command, click.Group) and args:
        verb, *args = args
        command = command.commands[verb]
    if not alone:  # running text may go on behind it: what matters are its options
        first = next(
            (i for i, word in enumerate(args) if not re.fullmatch(r"-.*|X|[A-Z|.…=]+|[\w./=,:@-]+", word)),
            len(args),
        )
        args = args[:first]
    context = click.Context(command, info_name=verb)
    options, rest, _ = command.make_parser(context).parse_args([*args])
    return command, options, rest


@cache
def refusal(pipeline: str, sets: tuple[str, ...]) -> str:
    """Why a pipeline does not pass the check; "" if it does. Pages name most of them several times."""
    try:
        distillgen.load(pipeline, sets, need_env=False)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("file, text, alone", LINES, ids=[f"{file}: {text[:50]}" for file, text, _ in LINES])
def test_a_command_line_is_one_that_the_program_takes(file, text, alone):
    try:
        command, options, _ = parsed(text, alone)
    except click.UsageError as error:
        pytest.fail(f"{file}: distillgen {text}: {error.format_message()}")
    if alone:
        needed = [p.name for p in command.params if isinstance(p, click.Argument) and p.required]
        assert not [name for name in needed if options.get(name) is None], (
            f"{file}: distillgen {text}: arguments are missing"
        )
    real = {
        name: value
        for name, value in options.items()
        if isinstance(value, str | list) and not re.search(r"[A-Z]{2}|X", str(value))
    }
    if shape := real.get("shape"):
        assert arguments.shape_argument(shape)[0] in SHAPES
    if name := real.get("format_"):
        assert name in FORMATS
    arguments.split_argument(real.get("splits") or "")
    for chosen in real.get("filters") or real.get("metrics") or ():
        (name,) = arguments.filter_argument(chosen)
        assert name in {*Project(ROOT).names("filters", ".py"), *OF_A_WALK_THROUGH}
    if options.get("pipeline") in SHIPPED:
        if error := refusal(options["pipeline"], tuple(real.get("sets") or ())):
            own = re.search(r"there is no (?:file|folder) '([^']+)'", error)  # the reader's
            lacks = own and own[1] in text or re.search("needs the (extra|package)", error)
            assert lacks, f"{file}: distillgen {text}: {error}"


def test_there_are_lines_of_each_kind():
    assert len(LINES) > 60 and sum(alone for _, _, alone in LINES) > 25
    assert {
        "README.md",
        "CONTRIBUTING.md",
        "pipelines/symbolic-knowledge.yaml",
        "distillgen/cli/data.py",
    } <= {file for file, _, _ in LINES}


@pytest.mark.parametrize(
    "line",
    [
        "run hello --max-cost 3",
        "export r --shape triples/graphml -o x",
        "frob x",
        "export r --split train=0.9",
        "filter a --with nosuch",
    ],
)
def test_a_wrong_line_is_noticed(line):
    with pytest.raises((Exception, pytest.fail.Exception)):
        if not COMMAND.search(f"distillgen {line}"):
            raise LookupError(line)
        test_a_command_line_is_one_that_the_program_takes("here", line, True)


def test_files_of_a_run_that_pages_name_are_written_by_the_program():
    code = "\n".join(path.read_text() for path in CODE)
    written = set(re.findall(r"[\w.-]+\.(?:jsonl?|html|sqlite3|lock\.yaml|safetensors|parquet)", code))
    named = re.findall(  # without the files that a page shows
        r"(?<![\w/.*-])`(\w[\w.-]*\.(?:jsonl|html|sqlite3|lock\.yaml))`(?!:\n\n```)",
        "\n".join(path.read_text() for path in PAGES),
    )
    of_the_project = {path.name for path in (ROOT / "data").rglob("*")} | {"tokenizer.json"}
    tables = {name + "l" for name in written if name.endswith(".json")}  # evaluate names both with one word
    names = {name for name in named if "NAME" not in name}
    assert not names - written - tables - of_the_project
    assert "evaluate.jsonl" not in written | tables


def options(command=main.main, path="distillgen"):
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield pytest.param(parameter, id=f"{path} {parameter.opts[-1]}")
    for name, inner in getattr(command, "commands", {}).items():
        yield from options(inner, f"{path} {name}")


@pytest.mark.parametrize("option", list(options()))
def test_the_help_of_an_option_is_whole_sentences_and_tells_its_default(option):
    assert re.fullmatch(r"[A-Z`].*\.", option.help, re.DOTALL), option.help
    with click.Context(main.main) as context:
        default = option.get_default(context)
    if not option.is_flag and not option.required and isinstance(default, int | str) and default:
        assert option.show_default or f"efault: {default}" in option.help
