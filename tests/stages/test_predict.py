"""The stage predict: ranks within groups, what predicts a record, and mistakes that are refused."""

import json

import pytest

import distillgen
from distillgen.algorithms.surrogate import ranks, ranks_by_group
from distillgen.errors import ConfigError

ROWS = [
    {"data": data, "loss": loss, "size": size, "quality": quality}
    for data, size in (("a", 1), ("b", 2), ("c", 3))
    for loss, quality in (("kl", 0.5 + size), ("mse", 0.1 + size), ("nce", 0.3 + size))
]


def pipeline(rows=ROWS, **options):
    """Stages over the rows of a file."""
    predict = {"of": "quality", "from": ["loss", "size"], "group": "data", "n": 1, **options}
    return {"version": 1, "seed": 3, "stages": [{"source": {"path": "rows.jsonl"}}, {"predict": predict}]}


def written(project, rows=ROWS):
    project.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def test_ranks_go_from_zero_to_one_and_equal_values_share_theirs():
    assert ranks([0.2, 0.9, 0.5]) == [0, 1, 0.5]
    assert ranks([1, 1, 0, 2]) == [0.5, 0.5, 0, 1]
    assert ranks([7]) == [0.5] and ranks([3, 3]) == [0.5, 0.5]
    assert ranks_by_group([1, 5, None, 2, 3], ["a", "b", "a", "a", "b"]) == [0, 1, None, 1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "qualty"}, "'of' names 'qualty', which is no field and no score; did you mean 'quality'?"),
        ({"from": ["loss", "sise"]}, "'from' names 'sise', which is no field and no score; did you mean"),
        ({"group": "set"}, "'group'"),
        ({"from": []}, "'from': must not be empty"),
    ],
)
def test_what_is_missing_is_refused(project, options, message):
    written(project)
    with pytest.raises(ConfigError) as error:
        distillgen.load(pipeline(**options))
    assert message in str(error.value)


def test_without_scikit_learn_the_check_says_what_to_install(project, monkeypatch):
    written(project)
    monkeypatch.setattr("distillgen.extras.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="critics"):
        distillgen.load(pipeline())


def test_a_record_is_predicted_by_other_groups_only(project):
    """The order of the losses is that of the other groups, also where a group's own order is another one."""
    pytest.importorskip("sklearn")
    turned = [{**row, "quality": -row["quality"]} if row["data"] == "c" else row for row in ROWS]
    unknown = [{"data": "new", "loss": loss, "size": 2, "quality": None} for loss in ("nce", "kl", "mse")]
    written(project, [*turned, *unknown, {**ROWS[0], "loss": None}, {**ROWS[0], "loss": ["kl"]}])
    run = distillgen.run(pipeline(), out="run")
    records = [record for record in run.corpus]
    assert len(records) == 12
    scores = {(r["data"], r["loss"]): r["meta"]["scores"] for r in records}
    for data in ("c", "new"):
        values = {loss: scores[data, loss]["predict.value"] for loss in ("kl", "mse", "nce")}
        assert values["kl"] > values["nce"] > values["mse"]
    assert [scores["c", loss]["predict.rank"] for loss in ("kl", "nce", "mse")] == [0, 0.5, 1]
    assert "predict.rank" not in scores["new", "kl"]
    dropped = [(r.dropped.filter, r.dropped.reason) for r in run.dropped]
    assert dropped == [("lacking", "'loss' holds neither a number nor a word")] * 2
    stages = json.loads((run.directory / "usage.json").read_text())["stages"]
    measured = next(stage["measured"] for stage in stages if stage["name"] == "predict")
    assert measured["groups"] == 3 and measured["mean_rank_of_best"] == pytest.approx((1 + 1 + 0) / 3)


def test_one_group_alone_is_not_predicted(project):
    pytest.importorskip("sklearn")
    written(project, ROWS[:3])
    run = distillgen.run(pipeline(), out="run")
    assert [set(r["meta"]["scores"]) for r in run.corpus] == [{"predict.rank"}] * 3
