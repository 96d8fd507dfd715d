"""llms.txt (https://llmstxt.org): the navigation with a line about each page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

import distillgen

DOCS = Path(__file__).parents[1]


def navigation() -> list[tuple[str, list[str]]]:
    """Return each part of the navigation with its pages in order."""
    toc = yaml.safe_load((DOCS / "_toc.yml").read_text(encoding="utf-8"))
    parts = [("", [toc["root"]])]
    for part in toc["subtrees"]:
        pages: list[str] = []
        for entry in part["entries"]:
            pattern = entry.get("file") or entry["glob"]
            matches = sorted(
                path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.glob(f"{pattern}.md")
            )
            pages += [page for page in matches or [pattern] if page not in pages]
        parts.append((part["caption"], pages))
    return parts


def text_of(path: Path) -> str:
    """Return the text of a page; of a notebook, the text of its first cell."""
    text = path.read_text(encoding="utf-8")
    return "".join(json.loads(text)["cells"][0]["source"]) if path.suffix == ".ipynb" else text


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
            path = path if path in pages or path.exists() else path.with_suffix(".ipynb")
            title, summary = title_and_summary(pages.get(path) or text_of(path))
            lines.append(f"- [{title}]({name}{path.suffix}): {summary.removesuffix('.')}")
        lines.append("")
    return "\n".join(lines)
