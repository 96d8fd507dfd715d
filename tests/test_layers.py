"""The house: what each folder may import. Contracts stand below what implements them, and imports point down
only.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "distillgen"
LAYERS = [  # a folder may import those on lines above its own; a file of the root, what it needs of the root
    {"."},
    {"text"},
    {"rows"},
    {"answers", "algorithms"},
    {"networks"},
    {"inference"},
    {"prompting", "teachers", "local_models"},
    {"flow"},
    {"training"},
    {"losses", "bodies", "scores"},
    {"stages", "objectives"},
    {"pipeline"},
    {"runs"},
    {"viewer"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
PLUGINS = {"teachers", "stages", "objectives", "losses", "bodies", "scores"}
CONTENT = {"pipelines", "prompts", "filters", "data"}  # where the wheel lays what ships
FACES = {"__init__.py", "__main__.py"}  # of the root: they hand on names of any folder


def folder_of(path: Path) -> str:
    return path.parts[0] if len(path.parts) > 1 else "."


def imports(path: Path) -> Iterator[tuple[Path, int]]:
    """The files of the package that a file imports, whichever form of import it uses, and the line."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ("distillgen", *path.parts)[: len(path.parts) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            modules = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in modules:
            parts = module.split(".")
            if parts[0] != "distillgen":
                continue
            for length in range(len(parts), 0, -1):
                file = Path(*parts[1:length]).with_suffix(".py") if length > 1 else Path("__init__.py")
                inside = Path(*parts[1:length]) / "__init__.py"
                if (ROOT / file).is_file() or (ROOT / inside).is_file():
                    yield (file if (ROOT / file).is_file() else inside), node.lineno
                    break


FILES = sorted(
    path.relative_to(ROOT) for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in CONTENT
)


def mistake(path: Path, other: Path) -> str | None:
    """What is wrong with one import, if anything."""
    own, its = folder_of(path), folder_of(other)
    if own == "." and path.name in FACES or other.name == "__init__.py" and its == ".":
        return None
    if LEVEL[its] > LEVEL[own] or LEVEL[its] == LEVEL[own] and its != own:
        return f"{own}/ stands below {its}/, or beside it"
    if own == its and own in PLUGINS and not other.name.startswith("_"):
        return (
            f"files of {own}/ do not import each other; what several share stands in a file whose "
            "name starts with an underscore"
        )
    return None


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_down_only(path):
    mistakes = [
        f"{path}:{line} imports {other}: {wrong}"
        for other, line in imports(path)
        if (wrong := mistake(path, other))
    ]
    assert not mistakes, "\n".join(mistakes)


def test_no_file_imports_itself_through_others():
    reached: dict[Path, set[Path]] = {
        path: {other for other, _ in imports(path)} - {path} for path in FILES if path.name not in FACES
    }
    while True:
        leaves = {path for path, others in reached.items() if not others & reached.keys()}
        if not leaves:
            break
        reached = {path: others for path, others in reached.items() if path not in leaves}
    assert not reached, f"these import each other in a circle, or what is in one: {sorted(map(str, reached))}"


@pytest.mark.parametrize(
    ("path", "other", "right"),
    [
        ("stages/generate.py", "flow/stage.py", True),
        ("flow/stage.py", "stages/generate.py", False),
        ("stages/score.py", "stages/rounds.py", False),
        ("stages/generate.py", "stages/_asked.py", True),
        ("stages/train.py", "objectives/sft.py", False),
        ("record.py", "rows/formats.py", False),
        ("__init__.py", "runs/execute.py", True),
    ],
)
def test_the_rule_itself(path, other, right):
    assert (mistake(Path(path), Path(other)) is None) is right


def test_both_forms_of_import_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for name in ("a/__init__.py", "a/b.py", "c.py", "__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/x.py").write_text(
        "from distillgen.a import b\nfrom distillgen import c\nimport distillgen.c\ndef f():\n"
        "    from . import b\n"
    )
    assert [(str(other), line) for other, line in imports(Path("a/x.py"))] == [
        ("a/b.py", 1),
        ("c.py", 2),
        ("c.py", 3),
        ("a/b.py", 5),
    ]


def test_every_folder_is_on_the_list_and_says_what_it_holds():
    folders = {folder_of(path) for path in FILES}
    assert folders == LEVEL.keys()
    assert all(
        ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text()))
        for folder in folders - {"."}
    )


def test_no_drawer_for_odds_and_ends():
    names = {part for path in FILES for part in (path.stem, *path.parts[:-1])}
    assert not names & {"utils", "common", "helpers", "base", "misc", "manager", "handler", "registry"}


def test_start_up_stays_light():
    heavy = (
        "torch",
        "transformers",
        "datasets",
        "vllm",
        "openai",
        "pydantic",
        "jinja2",
        "rich",
        "pyarrow",
        "numpy",
        "rensa",
    )
    code = f"import sys, distillgen.cli.main; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
