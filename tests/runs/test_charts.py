"""Charts: where points lie, and how they are joined."""

import json

import pytest

from distillgen.runs.charts import path, positions, students


@pytest.mark.parametrize(
    ("points", "low", "high", "places"),
    [
        ([(0, 0), (1, 1), (0.5, 0.25)], (0, 0), (1, 1), ["0.0 100.0", "200.0 0.0", "100.0 75.0"]),
        ([(3, -2), (5, 2)], (1, -2), (5, 2), ["100.0 100.0", "200.0 0.0"]),
        ([(1, 4)], (1, 4), (1, 4), ["0.0 100.0"]),
        ([], (0, 0), (1, 1), []),
    ],
)
def test_points_are_placed_between_the_lowest_and_the_highest_value(points, low, high, places):
    assert positions(points, low, high) == places


def test_a_path_joins_places():
    assert path(["0.0 100.0", "200.0 0.0"]) == "M0.0 100.0L200.0 0.0" and path([]) == ""


def test_rows_of_no_part_of_a_training_were_left_out(tmp_path):
    rows = {"train": 6, "validation": 2, "held_out": 1, "left out: by 'where'": 3}
    manifest = {"loss_curve": [[1, 2.0], [9, 1.0]], "steps": 9, "data": {"rows": rows}}
    (tmp_path / "student").mkdir()
    (tmp_path / "student/manifest.json").write_text(json.dumps(manifest))
    assert [student["lost"] for student in students(tmp_path)] == [{"left out: by 'where'": 3}]
