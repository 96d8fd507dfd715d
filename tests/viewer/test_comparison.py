"""Two runs side by side: planted changes are found, and a run against itself has none."""

import json
import re
import shutil
import time

import pytest

import distillgen
from distillgen.record import Record, dumps
from distillgen.viewer.comparison import Comparison, difference, figures_of
from distillgen.viewer.viewed_run import ViewedRun
from tests.runs.test_report import write_project
from tests.viewer.test_pages import viewed  # noqa: F401  a fixture


def answer(request, sample):
    """Answers of 1 to 5 words; questions from 10 on have others in the second run."""
    number = int(request.messages[-1]["content"].split()[-1])
    return " ".join(["word"] * (number % 5 + 1)) + f" {sample}"


def other_answer(request, sample):
    number = int(request.messages[-1]["content"].split()[-1])
    return answer(request, sample) + (" more" if number >= 10 else "")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """20 questions, two answers each, of 2 to 6 words; at most 3 words, then 5 with longer answers."""
    root = tmp_path_factory.mktemp("two")
    rows = [{"question": f"What is number {i}"} for i in range(20)]
    pipeline, _ = write_project(root, rows, n=2)
    distillgen.run(pipeline, out=root / "one", teachers={"teacher": answer})
    sets = ["words.max_words=5"]
    distillgen.run(pipeline, sets=sets, out=root / "two", teachers={"teacher": other_answer})
    return root


def compared(first, second):
    runs = [distillgen.Run(first), distillgen.Run(second)]
    comparison = Comparison(*[ViewedRun(run).final_index() for run in runs])
    return comparison, figures_of(*runs, comparison)


def test_planted_changes_are_found(two):
    comparison, figures = compared(two / "one", two / "two")
    # one keeps numbers with number % 5 < 2 (2 and 3 words): 4 below 10, 4 from 10 on, twice each.
    # two keeps up to 5 words: below 10 number % 5 < 4, so 8; from 10 on, a word longer, number % 5 < 3: 6.
    assert figures["rows"] == {"same": 8, "changed": 8, "gained": 12, "lost": 0}
    assert figures["reasons"] == {"gained": [("check/words", 12)], "lost": []}
    assert ("stages.check.filters.words.max_words", 3, 5) in figures["pipeline"]
    assert dict(figures["totals"])["kept"] == [16, 28]
    (score,) = figures["scores"]
    assert score["items"] == 20 and score["difference"] == pytest.approx(0.5) and score["p"] < 0.01
    for pair in comparison.pairs("changed", 0, 99):
        assert pair.second.fields["answer"] == pair.first.fields["answer"] + " more"
        assert pair.first.fields["question"] == pair.second.fields["question"]
    assert all(pair.first.dropped.filter == "words" for pair in comparison.pairs("gained", 0, 99))


def test_the_other_way_round_gained_is_lost(two):
    comparison, figures = compared(two / "two", two / "one")
    assert figures["rows"] == {"same": 8, "changed": 8, "gained": 0, "lost": 12}
    assert figures["reasons"]["lost"] == [("check/words", 12)]
    assert figures["scores"][0]["difference"] == pytest.approx(-0.5)


def test_a_run_is_the_same_as_itself(two):
    comparison, figures = compared(two / "one", two / "one")
    assert figures["rows"] == {"same": 16, "changed": 0, "gained": 0, "lost": 0} and not figures["pipeline"]
    assert figures["scores"][0]["p"] == 1 and figures["scores"][0]["difference"] == 0


def test_rows_of_other_questions_are_gained_and_lost(two, tmp_path):
    pipeline, _ = write_project(tmp_path, [{"question": f"What is number {i}"} for i in range(15, 25)], n=2)
    distillgen.run(pipeline, out=tmp_path / "three", teachers={"teacher": answer})
    comparison, figures = compared(two / "one", tmp_path / "three")
    assert figures["rows"] == {"same": 4, "changed": 0, "gained": 4, "lost": 12}
    assert figures["reasons"] == {"gained": [("", 4)], "lost": [("", 12)]}


def test_rows_with_one_id_are_paired_in_their_order(two, tmp_path):
    directories = [tmp_path / "one", tmp_path / "two"]
    for directory, count in zip(directories, (3, 2), strict=True):
        shutil.copytree(two / "one", directory, ignore=shutil.ignore_patterns("view"))
        row = dumps(Record("same", {"text": "x"}, source="s").row(), sort_keys=False) + b"\n"
        (directory / "stages" / "04-format.jsonl").write_bytes(row * count)
    comparison, figures = compared(*directories)
    assert figures["rows"] == {"same": 2, "changed": 0, "gained": 0, "lost": 1}


def test_the_difference_is_that_of_paired_items():
    shifted = difference([(i / 10, i / 10 + 0.05) for i in range(9)])
    assert shifted["difference"] == pytest.approx(0.05) and shifted["p"] < 0.01 and 0 < shifted["p"]
    assert shifted["method"].startswith("Agresti") and shifted["low"] < 0.05 < shifted["high"]
    noise = difference([(5.0, 5.0 + (-1) ** i) for i in range(10)])
    assert noise["p"] == 1 and noise["low"] < 0 < noise["high"] and noise["method"] == "normal"
    many = difference([(0.0, 1.0 if i % 3 else -1.0) for i in range(3000)])
    assert many["p"] < 1e-6 and many["difference"] == pytest.approx(1 / 3, abs=0.01)
    alone = difference([(1.0, 3.0)])
    assert alone["low"] is None and alone["p"] == 1


def test_evaluations_are_paired_by_item(two, tmp_path):
    for name, right in (("one", 10), ("two", 16)):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("usage.json", "pipeline.lock.yaml"):
            (folder / file).write_bytes((two / "one" / file).read_bytes())
        metrics = {"exact": {"mean": right / 20, "n": 20, "method": "x"}}
        report = {"items": 20, "models": {"teacher": {"metrics": metrics}}, "comparisons": []}
        (folder / "evaluation.json").write_text(json.dumps(report))
        rows = [
            {
                "item": str(i),
                "model": "teacher",
                "status": "ok",
                "reasons": {} if i < right else {"exact": "no"},
            }
            for i in range(20)
        ]
        (folder / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    from distillgen.viewer.comparison import compared_evaluations

    (result,) = compared_evaluations(distillgen.Run(tmp_path / "one"), distillgen.Run(tmp_path / "two"))
    assert (result["first"], result["second"], result["items"]) == (0.5, 0.8, 20)
    assert result["difference"] == pytest.approx(0.3) and 0.01 < result["p"] < 0.05


def test_diff_in_a_terminal(two, project):
    text = project.cli("diff", two / "one", two / "two", env={"COLUMNS": "80"}).stdout
    assert "stages.check.filters.words.max_words: 3 → 5" in text
    assert re.search(r"kept +16 +28\n", text) and re.search(r"words +4 +4\.5 +\+0\.5 ", text)
    assert "8 rows the same, 8 changed, 12 gained (in the first run: check/words 12), 0 lost" in text
    assert max(map(len, text.splitlines())) <= 80
    changed = json.loads(project.cli("diff", two / "one", two / "two", "--json", "-n", 1).stdout)
    assert changed["rows"]["gained"] == 12 and len(changed["examples"]["gained"]) == 1
    error = project.cli("diff", two / "one", two / "nothing", check=2).stderr
    assert "is not a run directory" in error
    assert "give one run, or two" in project.cli("view", *[two / "one"] * 3, check=2).stderr


def test_two_runs_on_a_page(two, viewed):  # noqa: F811
    viewer = viewed(two / "one", two / "two")
    end = time.monotonic() + 20
    while "being indexed and compared" in (page := viewer.page(view="compare")).text:
        assert time.monotonic() < end
    assert "8 changed 12 gained 0 lost 8 the same" in page.text and "words 4 4.5 +0.5" in page.text
    assert "<ins> more</ins>" in viewer.get(view="compare/changed")
    gained = viewer.page(view="compare/gained").text
    assert "12: dropped in one by check/words" in gained and "words: 4 words > 3" in gained
    assert "62 rows" not in gained and "There is none." in viewer.page(view="compare/lost").text
    assert viewer.ids(run=1, drop="kept") != viewer.ids(run=0, drop="kept")
