"""Pages written by hand: files they name exist, and what they repeat from the code is what it says."""

import json
import re
from pathlib import Path

import pytest

from distillgen.inference.weights import KNOWN_MODELS
from tests.test_layers import LEVEL

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WRITTEN_BY_HAND = [
    DOCS / "index.md",
    *(DOCS / f"{name}.md" for name in ("systems", "reproductions", "measurements")),
    *(DOCS / f"{name}.md" for name in ("security", "design", "limits", "promises")),
]
WRITTEN_BY_HAND += [
    path for folder in ("tutorial", "concepts", "recipes") for path in (DOCS / folder).glob("*.md")
]
PAGES = [ROOT / "README.md", ROOT / "data/README.md", *sorted(WRITTEN_BY_HAND)]
LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)]*)?\)")
NAMED = re.compile(r"(?<![\w/.-])(?:tests|distillgen|pipelines|prompts|filters|data)/[\w/.-]*\w")
OF_TUTORIALS = DOCS / "tutorial"  # files that the reader writes


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The anchors that forges give the headings of a page."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_and_named_files_exist(page):
    text = page.read_text()
    assert not [link for link, _ in LINK.findall(text) if not (page.parent / link).exists()]
    assert not [
        link + part for link, part in LINK.findall(text) if part and part not in anchors(page.parent / link)
    ]
    if page.parent != OF_TUTORIALS:
        made_by_others = {"data/labels.jsonl", "filters/grounded.py", "pipelines/hello.yaml"}
        assert not {name for name in NAMED.findall(text) if not (ROOT / name).exists()} - made_by_others


def test_pages_are_short():
    readme = (ROOT / "README.md").read_text()
    assert readme.count("\n") <= 240 and len(readme.encode()) <= 16_000
    assert not [ids(page) for page in WRITTEN_BY_HAND if page.read_text().count("\n") > 150]


def test_the_first_page_leads_to_each_page_and_the_readme_to_each_stage_and_objective():
    index = (DOCS / "index.md").read_text()
    pages = {path.relative_to(DOCS).as_posix() for path in WRITTEN_BY_HAND if path.parent.name != "recipes"}
    assert not pages - {"index.md"} - {link for link, _ in LINK.findall(index)}
    readme = (ROOT / "README.md").read_text()
    for page in ("stages", "objectives"):
        named = re.findall(r"^- \[([\w_]+)\]\(#", (DOCS / f"reference/{page}.md").read_text(), re.MULTILINE)
        assert len(named) > 10 and not [
            name for name in named if f"[`{name}`](docs/reference/{page}.md#{name})" not in readme
        ]


def test_each_pipeline_has_its_page_and_the_page_of_systems_names_it_once():
    names = {path.stem for path in (ROOT / "pipelines").glob("*.yaml")}
    assert {path.stem for path in (DOCS / "recipes").glob("*.md")} == names
    rows = re.findall(r"\[`([\w-]+)`\]\(recipes/([\w-]+)\.md\)", (DOCS / "systems.md").read_text())
    assert sorted(rows) == sorted((name, name) for name in names)
    assert "(docs/systems.md)" in (ROOT / "README.md").read_text()


def test_every_recipe_of_a_paper_has_a_line_that_says_what_was_reproduced():
    text = (DOCS / "reproductions.md").read_text()
    papers = {path.stem for path in (ROOT / "pipelines").glob("*.yaml") if "paper:" in path.read_text()}
    assert len(papers) > 50 and not papers - set(re.findall(r"\(recipes/([\w-]+)\.md\)", text))
    lines = [line for line in text.splitlines() if line.startswith("| [")]
    assert all(
        re.search(r"`(distillgen|pytest|OMP_NUM_THREADS=1 python|python) .*` \|$", line) for line in lines
    )


def test_the_design_lists_the_folders_in_the_order_of_their_layers():
    table = (DOCS / "design.md").read_text().split("## The folders")[1].split("## ")[0]
    rows = [
        re.findall(r"`(\w+)/`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")
    ]
    levels = [{LEVEL[name] for name in names} for names in rows]
    assert {name for names in rows for name in names} == set(LEVEL) - {"."}
    assert all(len(level) == 1 for level in levels) and levels == sorted(levels, key=min)


def test_the_hashes_of_weights_are_those_that_are_checked():
    text = (DOCS / "security.md").read_text()
    assert all(
        weights.sha256 in text and f"`{weights.package}1`" in text for weights in KNOWN_MODELS.values()
    )


@pytest.mark.parametrize("recipe", ["quickstart", "mechgpt-qa"])
def test_every_judged_row_has_a_verdict_and_the_page_counts_them(recipe):
    judged = (DOCS / f"recipes/{recipe}_judged.jsonl").read_text()
    rows = [json.loads(line) for line in judged.splitlines()]
    counts = [sum(row["verdict"] == verdict for row in rows) for verdict in ("right", "poor", "wrong")]
    page = " ".join((DOCS / f"recipes/{recipe}.md").read_text().split())
    said = re.search(r"All (\d+) kept rows .*?(\d+) are right, (\d+) are poor .*?(\d+) are wrong", page)
    assert said and [int(number) for number in said.groups()] == [len(rows), *counts]
    assert all(row["verdict"] == "right" or row["why"] for row in rows)
