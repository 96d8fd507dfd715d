"""`preview` and `show` print whole texts on request, and `preview` the prompts as they were sent."""

import pytest

LONG = "First line, which goes on for quite a while. " * 4 + "\n\n    indented\nthe very end"
PROMPT = """---
output: text
---
@system
Be brief.
@user
{{ question }}
@assistant
No.
@user
Why not?
"""
PIPELINE = """# small.yaml: an answer a row
version: 1
models: {t: {provider: scripted, model: echo}}
stages:
  - source: {path: rows.jsonl}
  - generate: {model: t, template: "Say it: {{ question }}", output: answer}
  - filter: [word_count: {field: answer, min_words: 4}]
"""


@pytest.fixture
def small(project):
    project.rows(
        "rows.jsonl", [{"question": LONG}, {"question": "Hm?"}, {"question": "\x1b[31mred and so on"}]
    )
    project.write("pipelines/small.yaml", PIPELINE)
    return project


def section(text, stage):
    return text.partition(f"\n{stage}\n")[2].split("\n\nfilter\n")[0]


def test_preview_shows_the_prompt_that_was_sent(small):
    text = small.cli("preview", "small", "-n", 2).stdout
    of_generate = section(text, "generate")
    assert (
        "  sent, user: Say it: First line, which goes on" in of_generate
        and "sent, user: Say it: Hm?" in of_generate
    )
    assert "sent" not in text.partition("\ngenerate\n")[0] and "sent" not in section(text, "filter")
    assert "the very end" not in text and max(map(len, text.splitlines())) <= 120
    whole = section(small.cli("preview", "small", "-n", 2, "--full").stdout, "generate")
    assert (
        "sent, user:\n      Say it: First line" in whole
        and "\n          indented\n      the very end\n" in whole
    )
    assert "sent, user: Say it: Hm?" in whole


def test_each_message_of_a_prompt_is_shown_by_its_role(small):
    small.write("prompts/ask.md", PROMPT)
    small.write("pipelines/small.yaml", PIPELINE.replace('template: "Say it: {{ question }}"', "prompt: ask"))
    text = section(small.cli("preview", "small", "-n", 2).stdout, "generate")
    assert (
        "  sent, system: Be brief.\n" in text and "  sent, assistant: No.\n  sent, user 2: Why not?\n" in text
    )


def test_show_prints_whole_texts(small):
    small.cli("run", "small")
    assert "the very end" not in small.cli("show", "small").stdout
    whole = small.cli("show", "small", "--full").stdout
    assert "question:\n      First line" in whole and "\n          indented\n      the very end\n" in whole
    assert "\x1b" not in whole and "␛[31mred" in whole, "a terminal shows hostile text and does not obey it"
    assert "Hm?" in small.cli("show", "small", "--dropped", "--full").stdout


def test_of_a_row_of_many_fields_the_first_are_shown(project):
    project.rows("rows.jsonl", [{f"field_{i}": i for i in range(230)}])
    second = "{filter: {name: of-a-longer-name, filters: [unique: {by: [field_1]}]}}"
    stages = f"[{{source: {{path: rows.jsonl}}}}, {second}]"
    project.write("pipelines/wide.yaml", f"version: 1\nstages: {stages}\n")
    assert "\nof-a-longer-name field_0," in (checked := project.cli("check", "wide").stdout)
    assert checked.startswith("source           field_0,")
    done = project.cli("run", "wide")
    for text in (done.stdout, done.stderr):
        assert "field_11: 11\n" in text and "field_12" not in text and "… and 218 more fields\n" in text
    shown = project.cli("show", "wide").stdout
    assert "field_23: 23\n" in shown and "  … and 206 more fields; --full shows them\n" in shown
    for option in (("--full",), ("--id", shown[:9])):
        assert "field_229: 229\n" in project.cli("show", "wide", *option).stdout
    page = (project.path / "runs/wide/report.html").read_text()
    assert "<summary>206 more fields</summary>" in page and "… and 6 more in the run" in page
