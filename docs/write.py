"""Write docs/reference/ and docs/llms.txt from the program's declarations: `python docs/write.py`.

tests/docs/test_reference.py fails where a file differs from its declarations. The pages run-directory.md and
metrics.md are written by hand; tests compare them with a real run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from writer.catalog_pages import filters, losses, models, objectives, prompts, stages
from writer.command_line import command_line
from writer.llms import llms
from writer.python_names import python

DOCS = Path(__file__).parent
PAGES = {
    "stages": stages,
    "models": models,
    "filters": filters,
    "objectives": objectives,
    "losses": losses,
    "prompts": prompts,
    "command-line": command_line,
    "python": python,
}
MARK = "<!-- `python docs/write.py` writes this page from the declarations in the program. -->"


def generated() -> dict[Path, str]:
    """Return the text of each file that is generated."""
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
    for path in write(generated()):
        click.echo(f"written: {path.relative_to(DOCS.parent)}")
