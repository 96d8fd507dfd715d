"""Fenced blocks of README, CONTRIBUTING and docs/ are right: pipelines, Python, JSON, lines of a shell.

The program's own command lines are in tests/cli/test_command_lines.py, and the tutorials are followed in
test_tutorials.py.
"""

import ast
import importlib
import importlib.util
import json
import re
import shlex
import shutil
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import distillgen
from distillgen import ConfigError
from tests.command_process import forked

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"(?:`([\w./-]+\.\w+)`[^`\n]*:\n\n)?^( *)```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
PROGRAMS = {
    "sbatch",
    "kubectl",
    "createdb",
    "cd",
    "distillgen",
    "ls",
    "cat",
    "mkdir",
    "git",
    "export",
    "hf",
    "docker",
    "jq",
    "head",
    "python3",
}
"""Programs whose lines nothing here looks into, besides the program itself."""


@cache
def fenced(page: Path) -> list[tuple]:
    return FENCE.findall(page.read_text())


@cache
def extras() -> set[str]:
    return {*tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]}


def fences(*languages):
    """Return (page, file that the block is said to be, block) of every fence in these languages."""
    blocks = []
    for path in PAGES:
        for file, margin, language, block in fenced(path):
            if language in languages:
                lines = "".join(line.removeprefix(margin) for line in block.splitlines(keepends=True))
                blocks.append((path.relative_to(ROOT).as_posix(), file, lines))
    return blocks


def ids(blocks):
    return [f"{page}: {' '.join(block.split())[:40]}" for page, _, block in blocks]


YAML = [block for block in fences("yaml") if "docs/tutorial/" not in block[0]]
PYTHON, JSON = fences("python"), fences("json", "jsonl")
SHELL = [
    (page, file, line)
    for page, file, block in fences("sh", "bash", "console")
    for line in re.sub(r"\\\n\s*", "", block).splitlines()
    if line.strip() and not line.lstrip().startswith("#")
]


def check_yaml(page, block, folder):
    """Check a pipeline in a project with the data that the page speaks of, and the files that it shows."""
    if not re.search(r"^stages:", block, re.MULTILINE):
        return
    data = "docs/examples/data" if page.startswith("docs/reference/") else "data"
    shutil.copytree(ROOT / data, folder / "data")
    for name, _, _, text in fenced(ROOT / page):
        if name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    path = folder / "pipelines/page.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(block if "version:" in block else f"version: 1\n{block}")
    try:
        distillgen.load(path, need_env=False)
    except ConfigError as error:
        assert re.search("needs the (extra|package)", str(error)), f"{page}: {error}"


@pytest.mark.parametrize("page, file, block", YAML, ids=ids(YAML))
def test_a_pipeline_passes_the_check(page, file, block, tmp_path):
    check_yaml(page, block, tmp_path)


def check_python(page, block):
    """Compile a block, import what it imports, and look up what it takes from the package."""
    tree = ast.parse(block)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "distillgen":
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{page}: {node.module} has no {name.name}"
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "distillgen"
        ):
            assert node.attr in distillgen.__all__, f"{page}: distillgen has no {node.attr}"


@pytest.mark.parametrize("page, file, block", PYTHON, ids=ids(PYTHON))
def test_python_compiles_and_its_names_exist(page, file, block):
    check_python(page, block)


@pytest.mark.parametrize("page, file, block", JSON, ids=ids(JSON))
def test_json_can_be_read(page, file, block):
    try:
        json.loads(block)
    except json.JSONDecodeError:
        for line in block.splitlines():
            json.loads(line)


def check_shell(page, line):
    """Check what a line of a shell runs: a known program, and extras, modules and files that exist."""
    words = shlex.split(line.removeprefix("$ "), comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    for word in words:
        for names in re.findall(r"(?:distillgen|\.)\[([\w,-]+)\]", word):
            assert set(names.split(",")) <= extras(), f"{page}: {line}: there is no such extra"
    program = Path(words[0]).name
    if program.startswith("python") and "-m" in words:
        module = words[words.index("-m") + 1]
        assert importlib.util.find_spec(module) or module in {"venv", "build"}, f"{page}: {line}: no module"
    elif program.startswith("python") and len(words) > 1:
        shown = f"`{words[1]}`" in (ROOT / page).read_text()
        assert shown or (ROOT / words[1]).exists(), f"{page}: {line}: no such file"
    else:
        assert program in PROGRAMS | {"pip", "pytest", "ruff", "mypy", "sphinx-build", "run"}, (
            f"{page}: {line}"
        )


@pytest.mark.parametrize("page, file, line", SHELL, ids=ids(SHELL))
def test_a_line_of_a_shell_runs_what_is_there(page, file, line):
    check_shell(page, line)


@pytest.mark.parametrize(
    "check, block",
    [
        (check_yaml, "version: 1\nstages:\n  - source: {path: data/questions.jsonl}\n  - generat: {}\n"),
        (check_python, "import distillgen\ndistillgen.lod('hello')\n"),
        (check_python, "from distillgen import Recrd\n"),
        (check_python, "def f(:\n"),
        (check_shell, "pip install 'distillgen[nosuch]'"),
        (check_shell, "python -m tests.benchmarks.nosuch"),
        (check_shell, "python nosuch.py"),
        (check_shell, "frobnicate x"),
    ],
)
def test_a_wrong_block_is_noticed(check, block, tmp_path):
    with pytest.raises((AssertionError, SyntaxError)):
        check("docs/reference/stages.md", block, *([tmp_path] if check is check_yaml else []))


def test_there_are_blocks_of_each_kind():
    assert len(YAML) > 20 and len(PYTHON) > 20 and len(SHELL) > 20


def test_python_that_runs_a_pipeline_runs(project):
    project.cli("init", "mine")
    blocks = [(page, block) for page, _, block in PYTHON if "distillgen.run(" in block]
    assert {page for page, _ in blocks} >= {"README.md", "docs/reference/python.md"}
    for page, block in blocks:
        done = forked([sys.executable, "-c", block], project.path / "mine", project.env())
        assert done.returncode == 0, f"{page}: {done.stderr}"
        for printed in re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE):
            assert printed in done.stdout, f"{page}: {done.stdout}"
