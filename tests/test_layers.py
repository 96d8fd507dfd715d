"""The design's layers: imports point down only."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent / "distillgen"
LAYERS = [
    {"errors", "extras", "privacy", "gguf_file", "files", "chunks", "record", "state", "text", "reasoning", "signals", "streams", "wording", "embedding", "minhash", "selection", "diversity", "calibration", "chat_template", "numerals", "answers", "units", "sandbox", "algebra", "resampling", "hardware", "transparency", "steering", "graph"},
    {"template", "marked", "project", "forms", "prompt", "ledger", "claims", "nli", "classifier", "contamination", "shapes", "statement"}, {"teachers", "judging", "evaluation"}, {"students", "objectives", "stages"}, {"training", "pipeline", "catalog", "evidence"},
    {"runs", "execution", "report", "card"}, {"progress", "show", "writers", "export", "push", "labelling", "cli", "__main__", "__init__"},
]  # fmt: skip
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def test_imports_point_down_only():
    for path in ROOT.rglob("*.py"):
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distillgen.") and own != "__init__":
                other = node.module.split(".")[1]
                assert LEVEL[other] <= LEVEL[own], f"{path.name} (layer {LEVEL[own]}) imports {other} (layer {LEVEL[other]})"


def test_no_drawer_for_odds_and_ends():
    names = {path.stem for path in ROOT.rglob("*.py")}
    assert not names & {"utils", "common", "helpers", "base", "misc", "manager", "handler", "registry"}


def test_start_up_stays_light():
    import subprocess
    import sys

    heavy = ("torch", "transformers", "datasets", "vllm", "openai", "pydantic", "jinja2", "rich", "pyarrow", "numpy", "rensa")
    code = f"import sys, distillgen.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
