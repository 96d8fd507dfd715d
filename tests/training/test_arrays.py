"""A network learns from arrays that rows refer to, and is asked about them; unreadable ones are left out."""

import json

import pytest

import distillgen
from distillgen.rows.arrays import reference

STAGES = [
    {"source": {"path": "rows.jsonl", "item": ["n"]}},
    {
        "train": {
            "objective": "distil",
            "student": {"mlp": [8]},
            "inputs": ["image"],
            "label": "label",
            "losses": ["cross_entropy"],
            "max_steps": 60,
            "learning_rate": 0.01,
        }
    },
    {
        "evaluate": {
            "models": ["student"],
            "template": "{{ image | json }}",
            "gold": "label",
            "metrics": ["exact"],
        }
    },
]


@pytest.mark.slow
def test_a_network_learns_from_arrays_in_files(project):
    numpy = pytest.importorskip("numpy")
    pytest.importorskip("torch")
    chance = numpy.random.default_rng(0)
    labels = chance.integers(0, 2, 120)
    images = chance.normal(size=(120, 40, 30)) + labels[:, None, None]
    numpy.save(project.path / "images.npy", images)
    place = reference(project.path / "images.npy", project.path)
    rows = [
        {
            "n": i,
            "image": {**place, "index": i},
            "label": int(labels[i]),
            "split": "test" if i > 79 else "train",
        }
        for i in range(120)
    ]
    rows[3]["image"] = {**place, "index": 3, "path": "other.npy"}
    rows[4]["image"] = {**place, "index": 900}
    rows[119]["image"] = {**place, "sha256": "0", "index": 1}
    project.rows("rows.jsonl", rows)
    run = distillgen.run({"version": 1, "stages": STAGES}, out="out")
    manifest = json.loads((run.directory / "student/manifest.json").read_bytes())
    counts = manifest["data"]["rows"]
    assert counts["train"] == 80 and counts["left out: there is no file 'other.npy'"] == 1
    assert counts["left out: 'images.npy' has changed since the row was made"] == 1
    assert any("IndexError" in reason and count == 1 for reason, count in counts.items())
    evaluation = json.loads((run.directory / "evaluation.json").read_bytes())
    right = evaluation["models"]["student"]["metrics"]["exact"]
    assert right["n"] == 40 and right["mean"] > 0.9
    answers = [json.loads(line) for line in (run.directory / "evaluation.jsonl").read_text().splitlines()]
    assert [answer["source"] for answer in answers if answer["status"] == "failed"] == ["rows.jsonl:120"]
    assert "'images.npy' has changed since the row was made" in (run.directory / "run.log").read_text()
