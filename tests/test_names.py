"""Names say what they hold: a participle alone, such as `found` or `given`, is no name."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path
    for folder in ("distillgen", "filters", "docs/writer")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)
EMPTY = frozenset(
    """asked begun built checked each ended filled found given held known listed made named own said seen sent
    shown some spent stored such taken told wanted what which whole written""".split()
)
PUBLIC = {  # words of files, options and interfaces, which stay
    ("distillgen/record.py", "made"),
    ("distillgen/inference/limits.py", "spent"),
    ("distillgen/runs/export.py", "taken"),
    ("distillgen/stages/_evaluate_options.py", "asked"),
    ("distillgen/flow/stage.py", "whole"),
    ("distillgen/stages/_train_options.py", "each"),
    ("filters/round_trip.py", "shown"),
    ("filters/tool_calls.py", "known"),
}


def names(source: str) -> set[str]:
    """The names that a module gives: variables, parameters, functions, classes and aliases of imports."""
    defined = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.alias) and node.asname:
            defined.add(node.asname)
    return defined


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_is_empty(path):
    file = str(path.relative_to(ROOT))
    empty = {name for name in names(path.read_text(encoding="utf-8")) if name.strip("_").lower() in EMPTY}
    assert not {name for name in empty if (file, name) not in PUBLIC}, "say what it holds"


def test_every_way_to_give_a_name_is_seen():
    source = "import a as found\ndef told(given, *, own=1): known = (said := 2)\nclass Made: seen: int\n"
    assert names(source) == {"found", "told", "given", "own", "known", "said", "Made", "seen"}
