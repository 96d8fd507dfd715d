"""Rows inside loops, and answers of evaluations: the figures lead to planted drops and wrong answers."""

import json
import re
import shutil
import time
import urllib.request

import pytest

import distillgen
from distillgen.viewer.row_files import metrics_of
from tests.runs.test_report import FILTER
from tests.viewer.test_pages import viewed  # noqa: F401  a fixture

EVALUATE = {
    "evaluate": {
        "name": "exam",
        "models": ["good", "poor"],
        "template": "How much is {{ question }}",
        "data": "exam.jsonl",
        "gold": "right",
        "metrics": ["numeric", {"words": {"max_words": 2}}],
    }
}


def teacher(request, sample):
    """Answers as long as its number says, but short from round 1 on."""
    number, _, round_number = request.messages[-1]["content"].partition(" in round ")
    return " ".join(["word"] * (1 if int(round_number) else int(number)))


def good(request, sample):
    return str(eval(request.messages[-1]["content"].removeprefix("How much is ")))


def poor(request, sample):
    number = int(request.messages[-1]["content"].split()[-1])
    return good(request, sample) if number % 2 else "This is 999"


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """Questions 1 to 6 in two rounds, of which the first drops 4 to 6; an exam of 10 sums in each round and
    after the loop. `poor` knows every other sum, and says too much.
    """
    root = tmp_path_factory.mktemp("loop")
    (root / "filters").mkdir()
    (root / "filters" / "words.py").write_text(FILTER)
    (root / "rows.jsonl").write_text("".join(json.dumps({"q": str(i)}) + "\n" for i in range(1, 7)))
    exam = [{"question": f"{i} + {i}", "right": 2 * i} for i in range(10)]
    (root / "exam.jsonl").write_text("".join(json.dumps(row) + "\n" for row in exam))
    ask = {"model": "teacher", "template": "{{ q }} in round {{ round }}", "output": "answer"}
    inside = [{"generate": ask}, {"filter": {"name": "check", "filters": ["words"]}}, EVALUATE]
    names = ("teacher", "good", "poor")
    stages = [{"source": {"path": "rows.jsonl"}}, {"rounds": {"stages": inside}}]
    after = {"evaluate": {**EVALUATE["evaluate"], "name": "last"}}
    pipeline = {
        "version": 1,
        "models": {name: {"provider": "scripted", "model": "echo"} for name in names},
        "stages": [*stages, after],
    }
    (root / "demo.yaml").write_text(json.dumps(pipeline))
    scripts = {"teacher": teacher, "good": good, "poor": poor}
    return distillgen.run(root / "demo.yaml", out=root / "run", teachers=scripts).directory


def test_a_round_has_its_rows_with_their_reasons_and_other_rounds(viewed, loop):  # noqa: F811
    viewer = viewed(loop)
    first = viewer.page().text
    assert "rows of round 0 1" in first and "6 rows" in first
    page = viewer.page(file="rounds/00/records")
    assert "rect" in page.tags and "1 to 6" in page.text, "the histogram needs no second look"
    assert "6 rows" in page.text and re.search("words check −3", page.text)
    dropped = viewer.ids(file="rounds/00/records", drop="check/words")
    assert len(dropped) == 3 == len(viewer.ids(file="rounds/00/records", drop="kept"))
    assert viewer.ids(file="rounds/00/records", text="4 words >", field="reason of the drop") == dropped[:1]
    assert len(viewer.ids(file="rounds/01/records")) == 3
    row = viewer.page(file="rounds/00/records", row=dropped[0]).text
    assert "check · words 4 words > 3" in row and "Prompt as it was sent user 4 in round 0" in row
    assert re.search(r"In the rounds 1 .* rounds 1 \w{12}", row), row
    final = viewer.ids(drop="kept")[-1]
    page = viewer.page(row=final).text
    assert re.search(r"In the rounds 1 .* rounds 0 \w{12} echo words: 6 words > 3", page), page


def test_answers_of_an_evaluation_are_reached_from_its_figures(viewed, loop):  # noqa: F811
    viewer = viewed(loop)
    text = viewer.page().text
    assert "exam, rounds 1 10 items good numeric 100.0% good words 100.0% poor numeric 50.0%" in text
    name = next(path.stem for path in loop.glob("evaluation*.jsonl"))
    assert len(viewer.ids(file=name)) == 20 and len(viewer.ids(file="rounds/01/evaluation-exam")) == 20
    assert viewer.ids(file=name, drop="good/numeric") == []
    wrong = viewer.ids(file=name, drop="poor/numeric")
    assert len(wrong) == 5 and set(wrong) == set(viewer.ids(file=name, drop="poor/words"))
    assert len(viewer.ids(file=name, drop="kept")) == 15
    assert viewer.ids(file=name, text="3 words >", field="reason of the drop") == wrong
    with urllib.request.urlopen(f"{viewer.address}count?file={name}&text=999&field=answer") as answer:
        assert json.load(answer) == {"count": 5}
    address = {"file": name, "drop": "poor/numeric", "row": wrong[1]}
    page = viewer.page(**address).text
    assert "wrong by numeric, words" in page and "999 is not 4" in page and "3 words > 2" in page
    assert "user How much is 2 + 2" in page and "Raw answer This is 999" in page
    assert re.search(r"Other answers to the item 1 \w+ compare good answer 4 ", page), page
    right = viewer.ids(file=name, drop="kept")[0]
    assert "right by numeric, words" in viewer.page(file=name, row=right).text


def test_an_answer_that_did_not_come_is_wrong_by_all_metrics(viewed, loop, tmp_path):  # noqa: F811
    directory = shutil.copytree(loop, tmp_path / "copy")
    file = next(directory.glob("evaluation*.jsonl"))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0] |= {"status": "failed", "answer": ""}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    viewer = viewed(directory)
    for metric in ("numeric", "words"):
        assert len(viewer.ids(file=file.stem, drop=f"good/{metric}")) == 1
    assert "the answer is failed" in viewer.page(file=file.stem, drop="good/words", place=0).text


def test_a_round_of_many_rows_waits_for_its_histograms(viewed, loop, monkeypatch):  # noqa: F811
    monkeypatch.setattr("distillgen.viewer.viewed_run.FEW_ROWS", 0)
    viewer = viewed(loop)
    page = viewer.get(file="rounds/01/records")
    assert "data-growing" in page and "<figure" not in page
    end = time.monotonic() + 20
    while "data-growing" in (page := viewer.get(file="rounds/01/records")):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "The same in every row: words 1" in page


def test_a_row_of_a_round_has_its_children_in_later_stages(viewed, loop, tmp_path):  # noqa: F811
    directory = shutil.copytree(loop, tmp_path / "copy", ignore=shutil.ignore_patterns("view"))
    rows = (directory / "rounds" / "01" / "records.jsonl").read_text().splitlines()
    parent = json.loads(rows[0])["meta"]["id"]
    last = sorted((directory / "stages").glob("*.jsonl"))[-1]
    child = json.loads(rows[0])
    child["meta"] |= {"id": "c" * 20, "parents": [parent]}
    last.write_text(last.read_text() + json.dumps(child, separators=(",", ":")) + "\n")
    page = viewed(directory).page(file="rounds/01/records", row=parent).text
    assert f"Children 1 {'c' * 12}" in page


def test_figures_of_all_answers_together_find_no_answer_wrong():
    report = {"metrics": {"exact": {}, "macro_f1": {}}, "figures": {"macro_f1": {}}}
    assert metrics_of({"models": {"m": report}}, "m") == ["exact"] and metrics_of({"models": {}}, "m") == []


def test_a_damaged_file_is_said_and_hides_no_other(viewed, loop, tmp_path):  # noqa: F811
    directory = shutil.copytree(loop, tmp_path / "copy", ignore=shutil.ignore_patterns("view"))
    for line, where in (('{"item": 1}', "rounds/00/evaluation-exam"), ("{", "rounds/00/records")):
        (directory / f"{where}.jsonl").write_text(line + "\n")
    viewer = viewed(directory)
    assert len(viewer.ids()) == 6 and len(viewer.ids(file="rounds/01/records")) == 3
    text = viewer.page(file="rounds/00/records").text
    assert "cannot be indexed" in text and "is damaged (it has a line that is no row)" in text, text


def test_a_senseless_file_shows_the_last_stage(viewed, loop):  # noqa: F811
    viewer = viewed(loop)
    for name in ("../../etc/passwd", "rounds/07/records", "corpus", "<b>"):
        assert viewer.ids(file=name) == viewer.ids()
