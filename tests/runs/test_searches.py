"""The section of a search in the report: the best trial, the curve, the money, the figure on test records."""

import json

import distillgen
from distillgen.runs.searches import searches
from tests.stages.test_search import ROWS, TEMPLATES, Teacher, pipeline

TRIALS = [
    {"ask.template": "a", "train.losses": ["x"], "train.lr": 1},
    {"ask.template": "b", "train.losses": [{"y": {"teacher": "t"}}], "train.lr": 1},
    {"ask.template": "b", "train.losses": ["x"], "train.lr": 1},
    {"ask.template": "a", "train.losses": ["x"], "train.lr": 1},
]
VALUES = [0.5, 0.9, 0.7, None]


def write(directory, name="search", lowest=False, **options):
    folder = directory / name
    folder.mkdir(parents=True)
    rows = [
        {"trial": i, "choices": choices, "value": value, "usd": 0.25, "seconds": 1.0, "status": "skipped"}
        for i, (choices, value) in enumerate(zip(TRIALS, VALUES, strict=True))
    ]
    (folder / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    state = {"by": "validation.student.exact", "best": 1, "lowest": lowest, "tau of size": 0.5}
    (folder / "search.json").write_text(json.dumps(state))
    space = {"ask.template": ["a", "b"], "train.losses": [1, 2], "train.lr": [1]}
    return {"stages": [{"source": {}}, {"search": {"name": name, "space": space, "within": {}, **options}}]}


def evaluation(directory, model, mean):
    figure = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}
    state = {"models": {model: {"metrics": {"exact": figure}}}, "comparisons": []}
    (directory / "evaluation.json").write_text(json.dumps(state))


def test_trials_are_ranked_and_the_best_so_far_never_falls(tmp_path):
    (search,) = searches(tmp_path, write(tmp_path, within={"usd": 2.0}))
    assert [row["trial"] for row in search["rows"]] == [1, 2, 0, 3]
    assert search["rows"][0]["texts"] == {"template": "b", "losses": "[{y: {teacher: t}}]"}, (
        "one choice alone shows"
    )
    assert search["names"] == {"ask.template": "template", "train.losses": "losses"}
    assert (search["all"], search["finished"], search["usd"], search["most_usd"]) == (4, 3, 1.0, 2.0)
    assert search["path"] == "M0.0 100.0L66.7 0.0L133.3 0.0" and search["spots"][2] == "133.3 50.0"
    assert search["taus"] == {"tau of size": 0.5} and search["test"] is None
    (lowest,) = searches(tmp_path / "low", write(tmp_path / "low", lowest=True))
    assert [row["trial"] for row in lowest["rows"]] == [0, 2, 1, 3]
    assert lowest["path"] == "M0.0 100.0L66.7 100.0L133.3 100.0" and lowest["most_usd"] is None


def test_the_figure_on_test_records_is_of_the_searchs_own_student(tmp_path):
    lock = write(tmp_path)
    evaluation(tmp_path, "student", 1.0)
    (search,) = searches(tmp_path, lock)
    assert search["test"]["mean"] == 1.0 and search["test"]["path"] == "M0.0 0.0L200.0 0.0"
    assert (search["low"], search["high"]) == (0.5, 1.0) and search["spots"][1] == "66.7 20.0"
    evaluation(tmp_path, "student-other", 1.0)
    assert searches(tmp_path, lock)[0]["test"] is None
    (arm,) = searches(tmp_path, write(tmp_path, name="search-other"))
    assert arm["test"]["model"] == "student-other"


def test_two_paths_with_one_end_keep_what_tells_them_apart(tmp_path):
    space = {"ask.template": [1, 2], "evaluate.template": [1, 2]}
    lock = write(tmp_path, space=space)
    rows = [{"trial": 0, "choices": dict.fromkeys(space, "q"), "value": 1.0, "usd": 0.0, "seconds": 0.0}]
    (tmp_path / "search/trials.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (search,) = searches(tmp_path, lock)
    assert list(search["rows"][0]["texts"]) == ["ask.template", "evaluate.template"]
    assert search["spots"] == ["0.0 50.0"], "a single value does not lie in the middle"


def test_the_report_says_what_was_chosen_and_what_it_cost(project, monkeypatch):
    project.rows("rows.jsonl", ROWS)
    monkeypatch.chdir(project.path)
    wanted = pipeline(within={"usd": 40.0}, space={"ask.template": TEMPLATES})
    judge = wanted["stages"][1]["search"]["stages"][2]["evaluate"]
    wanted["stages"].append({"evaluate": {**judge, "name": "last", "split": "test"}})
    run = distillgen.run(wanted, out="run", teachers={"t": Teacher()})
    page = " ".join((run.directory / "report.html").read_text().split())
    for words in (
        "The trials cost $28.00 of at most $40.00.",
        "<h3>Trial 0 is the best</h3>",
        "last, whose records no trial saw</th><td>0.5",
        'data-of="evaluate.t.exact">0.5</td>',
    ):
        assert words in page, words
