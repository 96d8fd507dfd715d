"""The tutorials, followed to the letter: files are written, commands run, and what a page shows is what is
printed.
"""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial"
FILE_OR_BLOCK = re.compile(r"(?:`([\w./-]+)`[^`\n]*:\n\n)?```(\w+)\n(.*?)```", re.DOTALL)
TIMES = re.compile(r"\b\d+:\d\d\b")


def words(text: str) -> str:
    """The text without the layout of lines and without times."""
    return " ".join(TIMES.sub("0:00", text).split())


def follow(page: str, folder: Path) -> None:
    """Write the files that a tutorial names, run its `sh` blocks, and compare its `text` blocks with what was
    printed.
    """
    program = folder / "bin" / "distillgen"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m distillgen "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join([str(program.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "110"}
    where, printed = folder, ""
    for file, language, block in FILE_OR_BLOCK.findall((TUTORIAL / f"{page}.md").read_text()):
        if file and language != "sh" and where != folder:
            (where / file).parent.mkdir(exist_ok=True)
            if not (where / file).exists():
                (where / file).write_text(block)
        elif language == "sh":
            done = subprocess.run(
                ["bash", "-ec", f"{block}\npwd > {folder}/where"],
                cwd=where,
                env=environment,
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, f"{page}.md: {block}{done.stdout}{done.stderr}"
            where, printed = Path((folder / "where").read_text().strip()), words(done.stdout)
        elif language == "text":
            for line in block.splitlines():
                assert words(line) in printed, f"{page}.md shows a line that was not printed: {line}"


MORE = ["loops", "your-own-filter", "publish"]


@pytest.mark.parametrize(
    "page", ["first-corpus", *(pytest.param(page, marks=pytest.mark.slow) for page in MORE)]
)
def test_a_tutorial_that_needs_no_package(page, tmp_path):
    follow(page, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("sklearn"), reason="needs the extra critics")
def test_labels_and_critic(tmp_path):
    follow("labels-and-critic", tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("trl"), reason="needs the extra train")
def test_train_and_evaluate(tmp_path):
    follow("train-and-evaluate", tmp_path)


def test_every_tutorial_is_followed():
    code = Path(__file__).read_text()
    assert all(f'"{path.stem}"' in code for path in TUTORIAL.glob("*.md"))
